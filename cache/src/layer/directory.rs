//! Writing the directory form of a layer: every call goes through a directory's descriptor, and
//! no symbolic link is ever followed.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::Ownership;
use super::entry::is_kept;
use super::read::WHITEOUT_MARK;
use crate::FileError;
use crate::file::At;
use crate::tree::{Kind, Meta, split};

/// Extended attributes to set.
pub(crate) type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// A directory being filled with the entries of a layer.
pub(crate) struct Directory {
    path: PathBuf,
    root: OwnedFd,
    ownership: Ownership,
    /// The directory that was written to last: entries come in groups.
    parent: Option<(Vec<u8>, OwnedFd)>,
}

impl Directory {
    /// Makes the directory `path` and starts to fill it.
    pub(crate) fn create(path: &Path, ownership: Ownership) -> Result<Self, FileError> {
        rustix::fs::mkdirat(CWD, path, Mode::RWXU).at("create", path)?;
        let root = open(CWD, path.as_os_str(), ResolveFlags::empty()).at("open", path)?;
        // Neither umask nor a set-group-id parent takes part.
        rustix::fs::chmodat(CWD, path, Mode::from_bits_retain(0o755), AtFlags::empty())
            .at("change the mode of", path)?;
        Ok(Self { path: path.to_owned(), root, ownership, parent: None })
    }

    fn full(&self, path: &[u8]) -> PathBuf {
        self.path.join(os(path))
    }

    /// Gives the descriptor of the directory that `path` is in, and its last name, to `run`.
    fn at<T>(
        &mut self,
        doing: &'static str,
        path: &[u8],
        run: impl FnOnce(BorrowedFd<'_>, &std::ffi::OsStr) -> rustix::io::Result<T>,
    ) -> Result<T, FileError> {
        let (parent, name) = split(path);
        if self.parent.as_ref().is_none_or(|(open, _)| open != parent) {
            let opened = if parent.is_empty() {
                self.root.as_fd().try_clone_to_owned().at("open", &self.path)?
            } else {
                let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
                open(&self.root, os(parent), resolve).at("open", self.full(parent))?
            };
            self.parent = Some((parent.to_owned(), opened));
        }
        let (_, fd) = self.parent.as_ref().expect("just opened");
        run(fd.as_fd(), os(name)).at(doing, self.full(path))
    }

    /// Makes a regular file to be written. Its metadata is set by [`Directory::finish_file`].
    pub(crate) fn create_file(&mut self, path: &[u8]) -> Result<File, FileError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            self.at("create", path, |parent, name| rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR))?;
        Ok(file.into())
    }

    /// Sets owner, attributes, mode and time of a file, in an order in which none undoes another.
    pub(crate) fn finish_file(&self, path: &[u8], file: &File, meta: &Meta, xattrs: &Xattrs) -> Result<(), FileError> {
        let full = || self.full(path);
        self.ownership.give(file, (meta.uid, meta.gid)).at(FileError::GIVING, full())?;
        self.set_xattrs(path, file.as_fd(), xattrs)?;
        rustix::fs::fchmod(file, mode(meta)).at("change the mode of", full())?;
        rustix::fs::futimens(file, &times(meta.mtime)).at("change the time of", full())
    }

    fn set_xattrs(&self, path: &[u8], file: BorrowedFd<'_>, xattrs: &Xattrs) -> Result<(), FileError> {
        for (name, value) in xattrs {
            if !is_kept(name) {
                continue;
            }
            match rustix::fs::fsetxattr(file, &name[..], value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(error @ (Errno::OPNOTSUPP | Errno::PERM)) => {
                    tracing::debug!("no attribute {} on {}: {error}", os(name).display(), self.full(path).display());
                }
                Err(error) => return Err(error).at("set an attribute of", self.full(path)),
            }
        }
        Ok(())
    }

    /// Makes a directory. Its time is set by [`Directory::set_time`], when it is full.
    pub(crate) fn make_directory(&mut self, path: &[u8]) -> Result<(), FileError> {
        self.at("create", path, |parent, name| rustix::fs::mkdirat(parent, name, Mode::RWXU))
    }

    /// Sets owner, attributes and mode of a directory.
    pub(crate) fn set_directory(&mut self, path: &[u8], meta: &Meta, xattrs: &Xattrs) -> Result<(), FileError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = self.at("open", path, |parent, name| rustix::fs::openat(parent, name, flags, Mode::empty()))?;
        let full = || self.full(path);
        self.ownership.give(&directory, (meta.uid, meta.gid)).at(FileError::GIVING, full())?;
        self.set_xattrs(path, directory.as_fd(), xattrs)?;
        rustix::fs::fchmod(&directory, mode(meta)).at("change the mode of", full())
    }

    /// Makes a directory hide what layers below have in it.
    pub(crate) fn set_opaque(&mut self, path: &[u8]) -> Result<(), FileError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.at("make opaque", path, |parent, name| {
            let directory = if name.is_empty() {
                rustix::fs::openat(parent, ".", flags, Mode::empty())?
            } else {
                rustix::fs::openat(parent, name, flags, Mode::empty())?
            };
            let set = |name: &str| rustix::fs::fsetxattr(&directory, name, b"y", XattrFlags::empty());
            match set("trusted.overlay.opaque") {
                Err(Errno::PERM) => set("user.overlay.opaque"),
                other => other,
            }
        })
    }

    /// Makes anything but a regular file or a directory. Returns whether it was made: without
    /// the right to make devices, they are left out.
    pub(crate) fn make_special(&mut self, path: &[u8], meta: &Meta) -> Result<bool, FileError> {
        let made = self.at("create", path, |parent, name| match meta.kind {
            Kind::Symlink => rustix::fs::symlinkat(os(&meta.link), parent, name),
            Kind::Fifo => rustix::fs::mkfifoat(parent, name, mode(meta)),
            kind => {
                let file_type = if kind == Kind::Char { FileType::CharacterDevice } else { FileType::BlockDevice };
                let device = rustix::fs::makedev(meta.device.0, meta.device.1);
                rustix::fs::mknodat(parent, name, file_type, mode(meta), device)
            }
        });
        match made {
            Err(error) if matches!(meta.kind, Kind::Char | Kind::Block) && is_refusal(&error) => {
                tracing::debug!("no device at {}: {}", error.path.display(), error.source);
                return Ok(false);
            }
            other => other?,
        }
        // What is no file has no attribute to note an owner in.
        if self.ownership.is_real() {
            self.at(FileError::GIVING, path, |parent, name| {
                rustix::fs::chownat(parent, name, uid(meta), gid(meta), AtFlags::SYMLINK_NOFOLLOW)
            })?;
        }
        if meta.kind != Kind::Symlink {
            // The name was made by us a moment ago and is no link.
            self.at("change the mode of", path, |parent, name| {
                rustix::fs::chmodat(parent, name, mode(meta), AtFlags::empty())
            })?;
        }
        self.set_time(path, meta.mtime)?;
        Ok(true)
    }

    /// Makes a whiteout: a character device 0:0.
    pub(crate) fn make_whiteout(&mut self, path: &[u8]) -> Result<(), FileError> {
        self.at("create", path, |parent, name| make_whiteout(parent, name))
    }

    /// Gives a file a second name.
    pub(crate) fn make_link(&mut self, first: &[u8], path: &[u8]) -> Result<(), FileError> {
        let (from, from_name) = split(first);
        let from_parent = if from.is_empty() {
            self.root.as_fd().try_clone_to_owned().at("open", &self.path)?
        } else {
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            open(&self.root, os(from), resolve).at("open", self.full(from))?
        };
        self.at("link", path, |parent, name| {
            rustix::fs::linkat(&from_parent, os(from_name), parent, name, AtFlags::empty())
        })
    }

    /// Deletes a file, or a directory with all that is in it.
    pub(crate) fn remove(&mut self, path: &[u8]) -> Result<(), FileError> {
        let result = self.at("delete", path, |parent, name| {
            let name = std::ffi::CString::new(name.as_encoded_bytes()).map_err(|_| Errno::INVAL)?;
            crate::remove::remove_at(parent, &name)
        });
        // The open directory may be one of those that are gone.
        self.parent = None;
        result
    }

    /// Sets the time of anything.
    pub(crate) fn set_time(&mut self, path: &[u8], mtime: (i64, u32)) -> Result<(), FileError> {
        self.at("change the time of", path, |parent, name| {
            rustix::fs::utimensat(parent, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)
        })
    }
}

