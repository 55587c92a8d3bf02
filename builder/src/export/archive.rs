//! OCI layouts and `docker load` archives, as a tar stream or a directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;

use kiln_cache::Store;
use kiln_cache::layer::{TarHeader, end_of_archive};
use kiln_oci::{Descriptor, Digest, Index, LayoutMarker, REF_NAME, Reference, media_type};
use serde::Serialize;

use super::image::ImageSet;
use crate::error::BuildError;
use crate::layers::Layers;
use crate::seam::ResultStream;

/// The annotation that containerd reads a full name from.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// What an archive holds.
pub struct Archive<'a> {
    /// The image, or those of several platforms.
    pub set: &'a ImageSet,
    /// Its names.
    pub names: &'a [Reference],
    /// Also what `docker load` of old reads.
    pub with_docker: bool,
}

/// One line of `manifest.json`, the index of `docker save` archives.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

/// Something that takes the files of a layout.
pub trait Sink {
    /// Takes a file.
    ///
    /// # Errors
    /// When it cannot be written.
    fn file(&mut self, path: &str, size: u64, content: &mut dyn Read) -> io::Result<()>;

    /// Takes a file whose bytes need no check on their way.
    ///
    /// # Errors
    /// When it cannot be written.
    fn known(&mut self, path: &str, size: u64, mut file: &File) -> io::Result<()> {
        self.file(path, size, &mut file)
    }
}

/// Writes a layout: every blob once, then what names them.
///
/// # Errors
/// When a blob cannot be had, or the sink fails.
pub fn write(archive: &Archive, store: &Store, layers: &Arc<Layers>, sink: &mut dyn Sink) -> Result<(), BuildError> {
    let failed = |error: io::Error| write_failed(&error);
    let marker = json(&LayoutMarker::default())?;
    put(sink, "oci-layout", &marker).map_err(failed)?;
    let mut written = BTreeSet::new();
    for (diff_id, descriptor) in archive.set.layers() {
        if !written.insert(descriptor.digest) {
            continue;
        }
        if let Some(file) = layers.fresh_blob(descriptor).map_err(failed)? {
            sink.known(&blob_path(&descriptor.digest), descriptor.size, &file).map_err(failed)?;
            continue;
        }
        let mut blob = layers.open_blob(diff_id, descriptor).map_err(failed)?;
        sink.file(&blob_path(&descriptor.digest), descriptor.size, &mut blob).map_err(failed)?;
    }
    for image in &archive.set.images {
        let config = store
            .read_blob(&image.config.digest, image.config.size)
            .map_err(|error| crate::source::image::environment(&error))?;
        for (digest, bytes) in [(image.config.digest, &config), (image.descriptor.digest, &image.manifest)] {
            if written.insert(digest) {
                put(sink, &blob_path(&digest), bytes).map_err(failed)?;
            }
        }
    }
    if let Some((descriptor, bytes)) = &archive.set.index {
        put(sink, &blob_path(&descriptor.digest), bytes).map_err(failed)?;
    }
    put(sink, "index.json", &json(&index(archive))?).map_err(failed)?;
    if let (true, Some(image)) = (archive.with_docker, archive.set.images.first()) {
        let entry = DockerEntry {
            config: blob_path(&image.config.digest),
            repo_tags: archive.names.iter().map(Reference::familiar).collect(),
            layers: image.layers.iter().map(|(_, descriptor)| blob_path(&descriptor.digest)).collect(),
        };
        put(sink, "manifest.json", &json(&[entry])?).map_err(failed)?;
    }
    Ok(())
}

