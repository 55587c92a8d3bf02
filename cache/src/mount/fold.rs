//! Folding what an overlay has gathered into the directory below it.
//!
//! Files and new directories are renamed into place, what was deleted is deleted, and directories that both have are
//! walked. Directories that were renamed are put where they belong (see `moved`). Each step can be done again: a fold that was
//! killed in the middle is finished by folding once more what is left.

use std::collections::HashSet;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, fgetxattr,
    flistxattr, fremovexattr, fsetxattr, lgetxattr, llistxattr, lremovexattr, mkdirat, openat2, renameat, statat,
    unlinkat,
};
use rustix::io::Errno;

use crate::mount::moved::Moved;
use crate::remove::{remove_at, remove_tree};

/// Where overlays keep their own attributes: as root, and in a user namespace.
pub(super) const OVERLAY: [&str; 2] = ["trusted.overlay.", "user.overlay."];

/// Moves everything in `upper`, the upper directory of an overlay that nobody has mounted any more, into `below`, and
/// deletes `upper`.
///
/// # Errors
/// When the system refuses. What was moved stays moved.
pub(super) fn fold(upper: &Path, below: &Path) -> io::Result<()> {
    let (from, to) =
        (open(rustix::fs::CWD, upper, ResolveFlags::empty())?, open(rustix::fs::CWD, below, ResolveFlags::empty())?);
    let moved = Moved::set_aside(&from, &to, below)?;
    let mut directories = vec![(PathBuf::from("."), rustix::fs::fstat(&from)?)];
    let mut next = 0;
    while let Some((path, _)) = directories.get(next) {
        next += 1;
        let path = path.clone();
        let both = Both { from: inside(&from, &path)?, to: inside(&to, &path)?, moved: moved.as_ref() };
        for name in names(&both.from)? {
            if let Some(stat) = both.move_one(&name)? {
                directories.push((path.join(OsStr::from_bytes(name.to_bytes())), stat));
            }
        }
    }
    // A directory's times are right once nothing in it changes any more: those deepest inside come first.
    for (path, stat) in directories.iter().rev() {
        adopt(&inside(&from, path)?, &inside(&to, path)?, stat)?;
    }
    if let Some(moved) = moved {
        moved.finish()?;
    }
    remove_tree(upper)
}

/// Gives the directory `to` the owner, permissions, attributes and times of `from`.
///
/// # Errors
/// When the system refuses.
pub(super) fn alike(from: &Path, to: &Path) -> io::Result<()> {
    let from = open(rustix::fs::CWD, from, ResolveFlags::empty())?;
    let to = open(rustix::fs::CWD, to, ResolveFlags::empty())?;
    let stat = rustix::fs::fstat(&from)?;
    Ok(adopt(&from, &to, &stat)?)
}

/// One directory of the overlay, and the same one below.
struct Both<'a> {
    from: OwnedFd,
    to: OwnedFd,
    /// Directories that were renamed, if any were.
    moved: Option<&'a Moved>,
}

impl Both<'_> {
    /// Moves one entry. A directory that is below too is not moved but returned, to be walked.
    fn move_one(&self, name: &CString) -> rustix::io::Result<Option<Stat>> {
        let stat = statat(&self.from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            remove_at(self.to.as_fd(), name)?;
            unlinkat(&self.from, name, AtFlags::empty())?;
            return Ok(None);
        }
        let is_directory_below = match statat(&self.to, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(below) => FileType::from_raw_mode(below.st_mode).is_dir(),
            Err(Errno::NOENT) => false,
            Err(error) => return Err(error),
        };
        let path = entry(&self.from, OsStr::from_bytes(name.to_bytes()));
        if let Some(moved) = self.moved.filter(|moved| kind.is_dir() && moved.is_marked(&path)) {
            moved.put_back(&stat, &self.to, name)?;
            return Ok(Some(stat));
        }
        let is_merged = is_directory_below && !is_opaque(&path);
        if kind.is_dir() && self.moved.is_some() && !is_merged {
            // It may hold some that were renamed. What is done here must not be done again.
            remove_at(self.to.as_fd(), name)?;
            mkdirat(&self.to, name, Mode::RWXU)?;
            strip(&path)?;
            return Ok(Some(stat));
        }
        if kind.is_dir() && is_merged {
            return Ok(Some(stat));
        }
        if kind.is_dir() || is_directory_below {
            remove_at(self.to.as_fd(), name)?;
        }
        strip(&path)?;
        renameat(&self.from, name, &self.to, name)?;
        Ok(None)
    }
}

