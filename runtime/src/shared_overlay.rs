//! Overlays that several sandboxes have mounted at once.
//!
//! Two overlays over one upper directory corrupt it, so the second user must have the very mount of the first. It stands
//! in a mount namespace that belongs to the thread which runs the first sandbox: it goes with that thread, however it
//! ends, and no mount shows on the host. A second thread visits that namespace, clones the mount, and puts it into its own.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, fstatfs, openat};
use rustix::mount::{MountPropagationFlags, MoveMountFlags, mount_change, move_mount};
use rustix::process::{chroot, fchdir};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::error::{SetupError, reason};
use crate::init::mount::{Attributes, Tree};
use crate::init::overlay::{self, Features};
use crate::isolation::Isolation;
use crate::sys;

/// The kernel's number for overlayfs.
const OVERLAYFS: i64 = 0x794c_7630;

/// A thread with a mount namespace of its own; every sandbox that it runs sees what is mounted there.
#[derive(Debug)]
pub struct OwnMounts {
    process: i32,
    thread: i32,
    isolation: Isolation,
}

impl OwnMounts {
    /// Gives the calling thread a mount namespace of its own, for the rest of its life.
    ///
    /// # Errors
    /// When the kernel refuses: it takes CAP_SYS_ADMIN.
    pub fn leave_host(isolation: Isolation) -> io::Result<Self> {
        sys::unshare(UnshareFlags::NEWNS)?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        let number = |pid: rustix::process::Pid| pid.as_raw_nonzero().get();
        Ok(Self { process: number(rustix::process::getpid()), thread: number(rustix::thread::gettid()), isolation })
    }

    /// Returns the numbers of process and thread, by which others find what is mounted here.
    pub fn owner(&self) -> (i32, i32) {
        (self.process, self.thread)
    }

    /// Mounts an overlay of two directories.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn overlay(&self, lower: &Path, upper: &Path, work: &Path, at: &Path) -> Result<(), SetupError> {
        let (lower, upper) = (overlay::open_directory(lower)?, overlay::open_directory(upper)?);
        let (work, place) = (overlay::open_directory(work)?, overlay::open_directory(at)?);
        let writable = Some((upper.as_fd(), work.as_fd()));
        // Whoever folds it knows what a renamed directory is.
        let how = (self.isolation, Features::Renames);
        let mounted = overlay::mount_on(&[lower], writable, Attributes::empty(), &place, how);
        mounted.map(drop).map_err(|refusal| refusal.at(&at.display().to_string()))
    }

    /// Mounts the overlay here that the thread `(process, thread)` has at the same path.
    ///
    /// # Errors
    /// When that thread is gone, has no overlay there, or when the kernel refuses.
    pub fn join(&self, (process, thread): (i32, i32), at: &Path) -> io::Result<()> {
        let open = |path: &str, flags: OFlags| openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty());
        let ours = open("/proc/thread-self/ns/mnt", OFlags::RDONLY)?;
        let theirs = open(&format!("/proc/{process}/task/{thread}/ns/mnt"), OFlags::RDONLY)?;
        let (root, current) = (open("/", OFlags::PATH)?, open(".", OFlags::PATH)?);
        enter(&theirs)?;
        let cloned = overlay_at(at);
        // Whatever was found there, back to our own; a visit has changed root and directory, too.
        enter(&ours)?;
        fchdir(&root)?;
        chroot(".")?;
        fchdir(&current)?;
        let place = openat(CWD, at, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        Ok(move_mount(cloned?, "", place, "", flags)?)
    }
}

/// Tries whether layers in `directory` can be mounted as an overlay, and returns the kernel's reason where they cannot.
///
/// # Errors
/// When nothing can be written there.
pub fn overlay_refusal(directory: &Path, isolation: Isolation) -> io::Result<Option<String>> {
    let place = directory.join(format!("overlay-{}", std::process::id()));
    fs::create_dir(&place)?;
    let [lower, upper, work, at] = ["lower", "upper", "work", "at"].map(|name| place.join(name));
    let made = [&lower, &upper, &work, &at].into_iter().try_for_each(fs::create_dir);
    // The mount goes with the thread.
    let tried = std::thread::scope(|scope| {
        let mount = || {
            let mounts = OwnMounts::leave_host(isolation).map_err(|error| reason(&error))?;
            mounts.overlay(&lower, &upper, &work, &at).map_err(|error| error.to_string())
        };
        scope.spawn(mount).join().unwrap_or_else(|_| Err("the thread ended early".to_owned()))
    });
    fs::remove_dir_all(&place)?;
    made.map(|()| tried.err())
}

fn enter(namespace: &OwnedFd) -> rustix::io::Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))
}

fn overlay_at(at: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = openat(CWD, at, flags, Mode::empty())?;
    if fstatfs(&found)?.f_type != OVERLAYFS {
        return Err(io::ErrorKind::NotFound.into());
    }
    Tree::clone_of(&found, false).map(Tree::into_fd).map_err(|refusal| io::Error::from_raw_os_error(refusal.errno()))
}