/// One descriptor for each name, as containerd and skopeo look for them.
fn index(archive: &Archive) -> Index {
    let root = archive.set.root();
    let named = |name: &Reference| {
        let mut descriptor: Descriptor = root?.clone();
        descriptor.annotations.insert(CONTAINERD_NAME.to_owned(), name.to_string());
        let tag = name.tag.clone().unwrap_or_else(|| "latest".to_owned());
        descriptor.annotations.insert(REF_NAME.to_owned(), tag);
        Some(descriptor)
    };
    let manifests = match archive.names {
        [] => root.cloned().into_iter().collect(),
        names => names.iter().filter_map(named).collect(),
    };
    Index {
        schema_version: 2,
        media_type: Some(media_type::INDEX.to_owned()),
        artifact_type: None,
        manifests,
        subject: None,
        annotations: BTreeMap::new(),
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn put(sink: &mut dyn Sink, path: &str, bytes: &[u8]) -> io::Result<()> {
    sink.file(path, bytes.len() as u64, &mut io::Cursor::new(bytes))
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, BuildError> {
    serde_json::to_vec(value).map_err(|error| BuildError::bug(error.to_string()))
}

/// Says that the output cannot be written.
pub fn write_failed(error: &io::Error) -> BuildError {
    let built = BuildError::environment(format!("cannot write the output: {}", crate::error::chain(error)));
    if error.kind() == io::ErrorKind::StorageFull {
        return built.hint("the disk is full: free some space, or write somewhere else with `dest=`");
    }
    built
}

/// Writes the files of a layout as a tar stream. Times are the epoch, so equal images give
/// equal archives.
pub struct TarSink<W: Write> {
    output: W,
    buffer: Vec<u8>,
    directories: Vec<String>,
}

impl<W: Write> TarSink<W> {
    /// Starts an archive.
    pub fn new(output: W) -> Self {
        Self { output, buffer: vec![0; 1 << 20], directories: Vec::new() }
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        let mut end = Vec::new();
        end_of_archive(&mut end);
        self.output.write_all(&end)?;
        self.output.flush()?;
        Ok(self.output)
    }

    /// Writes a header.
    ///
    /// # Errors
    /// When tar cannot hold the entry, or it cannot be written.
    pub fn header(&mut self, header: &TarHeader) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(1536);
        header.encode(&mut bytes).map_err(io::Error::other)?;
        self.output.write_all(&bytes)
    }

    /// Writes exactly `size` bytes of content and the padding.
    ///
    /// # Errors
    /// When there are fewer or more bytes, or they cannot be read or written.
    pub fn content(&mut self, size: u64, content: &mut dyn Read) -> io::Result<()> {
        let mut left = size;
        loop {
            let n = match content.read(&mut self.buffer) {
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if n == 0 {
                break;
            }
            left = left
                .checked_sub(n as u64)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "there is more content than announced"))?;
            self.output.write_all(&self.buffer[..n])?;
        }
        if left > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "there is less content than announced"));
        }
        self.pad(size)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let padding = (512 - size % 512) % 512;
        self.output.write_all(&[0; 512][..usize::try_from(padding).unwrap_or(0)])
    }

    fn file_header(&mut self, path: &str, size: u64) -> io::Result<()> {
        for (end, _) in path.match_indices('/') {
            let directory = &path[..=end];
            if !self.directories.iter().any(|known| known == directory) {
                self.directories.push(directory.to_owned());
                self.header(&TarHeader {
                    name: directory.as_bytes(),
                    kind: b'5',
                    mode: 0o755,
                    ..TarHeader::default()
                })?;
            }
        }
        self.header(&TarHeader { name: path.as_bytes(), kind: b'0', mode: 0o644, size, ..TarHeader::default() })
    }
}

impl Sink for TarSink<Box<dyn ResultStream>> {
    fn file(&mut self, path: &str, size: u64, content: &mut dyn Read) -> io::Result<()> {
        self.file_header(path, size)?;
        self.content(size, content)
    }

    fn known(&mut self, path: &str, size: u64, file: &File) -> io::Result<()> {
        self.file_header(path, size)?;
        if self.output.copy_file(file, size)? != size {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a blob is shorter than it was"));
        }
        self.pad(size)
    }
}

/// Writes the files of a layout into a directory, `index.json` last; blobs that are there stay.
pub struct DirectorySink {
    /// The directory.
    pub path: std::path::PathBuf,
}

impl Sink for DirectorySink {
    fn file(&mut self, path: &str, size: u64, content: &mut dyn Read) -> io::Result<()> {
        let target = self.path.join(path);
        let parent = target.parent().unwrap_or(&self.path);
        std::fs::create_dir_all(parent)?;
        if path.starts_with("blobs/") && target.metadata().is_ok_and(|metadata| metadata.len() == size) {
            return Ok(());
        }
        let mut file = tempfile::NamedTempFile::new_in(parent)?;
        let copied = io::copy(content, &mut file)?;
        if copied != size {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "there is less content than announced"));
        }
        file.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        file.persist(&target).map_err(|error| error.error)?;
        Ok(())
    }
}
