//! Finding a path inside a root, one component at a time.
//!
//! Each step opens one name in one directory and follows nothing; symlinks are read and walked as text, `..` goes back to a
//! directory that was passed on the way. So the walk never leaves the root, whatever another process renames or links
//! meanwhile, and it can make what is missing. Magic links of procfs are refused (CVE-2024-21626).

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, XattrFlags, chownat, fsetxattr, fstat, fstatfs, mkdirat,
    mknodat, openat, openat2, readlinkat,
};
use rustix::io::Errno;

use crate::OWNER_MARK;
use crate::wire::Stub;

/// As many symlinks as the kernel follows.
const LINKS: usize = 40;

/// The kernel's number for procfs.
const PROC: i64 = 0x9fa0;

/// What happens to components that are not there.
#[derive(Clone, Copy)]
pub enum Missing<'a> {
    /// The walk fails.
    Fail,
    /// They become directories, 0755, of this user and group.
    Make {
        /// User and group.
        owner: (u32, u32),
    },
    /// They become a mount point, which is reported when it is in the root's own file system.
    Stub {
        /// Whether the last one is a directory.
        is_dir: bool,
        /// Told of each component made.
        report: &'a dyn Fn(Stub),
    },
}

/// Returns a handle (`O_PATH`) of what is at `path` inside `root`.
pub fn walk(root: &OwnedFd, path: &str, missing: Missing<'_>) -> io::Result<OwnedFd> {
    let mut passed: Vec<(OwnedFd, Vec<u8>)> = Vec::new();
    let mut ahead: VecDeque<Vec<u8>> = components(path.as_bytes()).collect();
    let mut links = 0;
    while let Some(name) = ahead.pop_front() {
        if name == b".." {
            passed.pop();
            continue;
        }
        let here = passed.last().map_or(root.as_fd(), |(fd, _)| fd.as_fd());
        let found = match open(here, &name) {
            Err(Errno::NOENT) => {
                make(root, &passed, &name, ahead.is_empty(), missing)?;
                open(here, &name)?
            }
            result => result?,
        };
        if FileType::from_raw_mode(fstat(&found)?.st_mode).is_symlink() {
            links += 1;
            if links > LINKS {
                return Err(Errno::LOOP.into());
            }
            refuse_magic(here, &name, &found)?;
            let text = readlinkat(&found, "", Vec::new())?;
            if text.as_bytes().starts_with(b"/") {
                passed.clear();
            }
            let more: Vec<Vec<u8>> = components(text.as_bytes()).collect();
            for name in more.into_iter().rev() {
                ahead.push_front(name);
            }
        } else {
            passed.push((found, name));
        }
    }
    match passed.pop() {
        Some((fd, _)) => Ok(fd),
        None => Ok(root.try_clone()?),
    }
}

fn components(path: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".").map(<[u8]>::to_vec)
}

