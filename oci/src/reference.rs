//! Image references: names as people write them, and as registries know them.
//!
//! ```text
//! reference = [domain "/"] path [":" tag] ["@" digest]
//! domain    = host [":" port]          host = labels joined by "." | "[" IPv6 "]"
//! path      = component ("/" component)*
//! component = [a-z0-9]+ (("." | "_" | "__" | "-"+) [a-z0-9]+)*
//! ```
//!
//! A name without a domain belongs to docker.io, and one of a single component there to
//! `library/`. The rules and the error texts are those of Docker's reference package.

use std::fmt;
use std::str::FromStr;

use crate::Digest;

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL: &str = "library/";
const LONGEST_PATH: usize = 255;
const LONGEST_TAG: usize = 128;

/// A name for an image, normalised: domain and path are complete, the rest as written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// The registry, with its port where it has one: `docker.io`, `localhost:5000`.
    pub domain: String,
    /// The repository in it: `library/alpine`.
    pub path: String,
    /// `latest`, `3.20`, …
    pub tag: Option<String>,
    /// The content that is meant; with a tag beside it, the tag only informs.
    pub digest: Option<ReferenceDigest>,
}

/// A digest in a reference, which may be of an algorithm that kiln cannot check.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReferenceDigest {
    /// The one that kiln reads and writes.
    Sha256(Digest),
    /// A well-formed sha384 or sha512, kept as text.
    Other(String),
}

/// Why a text is not a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It does not follow the grammar.
    #[error("invalid reference format")]
    Format,
    /// It would, but for capital letters in the path.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    UpperCase(String),
    /// It looks like an image id.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    ImageId(String),
    /// It is too long.
    #[error("repository name must not be more than {LONGEST_PATH} characters")]
    TooLong,
    /// The digest's algorithm is not known.
    #[error("unsupported digest algorithm")]
    DigestAlgorithm,
    /// The digest is too short or too long for its algorithm.
    #[error("invalid checksum digest length")]
    DigestLength,
    /// The digest has other characters than lower-case hexadecimal digits.
    #[error("invalid checksum digest format")]
    DigestFormat,
}

impl Reference {
    /// Returns domain and path: `docker.io/library/alpine`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// Returns the short form that people write: `alpine:3`.
    pub fn familiar(&self) -> String {
        let mut text = String::new();
        if self.domain == DEFAULT_DOMAIN {
            match self.path.strip_prefix(OFFICIAL) {
                Some(short) if !short.contains('/') => text.push_str(short),
                _ => text.push_str(&self.path),
            }
        } else {
            text.push_str(&self.name());
        }
        text.push_str(&self.suffix());
        text
    }

    /// Returns the form used for pulling: with `:latest` where neither tag nor digest is given.
    #[must_use]
    pub fn with_default_tag(&self) -> Self {
        let mut reference = self.clone();
        if reference.tag.is_none() && reference.digest.is_none() {
            reference.tag = Some("latest".to_owned());
        }
        reference
    }

    /// Returns the key that finds a named build context: the short form without `:latest`.
    pub fn named_context_key(&self) -> String {
        let familiar = self.familiar();
        match familiar.strip_suffix(":latest") {
            Some(short) => short.to_owned(),
            None => familiar,
        }
    }

    /// Returns the same name pinned to `digest`.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(ReferenceDigest::Sha256(digest)), ..self.clone() }
    }

    /// Returns the sha256 this name is pinned to, if it is.
    pub fn sha256(&self) -> Option<Digest> {
        match self.digest {
            Some(ReferenceDigest::Sha256(digest)) => Some(digest),
            _ => None,
        }
    }

    fn suffix(&self) -> String {
        let mut text = String::new();
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
        text
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.domain, self.path, self.suffix())
    }
}

impl fmt::Display for ReferenceDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(digest) => digest.fmt(f),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.len() == 64 && text.bytes().all(is_lower_hex) {
            return Err(ReferenceError::ImageId(text.to_owned()));
        }
        let (domain, rest) = split_domain(text);
        let name = rest.split_once(':').map_or(&*rest, |(name, _)| name);
        if name.to_lowercase() != name {
            return Err(ReferenceError::UpperCase(name.to_owned()));
        }
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (&*rest, None),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        if !is_domain(domain)
            || !path.split('/').all(is_component)
            || !tag.is_none_or(is_tag)
            || !digest.is_none_or(is_digest)
        {
            return Err(ReferenceError::Format);
        }
        if path.len() > LONGEST_PATH {
            return Err(ReferenceError::TooLong);
        }
        Ok(Self {
            domain: domain.to_owned(),
            path: path.to_owned(),
            tag: tag.map(str::to_owned),
            digest: digest.map(str::parse).transpose()?,
        })
    }
}

