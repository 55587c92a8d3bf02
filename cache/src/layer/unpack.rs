//! From blobs to layers and back: unpacking what was pulled, and making a missing form of a
//! layer from another.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use kiln_oci::{Descriptor, Digest, Hasher};

use super::archive::{Archive, ArchiveError};
use super::compression::{self, Compression};
use super::directory::Directory;
use super::index::LayerIndex;
use super::note::Known;
use super::pack::{Packed, Packer, publish, publish_directory};
use super::recompress::recompress;
use super::{LayerError, Ownership, apply, read};
use crate::{BlobError, Ingest, Store};

/// A layer to unpack.
#[derive(Debug, Clone)]
pub struct Unpack {
    /// What its tar stream must hash to.
    pub diff_id: Digest,
    /// What the stream given is: its digest and size must be these.
    pub blob: Descriptor,
    /// Where it comes from: `host/repository`.
    pub source: Option<String>,
    /// Whether the store shall keep the blob as well.
    pub keep_blob: bool,
}

/// What a tar stream may demand.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes in a PAX header or GNU long name.
    pub special_header: u64,
    /// Bytes in a path or link.
    pub path: u64,
    /// Directories in one another.
    pub depth: u64,
    /// Entries.
    pub entries: u64,
    /// Bytes of tar stream that are always allowed.
    pub expansion: u64,
    /// How many times larger than the blob the tar stream may be, beyond that.
    pub ratio: u64,
}

impl Default for Limits {
    fn default() -> Self {
        let (special_header, path, depth, entries) = (1 << 20, 4096, 512, 10_000_000);
        Self { special_header, path, depth, entries, expansion: 1 << 30, ratio: 1000 }
    }
}

/// Unpacks a layer: `input` is the blob as it comes from a registry, whatever its compression.
/// The layer appears in the store, as directory and index and, on demand, as blob, when the
/// stream has been read to its true end and both digests are right.
///
/// # Errors
/// When `cancelled` says so, when the stream is not what it should be, or when the store cannot
/// be written. Nothing of the layer is left then.
pub fn unpack(
    store: &Store,
    unpack: &Unpack,
    input: &mut dyn Read,
    cancelled: &dyn Fn() -> bool,
) -> Result<(), LayerError> {
    unpack_within(store, unpack, &Limits::default(), input, cancelled)
}

/// Unpacks a layer as [`unpack`], under limits of the caller's.
///
/// # Errors
/// As [`unpack`].
pub fn unpack_within(
    store: &Store,
    unpack: &Unpack,
    limits: &Limits,
    input: &mut dyn Read,
    cancelled: &dyn Fn() -> bool,
) -> Result<(), LayerError> {
    let scratch = store.ingest_scratch("layer")?;
    let directory = Directory::create(&scratch.path().join("fs"), store.ownership())?;
    let ingest = if unpack.keep_blob { Some(store.ingest()?) } else { None };
    let wanted = Wanted { diff_id: unpack.diff_id, blob: Some(&unpack.blob), limits };
    let index = read_layer(&wanted, input, ingest, Some(directory), cancelled)?;
    let layer = store.layer(&unpack.diff_id);
    layer.add_blob(&unpack.blob, unpack.source.as_deref())?;
    layer.publish_index(&index)?;
    publish_directory(store, &unpack.diff_id, &scratch.path().join("fs"))?;
    Ok(())
}

/// Returns the directory form of a layer. When it is not here, it is made from a blob that is.
///
/// # Errors
/// [`LayerError::Missing`] when neither is here; else as [`unpack`].
pub fn ensure_directory(store: &Store, diff_id: &Digest) -> Result<PathBuf, LayerError> {
    let layer = store.layer(diff_id);
    if let Some(directory) = layer.directory() {
        return Ok(directory);
    }
    let _work = store.work_lock(&format!("layer-{}", diff_id.hex()))?;
    if let Some(directory) = layer.directory() {
        return Ok(directory);
    }
    let index = with_local_blob(store, diff_id, |input| {
        let scratch = store.ingest_scratch("layer")?;
        let directory = Directory::create(&scratch.path().join("fs"), store.ownership())?;
        let wanted = Wanted { diff_id: *diff_id, blob: None, limits: &Limits::default() };
        let index = read_layer(&wanted, input, None, Some(directory), &|| false)?;
        publish_directory(store, diff_id, &scratch.path().join("fs"))?;
        Ok(index)
    })?;
    layer.publish_index(&index)?;
    layer.directory().ok_or(LayerError::Missing(*diff_id))
}

