//! Contexts that are an archive: unpacked as ADD does it, once per content, into a layer.
//!
//! No ignore file is looked for in them (spec: dockerignore.md §1).

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Instant;

use kiln_frontend::graph::{Copy, CopyFrom, FileAction, FileOp};
use kiln_oci::{Digest, Hasher};

use super::http::{HttpFile, LARGEST};
use super::remote::{Made, Remote, RemoteTree, read_file, unreadable};
use crate::error::{BuildError, chain};
use crate::op::archive;
use crate::op::file::{self, Base, Make};
use crate::op::files::{FileKind, FileMeta, FileNode, Origin};
use crate::solver::now;

/// So much of a stream decides whether it is an archive.
pub const HEAD: usize = 1024;
/// The name that a download has in the context that is made of it.
pub const DOWNLOAD: &str = "context";

/// An archive that was received.
#[derive(Debug)]
pub struct Archive {
    file: Arc<tempfile::TempPath>,
    size: u64,
    digest: Digest,
}

/// Whether something that begins like this is an archive: compressed, or with a tar header.
pub fn is_archive(head: &[u8]) -> bool {
    archive::is_compressed(head) || tar_header(head)
}

/// A header whose checksum is right.
fn tar_header(head: &[u8]) -> bool {
    let Some((block, _)) = head.split_first_chunk::<512>() else { return false };
    let header = tar::Header::from_byte_slice(block);
    // The checksum counts itself as blanks.
    let sum: u32 = block[..148].iter().chain(&[b' '; 8]).chain(&block[156..]).map(|byte| u32::from(*byte)).sum();
    block.iter().any(|byte| *byte != 0) && header.cksum().is_ok_and(|found| found == sum)
}

/// A download, unpacked if it is an archive.
pub struct Opened {
    /// What is in it, or the one file that it is.
    pub tree: RemoteTree,
    /// Whether it is an archive.
    pub is_archive: bool,
    /// When the server says that it was last changed.
    pub changed: Option<i64>,
}

