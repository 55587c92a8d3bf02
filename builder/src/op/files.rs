//! A tree of files that something can be copied from: a context, a stage, a here-document.
//!
//! Only names and metadata are here; contents stay where they are until a layer is packed.

use std::collections::BTreeMap;
use std::sync::Arc;

use kiln_oci::Digest;

use crate::source::local::LocalFile;

/// No directory is nested deeper: layers are not unpacked beyond that (spec: layer-tar.md §3.4).
pub const MAX_DEPTH: usize = 512;

/// One path component.
pub type Name = Box<[u8]>;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// Bytes.
    Regular,
    /// Names.
    Directory,
    /// A text that is a path.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A named pipe.
    Fifo,
}

/// Everything about a file but its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMeta {
    /// What it is.
    pub kind: FileKind,
    /// The twelve permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content: seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Bytes, for regular files.
    pub size: u64,
    /// Of a symlink.
    pub target: Vec<u8>,
    /// Major and minor, of a device.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl FileMeta {
    /// A directory of root's, made at `time`.
    pub fn directory(mode: u32, time: (i64, u32)) -> Self {
        Self {
            kind: FileKind::Directory,
            mode,
            uid: 0,
            gid: 0,
            mtime: time,
            size: 0,
            target: Vec::new(),
            device: (0, 0),
            xattrs: BTreeMap::new(),
        }
    }
}

/// Where a file's bytes are.
#[derive(Debug, Clone)]
pub enum Origin {
    /// It has none.
    None,
    /// In memory.
    Bytes(Arc<[u8]>),
    /// In the client's context.
    Local(Arc<LocalFile>),
    /// In a layer: its diff_id and the path in it.
    Layer(Digest, Arc<[u8]>),
    /// In a private file that nobody else changes: an entry of an extracted archive.
    Spool(Arc<tempfile::TempPath>),
}

/// Tells inodes of one tree apart: a device, where there are several, and a number on it.
pub type Inode = (u64, u64);

/// A file and everything below it.
#[derive(Debug, Clone)]
pub struct FileNode {
    /// What it is.
    pub meta: FileMeta,
    /// Where its bytes are.
    pub origin: Origin,
    /// The sha256 of its bytes, where that is known without reading them.
    pub content: Option<Digest>,
    /// Names of one inode have the same number.
    pub link_group: Option<Inode>,
    /// What is in it, in byte order.
    pub children: BTreeMap<Name, FileNode>,
}

impl FileNode {
    /// An empty directory of root's, as the top of a tree.
    pub fn empty() -> Self {
        Self::leaf(FileMeta::directory(0o755, (0, 0)), Origin::None)
    }

    /// A file without names below it.
    pub fn leaf(meta: FileMeta, origin: Origin) -> Self {
        Self { meta, origin, content: None, link_group: None, children: BTreeMap::new() }
    }

    /// Whether it can have names below it.
    pub fn is_directory(&self) -> bool {
        self.meta.kind == FileKind::Directory
    }

    /// Returns what is at a path, without following symlinks.
    pub fn get<N: AsRef<[u8]>>(&self, path: &[N]) -> Option<&FileNode> {
        path.iter().try_fold(self, |node, name| node.children.get(name.as_ref()))
    }
}

/// Why a path could not be resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResolveError {
    /// More symlinks than a sane path has.
    TooManyLinks,
}

/// The most symlinks one resolution follows, as in BuildKit.
const MAX_LINKS: usize = 255;

/// Splits a path into components, dropping `.` and empty ones and clamping `..` at the root.
pub fn components(path: &[u8]) -> Vec<Name> {
    let mut names: Vec<Name> = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                names.pop();
            }
            _ => names.push(name.into()),
        }
    }
    names
}

/// Writes components as an absolute path.
pub fn display(path: &[Name]) -> String {
    if path.is_empty() {
        return "/".to_owned();
    }
    let mut text = String::new();
    for name in path {
        text.push('/');
        text.push_str(&String::from_utf8_lossy(name));
    }
    text
}

/// Joins components without a leading slash.
pub fn join(path: &[Name]) -> Vec<u8> {
    path.join(&b'/')
}

/// Resolves a path as a process whose root is the tree would: symlinks and `..` stay inside.
///
/// `look` answers what is at a physical path: `None` for nothing, otherwise a symlink's
/// target. What does not exist is kept as written, so that it can be made.
///
/// # Errors
/// When more than 255 symlinks are met.
pub fn resolve(
    path: &[u8],
    follow_last: bool,
    look: impl Fn(&[Name]) -> Option<Vec<u8>>,
) -> Result<Vec<Name>, ResolveError> {
    // What is still to be walked, last component first.
    let mut ahead: Vec<Name> = split_raw(path).rev().map(Name::from).collect();
    let mut done: Vec<Name> = Vec::new();
    let mut links = 0;
    while let Some(name) = ahead.pop() {
        if &*name == b".." {
            done.pop();
            continue;
        }
        done.push(name);
        if ahead.is_empty() && !follow_last {
            break;
        }
        if let Some(target) = look(&done) {
            links += 1;
            if links > MAX_LINKS {
                return Err(ResolveError::TooManyLinks);
            }
            done.pop();
            if target.starts_with(b"/") {
                done.clear();
            }
            ahead.extend(split_raw(&target).rev().map(Name::from));
        }
    }
    Ok(done)
}

/// Splits a path into components, keeping `..`, which means something after a symlink.
fn split_raw(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."))
}

/// Shows the beginning of a path that may be very long.
pub fn shorten(path: &[Name]) -> String {
    let text = String::from_utf8_lossy(&path.join(&b'/')).into_owned();
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &str) -> Vec<Name> {
        components(path.as_bytes())
    }

    #[track_caller]
    fn check(links: &[(&str, &str)], path: &str, expected: &str) {
        let look = |at: &[Name]| {
            links.iter().find(|(link, _)| names(link) == at).map(|(_, target)| target.as_bytes().to_vec())
        };
        assert_eq!(resolve(path.as_bytes(), true, look).map(|path| display(&path)), Ok(expected.to_owned()));
    }

    #[test]
    fn dots_stay_inside() {
        check(&[], "/../../d/./x", "/d/x");
    }

    #[test]
    fn links_are_looked_up_inside_the_root() {
        check(&[("/a", "/b"), ("/b/c", "../../../e")], "/a/c/f", "/e/f");
        check(&[("/cur", "rel/1")], "/cur/file", "/rel/1/file");
    }

    #[test]
    fn two_dots_after_a_link_leave_its_target() {
        check(&[("/a", "/x/y")], "/a/../f", "/x/f");
    }

    #[test]
    fn a_cycle_ends() {
        let look = |at: &[Name]| (at == names("/a").as_slice()).then(|| b"a".to_vec());
        assert_eq!(resolve(b"/a", true, look), Err(ResolveError::TooManyLinks));
    }
}
