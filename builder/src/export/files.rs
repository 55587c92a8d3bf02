//! The files of a result: as a tar stream, or in a directory of the client.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use kiln_cache::layer::TarHeader;
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, mkdirat, openat, statat, symlinkat, unlinkat,
    utimensat,
};
use rustix::io::Errno;

use super::archive::TarSink;
use crate::op::content::Contents;
use crate::op::files::{FileKind, FileMeta, FileNode, Name, join};

/// The files of one platform, and the folder they go to; none where there is one platform only.
pub struct Part {
    /// `linux_amd64`.
    pub folder: Option<String>,
    /// The files.
    pub tree: Arc<FileNode>,
}

/// Writes trees as a tar stream: everything but the roots themselves, in order. `time` is that
/// of the folders of platforms, seconds since 1970.
///
/// # Errors
/// When a file cannot be read or the stream not be written.
pub fn tar(parts: &[Part], contents: &Contents, time: i64, output: impl Write) -> io::Result<()> {
    let mut sink = TarSink::new(output);
    for Part { folder, tree } in parts {
        let mut path = Vec::new();
        if let Some(folder) = folder {
            path.push(Name::from(folder.as_bytes()));
            let name = format!("{folder}/");
            sink.header(&TarHeader {
                name: name.as_bytes(),
                kind: b'5',
                mode: 0o755,
                mtime: time,
                ..TarHeader::default()
            })?;
        }
        write_children(tree, contents, &mut path, &mut HashMap::new(), &mut sink)?;
    }
    sink.finish()?;
    Ok(())
}

fn write_children<W: Write>(
    node: &FileNode,
    contents: &Contents,
    path: &mut Vec<Name>,
    links: &mut HashMap<u64, Vec<u8>>,
    sink: &mut TarSink<W>,
) -> io::Result<()> {
    for (name, child) in &node.children {
        path.push(name.clone());
        let mut joined = join(path);
        let meta = &child.meta;
        let first = child.link_group.and_then(|group| links.get(&group).cloned());
        let kind = match meta.kind {
            _ if first.is_some() => b'1',
            FileKind::Regular => b'0',
            FileKind::Symlink => b'2',
            FileKind::Char => b'3',
            FileKind::Block => b'4',
            FileKind::Directory => b'5',
            FileKind::Fifo => b'6',
        };
        if let (None, Some(group)) = (&first, child.link_group) {
            links.insert(group, joined.clone());
        }
        if meta.kind == FileKind::Directory {
            joined.push(b'/');
        }
        sink.header(&TarHeader {
            name: &joined,
            kind,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            size: if kind == b'0' { meta.size } else { 0 },
            mtime: meta.mtime.0,
            link: first.as_deref().unwrap_or(&meta.target),
            device: meta.device,
            capability: meta.xattrs.get(&b"security.capability"[..]).map(Vec::as_slice),
        })?;
        if kind == b'0' {
            sink.content(meta.size, &mut contents.read(&child.origin)?)?;
        }
        write_children(child, contents, path, links, sink)?;
        path.pop();
    }
    Ok(())
}

/// Whom written files belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// The caller; set-id bits would give the caller's own rights away and are dropped.
    Caller,
    /// Whom they belong to in the tree.
    Kept,
}

/// Writes trees into a directory, each into its folder; see [`directory`].
///
/// # Errors
/// When something cannot be read or written.
pub fn directories(parts: &[Part], contents: &Contents, target: &File, owners: Owners) -> io::Result<Vec<String>> {
    let mut skipped = Vec::new();
    for Part { folder, tree } in parts {
        let Some(folder) = folder else {
            skipped.extend(directory(tree, contents, target, owners)?);
            continue;
        };
        match mkdirat(target, folder, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let below = File::from(openat(target, folder, flags, Mode::empty())?);
        let left_out = directory(tree, contents, &below, owners)?;
        skipped.extend(left_out.into_iter().map(|path| format!("/{folder}{path}")));
    }
    Ok(skipped)
}

/// Writes a tree into a directory: merges with what is there, replaces files and symlinks, never
/// follows one. Returns what was left out because it needs more rights.
///
/// # Errors
/// When something cannot be read or written.
pub fn directory(tree: &FileNode, contents: &Contents, target: &File, owners: Owners) -> io::Result<Vec<String>> {
    let top = target.try_clone()?.into();
    let mut writer = Directory { contents, links: HashMap::new(), top, skipped: Vec::new(), owners };
    let top = target.try_clone()?.into();
    writer.children(tree, &top, &mut Vec::new())?;
    Ok(writer.skipped)
}

struct Directory<'a> {
    contents: &'a Contents,
    links: HashMap<u64, Vec<u8>>,
    top: OwnedFd,
    skipped: Vec<String>,
    owners: Owners,
}

impl Directory<'_> {
    fn children(&mut self, node: &FileNode, fd: &OwnedFd, path: &mut Vec<Name>) -> io::Result<()> {
        for (name, child) in &node.children {
            path.push(name.clone());
            self.entry(child, fd, name, path).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", crate::op::files::display(path)))
            })?;
            path.pop();
        }
        Ok(())
    }

    /// Gives a file its owner, then its mode: a change of owner takes set-id bits away.
    fn own(&self, file: impl AsFd, meta: &FileMeta) -> io::Result<()> {
        let mut mode = meta.mode & 0o1777;
        if self.owners == Owners::Kept {
            mode = meta.mode;
            rustix::fs::fchown(&file, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))?;
        }
        Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?)
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
            rustix::fs::futimens(&child, &times(meta.mtime))?;
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
                let copied = io::copy(&mut self.contents.read(&node.origin)?, &mut file)?;
                if copied != meta.size {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "its content is incomplete"));
                }
                self.own(file.as_fd(), meta)?;
                rustix::fs::futimens(file.as_fd(), &times(meta.mtime))?;
            }
            FileKind::Symlink => {
                symlinkat(&meta.target[..], fd, name)?;
                if self.owners == Owners::Kept {
                    let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
                    rustix::fs::chownat(fd, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
                }
                utimensat(fd, name, &times(meta.mtime), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            FileKind::Char | FileKind::Block | FileKind::Fifo | FileKind::Directory => {
                self.skipped.push(crate::op::files::display(path));
                return Ok(());
            }
        }
        if let Some(group) = node.link_group {
            self.links.insert(group, join(path));
        }
        Ok(())
    }
}

fn times(mtime: (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: mtime.0, tv_nsec: mtime.1.into() };
    Timestamps { last_access: time, last_modification: time }
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
