//! Deleting trees that somebody else filled: never follows a link, never crosses a mount, and
//! does not care how deep they are.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Directories nested deeper than this are first moved up, so that neither the stack nor the
/// number of open files depends on the tree.
const DEPTH: usize = 64;

/// Deletes a file, or a directory with all that is in it. What does not exist is deleted.
///
/// # Errors
/// When something cannot be deleted: for one, a mount point (`EXDEV`).
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = match rustix::fs::openat(CWD, parent, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let name = CString::new(std::os::unix::ffi::OsStrExt::as_bytes(name))?;
    Ok(remove_at(parent.as_fd(), &name)?)
}

/// Deletes `name` in the directory `parent`, as [`remove_tree`].
pub(crate) fn remove_at(parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(Errno::NOENT) => return Ok(()),
        other => return other,
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(Errno::NOENT) => return Ok(()),
        other => return other,
    }
    let directory = open(parent, name)?;
    let mut moved = 0;
    empty(directory.as_fd(), directory.as_fd(), 0, &mut moved)?;
    // What was moved up is deleted now, and may move more up.
    let mut next = 0;
    while next < moved {
        let deep = moved_name(next);
        next += 1;
        let child = open(directory.as_fd(), &deep)?;
        empty(child.as_fd(), directory.as_fd(), 0, &mut moved)?;
        rustix::fs::unlinkat(&directory, &deep, AtFlags::REMOVEDIR)?;
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

fn empty(directory: BorrowedFd<'_>, top: BorrowedFd<'_>, depth: usize, moved: &mut usize) -> rustix::io::Result<()> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." || name.to_bytes().starts_with(MOVED) {
            continue;
        }
        if !matches!(entry.file_type(), FileType::Directory | FileType::Unknown) {
            match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(error) => return Err(error),
            }
        }
        match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::NOTDIR) => {
                rustix::fs::unlinkat(directory, name, AtFlags::empty())?;
                continue;
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        if depth == DEPTH {
            rustix::fs::renameat(directory, name, top, moved_name(*moved))?;
            *moved += 1;
            continue;
        }
        let child = open(directory, name)?;
        empty(child.as_fd(), top, depth + 1, moved)?;
        rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

const MOVED: &[u8] = b".kiln-removing-";

fn moved_name(number: usize) -> CString {
    CString::new([MOVED, number.to_string().as_bytes()].concat()).expect("no NUL in it")
}

fn open(parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let open = || rustix::fs::openat2(parent, name, flags, Mode::empty(), resolve);
    match open() {
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
            open()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_removed_and_not_followed() {
        let temporary = tempfile::tempdir().unwrap();
        let kept = temporary.path().join("kept");
        std::fs::create_dir(&kept).unwrap();
        std::fs::write(kept.join("file"), "x").unwrap();
        let tree = temporary.path().join("tree");
        std::fs::create_dir_all(tree.join("a/b")).unwrap();
        std::os::unix::fs::symlink(&kept, tree.join("a/link")).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        assert!(kept.join("file").exists());
        remove_tree(&tree).unwrap();
    }

    #[test]
    fn a_very_deep_tree_is_removed() {
        let temporary = tempfile::tempdir().unwrap();
        let tree = temporary.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        let mut directory = OwnedFd::from(std::fs::File::open(&tree).unwrap());
        for _ in 0..3000 {
            rustix::fs::mkdirat(&directory, "d", Mode::RWXU).unwrap();
            directory = open(directory.as_fd(), c"d").unwrap();
        }
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }
}
