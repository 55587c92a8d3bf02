//! How a vertex is called in progress output: `[build 2/5] RUN make`.

use kiln_oci::Platform;

use super::environment::Environment;

/// The part in brackets, counting the steps of one stage.
#[derive(Debug, Clone, Default)]
pub(super) struct Namer {
    /// The platform in front, when several are built.
    pub(super) platform: Option<Platform>,
    /// The stage, when there are several.
    pub(super) stage: Option<String>,
    /// How many steps there are.
    pub(super) total: usize,
    /// How many have been named.
    pub(super) done: usize,
}

impl Namer {
    /// Returns the name of the next step. Blanks at the end of the text are no part of it.
    pub(super) fn next(&mut self, text: &str, environment: &Environment) -> String {
        let text = text.trim_end();
        let mut out = String::from("[");
        if let Some(platform) = &self.platform {
            out.push_str(&platform.to_string());
            out.push_str(&target_suffix(platform, environment));
            out.push(' ');
        }
        if let Some(stage) = &self.stage {
            out.push_str(stage);
            out.push(' ');
        }
        self.done += 1;
        let width = self.total.to_string().len();
        format!("{out}{:>width$}/{}] {text}", self.done, self.total)
    }
}

/// Returns `->arm64` where the stage knows that it builds for another platform than it runs on.
fn target_suffix(base: &Platform, environment: &Environment) -> String {
    let part = |name: &str| environment.get(name).filter(|value| !value.is_empty());
    let target = match part("TARGETPLATFORM").map(str::parse::<Platform>) {
        Some(Ok(target)) => target,
        Some(Err(_)) => return String::new(),
        None => {
            let parts = ["TARGETOS", "TARGETARCH", "TARGETVARIANT"].map(part);
            if parts.iter().all(Option::is_none) {
                return String::new();
            }
            Platform {
                os: parts[0].unwrap_or(&base.os).to_owned(),
                architecture: parts[1].unwrap_or(&base.architecture).to_owned(),
                variant: parts[2].unwrap_or_default().to_owned(),
                ..Platform::default()
            }
        }
    };
    let (base, target) = (base.normalized(), target.normalized());
    if base.os != target.os {
        format!("->{target}")
    } else if base.architecture == target.architecture && base.variant == target.variant {
        String::new()
    } else if target.variant.is_empty() {
        format!("->{}", target.architecture)
    } else {
        format!("->{}/{}", target.architecture, target.variant)
    }
}

/// Returns a line with its first word in upper case.
pub(super) fn with_upper_keyword(line: &str) -> String {
    let end = line.find(char::is_whitespace).unwrap_or(line.len());
    format!("{}{}", line[..end].to_uppercase(), &line[end..])
}

/// Returns the first line of a here-document, for display.
pub(super) fn summary(body: &str) -> String {
    let mut lines = body.trim().split('\n');
    let first = lines.next().unwrap_or_default().trim_end_matches('\r');
    if lines.next().is_some() { format!("{first}...") } else { first.to_owned() }
}

/// Returns a URL without what may be a password.
pub(super) fn redacted(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://xxxxx{}", &rest[at..]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_counted_and_aligned() {
        let mut namer = Namer { stage: Some("build".into()), total: 10, ..Namer::default() };
        let environment = Environment::default();
        assert_eq!(namer.next("RUN make", &environment), "[build  1/10] RUN make");
    }

    #[test]
    fn a_foreign_target_stands_in_the_name() {
        let mut environment = Environment::default();
        let mut namer = Namer { platform: Some(Platform::new("linux", "amd64")), total: 1, ..Namer::default() };
        assert_eq!(namer.clone().next("RUN x", &environment), "[linux/amd64 1/1] RUN x");
        environment.set("TARGETARCH", "arm64");
        assert_eq!(namer.next("RUN x", &environment), "[linux/amd64->arm64 1/1] RUN x");
    }

    #[test]
    fn passwords_in_urls_are_not_shown() {
        assert_eq!(redacted("https://u:p@h/x@y"), "https://xxxxx@h/x@y");
        assert_eq!(redacted("https://h/x@y"), "https://h/x@y");
        assert_eq!(redacted("git@h:x"), "git@h:x");
    }
}
