//! Mounts by descriptor: made detached, restricted, then attached. No path of the image is ever given to the kernel.

use std::cell::RefCell;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{FileType, Gid, Mode, OFlags, Uid, mkdirat, mknodat, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::error::{SetupError, reason};
use crate::isolation::Isolation;
use crate::{plain, sys};

/// What a mount forbids.
pub type Attributes = MountAttrFlags;

const ATTRIBUTES: [(Attributes, u64); 4] = [
    (Attributes::MOUNT_ATTR_RDONLY, libc::MOUNT_ATTR_RDONLY),
    (Attributes::MOUNT_ATTR_NOSUID, libc::MOUNT_ATTR_NOSUID),
    (Attributes::MOUNT_ATTR_NODEV, libc::MOUNT_ATTR_NODEV),
    (Attributes::MOUNT_ATTR_NOEXEC, libc::MOUNT_ATTR_NOEXEC),
];

/// A mount that the kernel refused: its number and its words.
#[derive(Debug)]
pub struct Refusal {
    errno: i32,
    reason: String,
}

impl Refusal {
    /// Says where.
    pub fn at(self, target: &str) -> SetupError {
        SetupError::Mount { target: target.to_owned(), reason: self.reason, errno: self.errno }
    }

    /// Returns what the kernel said.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Returns the error number.
    pub fn errno(&self) -> i32 {
        self.errno
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self { errno: error.raw_os_error().unwrap_or(0), reason: reason(&error) }
    }
}

impl From<rustix::io::Errno> for Refusal {
    fn from(error: rustix::io::Errno) -> Self {
        io::Error::from(error).into()
    }
}

/// A file system being described to the kernel.
pub struct Context(OwnedFd);

impl Context {
    /// Starts with the kind of file system.
    pub fn open(kind: &str) -> Result<Self, Refusal> {
        Ok(Self(fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?))
    }

    /// Sets an option.
    pub fn set(&self, key: &str, value: &str) -> Result<(), Refusal> {
        fsconfig_set_string(&self.0, key, value).map_err(|error| self.explain(error))
    }

    /// Sets an option without a value.
    pub fn set_flag(&self, key: &str) -> Result<(), Refusal> {
        fsconfig_set_flag(&self.0, key).map_err(|error| self.explain(error))
    }

    /// Makes the file system and a detached mount of it.
    pub fn mount(self, attributes: Attributes) -> Result<Tree, Refusal> {
        fsconfig_create(&self.0).map_err(|error| self.explain(error))?;
        let flags = FsMountFlags::FSMOUNT_CLOEXEC;
        Ok(Tree(fsmount(&self.0, flags, attributes).map_err(|error| self.explain(error))?))
    }

    // The kernel leaves what it has to say in the descriptor, one message per read: "e overlay: No upperdir".
    fn explain(&self, error: rustix::io::Errno) -> Refusal {
        let mut refusal = Refusal::from(error);
        let mut buffer = [0; 512];
        while let Ok(length @ 1..) = rustix::io::read(&self.0, &mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]);
            refusal.reason.push_str(": ");
            refusal.reason.push_str(text.trim_start_matches(['e', 'w', 'i']).trim());
        }
        refusal
    }
}

/// A mounted tree that is not attached anywhere yet, or was just now: the descriptor stays good.
pub struct Tree(OwnedFd);

impl Tree {
    /// Makes a fresh file system with these options.
    pub fn fresh(kind: &str, options: &[(&str, &str)], attributes: Attributes) -> Result<Self, Refusal> {
        let context = Context::open(kind)?;
        // What a mount table shows as its source.
        let _ = context.set("source", kind);
        for (key, value) in options {
            context.set(key, value)?;
        }
        context.mount(attributes)
    }

    /// Makes a second mount of what `fd` refers to.
    pub fn clone_of(fd: impl AsFd, recursive: bool) -> Result<Self, Refusal> {
        let mut flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        if recursive {
            flags |= OpenTreeFlags::AT_RECURSIVE;
        }
        Ok(Self(open_tree(fd, "", flags)?))
    }

    /// Forbids what `attributes` name, in addition.
    pub fn restrict(&self, attributes: Attributes) -> Result<(), Refusal> {
        self.set(attributes, false)
    }

