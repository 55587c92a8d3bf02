//! Layers: what one step changed. One identity, the sha256 of its tar stream (its diff id), and
//! three forms, each made when somebody needs it.
//!
//! ```text
//! layers/v1/<diff id>/
//!   fs/               directory form, ready to be a lower directory of an overlay; other names of
//!                     it hold the owners of files in other ways, see `owner`
//!   index             every entry with metadata and content digest
//!   blobs/<name>      a note: a blob that holds the tar form, and where it may be had
//!   members           which blocks the blob that was made here consists of, see `member`
//! ```
//!
//! Each appears by one rename. A layer that nobody unpacked has notes alone.

mod account;
mod apply;
mod archive;
mod compression;
mod directory;
mod entry;
mod header;
mod index;
mod member;
mod note;
mod owner;
mod pack;
mod read;
mod recompress;
mod seal;
mod stream;
#[cfg(test)]
mod tests;
mod unpack;
mod whiteout;

use std::path::PathBuf;
use std::sync::Arc;

use kiln_oci::{Descriptor, Digest, Hasher};
use serde::{Deserialize, Serialize};

pub use archive::ArchiveError;
pub use compression::Compression;
pub use entry::{Content, NewEntry, NewKind, is_kept};
pub use header::{HeaderError, TarHeader, end_of_archive};
pub use index::{Change, IndexEntry, LayerIndex, Put};
pub use note::{Inode, Note, Notes};
pub use owner::Ownership;
pub use pack::{Pack, Packed, pack};
pub use read::WHITEOUT_MARK;
pub use seal::seal;
pub use unpack::{Limits, Unpack, clamp, ensure_blob, ensure_directory, ensure_index, unpack, unpack_within};

#[cfg(test)]
pub(crate) use tests::vectors;

use crate::file::{At, list, publish, read};
use crate::{BlobError, FileError, Store, StoreError};

/// Why a layer could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// A blob could not be read or written.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The store could not be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The tar stream is malformed, hostile or beyond a limit.
    #[error("layer {diff_id} cannot be unpacked: {source}")]
    Archive {
        /// The layer.
        diff_id: Digest,
        /// What is wrong with it.
        source: ArchiveError,
    },
    /// The stream could not be read: a network or decompression error.
    #[error("cannot read layer {diff_id}")]
    Stream {
        /// The layer.
        diff_id: Digest,
        /// The reader's error.
        #[source]
        source: std::io::Error,
    },
    /// The tar stream is not the one that was asked for.
    #[error("the content of layer {wanted} hashes to {found}")]
    DiffId {
        /// What was asked for.
        wanted: Digest,
        /// What came.
        found: Digest,
    },
    /// A file did not stay the same while it was read.
    #[error("`{path}` changed while it was being copied")]
    Changed {
        /// Its path in the layer.
        path: String,
    },
    /// A file that a layer cannot hold.
    #[error("`{path}` cannot be put into a layer: {reason}")]
    Unrepresentable {
        /// Its path in the layer.
        path: String,
        /// Why not.
        reason: String,
    },
    /// Neither directory nor blob is here.
    #[error("layer {0} is not in the store")]
    Missing(Digest),
    /// Only the directory form is here, and it does not give the same tar stream again.
    #[error("layer {0} came from elsewhere, and its blob is not in the store any more")]
    NotReproducible(Digest),
    /// Somebody asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// Whoever gives the entries of a new layer could not.
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

/// A handle on a layer, by its diff id.
#[derive(Debug, Clone)]
pub struct Layer {
    store: Store,
    diff_id: Digest,
}

/// A blob that holds a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerBlob {
    /// What the blob is. It need not be in the store.
    pub descriptor: Descriptor,
    /// Where it may be had: `host/repository`.
    pub sources: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct BlobNote {
    descriptor: Descriptor,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<String>,
}

impl Layer {
    pub(crate) fn new(store: Store, diff_id: Digest) -> Self {
        Self { store, diff_id }
    }

    /// Returns the identity of the layer.
    pub fn diff_id(&self) -> Digest {
        self.diff_id
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.store.root().join("layers/v1").join(self.diff_id.hex())
    }

    /// Returns the directory form when it is here: ready to be a lower directory of an overlay,
    /// with whiteouts as devices 0:0 and opaque directories marked. It must not be changed.
    pub fn directory(&self) -> Option<PathBuf> {
        let path = self.home().join(self.store.ownership().directory_name());
        path.is_dir().then_some(path)
    }

