//! Directories that a command has renamed in an overlay.
//!
//! The upper directory has them under their new names, with an attribute that says where the rest of them is below. That may be
//! in each other's way, so first all of them are set aside, the innermost first, and marked as being so; later each is put
//! where its new name is. Both can be done again.
//!
//! ```text
//! <number>/moving/<inode>   what is below of the directory that has this inode in the upper directory
//! ```

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, ResolveFlags, Stat, XattrFlags, lgetxattr, lremovexattr, lsetxattr, mkdirat,
    renameat, statat,
};
use rustix::io::Errno;

use super::fold::{OVERLAY, entry, inside, is_opaque, open};
use crate::remove::{remove_at, remove_tree};

/// What the overlay calls the attribute, and what the mark is called that takes its place.
const REDIRECT: &str = "redirect";
const MARK: &str = "set-aside";

/// The longest text that says where a directory is.
const LONGEST: usize = 4096;

/// A place for directories on their way.
pub(super) struct Moved {
    path: PathBuf,
    place: OwnedFd,
}

/// A directory that was renamed.
struct Renamed {
    /// Where the upper directory has it.
    path: PathBuf,
    /// Where it was below; none where nothing of it is.
    source: Option<PathBuf>,
    inode: u64,
}

impl Moved {
    /// Sets aside what was renamed in the overlay of these two; none where nothing was.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn set_aside(upper: &OwnedFd, below: &OwnedFd, beside: &Path) -> io::Result<Option<Self>> {
        let mut is_marked = false;
        let mut found = Vec::new();
        let mut directories = vec![(PathBuf::from("."), Some(PathBuf::from(".")))];
        while let Some((path, source)) = directories.pop() {
            let here = inside(upper, &path)?;
            for found_here in Dir::read_from(&here)? {
                let found_here = found_here?;
                let name = found_here.file_name();
                let may_be = matches!(found_here.file_type(), FileType::Directory | FileType::Unknown);
                if !may_be || name == c"." || name == c".." {
                    continue;
                }
                let stat = statat(&here, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if !FileType::from_raw_mode(stat.st_mode).is_dir() {
                    continue;
                }
                let (path, place) =
                    (path.join(OsStr::from_bytes(name.to_bytes())), entry(&here, OsStr::from_bytes(name.to_bytes())));
                let redirect = attribute(&place, REDIRECT);
                let source = match &redirect {
                    Some(text) if text.starts_with(b"/") => Some(Path::new(".").join(OsStr::from_bytes(&text[1..]))),
                    Some(text) => source.as_ref().map(|source| source.join(OsStr::from_bytes(text))),
                    None if is_opaque(&place) => None,
                    None => source.as_ref().map(|source| source.join(OsStr::from_bytes(name.to_bytes()))),
                };
                if redirect.is_some() {
                    found.push(Renamed { path: path.clone(), source: source.clone(), inode: stat.st_ino });
                }
                is_marked |= attribute(&place, MARK).is_some();
                directories.push((path, source));
            }
        }
        if found.is_empty() && !is_marked {
            return Ok(None);
        }
        let path = beside.with_file_name("moving");
        match mkdirat(CWD, &path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let moved = Self { place: open(CWD, &path, ResolveFlags::empty())?, path };
        // The innermost first: what contains it below goes without it.
        found.sort_by_key(|it| std::cmp::Reverse(it.source.as_ref().map_or(0, |source| source.components().count())));
        for renamed in &found {
            moved.take(renamed, upper, below)?;
        }
        Ok(Some(moved))
    }

    fn take(&self, renamed: &Renamed, upper: &OwnedFd, below: &OwnedFd) -> io::Result<()> {
        if let Some((parent, name)) = renamed.source.as_ref().and_then(|it| Some((it.parent()?, it.file_name()?))) {
            let taken = inside(below, parent)
                .and_then(|parent| renameat(&parent, name, &self.place, renamed.inode.to_string()));
            match taken {
                // It is here already, or was never there.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let (Some(parent), Some(name)) = (renamed.path.parent(), renamed.path.file_name()) else { return Ok(()) };
        let parent = inside(upper, parent)?;
        let place = entry(&parent, name);
        for prefix in OVERLAY {
            match replace_by_mark(&place, prefix) {
                Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Says whether a directory of the upper one was set aside below.
    pub(super) fn is_marked(&self, path: &Path) -> bool {
        attribute(path, MARK).is_some()
    }

    /// Puts what was set aside of a directory where the directory is now; one that has nothing below becomes an empty one.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn put_back(&self, stat: &Stat, to: &OwnedFd, name: &CString) -> rustix::io::Result<()> {
        let aside = stat.st_ino.to_string();
        if statat(&self.place, &*aside, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            remove_at(to.as_fd(), name)?;
            return renameat(&self.place, &*aside, to, name);
        }
        match mkdirat(to, name, Mode::RWXU) {
            // It was put there before.
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes the place away, which is empty now.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn finish(self) -> io::Result<()> {
        remove_tree(&self.path)
    }
}

/// Puts the mark in the place of the attribute, in an order that loses neither.
fn replace_by_mark(path: &Path, prefix: &str) -> rustix::io::Result<()> {
    let redirect = format!("{prefix}{REDIRECT}");
    lgetxattr(path, &*redirect, &mut [0; 0])?;
    lsetxattr(path, format!("{prefix}{MARK}"), b"y", XattrFlags::empty())?;
    lremovexattr(path, &*redirect)
}

/// Reads an attribute of an overlay's.
fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; LONGEST];
    let length = OVERLAY.iter().find_map(|prefix| lgetxattr(path, format!("{prefix}{name}"), &mut value[..]).ok())?;
    value.truncate(length);
    Some(value)
}
