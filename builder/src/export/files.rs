//! The files of a result: as a tar stream, or in a directory of the client.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use kiln_cache::layer::{Ownership, TarHeader};
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, mkdirat, openat, statat, symlinkat, unlinkat,
    utimensat,
};
use rustix::io::Errno;

use super::archive::TarSink;
use crate::error::BuildError;
use crate::op::content::Contents;
use crate::op::files::{FileKind, FileMeta, FileNode, Inode, Name, display, join};

/// The files of one platform, and the folder they go to; none where all go to the same place.
pub struct Part {
    /// `linux/amd64`.
    pub platform: String,
    /// `linux_amd64`.
    pub folder: Option<String>,
    /// The files.
    pub tree: Arc<FileNode>,
}

/// Looks whether parts that go to the same place have no file in common.
///
/// # Errors
/// When a file of one would be replaced with that of another.
pub fn check_apart(parts: &[Part]) -> Result<(), BuildError> {
    let mut taken = HashMap::new();
    let mut shared = parts.iter().filter(|part| part.folder.is_none());
    shared.try_for_each(|part| take(&part.tree, &mut Vec::new(), &part.platform, &mut taken))
}

fn take<'a>(
    node: &FileNode,
    path: &mut Vec<Name>,
    platform: &'a str,
    taken: &mut HashMap<Vec<Name>, &'a str>,
) -> Result<(), BuildError> {
    for (name, child) in &node.children {
        path.push(name.clone());
        if child.meta.kind == FileKind::Directory {
            take(child, path, platform, taken)?;
        } else if let Some(first) = taken.insert(path.clone(), platform) {
            let path = display(path);
            return Err(BuildError::input(format!("cannot overwrite {path} from {first} with {platform}"))
                .hint("leave out `platform-split=false`"));
        }
        path.pop();
    }
    Ok(())
}

/// Writes trees as a tar stream: everything but the roots themselves, in order. With an
/// epoch, in seconds since 1970, that is the time of everything.
///
/// # Errors
/// When a file cannot be read or the stream not be written.
pub fn tar(parts: &[Part], contents: &Contents, epoch: Option<i64>, output: impl Write) -> io::Result<()> {
    let mut writer = Tar { contents, epoch, links: HashMap::new(), sink: TarSink::new(output) };
    for Part { folder, tree, .. } in parts {
        let mut path = Vec::new();
        if let Some(folder) = folder {
            path.push(Name::from(folder.as_bytes()));
            let name = format!("{folder}/");
            writer.sink.header(&TarHeader {
                name: name.as_bytes(),
                kind: b'5',
                mode: 0o755,
                mtime: epoch.unwrap_or(0),
                ..TarHeader::default()
            })?;
        }
        writer.links.clear();
        writer.children(tree, &mut path)?;
    }
    writer.sink.finish()?;
    Ok(())
}

struct Tar<'a, W: Write> {
    contents: &'a Contents,
    epoch: Option<i64>,
    /// The first name of each file that has several.
    links: HashMap<Inode, Vec<u8>>,
    sink: TarSink<W>,
}

impl<W: Write> Tar<'_, W> {
    fn children(&mut self, node: &FileNode, path: &mut Vec<Name>) -> io::Result<()> {
        for (name, child) in &node.children {
            path.push(name.clone());
            self.entry(child, join(path))?;
            self.children(child, path)?;
            path.pop();
        }
        Ok(())
    }

    fn entry(&mut self, node: &FileNode, mut name: Vec<u8>) -> io::Result<()> {
        let meta = &node.meta;
        let first = node.link_group.and_then(|group| self.links.get(&group).cloned());
        let kind = match meta.kind {
            _ if first.is_some() => b'1',
            FileKind::Regular => b'0',
            FileKind::Symlink => b'2',
            FileKind::Char => b'3',
            FileKind::Block => b'4',
            FileKind::Directory => b'5',
            FileKind::Fifo => b'6',
        };
        if let (None, Some(group)) = (&first, node.link_group) {
            self.links.insert(group, name.clone());
        }
        if meta.kind == FileKind::Directory {
            name.push(b'/');
        }
        self.sink.header(&TarHeader {
            name: &name,
            kind,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            size: if kind == b'0' { meta.size } else { 0 },
            mtime: self.epoch.unwrap_or(meta.mtime.0),
            link: first.as_deref().unwrap_or(&meta.target),
            device: meta.device,
            xattrs: meta.xattrs.iter().map(|(name, value)| (&name[..], &value[..])).collect(),
        })?;
        if kind == b'0' {
            self.sink.content(meta.size, &mut self.contents.read_whole(&node.origin, meta.size, node.content)?)?;
        }
        Ok(())
    }
}

/// A file that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("{path}")]
struct Unwritten {
    path: String,
    #[source]
    source: io::Error,
}

impl Unwritten {
    /// Says at which file something went wrong, if that is not said yet.
    fn at(path: &[Name], source: io::Error) -> io::Error {
        if source.get_ref().is_some_and(|inner| inner.is::<Self>()) {
            return source;
        }
        io::Error::new(source.kind(), Self { path: display(path), source })
    }
}

/// Whom written files belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// The caller; set-id bits would give the caller's own rights away and are dropped.
    Caller,
    /// Whom they belong to in the tree, held in this way.
    Kept(Ownership),
}

