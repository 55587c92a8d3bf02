//! Getting at the bytes of files, wherever they are.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use kiln_cache::layer::Content;
use kiln_cache::{Scratch, Store};
use kiln_oci::{Digest, Hasher};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use super::files::{FileNode, Origin};
use crate::layers::Layers;

/// The directory of a layer is not what the layer is: a file in it is missing, or another.
#[derive(Debug, thiserror::Error)]
#[error("`{path}` of layer {diff_id} is damaged")]
pub struct DamagedLayer {
    /// Which layer.
    pub diff_id: Digest,
    /// The file in it.
    pub path: String,
    /// Why it cannot be read, if it cannot.
    #[source]
    pub source: Option<io::Error>,
}

impl DamagedLayer {
    /// Says that the file `path` of a layer is another, or cannot be read.
    pub fn new(diff_id: &Digest, path: &[u8], source: Option<io::Error>) -> Self {
        Self { diff_id: *diff_id, path: String::from_utf8_lossy(path).into_owned(), source }
    }
}

/// Opens files of contexts, layers and archives.
pub struct Contents {
    layers: Arc<Layers>,
    store: Store,
    /// Made when the first private file needs a place.
    spool: OnceLock<Scratch>,
}

impl Contents {
    /// Files of layers come from `layers`; entries of archives are kept in `store` for as long as this lives.
    pub fn new(layers: Arc<Layers>, store: Store) -> Self {
        Self { layers, store, spool: OnceLock::new() }
    }

    /// Returns the directory for private files.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn spool(&self) -> io::Result<&Path> {
        if self.spool.get().is_none() {
            // Of two that are made at once one is dropped, and gone.
            let _ = self.spool.set(self.store.scratch("spool").map_err(io::Error::other)?);
        }
        Ok(self.spool.get().expect("set above").path())
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// When it is gone or, in a context, is not the file that was walked.
    pub fn read(&self, origin: &Origin) -> io::Result<Box<dyn Read + Send>> {
        match origin {
            Origin::None => Ok(Box::new(io::empty())),
            Origin::Bytes(bytes) => Ok(Box::new(io::Cursor::new(bytes.clone()))),
            Origin::Local(file) => Ok(Box::new(file.open()?)),
            Origin::Layer(diff_id, path) => {
                let directory = self.layers.directory(diff_id).map_err(io::Error::other)?;
                Ok(Box::new(open_in(&directory, diff_id, path)?))
            }
            Origin::Spool(path) => Ok(Box::new(File::open(&**path)?)),
        }
    }

    /// Opens a file for reading to its end, given its size and the digest of its bytes where that is known. Who reads a
    /// layer's file to the end has what the index says. Files from elsewhere are opened as by [`Contents::read`].
    ///
    /// # Errors
    /// As [`Contents::read`]. Reading fails with [`DamagedLayer`] when the file is another.
    pub fn read_whole(&self, origin: &Origin, size: u64, content: Option<Digest>) -> io::Result<Box<dyn Read + Send>> {
        let input = self.read(origin)?;
        let (Origin::Layer(diff_id, path), Some(content)) = (origin, content) else { return Ok(input) };
        let (path, hasher) = (path.clone(), Hasher::new());
        Ok(Box::new(Whole { input, missing: size, hasher, content, diff_id: *diff_id, path }))
    }

    /// Reads a file of a layer to its end, to see whether it is still what the index says. Files from elsewhere pass.
    ///
    /// # Errors
    /// [`DamagedLayer`] when it is not, and when it cannot be read.
    pub fn verify(&self, node: &FileNode) -> io::Result<()> {
        if let Origin::Layer(..) = node.origin {
            io::copy(&mut self.read_whole(&node.origin, node.meta.size, node.content)?, &mut io::sink())?;
        }
        Ok(())
    }

    /// Turns a file's origin into what a layer is packed from. `digest` is that of its bytes, where it is known.
    ///
    /// # Errors
    /// When the layer it is in cannot be had.
    pub fn content(&self, origin: Origin, digest: Option<Digest>) -> io::Result<Content> {
        let open: Box<dyn FnOnce() -> io::Result<File> + Send> = match origin {
            Origin::None => return Ok(Content::Bytes(Arc::from(&[][..]))),
            Origin::Bytes(bytes) => return Ok(Content::Bytes(bytes)),
            Origin::Local(file) => Box::new(move || file.open()),
            Origin::Layer(diff_id, path) => {
                let directory = self.layers.directory(&diff_id).map_err(io::Error::other)?;
                Box::new(move || open_in(&directory, &diff_id, &path))
            }
            Origin::Spool(path) => Box::new(move || File::open(&**path)),
        };
        Ok(Content::Open { digest, open })
    }
}

/// A file of a layer, as long as the index says, that fails at its end when it is another.
struct Whole {
    input: Box<dyn Read + Send>,
    missing: u64,
    hasher: Hasher,
    content: Digest,
    diff_id: Digest,
    path: Arc<[u8]>,
}

impl Read for Whole {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.missing == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let count = self.input.by_ref().take(self.missing).read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.missing -= count as u64;
        let is_over = count == 0 || self.missing == 0;
        if is_over && (self.missing > 0 || std::mem::take(&mut self.hasher).finish() != self.content) {
            return Err(io::Error::other(DamagedLayer::new(&self.diff_id, &self.path, None)));
        }
        Ok(count)
    }
}

/// Opens a file of an unpacked layer. The path is physical: a symlink in it means that the
/// directory was tampered with.
fn open_in(directory: &Path, diff_id: &Digest, path: &[u8]) -> io::Result<File> {
    let root = openat(CWD, directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    loop {
        match openat2(&root, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS) {
            Err(Errno::AGAIN) => continue,
            Err(error @ (Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => {
                return Err(io::Error::other(DamagedLayer::new(diff_id, path, Some(error.into()))));
            }
            result => return Ok(File::from(result?)),
        }
    }
}