impl Remote<'_> {
    /// Keeps an archive from a stream for as long as [`Contents`](crate::op::content::Contents) live.
    ///
    /// # Errors
    /// When the stream breaks, or there is no room.
    pub fn receive_archive(&self, stream: &mut dyn Read) -> Result<Archive, BuildError> {
        let spool = self.contents.spool().map_err(|error| write_failed(&error))?;
        let mut file = tempfile::NamedTempFile::new_in(spool).map_err(|error| write_failed(&error))?;
        let (mut hasher, mut size) = (Hasher::new(), 0u64);
        let mut buffer = vec![0; 128 << 10];
        loop {
            let n = match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(BuildError::environment(format!("cannot read the build context: {error}"))),
            };
            if self.cancel.is_cancelled() {
                return Err(BuildError::cancelled());
            }
            hasher.update(&buffer[..n]);
            file.write_all(&buffer[..n]).map_err(|error| write_failed(&error))?;
            size += n as u64;
        }
        self.step.progress("transferring context", size, None, true);
        Ok(Archive { file: Arc::new(file.into_temp_path()), size, digest: hasher.finish() })
    }

    /// Unpacks an archive.
    ///
    /// # Errors
    /// When it is none that can be unpacked.
    pub fn archive(&self, archive: &Archive) -> Result<RemoteTree, BuildError> {
        let mut meta = FileMeta::directory(0o600, (0, 0));
        meta.kind = FileKind::Regular;
        meta.size = archive.size;
        let mut top = FileNode::empty();
        let node = FileNode::leaf(meta, Origin::Spool(archive.file.clone()));
        top.children.insert(DOWNLOAD.as_bytes().into(), node);
        self.unpacked(&archive.digest, Arc::new(top), DOWNLOAD)
    }

    /// Downloads a context: unpacked when it is an archive, else a tree of the one file.
    ///
    /// # Errors
    /// As [`Remote::http`] and [`Remote::archive`].
    pub fn http_context(&self, url: &str) -> Result<Opened, BuildError> {
        let file = HttpFile { url, filename: DOWNLOAD, checksum: None, largest: LARGEST };
        self.opened(self.http(&file)?, url, DOWNLOAD)
    }

    /// Unpacks the download from `url`, the file `name` that is all of `tree`, if it is an archive.
    ///
    /// # Errors
    /// As [`Remote::archive`].
    pub fn opened(&self, tree: RemoteTree, url: &str, name: &str) -> Result<Opened, BuildError> {
        let files = self.layers.files(&tree.chain)?;
        let node = files.children.get(name.as_bytes());
        let node = node.ok_or_else(|| BuildError::bug("a download has no file"))?;
        // A download without a time is as old as time.
        let changed = Some(node.meta.mtime.0).filter(|seconds| *seconds != 0);
        let mut head = Vec::new();
        let read = self.contents.read(&node.origin).and_then(|file| file.take(HEAD as u64).read_to_end(&mut head));
        read.map_err(|error| unreadable(self.layers, url, &error))?;
        if !is_archive(&head) {
            return Ok(Opened { tree, is_archive: false, changed });
        }
        let digest = node.content.ok_or_else(|| BuildError::bug("a file of a layer has no digest"))?;
        Ok(Opened { tree: self.unpacked(&digest, files, name)?, is_archive: true, changed })
    }

    /// Fetches a file of at most `limit` bytes into memory.
    ///
    /// # Errors
    /// As [`Remote::http`].
    pub fn http_text(&self, url: &str, limit: u64) -> Result<Vec<u8>, BuildError> {
        let tree = self.http(&HttpFile { url, filename: DOWNLOAD, checksum: None, largest: limit })?;
        let text = read_file(self.layers, self.contents, &tree, DOWNLOAD, limit)?;
        text.ok_or_else(|| BuildError::bug("a download has no file"))
    }

    /// Unpacks the one file of `files`, unless the same was unpacked before.
    fn unpacked(&self, digest: &Digest, files: Arc<FileNode>, name: &str) -> Result<RemoteTree, BuildError> {
        let mut hasher = Hasher::domain("kiln.archive-context.v1");
        hasher.digest(digest);
        let class = hasher.finish();
        let _lock = self.lock(&class)?;
        if let Some(tree) = self.tree(&class) {
            return Ok(tree);
        }
        let facts = [("archive", digest.to_string())];
        let made = Made { key: class, class, name: "archive", facts: &facts, began: Instant::now() };
        let failed = |error: &(dyn std::error::Error + 'static)| {
            let is_damage = self.layers.take_damage(error);
            BuildError { is_damage, ..BuildError::input(chain(error)).context("cannot unpack the build context") }
        };
        self.keep(&made, || {
            let archive = files.children.get(name.as_bytes());
            let is_readable = archive.map(|node| archive::is_archive(node, self.contents)).transpose();
            if is_readable.map_err(|error| failed(&error))? != Some(true) {
                return Err(BuildError::input(
                    "cannot unpack the build context: the archive has no entry that can be read",
                )
                .hint("it looks like an archive; is it complete?"));
            }
            let sources = [(1, file::Source::Files(files))].into();
            let make = Make { compression: None, directory: true, now: now(), like: None };
            let empty = kiln_cache::tree::Tree::empty();
            let base = Base { chain: &[], tree: &empty, exists: false };
            file::run(self.store, &unpack(name), &base, &sources, self.contents, &make).map_err(|error| failed(&error))
        })
    }
}

/// ADD of the file to the root.
fn unpack(name: &str) -> FileOp {
    FileOp {
        actions: vec![FileAction::Copy(Copy {
            from: CopyFrom::Input(1),
            source: format!("/{name}"),
            destination: "/".to_owned(),
            owner: None,
            mode: None,
            wildcards: false,
            follow_symlinks: false,
            contents_only: false,
            unpack: true,
            include: None,
            required: Vec::new(),
            exclude: Vec::new(),
        })],
    }
}

fn write_failed(error: &io::Error) -> BuildError {
    BuildError::environment(format!("cannot keep the build context: {error}"))
        .hint("it is kept in the state directory; is there room?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_told_by_their_content() {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        archive.append_data(&mut header, "f", &b""[..]).unwrap();
        let bytes = archive.into_inner().unwrap();
        assert!(is_archive(&bytes));
        assert!(!is_archive(&bytes[..100]));
        assert!(is_archive(b"\x1f\x8b\x08") && is_archive(b"BZh9") && is_archive(b"\x28\xb5\x2f\xfd"));
        assert!(!is_archive(b"FROM scratch\n") && !is_archive(b"") && !is_archive(&[0; 1024]));
    }
}
