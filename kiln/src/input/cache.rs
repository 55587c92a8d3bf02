//! `--cache-from` and `--cache-to`: caches that are not the store.
//!
//! ```text
//! --cache-from NAME           type=registry,ref=NAME
//! --cache-to type=inline
//! ```

use std::collections::BTreeSet;

use kiln_builder::{BuildError, CacheSource, CacheTarget};
use kiln_frontend::dockerfile::{csv, suggest};

use super::value;

/// Kinds of caches that other builders know and kiln does not yet.
const LATER: [&str; 4] = ["local", "gha", "s3", "azblob"];

/// Reads all `--cache-from`; caches are looked in in this order.
///
/// # Errors
/// When one is malformed, or is of a kind that is not there.
pub fn sources(texts: &[String]) -> Result<Vec<CacheSource>, BuildError> {
    let mut sources = Vec::new();
    for text in texts.iter().filter(|text| !text.is_empty()) {
        let wrong = |error: BuildError| error.context(format!("invalid value `{text}` for `--cache-from`"));
        let fields = csv::fields(text).map_err(|error| wrong(BuildError::input(error.to_string())))?;
        let names: Vec<String> = if fields.iter().all(|field| !field.contains('=')) {
            fields.iter().map(ToString::to_string).collect()
        } else {
            vec![named(&fields).map_err(wrong)?]
        };
        for name in names {
            sources.push(CacheSource::Registry(value::reference(&name).map_err(wrong)?));
        }
    }
    Ok(sources)
}

/// Reads the fields of a source; returns the name of the image.
fn named(fields: &[impl AsRef<str>]) -> Result<String, BuildError> {
    let (kind, rest) = kind(fields)?;
    match &*kind {
        "registry" => {}
        "inline" => {
            return Err(BuildError::input("an inline cache is found by the name of its image")
                .hint("say `--cache-from NAME`, or `type=registry,ref=NAME`"));
        }
        kind => return Err(unknown(kind, "registry")),
    }
    let mut name = None;
    for (key, value) in rest {
        match &*key {
            "ref" => name = Some(value),
            key => return Err(unknown_key(key, "registry", &["ref"])),
        }
    }
    name.filter(|name| !name.is_empty()).ok_or_else(|| BuildError::input("`type=registry` needs `ref=NAME`"))
}

/// Reads all `--cache-to`.
///
/// # Errors
/// As [`sources`].
pub fn targets(texts: &[String]) -> Result<BTreeSet<CacheTarget>, BuildError> {
    let mut targets = BTreeSet::new();
    for text in texts.iter().filter(|text| !text.is_empty()) {
        let wrong = |error: BuildError| error.context(format!("invalid value `{text}` for `--cache-to`"));
        let fields = csv::fields(text).map_err(|error| wrong(BuildError::input(error.to_string())))?;
        targets.insert(target(&fields).map_err(wrong)?);
    }
    Ok(targets)
}

fn target(fields: &[impl AsRef<str>]) -> Result<CacheTarget, BuildError> {
    if fields.iter().all(|field| !field.as_ref().contains('=')) {
        return Err(unknown("registry", "inline"));
    }
    let (kind, rest) = kind(fields)?;
    if kind != "inline" {
        return Err(unknown(&kind, "inline"));
    }
    for (key, value) in rest {
        match (&*key, &*value) {
            // An image holds its own layers whatever the mode.
            ("mode", "min" | "max") => {}
            ("mode", other) => return Err(BuildError::input(format!("unknown mode `{other}`")).hint("modes: min, max")),
            (key, _) => return Err(unknown_key(key, "inline", &["mode"])),
        }
    }
    Ok(CacheTarget::Inline)
}