/// Gives a directory the owner, permissions, attributes and times of the overlay's.
fn adopt(from: &OwnedFd, to: &OwnedFd, stat: &Stat) -> rustix::io::Result<()> {
    let (theirs, ours) = (attributes(|list| flistxattr(from, list))?, attributes(|list| flistxattr(to, list))?);
    for name in ours.difference(&theirs) {
        fremovexattr(to, name.as_c_str())?;
    }
    let mut value = vec![0; 64 << 10];
    for name in &theirs {
        let size = fgetxattr(from, name.as_c_str(), &mut value)?;
        fsetxattr(to, name.as_c_str(), &value[..size], XattrFlags::empty())?;
    }
    rustix::fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let time = |seconds, nanoseconds: u64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds.cast_signed() };
    let last_access = time(stat.st_atime, stat.st_atime_nsec);
    let last_modification = time(stat.st_mtime, stat.st_mtime_nsec);
    rustix::fs::futimens(to, &Timestamps { last_access, last_modification })
}

/// Removes the attributes of the overlay from what becomes an ordinary file.
fn strip(path: &Path) -> rustix::io::Result<()> {
    let mut list = vec![0; 64 << 10];
    let size = match llistxattr(path, &mut list) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        other => other?,
    };
    for name in list[..size].split_inclusive(|byte| *byte == 0).filter(|name| is_of_overlay(name)) {
        lremovexattr(path, OsStr::from_bytes(&name[..name.len() - 1]))?;
    }
    Ok(())
}

