//! Names of images in `index.json`, and what references were last resolved to.

use std::io::Read as _;
use std::path::PathBuf;

use kiln_oci::{Descriptor, Digest, Index, REF_NAME, media_type};
use serde::{Deserialize, Serialize};

use crate::file::{list, publish, read};
use crate::{Store, StoreError};

/// Where other tools of the containerd family look for the full name.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Manifests and indexes are not longer than this.
const MAX_DOCUMENT: u64 = 4 << 20;

pub(crate) fn empty_index() -> Vec<u8> {
    serde_json::to_vec(&index_of(Vec::new())).expect("string keys only")
}

fn index_of(manifests: Vec<Descriptor>) -> Index {
    Index {
        schema_version: 2,
        media_type: Some(media_type::INDEX.to_owned()),
        artifact_type: None,
        manifests,
        subject: None,
        annotations: Default::default(),
    }
}

#[derive(Serialize, Deserialize)]
struct Resolution {
    reference: String,
    target: Descriptor,
}

impl Store {
    /// Returns the named images and what they name, in the order of `index.json`.
    ///
    /// # Errors
    /// When `index.json` cannot be read.
    pub fn images(&self) -> Result<Vec<(String, Descriptor)>, StoreError> {
        let named = |mut target: Descriptor| {
            let name = target.annotations.remove(CONTAINERD_NAME);
            let name = name.or_else(|| target.annotations.get(REF_NAME).cloned())?;
            target.annotations.remove(REF_NAME);
            Some((name, target))
        };
        Ok(self.read_index()?.manifests.into_iter().filter_map(named).collect())
    }

    /// Returns what `name` names.
    ///
    /// # Errors
    /// When `index.json` cannot be read.
    pub fn image(&self, name: &str) -> Result<Option<Descriptor>, StoreError> {
        Ok(self.images()?.into_iter().find(|(known, _)| known == name).map(|(_, target)| target))
    }

    /// Returns the manifests and indexes among the blobs, also those that nothing names.
    ///
    /// # Errors
    /// When the blobs cannot be listed.
    pub fn documents(&self) -> Result<Vec<Descriptor>, StoreError> {
        let digests = list(&self.root().join("blobs/sha256"))?;
        let digests = digests.iter().filter_map(|name| Digest::from_hex(name.to_str()?).ok());
        Ok(digests.filter_map(|digest| self.document(&digest)).collect())
    }

    /// Returns what a blob is described by where it is a manifest or an index.
    fn document(&self, digest: &Digest) -> Option<Descriptor> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Typed {
            media_type: String,
        }
        let mut first = [0];
        std::fs::File::open(self.blob_path(digest)).ok()?.read_exact(&mut first).ok()?;
        // Most blobs are archives.
        if first != *b"{" {
            return None;
        }
        let bytes = self.read_blob(digest, MAX_DOCUMENT).ok()?;
        let Typed { media_type } = serde_json::from_slice(&bytes).ok()?;
        let is_document = media_type::is_manifest(&media_type) || media_type::is_index(&media_type);
        is_document.then(|| Descriptor::of(&media_type, &bytes))
    }

    /// Gives `target` all of `names`, which lose what they named before.
    ///
    /// # Errors
    /// When `index.json` cannot be read or written.
    pub fn tag(&self, names: &[String], target: &Descriptor) -> Result<(), StoreError> {
        let _lock = self.work_lock("index")?;
        let mut index = self.read_index()?;
        let before = index.clone();
        for name in names {
            let mut named = target.clone();
            named.annotations.insert(REF_NAME.to_owned(), name.clone());
            named.annotations.insert(CONTAINERD_NAME.to_owned(), name.clone());
            match index.manifests.iter_mut().find(|it| is_named(it, name)) {
                Some(old) => *old = named,
                None => index.manifests.push(named),
            }
        }
        if index == before { Ok(()) } else { self.write_index(&index) }
    }

    /// Takes a name away; returns whether there was one.
    ///
    /// # Errors
    /// When `index.json` cannot be read or written.
    pub fn untag(&self, name: &str) -> Result<bool, StoreError> {
        let _lock = self.work_lock("index")?;
        let mut index = self.read_index()?;
        let count = index.manifests.len();
        index.manifests.retain(|it| !is_named(it, name));
        if index.manifests.len() == count {
            return Ok(false);
        }
        self.write_index(&index)?;
        Ok(true)
    }

    fn read_index(&self) -> Result<Index, StoreError> {
        let path = self.root().join("index.json");
        let Some(bytes) = read(&path)? else { return Ok(index_of(Vec::new())) };
        serde_json::from_slice(&bytes).map_err(|error| StoreError::Damaged { path, reason: error.to_string() })
    }

    fn write_index(&self, index: &Index) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(index).expect("string keys only");
        Ok(publish(&self.ingest_directory(), &self.root().join("index.json"), &bytes)?)
    }

    /// Returns what a remote reference was resolved to when it was last asked for; `None` also
    /// when that note is damaged.
    pub fn resolution(&self, reference: &str) -> Option<Descriptor> {
        let bytes = read(&self.resolution_path(reference)).ok()??;
        let resolution: Resolution = serde_json::from_slice(&bytes).ok()?;
        (resolution.reference == reference).then_some(resolution.target)
    }

    /// Notes what a remote reference is resolved to. The caller chooses what belongs to a
    /// reference: a platform, for one.
    ///
    /// # Errors
    /// When the note cannot be written.
    pub fn set_resolution(&self, reference: &str, target: &Descriptor) -> Result<(), StoreError> {
        if self.resolution(reference).as_ref() == Some(target) {
            return Ok(());
        }
        let resolution = Resolution { reference: reference.to_owned(), target: target.clone() };
        let bytes = serde_json::to_vec(&resolution).expect("string keys only");
        Ok(publish(&self.ingest_directory(), &self.resolution_path(reference), &bytes)?)
    }

    /// Returns all that references were resolved to.
    pub(crate) fn resolutions(&self) -> Result<Vec<Descriptor>, StoreError> {
        let directory = self.root().join("records/v1/resolved");
        let names = list(&directory)?;
        let notes = names.into_iter().filter_map(|name| read(&directory.join(name)).ok().flatten());
        Ok(notes.filter_map(|bytes| Some(serde_json::from_slice::<Resolution>(&bytes).ok()?.target)).collect())
    }

    fn resolution_path(&self, reference: &str) -> PathBuf {
        self.root().join("records/v1/resolved").join(Digest::of(reference).hex())
    }
}

