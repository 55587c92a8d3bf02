//! The walk over a context: level by level, in parallel, pruned by what is ignored and what is wanted.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use kiln_cache::context::Memo;
use kiln_frontend::dockerignore::{Hits, Patterns};
use rayon::prelude::*;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat2, statat};
use rustix::io::Errno;

use super::local::{LocalError, LocalFile, identity};
use crate::op::files::{self, FileKind, FileMeta, FileNode, MAX_DEPTH, Name, Origin};

/// The longest path: the kernel's PATH_MAX without the NUL.
pub(super) const MAX_PATH: usize = 4095;
/// What the kernel allows the names of a file's extended attributes, and each value.
const XATTR_MAX: usize = 64 << 10;

/// One walk over a context.
pub(super) struct Walk<'a> {
    pub(super) root: &'a Arc<File>,
    /// Without one it is a look at names and sizes.
    pub(super) memo: Option<&'a Memo>,
    pub(super) ignore: Option<&'a Patterns>,
}

/// A list of patterns, with what it says of the directory that is being walked.
#[derive(Clone, Copy)]
struct Rules<'a> {
    patterns: &'a Patterns,
    above: &'a Hits,
}

impl<'a> Rules<'a> {
    /// A list with what it says of a directory, where it says something.
    fn of(patterns: Option<&'a Patterns>, above: Option<&'a Hits>) -> Option<Self> {
        patterns.zip(above).map(|(patterns, above)| Rules { patterns, above })
    }
}

/// What the rules say of a name.
struct Verdict {
    /// A directory that is only there if something below it is.
    is_passage: bool,
    /// For what is in a directory: what is included, where not everything is.
    include: Option<Hits>,
    /// For what is in a directory: what is ignored.
    ignore: Option<Hits>,
}

/// A directory that was met.
struct Directory {
    /// Which one of the level above it is in.
    parent: usize,
    name: Name,
    path: Vec<Name>,
    node: FileNode,
    verdict: Verdict,
}