/// Returns the index of a layer. When it is not here, it is made from a blob or directory.
///
/// # Errors
/// [`LayerError::Missing`] when there is nothing to make it from.
pub fn ensure_index(store: &Store, diff_id: &Digest) -> Result<Arc<LayerIndex>, LayerError> {
    let layer = store.layer(diff_id);
    if let Some(index) = layer.index()? {
        return Ok(index);
    }
    let _work = store.work_lock(&format!("layer-{}", diff_id.hex()))?;
    if let Some(index) = layer.index()? {
        return Ok(index);
    }
    let from_blob = with_local_blob(store, diff_id, |input| {
        let wanted = Wanted { diff_id: *diff_id, blob: None, limits: &Limits::default() };
        read_layer(&wanted, input, None, None, &|| false)
    });
    let index = match from_blob {
        Err(LayerError::Missing(_)) => repack(store, diff_id, None)?.index,
        other => Arc::new(other?),
    };
    layer.publish_index(&index)?;
    Ok(index)
}

/// Returns a blob of a layer with the given compression that is in the store. When there is
/// none, it is made: from a blob with another compression, or from the directory form.
///
/// # Errors
/// [`LayerError::Missing`] when there is nothing to make it from, and
/// [`LayerError::NotReproducible`] when there is only the directory form of a layer that was
/// pulled.
pub fn ensure_blob(store: &Store, diff_id: &Digest, compression: Compression) -> Result<Descriptor, LayerError> {
    let layer = store.layer(diff_id);
    let here = || {
        let mut blobs = layer.blobs().into_iter().map(|blob| blob.descriptor);
        blobs.find(|blob| {
            Compression::of_media_type(&blob.media_type) == Some(compression)
                && store.blob_size(&blob.digest) == Some(blob.size)
        })
    };
    if let Some(blob) = here() {
        return Ok(blob);
    }
    let _work = store.work_lock(&format!("layer-{}", diff_id.hex()))?;
    if let Some(blob) = here() {
        return Ok(blob);
    }
    let recompressed = with_local_blob(store, diff_id, |input| recompress(store, diff_id, compression, input));
    let blob = match recompressed {
        Err(LayerError::Missing(_)) => repack(store, diff_id, Some(compression))?.blob,
        other => other?,
    };
    let blob = blob.ok_or(LayerError::Missing(*diff_id))?;
    layer.add_blob(&blob, None)?;
    Ok(blob)
}

/// Makes the tar stream again from the directory form.
fn repack(store: &Store, diff_id: &Digest, compression: Option<Compression>) -> Result<Packed, LayerError> {
    let mut packer = Packer::new(store, compression, None, None);
    for entry in directory_entries(store, diff_id)? {
        packer.add(entry?)?;
    }
    let packed = packer.finish()?;
    if packed.diff_id != *diff_id {
        return Err(LayerError::NotReproducible(*diff_id));
    }
    publish(store, &packed, None)?;
    Ok(packed)
}

/// Makes a layer like another in which no time is later than `latest`, seconds since 1970.
///
/// # Errors
/// As [`ensure_directory`], and when the store cannot be written.
pub fn clamp(store: &Store, diff_id: &Digest, latest: i64, compression: Compression) -> Result<Packed, LayerError> {
    ensure_directory(store, diff_id)?;
    let mut packer = Packer::new(store, Some(compression), None, None);
    for entry in directory_entries(store, diff_id)? {
        let mut entry = entry?;
        entry.mtime = entry.mtime.min((latest, 0));
        packer.add(entry)?;
    }
    let packed = packer.finish()?;
    publish(store, &packed, None)?;
    Ok(packed)
}

/// Reads the directory form, with the owners that are only noted beside it.
fn directory_entries(store: &Store, diff_id: &Digest) -> Result<read::Entries, LayerError> {
    let directory = store.layer(diff_id).directory().ok_or(LayerError::Missing(*diff_id))?;
    let entries = read::entries(&directory, store.ownership());
    if store.ownership() != Ownership::Real
        && let Some(index) = store.layer(diff_id).index()?
    {
        return Ok(entries.knowing(Known::of(&index)));
    }
    Ok(entries)
}

/// Runs `read` on each blob of a layer that is in the store, until one will do.
fn with_local_blob<T>(
    store: &Store,
    diff_id: &Digest,
    mut read: impl FnMut(&mut dyn Read) -> Result<T, LayerError>,
) -> Result<T, LayerError> {
    let noted = store.layer(diff_id).blobs().into_iter().map(|blob| blob.descriptor.digest);
    let mut failed = None;
    for digest in noted.chain([*diff_id]) {
        let mut reader = match store.open_blob(&digest) {
            Err(BlobError::Missing(_)) => continue,
            other => other?,
        };
        match read(&mut reader) {
            // Only what is wrong with the blob itself is a reason to try another.
            Err(error @ (LayerError::Stream { .. } | LayerError::Archive { .. } | LayerError::DiffId { .. })) => {
                tracing::warn!("blob {digest} gives no layer: {error}");
                failed = Some(error);
            }
            other => return other,
        }
    }
    Err(failed.unwrap_or(LayerError::Missing(*diff_id)))
}