    /// Forbids what `attributes` name, in addition, here and in all mounts below.
    pub fn restrict_all(&self, attributes: Attributes) -> Result<(), Refusal> {
        self.set(attributes, true)
    }

    fn set(&self, attributes: Attributes, recursive: bool) -> Result<(), Refusal> {
        if attributes.is_empty() {
            return Ok(());
        }
        let bits =
            ATTRIBUTES.iter().filter(|(flag, _)| attributes.contains(*flag)).fold(0, |bits, (_, bit)| bits | bit);
        Ok(sys::mount_setattr(&self.0, bits, recursive)?)
    }

    /// Attaches it on what `target` refers to.
    pub fn attach(&self, target: impl AsFd) -> Result<(), Refusal> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        Ok(move_mount(&self.0, "", target, "", flags)?)
    }

    /// Returns the root of the tree.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }
}

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Opens what is called `name` in a directory, without following it, as a place to attach to or clone from.
pub fn open_at(directory: impl AsFd, name: &str) -> rustix::io::Result<OwnedFd> {
    openat(directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// A tmpfs that only the set-up sees: things that are mounted into the sandbox are made here, and mounts that must be
/// attached somewhere before parts of them can be cloned are attached here. It goes with the old root.
pub struct Workshop {
    tree: Tree,
    /// What may be made here and in mounts depends on it.
    pub isolation: Isolation,
    /// Where layers are copied to where there are no overlays.
    pub copies: PathBuf,
    /// Why there are none.
    pub refusal: RefCell<Option<String>>,
}

impl Workshop {
    /// Makes one on top of a directory.
    pub fn attach(place: &OwnedFd, isolation: Isolation) -> Result<Self, Refusal> {
        let tree = Tree::fresh("tmpfs", &[("mode", "0755")], Attributes::MOUNT_ATTR_NOSUID)?;
        tree.attach(place)?;
        // Through the descriptor, which leads below the mount.
        let copies = PathBuf::from(format!("/proc/self/fd/{}/{}", place.as_raw_fd(), plain::COPIES));
        Ok(Self { tree, isolation, copies, refusal: RefCell::default() })
    }

    /// Makes an empty directory and opens it.
    pub fn make_directory(&self, name: &str) -> Result<OwnedFd, Refusal> {
        match mkdirat(&self.tree, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(open_at(&self.tree, name)?),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens what is there now: after something was attached to a directory, that.
    pub fn open(&self, name: &str) -> Result<OwnedFd, Refusal> {
        Ok(open_at(&self.tree, name)?)
    }

    /// Makes a file.
    pub fn write_file(&self, name: &str, content: &[u8], mode: u32, owner: (u32, u32)) -> Result<(), Refusal> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(&self.tree, name, flags, Mode::from_raw_mode(0o600))?;
        std::fs::File::from(file.try_clone()?).write_all(content)?;
        // Where there is one id, its owner is everybody.
        if self.isolation != Isolation::SingleId {
            rustix::fs::fchown(&file, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)))?;
        }
        // After the owner: changing that takes set-id bits away.
        Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o7777))?)
    }

    /// Makes a character device of `/dev`; in a user namespace the one of the host is mounted in its place.
    pub fn make_device(&self, name: &str, major: u32, minor: u32) -> Result<(), Refusal> {
        let device = rustix::fs::makedev(major, minor);
        let mode = Mode::from_raw_mode(0o666);
        if !self.isolation.is_confined() {
            return Ok(mknodat(&self.tree, name, FileType::CharacterDevice, mode, device)?);
        }
        let host = open_at(rustix::fs::CWD, &format!("/dev/{name}"))?;
        let stat = rustix::fs::fstat(&host)?;
        if !FileType::from_raw_mode(stat.st_mode).is_char_device() || stat.st_rdev != device {
            return Err(rustix::io::Errno::NODEV.into());
        }
        mknodat(&self.tree, name, FileType::RegularFile, mode, 0)?;
        Tree::clone_of(host, false)?.attach(self.open(name)?)
    }

    /// Makes a mount of one file. What the workshop itself forbids is forbidden there too.
    pub fn clone_file(&self, name: &str) -> Result<Tree, Refusal> {
        Tree::clone_of(self.open(name)?, false)
    }
}
