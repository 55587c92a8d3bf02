//! What mounts take their content from, opened before anything is mounted.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, fstat, openat, openat2};
use rustix::io::Errno;

use crate::error::{SetupError, reason};
use crate::init::mount::{Attributes, Refusal, Tree, Workshop};
use crate::init::overlay;
use crate::spec::{Mount, MountKind};

/// A source, ready to be mounted.
pub enum Source {
    /// Something in a file system that is mounted.
    Existing {
        /// A handle of it.
        fd: OwnedFd,
        /// Whether it is a directory.
        is_dir: bool,
    },
    /// A tmpfs of this size, to be made.
    Tmpfs(Option<u64>),
}

impl Source {
    /// Says whether the mount point is a directory.
    pub fn is_dir(&self) -> bool {
        match self {
            Self::Existing { is_dir, .. } => *is_dir,
            Self::Tmpfs(_) => true,
        }
    }

    /// Makes the mount.
    pub fn into_tree(self, attributes: Attributes) -> Result<Tree, Refusal> {
        match self {
            Self::Existing { fd, .. } => {
                // What is mounted below the source on the host is not part of it.
                let tree = Tree::clone_of(&fd, false)?;
                tree.restrict(attributes)?;
                Ok(tree)
            }
            Self::Tmpfs(size) => {
                let size = size.filter(|size| *size > 0).map(|size| size.to_string());
                let options: Vec<(&str, &str)> =
                    [("mode", "1777")].into_iter().chain(size.as_deref().map(|size| ("size", size))).collect();
                Tree::fresh("tmpfs", &options, attributes)
            }
        }
    }
}

/// Opens the sources of all mounts, in their order.
pub fn open_all(mounts: &[Mount], workshop: &Workshop) -> Result<Vec<Source>, SetupError> {
    mounts.iter().enumerate().map(|(index, mount)| open(index, mount, workshop)).collect()
}

fn open(index: usize, mount: &Mount, workshop: &Workshop) -> Result<Source, SetupError> {
    let at = |refusal: Refusal| refusal.at(&mount.target);
    match &mount.kind {
        MountKind::Tmpfs { size } => Ok(Source::Tmpfs(*size)),
        MountKind::Bytes { content, uid, gid, mode } => {
            let name = format!("bytes{index}");
            workshop.write_file(&name, &content.0, *mode, (*uid, *gid)).map_err(at)?;
            Ok(Source::Existing { fd: workshop.open(&name).map_err(at)?, is_dir: false })
        }
        MountKind::Directory { path } => Ok(Source::Existing { fd: overlay::open_directory(path)?, is_dir: true }),
        MountKind::Socket { path, uid, gid, mode } => {
            let fd = openat(CWD, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
                .map_err(|error| missing(&path.to_string_lossy(), error))?;
            own(&fd, (*uid, *gid), *mode).map_err(|error| at(error.into()))?;
            Ok(Source::Existing { fd, is_dir: false })
        }
        MountKind::Bind { layers, path, upper } => {
            let mut opened = overlay::open_layers(layers)?;
            let name = format!("tree{index}");
            let tree = match (upper, opened.len()) {
                (None, 0) => workshop.make_directory(&name).map_err(at)?,
                (None, 1) => opened.remove(0),
                (None, _) => overlay::mount(&opened, None, Attributes::empty(), workshop, &name).map_err(at)?,
                (Some((upper, work)), count) => {
                    if count == 0 {
                        opened.push(workshop.make_directory("empty").map_err(at)?);
                    }
                    discarding(&opened, upper, work, workshop, &name)?
                }
            };
            inside(&tree, path)
        }
    }
}

/// Gives what a handle refers to an owner and permissions.
fn own(fd: &OwnedFd, (uid, gid): (u32, u32), mode: u32) -> rustix::io::Result<()> {
    rustix::fs::chownat(fd, "", Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::EMPTY_PATH)?;
    rustix::fs::chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), Mode::from_raw_mode(mode & 0o7777))
}

/// Mounts layers with a writable layer that nobody keeps.
fn discarding(
    layers: &[OwnedFd],
    upper: &Path,
    work: &Path,
    workshop: &Workshop,
    name: &str,
) -> Result<OwnedFd, SetupError> {
    let (upper, work) = (overlay::open_directory(upper)?, overlay::open_directory(work)?);
    let work = overlay::make_directory(&work, crate::stub::OVERLAY)
        .map_err(|error| Refusal::from(error).at("a bind mount's work directory"))?;
    overlay::mount(layers, Some((upper.as_fd(), work.as_fd())), Attributes::empty(), workshop, name)
        .map_err(|refusal| refusal.at("a writable bind mount"))
}

/// Opens the part `path` of a tree; symlinks and `..` stay inside, also while others change the tree.
pub fn inside(tree: &OwnedFd, path: &str) -> Result<Source, SetupError> {
    let path = if path.trim_matches('/').is_empty() { "." } else { path };
    let scope = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let fd = loop {
        match openat2(tree, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), scope) {
            // A rename raced with the lookup; the kernel asks us to look again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => break result.map_err(|error| missing(path, error))?,
        }
    };
    let stat = fstat(&fd).map_err(|error| missing(path, error))?;
    Ok(Source::Existing { is_dir: FileType::from_raw_mode(stat.st_mode).is_dir(), fd })
}

fn missing(path: &str, error: Errno) -> SetupError {
    SetupError::Source { path: path.to_owned(), reason: reason(&error.into()), errno: error.raw_os_error() }
}