/// The attributes of a directory, without those of the overlay.
fn attributes(list: impl FnOnce(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<HashSet<CString>> {
    let mut names = vec![0; 64 << 10];
    let size = match list(&mut names) {
        Err(Errno::OPNOTSUPP) => 0,
        other => other?,
    };
    let names = names[..size].split(|byte| *byte == 0).filter(|name| !name.is_empty() && !is_of_overlay(name));
    Ok(names.filter_map(|name| CString::new(name).ok()).collect())
}

fn is_of_overlay(name: &[u8]) -> bool {
    OVERLAY.iter().any(|prefix| name.starts_with(prefix.as_bytes()))
}

pub(super) fn is_opaque(path: &Path) -> bool {
    let mut value = [0; 1];
    let says_yes = |name: &str| matches!(lgetxattr(path, name, &mut value[..]), Ok(1)) && value == *b"y";
    OVERLAY.map(|prefix| format!("{prefix}opaque")).iter().map(String::as_str).any(says_yes)
}

fn names(directory: &OwnedFd) -> rustix::io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// So many names, each of 255 bytes at most, make a path that the kernel takes.
const NAMES_AT_ONCE: usize = 15;

/// Opens a directory below `root`, however deep.
pub(super) fn inside(root: &OwnedFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let names: Vec<_> = path.components().collect();
    let mut parts = names.chunks(NAMES_AT_ONCE).map(|part| part.iter().collect::<PathBuf>());
    let first = open(root.as_fd(), &parts.next().unwrap_or_else(|| ".".into()), resolve)?;
    parts.try_fold(first, |directory, part| open(directory.as_fd(), &part, resolve))
}

/// The path of what `directory` has under a name, for calls that take no directory. It is short, however deep that is.
pub(super) fn entry(directory: &OwnedFd, name: &OsStr) -> PathBuf {
    Path::new(&format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name)
}

pub(super) fn open(root: BorrowedFd<'_>, path: &Path, resolve: ResolveFlags) -> rustix::io::Result<OwnedFd> {
    openat2(root, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), resolve)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    struct Trees {
        directory: tempfile::TempDir,
    }

    impl Trees {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            for name in ["upper", "below"] {
                fs::create_dir(directory.path().join(name)).unwrap();
            }
            Self { directory }
        }

        fn upper(&self, name: &str) -> PathBuf {
            self.directory.path().join("upper").join(name)
        }

        fn below(&self, name: &str) -> PathBuf {
            self.directory.path().join("below").join(name)
        }

        fn file(&self, path: &Path, text: &str) {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn opaque(&self, name: &str) {
            let name = self.upper(name);
            rustix::fs::lsetxattr(&name, "user.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
        }

        /// Every path below with its content.
        fn found(&self) -> Vec<String> {
            let root = self.below("");
            let mut found: Vec<String> = walkdir::WalkDir::new(&root)
                .min_depth(1)
                .into_iter()
                .map(|entry| {
                    let entry = entry.unwrap();
                    let path = entry.path().strip_prefix(&root).unwrap().display().to_string();
                    if entry.file_type().is_file() {
                        format!("{path}={}", fs::read_to_string(entry.path()).unwrap())
                    } else {
                        path
                    }
                })
                .collect();
            found.sort();
            found
        }
    }

    #[test]
    fn both_trees_become_one() {
        let trees = Trees::new();
        trees.file(&trees.below("kept/old"), "1");
        trees.file(&trees.below("kept/changed"), "1");
        trees.file(&trees.below("hidden/old"), "1");
        trees.file(&trees.below("was-a-directory/x"), "1");
        trees.file(&trees.below("was-a-file"), "1");
        trees.file(&trees.upper("kept/changed"), "2");
        trees.file(&trees.upper("kept/new/deep/file"), "2");
        trees.file(&trees.upper("hidden/new"), "2");
        trees.opaque("hidden");
        trees.file(&trees.upper("was-a-directory"), "2");
        trees.file(&trees.upper("was-a-file/x"), "2");
        symlink("/etc", trees.upper("link")).unwrap();
        fs::set_permissions(trees.upper("kept"), fs::Permissions::from_mode(0o2750)).unwrap();
        let time = fs::metadata(trees.upper("kept")).unwrap().mtime();
        fold(&trees.upper(""), &trees.below("")).unwrap();
        let wanted = [
            "hidden",
            "hidden/new=2",
            "kept",
            "kept/changed=2",
            "kept/new",
            "kept/new/deep",
            "kept/new/deep/file=2",
            "kept/old=1",
            "link",
            "was-a-directory=2",
            "was-a-file",
            "was-a-file/x=2",
        ];
        assert_eq!(trees.found(), wanted);
        let kept = fs::metadata(trees.below("kept")).unwrap();
        assert_eq!((kept.permissions().mode() & 0o7777, kept.mtime()), (0o2750, time));
        assert!(!is_opaque(&trees.below("hidden")) && !trees.upper("").exists());
    }

    #[test]
    fn directories_that_were_renamed_are_renamed_below() {
        let trees = Trees::new();
        let redirect = |name: &str, to: &str| {
            rustix::fs::lsetxattr(trees.upper(name), "user.overlay.redirect", to.as_bytes(), XattrFlags::empty())
                .unwrap();
        };
        for name in ["a/one", "a/b/two", "a/b/c/three", "new/four", "x/five"] {
            trees.file(&trees.below(name), "1");
        }
        // `mv a/b new/b`, into a new directory that took the place of an old one; in it, `mv c d`; then `mv a e`, a new `a`, `mv x
        // a/x`; and something written everywhere.
        for name in ["new/b/d/w", "e/w", "a/w", "a/x/w"] {
            trees.file(&trees.upper(name), "2");
        }
        trees.opaque("new");
        trees.opaque("a");
        redirect("new/b", "/a/b");
        redirect("new/b/d", "c");
        redirect("e", "a");
        redirect("a/x", "/x");
        for name in ["e/b", "new/b/c", "x"] {
            let (mode, kind) = (Mode::empty(), FileType::CharacterDevice);
            rustix::fs::mknodat(rustix::fs::CWD, trees.upper(name), kind, mode, 0).unwrap();
        }
        fold(&trees.upper(""), &trees.below("")).unwrap();
        let wanted = [
            "a",
            "a/w=2",
            "a/x",
            "a/x/five=1",
            "a/x/w=2",
            "e",
            "e/one=1",
            "e/w=2",
            "new",
            "new/b",
            "new/b/d",
            "new/b/d/three=1",
            "new/b/d/w=2",
            "new/b/two=1",
        ];
        assert_eq!(trees.found(), wanted);
        let left: Vec<_> = fs::read_dir(trees.directory.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(left, ["below"]);
    }

    #[test]
    fn no_depth_is_too_deep() {
        let trees = Trees::new();
        trees.file(&trees.below("old/file"), "1");
        let name = "n".repeat(250);
        let mut bottom = open(rustix::fs::CWD, &trees.upper(""), ResolveFlags::empty()).unwrap();
        for _ in 0..40 {
            mkdirat(&bottom, &*name, Mode::RWXU).unwrap();
            bottom = open(bottom.as_fd(), Path::new(&name), ResolveFlags::empty()).unwrap();
        }
        // `mv old` into the innermost.
        mkdirat(&bottom, "new", Mode::RWXU).unwrap();
        let new = entry(&bottom, OsStr::new("new"));
        rustix::fs::lsetxattr(new, "user.overlay.redirect", b"/old", XattrFlags::empty()).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, trees.upper("old"), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        fold(&trees.upper(""), &trees.below("")).unwrap();
        let below = open(rustix::fs::CWD, &trees.below(""), ResolveFlags::empty()).unwrap();
        let path: PathBuf = std::iter::repeat_n(&*name, 40).collect();
        let bottom = inside(&below, &path.join("new")).unwrap();
        assert_eq!(fs::read_to_string(entry(&bottom, OsStr::new("file"))).unwrap(), "1");
        assert!(!trees.below("old").exists());
        // What is that deep, others cannot delete.
        remove_tree(&trees.below(&name)).unwrap();
    }

    #[test]
    fn a_fold_that_was_broken_off_is_finished() {
        let trees = Trees::new();
        trees.file(&trees.below("d/old"), "1");
        trees.file(&trees.upper("d/a"), "2");
        trees.file(&trees.upper("d/b"), "2");
        // As if killed after the first rename.
        fs::rename(trees.upper("d/a"), trees.below("d/a")).unwrap();
        fold(&trees.upper(""), &trees.below("")).unwrap();
        assert_eq!(trees.found(), ["d", "d/a=2", "d/b=2", "d/old=1"]);
    }
}