impl Walk<'_> {
    /// Walks what `include` matches; everything without it. Level by level, so that neither the stack nor the number of
    /// open directories depends on the depth.
    pub(super) fn run(&self, include: Option<&Patterns>) -> Result<FileNode, LocalError> {
        let mut node = FileNode::empty();
        if let Ok(stat) = rustix::fs::fstat(self.root.as_fd()) {
            node.meta.mode = stat.st_mode & 0o7777;
            node.meta.mtime = (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0));
        }
        let verdict = Verdict {
            is_passage: false,
            include: include.map(Patterns::root),
            ignore: self.ignore.map(Patterns::root),
        };
        let top = Directory { parent: 0, name: Name::default(), path: Vec::new(), node, verdict };
        let mut done: Vec<Vec<Directory>> = Vec::new();
        let mut level = vec![top];
        while !level.is_empty() {
            let below: Vec<Vec<Directory>> = level
                .par_iter_mut()
                .enumerate()
                .map(|(number, directory)| self.directory(number, directory, include))
                .collect::<Result<_, _>>()?;
            done.push(level);
            level = below.into_iter().flatten().collect();
        }
        while let Some(level) = done.pop() {
            for Directory { parent, name, node, verdict, .. } in level {
                match done.last_mut() {
                    Some(_) if verdict.is_passage && node.children.is_empty() => {}
                    Some(above) => drop(above[parent].node.children.insert(name, node)),
                    None => return Ok(node),
                }
            }
        }
        Ok(FileNode::empty())
    }

    /// Lists a directory, number `number` of its level: puts files into it, and returns the directories in it.
    fn directory(
        &self,
        number: usize,
        directory: &mut Directory,
        include: Option<&Patterns>,
    ) -> Result<Vec<Directory>, LocalError> {
        let Directory { path, node, verdict, .. } = directory;
        if path.len() > MAX_DEPTH {
            return Err(LocalError::TooDeep { path: files::shorten(path) });
        }
        let fd = match open_directory(self.root, &files::join(path)) {
            Ok(fd) => fd,
            // It was removed, or is something else by now.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                verdict.is_passage = true;
                return Ok(Vec::new());
            }
            // What is ignored may be somebody else's.
            Err(Errno::ACCESS) if verdict.is_passage => return Ok(Vec::new()),
            Err(error) => return Err(failed(path, error.into())),
        };
        let include = Rules::of(include, verdict.include.as_ref());
        let ignore = Rules::of(self.ignore, verdict.ignore.as_ref());
        let mut found = Vec::new();
        let mut subdirectories = Vec::new();
        let mut entries = Dir::read_from(&fd).map_err(|error| failed(path, error.into()))?;
        while let Some(entry) = entries.read() {
            let entry = entry.map_err(|error| failed(path, error.into()))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let mut below = path.to_vec();
            below.push(name.to_bytes().into());
            let joined = files::join(&below);
            let mut kind = entry.file_type();
            let mut stat = None;
            if kind == FileType::Unknown {
                let Some(found) = look(&fd, name, &below)? else { continue };
                kind = FileType::from_raw_mode(found.st_mode);
                stat = Some(found);
            }
            let text = String::from_utf8_lossy(&joined);
            let Some(verdict) = judge(&text, kind == FileType::Directory, include, ignore) else { continue };
            if joined.len() > MAX_PATH {
                return Err(LocalError::TooLong { path: files::shorten(&below) });
            }
            let stat = match stat {
                Some(stat) => stat,
                None => match look(&fd, name, &below)? {
                    Some(stat) => stat,
                    None => continue,
                },
            };
            let Some(node) = self.node(&fd, name, &below, joined, &stat)? else { continue };
            let name: Name = name.to_bytes().into();
            if node.is_directory() {
                subdirectories.push(Directory { parent: number, name, path: below, node, verdict });
            } else {
                found.push((name, node));
            }
        }
        node.children = found.into_iter().collect();
        Ok(subdirectories)
    }

    /// Makes the node of a file; nothing for a socket, which belongs to a running program.
    fn node(
        &self,
        fd: &OwnedFd,
        name: &CStr,
        path: &[Name],
        joined: Vec<u8>,
        stat: &rustix::fs::Stat,
    ) -> Result<Option<FileNode>, LocalError> {
        let Some(kind) = kind_of(stat) else { return Ok(None) };
        let identity = identity(stat);
        let is_known = self.memo.is_none_or(|memo| kind == FileKind::Regular && memo.get(&identity).is_some());
        let meta = metadata(fd, name, kind, stat, is_known).map_err(|error| failed(path, error))?;
        let mut node = FileNode::leaf(meta, Origin::None);
        if kind == FileKind::Regular {
            let is_plain = node.meta.xattrs.is_empty();
            let file = LocalFile::new(self.root.clone(), joined, identity, is_plain);
            node.origin = Origin::Local(Arc::new(file));
            node.link_group = (stat.st_nlink > 1).then_some((stat.st_dev, stat.st_ino));
        }
        Ok(Some(node))
    }
}

/// Opens a directory by its physical path.
pub(super) fn open_directory(root: &File, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    loop {
        match openat2(root, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS) {
            Err(Errno::AGAIN) => {}
            result => return result,
        }
    }
}

/// Judges a name; nothing when neither it nor anything below it is wanted.
fn judge(path: &str, is_directory: bool, include: Option<Rules>, ignore: Option<Rules>) -> Option<Verdict> {
    let mut verdict = Verdict { is_passage: false, include: None, ignore: None };
    if let Some(Rules { patterns, above }) = include {
        let (found, hits) = patterns.enter(above, path);
        if !found.matched {
            if !is_directory || !patterns.may_match_below(path) {
                return None;
            }
            verdict.is_passage = true;
            verdict.include = Some(hits);
        } else if patterns.has_exceptions() {
            verdict.include = Some(hits);
        }
    }
    if let Some(Rules { patterns, above }) = ignore {
        let (found, hits) = patterns.enter(above, path);
        if found.matched {
            if !is_directory || patterns.can_prune(path) {
                return None;
            }
            verdict.is_passage = true;
        }
        verdict.ignore = Some(hits);
    }
    Some(verdict)
}