    /// Returns the index when it is here; a damaged one is not.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn index(&self) -> Result<Option<Arc<LayerIndex>>, LayerError> {
        let Some(bytes) = read(&self.home().join("index"))? else { return Ok(None) };
        let index = LayerIndex::decode(&bytes).filter(|index| index.diff_id() == self.diff_id);
        if index.is_none() {
            tracing::warn!("the index of layer {} is damaged", self.diff_id);
        }
        Ok(index.map(Arc::new))
    }

    /// Takes the directory form and the index away, when one of them turned out not to be what this layer is.
    ///
    /// # Errors
    /// When they cannot be moved.
    pub fn discard_directory(&self) -> Result<(), FileError> {
        let index = self.home().join("index");
        if index.exists() {
            std::fs::remove_file(&index).at("delete", &index)?;
        }
        let Some(directory) = self.directory() else { return Ok(()) };
        tracing::warn!("the directory of layer {} is damaged, taking it away", self.diff_id);
        let aside = self.store.ingest_scratch("damaged")?;
        std::fs::rename(&directory, aside.path().join("fs")).at("move", directory)
    }

    /// Whether the index is here, whatever its state.
    pub fn has_index(&self) -> bool {
        self.home().join("index").is_file()
    }

    pub(crate) fn publish_index(&self, index: &LayerIndex) -> Result<(), FileError> {
        publish(&self.store.ingest_directory(), &self.home().join("index"), &index.encode())
    }

    pub(crate) fn publish_members(&self, blob: &Digest, members: &[member::Member]) -> Result<(), FileError> {
        publish(&self.store.ingest_directory(), &self.home().join("members"), &member::encode(blob, members))
    }

    /// Returns the blob that was made of this layer to take parts of it over, when it is here.
    pub(crate) fn members(&self) -> Option<member::Earlier> {
        let (blob, members) = member::decode(&read(&self.home().join("members")).ok()??)?;
        let file = std::fs::File::open(self.store.blob_path(&blob)).ok()?;
        Some(member::Earlier::new(file, &members))
    }

    /// Returns the blobs that are known to hold this layer.
    pub fn blobs(&self) -> Vec<LayerBlob> {
        let directory = self.home().join("blobs");
        let mut names = list(&directory).unwrap_or_default();
        names.sort();
        let mut blobs: Vec<LayerBlob> = Vec::new();
        for name in names {
            let note = read(&directory.join(name)).ok().flatten();
            let Some(note) = note.and_then(|bytes| serde_json::from_slice::<BlobNote>(&bytes).ok()) else { continue };
            match blobs.iter_mut().find(|blob| blob.descriptor.digest == note.descriptor.digest) {
                Some(blob) => blob.sources.extend(note.source),
                None => {
                    let sources = note.source.into_iter().collect();
                    blobs.push(LayerBlob { descriptor: note.descriptor, sources });
                }
            }
        }
        blobs
    }

    /// Notes that a blob holds this layer, and where it may be had.
    ///
    /// # Errors
    /// When the note cannot be written.
    pub fn add_blob(&self, descriptor: &Descriptor, source: Option<&str>) -> Result<(), LayerError> {
        let mut name = Hasher::domain("kiln.layer-blob.v1");
        name.digest(&descriptor.digest).field(&descriptor.media_type).field(source.unwrap_or_default());
        let path = self.home().join("blobs").join(name.finish().hex());
        if path.exists() {
            return Ok(());
        }
        let plain = Descriptor::new(descriptor.media_type.clone(), descriptor.digest, descriptor.size);
        let note = BlobNote { descriptor: plain, source: source.map(str::to_owned) };
        let bytes = serde_json::to_vec(&note).expect("string keys only");
        Ok(publish(&self.store.ingest_directory(), &path, &bytes)?)
    }

    /// Takes back that a blob may be had somewhere: it turned out not to be there, or to be another.
    ///
    /// # Errors
    /// When the note cannot be deleted.
    pub fn forget_source(&self, blob: &Digest, source: &str) -> Result<(), LayerError> {
        let directory = self.home().join("blobs");
        for name in list(&directory)? {
            let path = directory.join(name);
            let note = read(&path)?.and_then(|bytes| serde_json::from_slice::<BlobNote>(&bytes).ok());
            let is_meant = |note: BlobNote| note.descriptor.digest == *blob && note.source.as_deref() == Some(source);
            if note.is_some_and(is_meant) {
                std::fs::remove_file(&path).at("delete", &path)?;
            }
        }
        Ok(())
    }
}

/// Shows a path of an archive or directory to people.
pub(crate) fn show(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