struct Wanted<'a> {
    diff_id: Digest,
    blob: Option<&'a Descriptor>,
    limits: &'a Limits,
}

const CHUNK: usize = 256 << 10;

/// Reads a blob to its end. This thread reads, hashes and decompresses; another hashes the tar
/// stream and writes files.
fn read_layer(
    wanted: &Wanted<'_>,
    input: &mut dyn Read,
    ingest: Option<Ingest>,
    directory: Option<Directory>,
    cancelled: &dyn Fn() -> bool,
) -> Result<LayerIndex, LayerError> {
    let (sender, receiver) = sync_channel(4);
    let mut tee = Tee { input, hasher: Hasher::new(), ingest };
    let (fed, applied) = std::thread::scope(|scope| {
        let applying = scope.spawn(|| {
            let mut archive = Archive::new(Chunks::new(receiver), wanted.limits);
            let entries = apply::apply(&mut archive, directory, wanted.limits)?;
            let mut rest = archive.into_inner();
            io::copy(&mut rest, &mut io::sink())?;
            let size = rest.hasher.length();
            Ok::<_, ArchiveError>((entries, rest.hasher.finish(), size))
        });
        let fed = feed(wanted, &mut tee, sender, cancelled);
        (fed, applying.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    fed?;
    let (entries, diff_id, size) = applied.map_err(|source| LayerError::Archive { diff_id: wanted.diff_id, source })?;
    if let Some(blob) = wanted.blob {
        let (digest, length) = (tee.hasher.clone().finish(), tee.hasher.length());
        if length != blob.size {
            return Err(BlobError::Size { digest: blob.digest, wanted: blob.size, found: length }.into());
        }
        if digest != blob.digest {
            return Err(BlobError::Damaged { wanted: blob.digest, found: digest }.into());
        }
    }
    if diff_id != wanted.diff_id {
        return Err(LayerError::DiffId { wanted: wanted.diff_id, found: diff_id });
    }
    if let Some(ingest) = tee.ingest {
        ingest.commit(wanted.blob.map(|blob| (blob.digest, blob.size)))?;
    }
    Ok(LayerIndex::new(diff_id, size, entries))
}

fn feed(
    wanted: &Wanted<'_>,
    tee: &mut Tee<'_>,
    sender: SyncSender<Vec<u8>>,
    cancelled: &dyn Fn() -> bool,
) -> Result<(), LayerError> {
    let failed = |source| LayerError::Stream { diff_id: wanted.diff_id, source };
    let mut total = 0u64;
    {
        let counted = std::cell::Cell::new(0u64);
        let mut plain = compression::decompress(Counted { input: &mut *tee, count: &counted }).map_err(failed)?;
        loop {
            if cancelled() {
                return Err(LayerError::Cancelled);
            }
            let mut chunk = vec![0; CHUNK];
            let mut filled = 0;
            while filled < CHUNK {
                match plain.read(&mut chunk[filled..]) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(failed(error)),
                }
            }
            if filled == 0 {
                break;
            }
            total += filled as u64;
            let limits = wanted.limits;
            if total > limits.expansion && total / limits.ratio > counted.get() {
                let source = ArchiveError::Limit { what: "times the size of the blob", limit: limits.ratio };
                return Err(LayerError::Archive { diff_id: wanted.diff_id, source });
            }
            chunk.truncate(filled);
            if sender.send(chunk).is_err() {
                // The other thread has stopped, and says why.
                return Ok(());
            }
        }
    }
    // What follows the compressed stream belongs to the blob.
    io::copy(tee, &mut io::sink()).map(drop).map_err(failed)
}

/// A blob being read: hashed, and kept on demand.
struct Tee<'a> {
    input: &'a mut dyn Read,
    hasher: Hasher,
    ingest: Option<Ingest>,
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        if let Some(ingest) = &mut self.ingest {
            io::Write::write_all(ingest, &buffer[..count])?;
        }
        Ok(count)
    }
}

struct Counted<'a, R> {
    input: R,
    count: &'a std::cell::Cell<u64>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.count.set(self.count.get() + count as u64);
        Ok(count)
    }
}

/// The tar stream as it comes from the other thread, hashed.
struct Chunks {
    receiver: Receiver<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
    hasher: Hasher,
}

impl Chunks {
    fn new(receiver: Receiver<Vec<u8>>) -> Self {
        Self { receiver, chunk: Vec::new(), at: 0, hasher: Hasher::new() }
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() {
            let Ok(chunk) = self.receiver.recv() else { return Ok(0) };
            self.hasher.update(&chunk);
            (self.chunk, self.at) = (chunk, 0);
        }
        let count = buffer.len().min(self.chunk.len() - self.at);
        buffer[..count].copy_from_slice(&self.chunk[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}
