//! Blobs: bytes kept under the sha256 of their content.
//!
//! ```text
//! blobs/sha256/3f2a…      a blob, mode 0444, complete and verified when it was written
//! ingest/blob-<random>    being written; the writer holds an exclusive lock on it
//! ```
//!
//! A writer fills a file in `ingest`, checks it, and renames it into place. Anyone may delete an
//! ingest file whose lock they can take: its writer is gone. Readers verify again, because disks
//! and people change files.

use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use kiln_oci::{Digest, Hasher};
use tempfile::NamedTempFile;

use crate::Store;
use crate::file::{At, FileError};

/// Why a blob could not be handed out or taken in.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// Not here; the caller may fetch it.
    #[error("blob {0} is not in the store")]
    Missing(Digest),
    /// The bytes do not match their name. One that was in the store has been moved aside.
    #[error("blob {wanted} is damaged: its content hashes to {found}")]
    Damaged {
        /// The name.
        wanted: Digest,
        /// What the content hashes to.
        found: Digest,
    },
    /// The length is not what was announced.
    #[error("blob {digest} is {found} bytes long, not {wanted}")]
    Size {
        /// The name.
        digest: Digest,
        /// The length announced.
        wanted: u64,
        /// The length found.
        found: u64,
    },
    /// More than the caller wants to read.
    #[error("blob {digest} is {size} bytes long, more than the {limit} that such a document may have")]
    TooLarge {
        /// The name.
        digest: Digest,
        /// Its length.
        size: u64,
        /// The caller's limit.
        limit: u64,
    },
    /// The system refused.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A blob being read. At its end the content is checked against the name: the last `read` fails
/// when they differ.
pub struct BlobReader {
    store: Store,
    digest: Digest,
    size: u64,
    file: File,
    hasher: Option<Hasher>,
}

/// A blob being written; gone when dropped without [`Ingest::commit`].
pub struct Ingest {
    store: Store,
    file: BufWriter<NamedTempFile>,
    hasher: Hasher,
}

impl Store {
    /// Returns where a blob is, or would be.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root().join("blobs/sha256").join(digest.hex())
    }

    /// Whether a blob is here.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.blob_size(digest).is_some()
    }

    /// Returns the length of a blob that is here.
    pub fn blob_size(&self, digest: &Digest) -> Option<u64> {
        std::fs::symlink_metadata(self.blob_path(digest)).ok().filter(|it| it.is_file()).map(|it| it.len())
    }

    /// Opens a blob.
    ///
    /// # Errors
    /// [`BlobError::Missing`] when it is not here.
    pub fn open_blob(&self, digest: &Digest) -> Result<BlobReader, BlobError> {
        let path = self.blob_path(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(BlobError::Missing(*digest)),
            Err(error) => return Err(error).at("open", path)?,
        };
        let size = file.metadata().at("look at", path)?.len();
        Ok(BlobReader { store: self.clone(), digest: *digest, size, file, hasher: Some(Hasher::new()) })
    }

    /// Reads a small blob whole, verified.
    ///
    /// # Errors
    /// When it is not here, is damaged, or is longer than `limit`.
    pub fn read_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, BlobError> {
        let reader = self.open_blob(digest)?;
        if reader.size > limit {
            return Err(BlobError::TooLarge { digest: *digest, size: reader.size, limit });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(reader.size).unwrap_or_default());
        let path = self.blob_path(digest);
        (&reader.file).take(limit.saturating_add(1)).read_to_end(&mut bytes).at("read", path)?;
        let found = Digest::of(&bytes);
        if found != *digest {
            reader.move_aside();
            return Err(BlobError::Damaged { wanted: *digest, found });
        }
        Ok(bytes)
    }

    /// Starts to write a blob.
    ///
    /// # Errors
    /// When no file can be made.
    pub fn ingest(&self) -> Result<Ingest, BlobError> {
        let directory = self.ingest_directory();
        let builder = || tempfile::Builder::new().prefix("blob-").tempfile_in(&directory);
        loop {
            let file = builder().at("create a file in", &directory)?;
            file.as_file().lock().at("lock", file.path())?;
            // A sweep may have come between.
            if crate::lock::is_at(file.as_file(), file.path()).at("open", file.path())? {
                let file = BufWriter::with_capacity(128 << 10, file);
                return Ok(Ingest { store: self.clone(), file, hasher: Hasher::new() });
            }
        }
    }

    /// Writes a small blob.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest, BlobError> {
        let digest = Digest::of(bytes);
        if self.blob_size(&digest) == Some(bytes.len() as u64) {
            return Ok(digest);
        }
        let mut ingest = self.ingest()?;
        ingest.write_all(bytes).at("write", ingest.path())?;
        Ok(ingest.commit(None)?.0)
    }
}

impl std::fmt::Debug for BlobReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobReader").field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Ingest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ingest").field("size", &self.size()).finish_non_exhaustive()
    }
}

impl BlobReader {
    /// Returns the length of the blob.
    pub fn size(&self) -> u64 {
        self.size
    }

