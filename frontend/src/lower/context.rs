//! Named contexts: what `--build-context` puts in the place of a stage or an image.

use kiln_oci::{Digest, Platform, Reference};

use super::stages::error;
use super::{ImageName, ImageQuery, Request};
use crate::dockerfile::{Diagnostic, git};

/// Something that stands for an image or a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Context {
    /// The name it is known by.
    pub(super) name: String,
    /// What it is.
    pub(super) kind: ContextKind,
}

/// What a named context is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ContextKind {
    /// `docker-image://scratch`.
    Empty,
    /// `docker-image://ref`.
    Image(Reference),
    /// `oci-layout://path…`, from the path on.
    OciLayout(String),
    /// `local:NAME`.
    Local(String),
    /// A git repository, with its fragment.
    Git(String),
    /// A file from a web server.
    Http(String),
}

impl Context {
    /// Finds the context for a name, if there is one.
    ///
    /// # Errors
    /// When there is one whose value is not understood.
    pub(super) fn find(name: &str, platform: &Platform, request: &Request) -> Result<Option<Self>, Diagnostic> {
        if matches!(name, "scratch" | "context") || request.contexts.is_empty() {
            return Ok(None);
        }
        let Some(key) = key(name) else { return Ok(None) };
        let for_platform = format!("{key}::{}", platform.normalized());
        let found = |wanted: &str| request.contexts.iter().find(|(given, _)| self::given_key(given) == wanted);
        match found(&for_platform).or_else(|| found(&key)) {
            None => Ok(None),
            Some((given, value)) => {
                let kind = parse(given, value)?;
                Ok(Some(Self { name: key, kind }))
            }
        }
    }

    /// Returns what must be known about it before it can be used, if anything.
    pub(super) fn query(&self, platform: &Platform) -> Option<ImageQuery> {
        let image = match &self.kind {
            ContextKind::Image(reference) => ImageName::Reference(reference.to_string()),
            ContextKind::OciLayout(layout) => ImageName::OciLayout(layout.clone()),
            _ => return None,
        };
        Some(ImageQuery { image, platform: platform.normalized() })
    }
}

/// Returns the key of a name: its short form without `:latest`.
fn key(name: &str) -> Option<String> {
    Some(name.parse::<Reference>().ok()?.named_context_key())
}

/// Returns the key of a name as the user gave it, which may have a platform behind `::`.
fn given_key(given: &str) -> String {
    match given.split_once("::") {
        None => key(given).unwrap_or_else(|| given.to_owned()),
        Some((name, platform)) => {
            let name = key(name).unwrap_or_else(|| name.to_owned());
            match platform.parse::<Platform>() {
                Ok(platform) => format!("{name}::{}", platform.normalized()),
                Err(_) => format!("{name}::{platform}"),
            }
        }
    }
}

fn parse(name: &str, value: &str) -> Result<ContextKind, Diagnostic> {
    let wrong = |message: String| error("named-context", message);
    if value.starts_with("git@") {
        return Ok(ContextKind::Git(value.to_owned()));
    }
    let Some((kind, rest)) = value.split_once(':') else {
        return Err(wrong(format!("invalid context specifier {value} for {name}")));
    };
    let after_slashes = rest.strip_prefix("//").unwrap_or(rest);
    match kind {
        "docker-image" if after_slashes == "scratch" => Ok(ContextKind::Empty),
        "docker-image" => match after_slashes.parse::<Reference>() {
            Ok(reference) => Ok(ContextKind::Image(reference.with_default_tag())),
            Err(cause) => Err(wrong(format!("failed to parse context {name}: {cause}"))),
        },
        "oci-layout" if after_slashes.is_empty() => {
            Err(wrong(format!("oci-layout reference \"{after_slashes}\" has no name")))
        }
        "oci-layout" => Ok(ContextKind::OciLayout(after_slashes.to_owned())),
        "local" => Ok(ContextKind::Local(rest.to_owned())),
        "git" => Ok(ContextKind::Git(value.to_owned())),
        "http" | "https" if is_git(value) => Ok(ContextKind::Git(value.to_owned())),
        "http" | "https" => Ok(ContextKind::Http(value.to_owned())),
        other => Err(wrong(format!("unsupported context source {other} for {name}"))),
    }
}

fn is_git(url: &str) -> bool {
    git::parse(url).map_or_else(|cause| cause.is_git(), |_| true)
}

/// Returns the path of an OCI layout, without the tag and the digest behind it.
pub(super) fn layout_path(layout: &str) -> &str {
    let path = match layout.split_once('@') {
        Some((path, digest)) if digest.parse::<Digest>().is_ok() => path,
        _ => layout,
    };
    match path.rsplit_once(':') {
        Some((before, tag)) if !tag.contains('/') => before,
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(contexts: &[(&str, &str)]) -> Request {
        let contexts = contexts.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        Request { contexts, ..Request::default() }
    }

    #[track_caller]
    fn check(given: &str, wanted: &str, is_found: bool) {
        let request = request(&[(given, "local:x")]);
        let found = Context::find(wanted, &Platform::new("linux", "amd64"), &request).unwrap();
        assert_eq!(found.is_some(), is_found, "{given} for {wanted}");
    }

    #[test]
    fn names_are_compared_in_their_short_form() {
        check("alpine", "docker.io/library/alpine:latest", true);
        check("docker.io/library/alpine", "alpine", true);
        check("alpine:3", "alpine", false);
        check("python:3.12-slim", "python:3.12-slim", true);
        check("alpine::linux/amd64", "alpine", true);
        check("alpine::linux/arm64", "alpine", false);
        check("scratch", "scratch", false);
    }

    #[test]
    fn values_that_mean_nothing_are_refused() {
        for (value, message) in [
            ("x", "invalid context specifier x for a"),
            ("ftp://x", "unsupported context source ftp for a"),
            ("docker-image://UPPER", "failed to parse context a: invalid reference format"),
        ] {
            let found = Context::find("a", &Platform::new("linux", "amd64"), &request(&[("a", value)]));
            let text = found.unwrap_err().text();
            assert!(text.starts_with(message), "{text}");
        }
    }

    #[test]
    fn the_path_of_a_layout_has_neither_tag_nor_digest() {
        let digest = Digest::of("x");
        for text in ["/a/b", "/a/b:tag", &format!("/a/b@{digest}"), &format!("/a/b:tag@{digest}")] {
            assert_eq!(layout_path(text), "/a/b");
        }
        assert_eq!(layout_path("/a:b/c"), "/a:b/c");
    }
}