impl FromStr for ReferenceDigest {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let (algorithm, hex) = text.split_once(':').ok_or(ReferenceError::DigestFormat)?;
        if algorithm.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ReferenceError::DigestFormat);
        }
        let length = match algorithm {
            "sha256" => 64,
            "sha384" => 96,
            "sha512" => 128,
            _ => return Err(ReferenceError::DigestAlgorithm),
        };
        if hex.len() != length {
            return Err(ReferenceError::DigestLength);
        }
        if !hex.bytes().all(is_lower_hex) {
            return Err(ReferenceError::DigestFormat);
        }
        Ok(match text.parse() {
            Ok(digest) => Self::Sha256(digest),
            Err(_) => Self::Other(text.to_owned()),
        })
    }
}

/// Decides whether the part before the first `/` is a registry, and completes the name where
/// it is not.
fn split_domain(text: &str) -> (&str, String) {
    let (domain, rest) = match text.split_once('/') {
        Some((domain, rest))
            if domain == "localhost" || domain.contains(['.', ':']) || domain.to_lowercase() != domain =>
        {
            (if domain == LEGACY_DOMAIN { DEFAULT_DOMAIN } else { domain }, rest)
        }
        _ => (DEFAULT_DOMAIN, text),
    };
    let rest = if domain == DEFAULT_DOMAIN && !rest.contains('/') { format!("{OFFICIAL}{rest}") } else { rest.into() };
    (domain, rest)
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else { return false };
            let is_address = !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
            return is_address && (port.is_empty() || port.strip_prefix(':').is_some_and(is_number));
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    host.split('.').all(is_label) && port.is_none_or(is_number)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_component(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut separators = text.split(|c: char| c.is_ascii() && is_word(c as u8)).filter(|part| !part.is_empty());
    let bytes = text.as_bytes();
    bytes.first().copied().is_some_and(is_word)
        && bytes.last().copied().is_some_and(is_word)
        && separators.all(|part| matches!(part, "." | "_" | "__") || part.bytes().all(|b| b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= LONGEST_TAG
        && text.bytes().next().is_some_and(is_word)
        && text.bytes().all(|b| is_word(b) || b == b'.' || b == b'-')
}

/// Whether the text has the shape of a digest of any algorithm.
fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    algorithm.split(['-', '_', '+', '.']).all(|part| {
        part.bytes().next().is_some_and(|b| b.is_ascii_alphabetic()) && part.bytes().all(|b| b.is_ascii_alphanumeric())
    }) && hex.len() >= 32
        && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_ipv6_registry_has_brackets() {
        let reference: Reference = "[::1]:5000/a/b:1".parse().unwrap();
        assert_eq!((&*reference.domain, &*reference.path), ("[::1]:5000", "a/b"));
        assert_eq!("[::1/a".parse::<Reference>(), Err(ReferenceError::Format));
        assert_eq!("[::1]x/a".parse::<Reference>(), Err(ReferenceError::Format));
    }

    #[test]
    fn capital_digits_are_no_digest() {
        let text = format!("a@sha256:{}", "A".repeat(64));
        assert_eq!(text.parse::<Reference>(), Err(ReferenceError::DigestFormat));
    }

    proptest! {
        #[test]
        fn any_text_is_a_reference_or_an_error(text in "\\PC{0,80}") {
            let _ = text.parse::<Reference>();
        }

        #[test]
        fn the_normalised_and_the_short_form_read_back(
            domain in prop::option::of("[a-z]{1,5}\\.[a-z]{2}(:[0-9]{1,4})?"),
            path in "[a-z0-9]{1,6}([._-][a-z0-9]{1,4})?(/[a-z0-9]{1,6}(__[a-z]{1,3})?){0,2}",
            tag in prop::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
            digest in prop::option::of("[0-9a-f]{64}"),
        ) {
            let domain = domain.map(|domain| domain + "/").unwrap_or_default();
            let tag = tag.map(|tag| format!(":{tag}")).unwrap_or_default();
            let digest = digest.map(|hex| format!("@sha256:{hex}")).unwrap_or_default();
            let text = format!("{domain}{path}{tag}{digest}");
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>(), Ok(reference.clone()));
                prop_assert_eq!(reference.familiar().parse::<Reference>(), Ok(reference));
            }
        }
    }
}