fn is_named(descriptor: &Descriptor, name: &str) -> bool {
    let annotation = |key| descriptor.annotations.get(key);
    annotation(CONTAINERD_NAME).or_else(|| annotation(REF_NAME)).is_some_and(|known| known == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let temporary = tempfile::tempdir().unwrap();
        let store = Store::open(&temporary.path().join("store")).unwrap();
        (temporary, store)
    }

    #[test]
    fn a_name_moves_and_goes() {
        let (_temporary, store) = store();
        let one = Descriptor::of(media_type::MANIFEST, b"one");
        let two = Descriptor::of(media_type::MANIFEST, b"two");
        store.tag(&["docker.io/library/a:1".to_owned(), "docker.io/library/a:2".to_owned()], &one).unwrap();
        store.tag(&["docker.io/library/a:2".to_owned()], &two).unwrap();
        assert_eq!(store.image("docker.io/library/a:1").unwrap(), Some(one.clone()));
        assert_eq!(store.image("docker.io/library/a:2").unwrap(), Some(two));
        assert!(store.untag("docker.io/library/a:2").unwrap());
        assert!(!store.untag("docker.io/library/a:2").unwrap());
        assert_eq!(store.images().unwrap(), [("docker.io/library/a:1".to_owned(), one)]);
    }

    #[test]
    fn documents_are_told_from_other_blobs() {
        let (_temporary, store) = store();
        let manifest = serde_json::to_vec(&index_of(Vec::new())).unwrap();
        let expected = Descriptor::of(media_type::INDEX, &manifest);
        for bytes in [&manifest[..], br#"{"os":"linux"}"#, b"{", b"", b"layer", br#"{"mediaType":"text/plain"}"#] {
            store.put_blob(bytes).unwrap();
        }
        assert_eq!(store.documents().unwrap(), [expected]);
    }

    #[test]
    fn two_writers_lose_no_name() {
        let (_temporary, store) = store();
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let store = &store;
                scope.spawn(move || {
                    for number in 0..10 {
                        let name = format!("{writer}-{number}");
                        store
                            .tag(std::slice::from_ref(&name), &Descriptor::of(media_type::MANIFEST, name.as_bytes()))
                            .unwrap();
                    }
                });
            }
        });
        assert_eq!(store.images().unwrap().len(), 40);
    }

    #[test]
    fn a_resolution_is_kept_until_damaged() {
        let (_temporary, store) = store();
        let target = Descriptor::of(media_type::INDEX, b"x");
        assert_eq!(store.resolution("docker.io/library/a:1"), None);
        store.set_resolution("docker.io/library/a:1", &target).unwrap();
        assert_eq!(store.resolution("docker.io/library/a:1"), Some(target));
        std::fs::write(store.resolution_path("docker.io/library/a:1"), "{").unwrap();
        assert_eq!(store.resolution("docker.io/library/a:1"), None);
    }
}
