//! OCI layouts: images in a directory of the client (OCI image spec, image-layout.md).

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use kiln_oci::{Descriptor, Digest, Index, REF_NAME};

use crate::error::BuildError;

/// How the source of a blob is written when it is in a layout.
const PREFIX: &str = "oci-layout:";
/// Documents larger than this are not read.
const MAX_DOCUMENT: u64 = 20 << 20;

/// A layout and what is wanted of it: `path[:tag][@digest]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutName {
    /// The directory.
    pub path: PathBuf,
    /// `latest` when neither tag nor digest is given.
    pub tag: Option<String>,
    /// Wins over the tag.
    pub digest: Option<Digest>,
}

impl LayoutName {
    /// Reads what stands after `oci-layout://`.
    ///
    /// # Errors
    /// When the digest is none.
    pub fn parse(text: &str) -> Result<Self, BuildError> {
        let (rest, digest) = match text.rsplit_once('@') {
            Some((rest, digest)) => {
                let digest =
                    digest.parse().map_err(|error| BuildError::input(format!("oci-layout://{text}: {error}")))?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag.to_owned())),
            _ => (rest, None),
        };
        Ok(Self { path: path.into(), tag, digest })
    }

    /// Finds the manifest or index.
    ///
    /// # Errors
    /// When the directory is no layout, or does not hold what is wanted.
    pub fn find(&self) -> Result<Descriptor, BuildError> {
        let shown = self.path.display();
        if !self.path.join("oci-layout").is_file() {
            return Err(BuildError::input(format!("{shown} is not an OCI layout: it has no `oci-layout` file")));
        }
        let bytes = read_limited(&self.path.join("index.json"))?;
        let index: Index = serde_json::from_slice(&bytes)
            .map_err(|error| BuildError::input(format!("{shown}/index.json: {error}")))?;
        if let Some(digest) = self.digest {
            let listed = index.manifests.iter().find(|manifest| manifest.digest == digest).cloned();
            return match listed {
                Some(descriptor) => Ok(descriptor),
                None => {
                    let bytes = document(&self.path, &digest)?;
                    Ok(Descriptor::new("", digest, bytes.len() as u64))
                }
            };
        }
        let wanted = self.tag.as_deref().unwrap_or("latest");
        let name = |descriptor: &Descriptor| descriptor.annotations.get(REF_NAME).cloned();
        let is_named = |descriptor: &&Descriptor| {
            name(descriptor).is_some_and(|name| name == wanted || name.ends_with(&format!(":{wanted}")))
        };
        if let Some(found) = index.manifests.iter().find(is_named) {
            return Ok(found.clone());
        }
        // A layout with one image and no names holds just that one.
        match &index.manifests[..] {
            [only] if self.tag.is_none() => Ok(only.clone()),
            manifests => {
                let names: Vec<String> = manifests.iter().filter_map(name).collect();
                let has = if names.is_empty() {
                    "it has no names".to_owned()
                } else {
                    format!("it has {}", names.join(", "))
                };
                Err(BuildError::input(format!("{shown} has no image `{wanted}`: {has}")))
            }
        }
    }

    /// Returns the directory as the source of a blob.
    pub fn source(&self) -> String {
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        format!("{PREFIX}{}", path.display())
    }
}

/// Returns the path of a blob if its source is a layout.
pub fn blob_path(source: &str, digest: &Digest) -> Option<PathBuf> {
    Some(blob(Path::new(source.strip_prefix(PREFIX)?), digest))
}

fn blob(layout: &Path, digest: &Digest) -> PathBuf {
    layout.join("blobs/sha256").join(digest.hex())
}

/// Reads and verifies a manifest, index or config.
///
/// # Errors
/// When it is missing, too large, or does not have its digest.
pub fn document(layout: &Path, digest: &Digest) -> Result<Vec<u8>, BuildError> {
    let path = blob(layout, digest);
    let bytes = read_limited(&path)?;
    if Digest::of(&bytes) != *digest {
        return Err(BuildError::input(format!("{} is damaged: its content does not have its digest", path.display())));
    }
    Ok(bytes)
}

fn read_limited(path: &Path) -> Result<Vec<u8>, BuildError> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        fs::File::open(path)?.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(io::Error::other(format!("larger than {} MiB", MAX_DOCUMENT >> 20)));
        }
        Ok(bytes)
    };
    read().map_err(|error| BuildError::input(format!("cannot read {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_path_tag_and_digest() {
        let digest = Digest::of("x");
        let parse = |text: &str| LayoutName::parse(text).map(|name| (name.path, name.tag, name.digest)).unwrap();
        assert_eq!(parse("/a/b"), ("/a/b".into(), None, None));
        assert_eq!(parse("/a/b:v1"), ("/a/b".into(), Some("v1".into()), None));
        assert_eq!(parse(&format!("/a:x/b@{digest}")), ("/a:x/b".into(), None, Some(digest)));
    }
}