fn open(here: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    openat(here, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Fails for the links of procfs whose text is not where they lead: the text would name a place of the host.
fn refuse_magic(here: BorrowedFd<'_>, name: &[u8], link: &OwnedFd) -> rustix::io::Result<()> {
    if fstatfs(link)?.f_type != PROC {
        return Ok(());
    }
    match openat2(here, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_MAGICLINKS) {
        Err(Errno::LOOP) => Err(Errno::LOOP),
        _ => Ok(()),
    }
}

fn make(
    root: &OwnedFd,
    passed: &[(OwnedFd, Vec<u8>)],
    name: &[u8],
    is_last: bool,
    missing: Missing<'_>,
) -> io::Result<()> {
    let here = passed.last().map_or(root.as_fd(), |(fd, _)| fd.as_fd());
    let directory = Mode::from_raw_mode(0o755);
    match missing {
        Missing::Fail => Err(Errno::NOENT.into()),
        Missing::Make { owner: (uid, gid) } => match mkdirat(here, name, directory) {
            Ok(()) => {
                let ids = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
                match chownat(here, name, ids.0, ids.1, AtFlags::SYMLINK_NOFOLLOW) {
                    // There is one id: others are noted.
                    Err(Errno::INVAL) => {
                        let made = openat(
                            here,
                            name,
                            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                            Mode::empty(),
                        )?;
                        Ok(fsetxattr(made, OWNER_MARK, format!("{uid}:{gid}").as_bytes(), XattrFlags::empty())?)
                    }
                    given => Ok(given?),
                }
            }
            Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        },
        Missing::Stub { is_dir, report } => {
            let is_dir = is_dir || !is_last;
            let before = fstat(here)?;
            let made = if is_dir {
                mkdirat(here, name, directory)
            } else {
                mknodat(here, name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0)
            };
            match made {
                Ok(()) => {}
                Err(Errno::EXIST) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            let after = fstat(here)?;
            let path: Vec<&[u8]> = passed.iter().map(|(_, name)| &**name).collect();
            let parent = String::from_utf8(path.join(&b'/'));
            // What lies on another mount goes with it, or belongs to it. A name that is no text cannot come from a target;
            // a symlink can bring one, and then the stub stays.
            if let (true, Ok(parent), Ok(name)) =
                (after.st_dev == fstat(root)?.st_dev, parent, String::from_utf8(name.to_vec()))
            {
                let time = |stat: &rustix::fs::Stat| (stat.st_mtime, stat.st_mtime_nsec as i64);
                report(Stub { parent, name, is_dir, before: time(&before), after: time(&after) });
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn tree() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("a/b")).expect("directories");
        fs::create_dir(dir.path().join("outside")).expect("a canary");
        let fd = fs::File::open(&root).expect("it opens");
        (dir, fd.into())
    }

    fn place(fd: &OwnedFd) -> String {
        use std::os::fd::AsRawFd;
        let link = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).expect("a path");
        let text = link.to_string_lossy().into_owned();
        text.split_once("/root").map(|(_, rest)| rest.to_owned()).expect("inside the root")
    }

    #[test]
    fn nothing_leads_out() {
        let (dir, root) = tree();
        let at = dir.path().join("root");
        symlink("/", at.join("top")).expect("a symlink");
        symlink("../../../../outside", at.join("a/out")).expect("a symlink");
        symlink(dir.path().join("outside"), at.join("absolute")).expect("a symlink");
        symlink("loop", at.join("loop")).expect("a symlink");
        for (path, expected) in
            [("/", ""), ("../../a", "/a"), ("/a/b/../../..", ""), ("/top/a/./b", "/a/b"), ("/a/b/../../../a", "/a")]
        {
            let found = walk(&root, path, Missing::Fail).expect("it is there");
            assert_eq!(place(&found), expected, "{path}");
        }
        for path in ["/a/out", "/absolute", "/loop", "/a/b/c"] {
            assert!(walk(&root, path, Missing::Fail).is_err(), "{path}");
        }
    }

    #[test]
    fn what_is_missing_is_made_where_a_dangling_link_leads() {
        let (dir, root) = tree();
        let at = dir.path().join("root");
        symlink("/run/x/file", at.join("a/link")).expect("a symlink");
        let stubs = RefCell::new(Vec::new());
        let report = |stub: Stub| stubs.borrow_mut().push((stub.parent, stub.name, stub.is_dir));
        walk(&root, "/a/link", Missing::Stub { is_dir: false, report: &report }).expect("it is made");
        assert!(at.join("run/x/file").is_file());
        let expected = [("", "run", true), ("run", "x", true), ("run/x", "file", false)];
        let expected = expected.map(|(parent, name, is_dir)| (parent.to_owned(), name.to_owned(), is_dir));
        assert_eq!(*stubs.borrow(), expected);
        walk(&root, "/a/new/dir", Missing::Make { owner: (0, 0) }).map(drop).unwrap_or_else(|error| {
            assert_eq!(error.raw_os_error(), Some(libc::EPERM), "only chown may fail, without root");
        });
        assert!(at.join("a/new").is_dir());
    }

    #[test]
    fn a_file_on_the_way_is_an_error() {
        let (dir, root) = tree();
        fs::write(dir.path().join("root/file"), "").expect("a file");
        let error = walk(&root, "/file/x", Missing::Make { owner: (0, 0) }).expect_err("not a directory");
        assert_eq!(error.raw_os_error(), Some(libc::ENOTDIR));
    }
}