/// Looks at a name; nothing when it was removed since it was listed.
fn look(directory: &OwnedFd, name: &CStr, path: &[Name]) -> Result<Option<rustix::fs::Stat>, LocalError> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(failed(path, error.into())),
    }
}

fn kind_of(stat: &rustix::fs::Stat) -> Option<FileKind> {
    Some(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::Regular,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::CharacterDevice => FileKind::Char,
        FileType::BlockDevice => FileKind::Block,
        FileType::Fifo => FileKind::Fifo,
        _ => return None,
    })
}

/// Reads what a stat does not tell. Owners are root's: a checkout belongs to whoever made it. Of a file
/// whose digest is known (`is_known`) it is known, too, that it has no extended attributes.
fn metadata(
    fd: &OwnedFd,
    name: &CStr,
    kind: FileKind,
    stat: &rustix::fs::Stat,
    is_known: bool,
) -> io::Result<FileMeta> {
    let target =
        if kind == FileKind::Symlink { rustix::fs::readlinkat(fd, name, Vec::new())?.into_bytes() } else { Vec::new() };
    let xattrs = match kind {
        FileKind::Regular | FileKind::Directory if !is_known => xattrs(fd, name)?,
        _ => BTreeMap::new(),
    };
    let is_device = matches!(kind, FileKind::Char | FileKind::Block);
    Ok(FileMeta {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: 0,
        gid: 0,
        mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        size: if kind == FileKind::Regular { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 },
        target,
        device: if is_device { (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)) } else { (0, 0) },
        xattrs,
    })
}

/// Reads the extended attributes that belong to a file rather than to its host.
fn xattrs(fd: &OwnedFd, name: &CStr) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut path = format!("/proc/self/fd/{}/", fd.as_raw_fd()).into_bytes();
    path.extend(name.to_bytes());
    let mut short = [0u8; 1024];
    let mut long = Vec::new();
    let mut list = rustix::fs::llistxattr(&path[..], &mut short).map(|length| &short[..length]);
    if list == Err(Errno::RANGE) {
        long.resize(XATTR_MAX, 0);
        list = rustix::fs::llistxattr(&path[..], &mut long).map(|length| &long[..length]);
    }
    let list = match list {
        Err(Errno::NOTSUP | Errno::NOENT) => &[],
        list => list?,
    };
    let mut found = BTreeMap::new();
    for key in list.split(|byte| *byte == 0) {
        if !(key.starts_with(b"user.") || key == b"security.capability") {
            continue;
        }
        let mut value = vec![0u8; XATTR_MAX];
        let length = match rustix::fs::lgetxattr(&path[..], key, &mut value) {
            Err(Errno::NODATA | Errno::NOENT) => continue,
            length => length?,
        };
        value.truncate(length);
        found.insert(key.to_vec(), value);
    }
    Ok(found)
}

pub(super) fn failed(path: &[Name], source: io::Error) -> LocalError {
    let path = if path.is_empty() { ".".to_owned() } else { files::shorten(path) };
    LocalError::Read { path, source }
}

#[cfg(test)]
mod tests {
    use rustix::fs::XattrFlags;

    use super::*;

    #[test]
    fn attributes_are_read_however_many_there_are() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("f");
        std::fs::write(&path, "").expect("a file");
        let long = "n".repeat(200);
        let mut count = 0;
        // A file system may have room for few; of some the list is longer than a first guess.
        while count < 20 {
            let name = format!("user.{count:02}{long}");
            if rustix::fs::setxattr(&path, name, b"v", XattrFlags::empty()).is_err() {
                break;
            }
            count += 1;
        }
        let fd = rustix::fs::open(folder.path(), OFlags::RDONLY, Mode::empty()).expect("the folder");
        assert_eq!(xattrs(&fd, c"f").expect("attributes").len(), count);
    }
}