/// Splits fields into keys and values, and takes the type out of them.
fn kind(fields: &[impl AsRef<str>]) -> Result<(String, Vec<(String, String)>), BuildError> {
    let mut kind = None;
    let mut rest = Vec::new();
    for field in fields {
        let field = field.as_ref();
        let (key, value) = field
            .split_once('=')
            .ok_or_else(|| BuildError::input(format!("`{field}` is not of the form `key=value`")))?;
        match &*key.trim().to_ascii_lowercase() {
            "type" => kind = Some(value.to_owned()),
            key => rest.push((key.to_owned(), value.to_owned())),
        }
    }
    Ok((kind.ok_or_else(|| BuildError::input("`type` is missing").hint("for example `type=registry,ref=NAME`"))?, rest))
}

fn unknown(kind: &str, known: &str) -> BuildError {
    let hint = format!("known: {known}");
    if kind == "registry" || LATER.contains(&kind) {
        return BuildError::input(format!("caches of `type={kind}` are not supported yet")).hint(hint);
    }
    BuildError::input(format!("unknown type `{kind}`")).hint(hint)
}

fn unknown_key(key: &str, kind: &str, known: &[&str]) -> BuildError {
    if key == "registry.insecure" {
        return BuildError::input(format!("`{key}` is not supported yet"));
    }
    let error = BuildError::input(format!("unknown key `{key}` for `type={kind}`"));
    match suggest::closest(key, known) {
        Some(guess) => error.hint(format!("did you mean `{guess}`?")),
        None => error.hint(format!("known keys: {}", known.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(texts: &[&str]) -> Result<Vec<String>, String> {
        let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
        let sources =
            sources(&texts).map_err(|error| format!("{} | {}", error.message, error.hint.unwrap_or_default()));
        Ok(sources?.into_iter().map(|CacheSource::Registry(name)| name.to_string()).collect())
    }

    #[test]
    fn a_name_is_a_registry() {
        let expected = ["docker.io/library/app:latest", "127.0.0.1:5000/app:v1"];
        assert_eq!(names(&["app", "", "127.0.0.1:5000/app:v1"]).unwrap(), expected);
        assert_eq!(names(&["app,127.0.0.1:5000/app:v1"]).unwrap(), expected);
        assert_eq!(names(&["type=registry,ref=app", "Ref=127.0.0.1:5000/app:v1,type=registry"]).unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_is_refused_with_a_reason() {
        for (text, expected) in [
            ("type=local,src=x", "`type=local` are not supported yet | known: registry"),
            ("type=gha", "`type=gha` are not supported yet"),
            ("type=gah", "unknown type `gah` | known: registry"),
            ("type=inline", "by the name of its image | say `--cache-from NAME`"),
            ("type=registry", "needs `ref=NAME`"),
            ("type=registry,ref=", "needs `ref=NAME`"),
            ("type=registry,ref=a,reff=b", "unknown key `reff` for `type=registry` | did you mean `ref`?"),
            ("type=registry,ref=a,registry.insecure=true", "`registry.insecure` is not supported yet"),
            ("ref=app", "`type` is missing"),
            ("type=registry,app", "`app` is not of the form"),
            ("UPPER", "invalid name `UPPER`"),
            ("\"a", "invalid value `\"a` for `--cache-from`"),
        ] {
            let error = names(&[text]).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_cache_can_go_into_the_image_alone() {
        let targets = |texts: &[&str]| targets(&texts.iter().map(ToString::to_string).collect::<Vec<_>>());
        let inline = BTreeSet::from([CacheTarget::Inline]);
        assert_eq!(targets(&["type=inline", "type=inline,mode=max"]).unwrap(), inline);
        assert!(targets(&[""]).unwrap().is_empty());
        for (text, expected) in [
            ("type=inline,mode=mx", "unknown mode `mx`"),
            ("type=inline,ref=x", "unknown key `ref`"),
            ("type=registry,ref=x", "`type=registry` are not supported yet"),
            ("app:cache", "`type=registry` are not supported yet"),
            ("type=local,dest=x", "`type=local` are not supported yet"),
            ("dest=x", "`type` is missing"),
        ] {
            let error = targets(&[text]).unwrap_err().message;
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