    fn move_aside(&self) {
        let path = self.store.blob_path(&self.digest);
        let aside = self.store.ingest_directory().join(format!("damaged-{}", self.digest.hex()));
        tracing::warn!("blob {} is damaged, moving it aside", self.digest);
        if let Err(error) = std::fs::rename(&path, aside) {
            tracing::debug!("cannot move {}: {error}", path.display());
        }
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        if count > 0 {
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&buffer[..count]);
            }
        } else if !buffer.is_empty()
            && let Some(hasher) = self.hasher.take()
        {
            let found = hasher.finish();
            if found != self.digest {
                self.move_aside();
                let error = BlobError::Damaged { wanted: self.digest, found };
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
        Ok(count)
    }
}

impl Ingest {
    /// Returns where the bytes are for now.
    pub fn path(&self) -> PathBuf {
        self.file.get_ref().path().to_owned()
    }

    /// Returns how many bytes were written.
    pub fn size(&self) -> u64 {
        self.hasher.length()
    }

    /// Publishes the blob and returns its digest and length. With `expected`, both must be as
    /// given. When the store has the blob already, that one stays.
    ///
    /// # Errors
    /// When the content is not the expected one, or cannot be written.
    pub fn commit(self, expected: Option<(Digest, u64)>) -> Result<(Digest, u64), BlobError> {
        let path = self.path();
        let size = self.hasher.length();
        let digest = self.hasher.finish();
        if let Some((wanted, announced)) = expected {
            if announced != size {
                return Err(BlobError::Size { digest: wanted, wanted: announced, found: size });
            }
            if wanted != digest {
                return Err(BlobError::Damaged { wanted, found: digest });
            }
        }
        let file = self.file.into_inner().map_err(|error| error.into_error()).at("write", &path)?;
        file.as_file().set_permissions(Permissions::from_mode(0o444)).at("write", &path)?;
        if self.store.blob_size(&digest) != Some(size) {
            let target = self.store.blob_path(&digest);
            let file = match file.persist(&target) {
                Ok(_) => return Ok((digest, size)),
                Err(error) if error.error.kind() == io::ErrorKind::NotFound => error.file,
                Err(error) => return Err(error.error).at("create", target)?,
            };
            // Somebody has removed the whole directory.
            if let Some(parent) = target.parent() {
                std::fs::create_dir_all(parent).at("create", parent)?;
            }
            file.persist(&target).map_err(|error| error.error).at("create", target)?;
        }
        Ok((digest, size))
    }
}

impl Write for Ingest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let temporary = tempfile::tempdir().unwrap();
        let store = Store::open(&temporary.path().join("store")).unwrap();
        (temporary, store)
    }

    fn ingest(store: &Store, bytes: &[u8], expected: Option<(Digest, u64)>) -> Result<(Digest, u64), BlobError> {
        let mut ingest = store.ingest()?;
        ingest.write_all(bytes).unwrap();
        ingest.commit(expected)
    }

    #[test]
    fn what_was_put_is_read_back() {
        let (_temporary, store) = store();
        let digest = store.put_blob(b"hi\n").unwrap();
        assert_eq!(store.read_blob(&digest, 3).unwrap(), b"hi\n");
        assert!(matches!(store.read_blob(&digest, 2), Err(BlobError::TooLarge { size: 3, .. })));
        let mut text = String::new();
        store.open_blob(&digest).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "hi\n");
        assert_eq!(store.put_blob(b"hi\n").unwrap(), digest);
        assert!(crate::file::list(&store.ingest_directory()).unwrap().is_empty());
    }

    #[test]
    fn what_was_not_expected_does_not_appear() {
        let (_temporary, store) = store();
        let digest = Digest::of("hi\n");
        assert!(matches!(ingest(&store, b"hi\n", Some((digest, 4))), Err(BlobError::Size { found: 3, .. })));
        assert!(matches!(ingest(&store, b"ho\n", Some((digest, 3))), Err(BlobError::Damaged { .. })));
        assert!(!store.has_blob(&digest) && !store.has_blob(&Digest::of("ho\n")));
        assert_eq!(ingest(&store, b"hi\n", Some((digest, 3))).unwrap(), (digest, 3));
        assert!(crate::file::list(&store.ingest_directory()).unwrap().is_empty());
    }

    #[test]
    fn a_damaged_blob_is_moved_aside() {
        let (_temporary, store) = store();
        for streamed in [false, true] {
            let digest = store.put_blob(b"hi\n").unwrap();
            let path = store.blob_path(&digest);
            std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
            std::fs::write(&path, b"ha\n").unwrap();
            if streamed {
                let error = store.open_blob(&digest).unwrap().read_to_end(&mut Vec::new()).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            } else {
                assert!(matches!(store.read_blob(&digest, 9), Err(BlobError::Damaged { .. })));
            }
            assert!(!store.has_blob(&digest));
        }
        store.sweep().unwrap();
        assert!(crate::file::list(&store.ingest_directory()).unwrap().is_empty());
    }
}