/// Makes a whiteout, or where the file system takes none, as it is an overlay itself, a file that stands for one.
pub(crate) fn make_whiteout(parent: impl AsFd, name: &std::ffi::OsStr) -> rustix::io::Result<()> {
    let device = rustix::fs::makedev(0, 0);
    match rustix::fs::mknodat(&parent, name, FileType::CharacterDevice, Mode::empty(), device) {
        Err(Errno::PERM) => {}
        made => return made,
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    rustix::fs::fsetxattr(&file, WHITEOUT_MARK, b"y", XattrFlags::empty())
}

pub(crate) fn os(bytes: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}

fn open(from: impl AsFd, path: &std::ffi::OsStr, resolve: ResolveFlags) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    loop {
        match rustix::fs::openat2(&from, path, flags, Mode::empty(), resolve) {
            // A rename raced with the lookup; the kernel asks us to look again.
            Err(Errno::AGAIN) => continue,
            result => return result,
        }
    }
}

fn is_refusal(error: &FileError) -> bool {
    error.source.kind() == std::io::ErrorKind::PermissionDenied
}

fn uid(meta: &Meta) -> Option<Uid> {
    Some(Uid::from_raw(meta.uid))
}

fn gid(meta: &Meta) -> Option<Gid> {
    Some(Gid::from_raw(meta.gid))
}

fn mode(meta: &Meta) -> Mode {
    Mode::from_bits_retain(meta.mode & 0o7777)
}

pub(crate) fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds.min(999_999_999).into() },
    }
}