/// Writes trees into a directory, each into its folder, as the caller's files; see [`directory`].
/// With an epoch that is the time of everything.
///
/// # Errors
/// When something cannot be read or written.
pub fn directories(parts: &[Part], contents: &Contents, epoch: Option<i64>, target: &File) -> io::Result<Vec<String>> {
    let mut skipped = Vec::new();
    for Part { folder, tree, .. } in parts {
        let below = match folder {
            Some(folder) => {
                match mkdirat(target, folder, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                File::from(openat(target, folder, flags, Mode::empty())?)
            }
            None => target.try_clone()?,
        };
        let left_out = write(tree, contents, epoch, &below, Owners::Caller)?;
        let prefix = folder.as_ref().map_or_else(String::new, |folder| format!("/{folder}"));
        skipped.extend(left_out.into_iter().map(|path| format!("{prefix}{path}")));
    }
    Ok(skipped)
}

/// Writes a tree into a directory: merges with what is there, replaces files and symlinks, never
/// follows one. Returns what was left out because it needs more rights.
///
/// # Errors
/// When something cannot be read or written.
pub fn directory(tree: &FileNode, contents: &Contents, target: &File, owners: Owners) -> io::Result<Vec<String>> {
    write(tree, contents, None, target, owners)
}

fn write(
    tree: &FileNode,
    contents: &Contents,
    epoch: Option<i64>,
    target: &File,
    owners: Owners,
) -> io::Result<Vec<String>> {
    let top = target.try_clone()?.into();
    let mut writer = Directory { contents, epoch, links: HashMap::new(), top, skipped: Vec::new(), owners };
    let top = target.try_clone()?.into();
    writer.children(tree, &top, &mut Vec::new())?;
    Ok(writer.skipped)
}

struct Directory<'a> {
    contents: &'a Contents,
    epoch: Option<i64>,
    links: HashMap<Inode, Vec<u8>>,
    top: OwnedFd,
    skipped: Vec<String>,
    owners: Owners,
}

impl Directory<'_> {
    fn children(&mut self, node: &FileNode, fd: &OwnedFd, path: &mut Vec<Name>) -> io::Result<()> {
        for (name, child) in &node.children {
            path.push(name.clone());
            self.entry(child, fd, name, path).map_err(|error| Unwritten::at(path, error))?;
            path.pop();
        }
        Ok(())
    }

    /// Gives a file its owner, then its mode: a change of owner takes set-id bits away.
    fn own(&self, file: impl AsFd, meta: &FileMeta) -> io::Result<()> {
        let mut mode = meta.mode & 0o1777;
        if let Owners::Kept(ownership) = self.owners {
            mode = meta.mode;
            ownership.give(&file, (meta.uid, meta.gid))?;
        }
        Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?)
    }

    fn times(&self, meta: &FileMeta) -> Timestamps {
        let (seconds, nanoseconds) = self.epoch.map_or(meta.mtime, |epoch| (epoch, 0));
        let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
        Timestamps { last_access: time, last_modification: time }
    }

    fn entry(&mut self, node: &FileNode, fd: &OwnedFd, name: &Name, path: &mut Vec<Name>) -> io::Result<()> {
        let meta = &node.meta;
        let name: &[u8] = name;
        if meta.kind == FileKind::Directory {
            let existing = statat(fd, name, AtFlags::SYMLINK_NOFOLLOW);
            let is_directory = existing.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
            if !is_directory {
                remove(fd, name)?;
                mkdirat(fd, name, Mode::from_raw_mode(0o700))?;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let child = openat(fd, name, flags, Mode::empty())?;
            self.children(node, &child, path)?;
            self.own(&child, meta)?;
            rustix::fs::futimens(&child, &self.times(meta))?;
            return Ok(());
        }
        remove(fd, name)?;
        if let Some(first) = node.link_group.and_then(|group| self.links.get(&group)) {
            rustix::fs::linkat(&self.top, &first[..], fd, name, AtFlags::empty())?;
            return Ok(());
        }
        match meta.kind {
            FileKind::Regular => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut file = File::from(openat(fd, name, flags, Mode::from_raw_mode(0o600))?);
                let copied =
                    io::copy(&mut self.contents.read_whole(&node.origin, meta.size, node.content)?, &mut file)?;
                if copied != meta.size {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "its content is incomplete"));
                }
                self.own(file.as_fd(), meta)?;
                rustix::fs::futimens(file.as_fd(), &self.times(meta))?;
            }
            FileKind::Symlink => {
                symlinkat(&meta.target[..], fd, name)?;
                if matches!(self.owners, Owners::Kept(ownership) if ownership.is_real()) {
                    let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
                    rustix::fs::chownat(fd, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
                }
                utimensat(fd, name, &self.times(meta), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            FileKind::Char | FileKind::Block | FileKind::Fifo | FileKind::Directory => {
                self.skipped.push(display(path));
                return Ok(());
            }
        }
        if let Some(group) = node.link_group {
            self.links.insert(group, join(path));
        }
        Ok(())
    }
}

/// Removes whatever has this name, without following it.
fn remove(fd: &OwnedFd, name: &[u8]) -> io::Result<()> {
    match unlinkat(fd, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let child = openat(fd, name, flags, Mode::empty())?;
    let mut entries = Dir::read_from(&child)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let below = entry.file_name().to_bytes();
        if below != b"." && below != b".." {
            remove(&child, below)?;
        }
    }
    Ok(unlinkat(fd, name, AtFlags::REMOVEDIR)?)
}
