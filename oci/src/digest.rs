//! Digests: the sha256 of some bytes, the only name content has.

use std::fmt;
use std::io;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

/// The sha256 of some bytes.
///
/// Its text form is `sha256:` and 64 lower-case hexadecimal digits (OCI image spec,
/// descriptor.md); no other algorithm is read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// No `sha256:` in front.
    #[error("unsupported digest algorithm in {0:?}: only sha256 is")]
    Algorithm(String),
    /// Not 64 digits.
    #[error("invalid digest length in {0:?}: sha256 has 64 hexadecimal digits")]
    Length(String),
    /// Something that is not a lower-case hexadecimal digit.
    #[error("invalid digest {0:?}: not lower-case hexadecimal")]
    Digit(String),
}

impl Digest {
    /// Returns the digest of `bytes`.
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// Wraps the 32 raw bytes of a digest.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the 32 raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the 64 hexadecimal digits, without the algorithm.
    pub fn hex(&self) -> String {
        let mut text = String::with_capacity(64);
        for byte in self.0 {
            text.push(char::from(b"0123456789abcdef"[usize::from(byte >> 4)]));
            text.push(char::from(b"0123456789abcdef"[usize::from(byte & 15)]));
        }
        text
    }

    /// Reads 64 lower-case hexadecimal digits, without the algorithm.
    ///
    /// # Errors
    /// When `hex` has another length or other characters.
    pub fn from_hex(hex: &str) -> Result<Self, DigestError> {
        if hex.len() != 64 {
            return Err(DigestError::Length(hex.to_owned()));
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let (Some(high), Some(low)) = (nibble(pair[0]), nibble(pair[1])) else {
                return Err(DigestError::Digit(hex.to_owned()));
            };
            *byte = high << 4 | low;
        }
        Ok(Self(bytes))
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let hex = text.strip_prefix("sha256:").ok_or_else(|| DigestError::Algorithm(text.to_owned()))?;
        Self::from_hex(hex)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A running sha256, which is also a [`io::Write`] sink, with length-prefixed
/// writers for canonical encodings.
#[derive(Clone, Default)]
pub struct Hasher {
    state: sha2::Sha256,
    length: u64,
}

impl Hasher {
    /// Starts an empty hash.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a hash for one kind of thing: `domain` and a NUL come first, so that two kinds
    /// can never give the same digest.
    pub fn domain(domain: &str) -> Self {
        let mut hasher = Self::new();
        hasher.update(domain.as_bytes());
        hasher.update(b"\0");
        hasher
    }

    /// Adds raw bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        self.state.update(bytes);
    }

    /// Adds a number as eight bytes, least significant first.
    pub fn number(&mut self, number: u64) -> &mut Self {
        self.update(&number.to_le_bytes());
        self
    }

    /// Adds a text or bytes with their length in front.
    pub fn field(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let bytes = bytes.as_ref();
        self.number(bytes.len() as u64);
        self.update(bytes);
        self
    }

    /// Adds a digest's 32 bytes.
    pub fn digest(&mut self, digest: &Digest) -> &mut Self {
        self.update(digest.as_bytes());
        self
    }

    /// Returns how many bytes went in.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Ends the hash.
    pub fn finish(self) -> Digest {
        Digest(self.state.finalize().into())
    }
}

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_reads_back() {
        let digest = Digest::of("hi\n");
        assert_eq!(digest.to_string().parse(), Ok(digest));
    }

    #[test]
    fn upper_case_is_not_a_digest() {
        let text = Digest::of("").to_string().to_uppercase();
        assert!(text.parse::<Digest>().is_err());
        assert!(matches!(format!("sha256:{}", "A".repeat(64)).parse::<Digest>(), Err(DigestError::Digit(_))));
        assert!(matches!("sha256:é".repeat(32).parse::<Digest>(), Err(DigestError::Length(_))));
    }

    #[test]
    fn fields_cannot_run_into_each_other() {
        let mut one = Hasher::domain("t");
        one.field("ab").field("c");
        let mut two = Hasher::domain("t");
        two.field("a").field("bc");
        assert_ne!(one.finish(), two.finish());
    }
}
