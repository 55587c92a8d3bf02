//! `/proc` and `/sys` of the sandbox, and the parts of them that it must not see or change.
//!
//! Masks are mounts of our own null device and of an empty directory, never of anything in the image (CVE-2025-31133), and
//! their places are found in the very file systems that were mounted just now (CVE-2025-52881).

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};

use crate::cgroup;
use crate::error::SetupError;
use crate::init::devices::NULL;
use crate::init::mount::{Attributes, Refusal, Tree, Workshop};
use crate::init::walk::{Missing, walk};
use crate::spec::Security;

const QUIET: Attributes =
    Attributes::MOUNT_ATTR_NOSUID.union(Attributes::MOUNT_ATTR_NODEV).union(Attributes::MOUNT_ATTR_NOEXEC);

/// Below `/proc`: what is not shown.
const MASKED: [&str; 9] =
    ["acpi", "asound", "kcore", "keys", "latency_stats", "sched_debug", "scsi", "timer_list", "timer_stats"];

/// Below `/sys`: what is not shown.
const MASKED_SYS: [&str; 2] = ["firmware", "devices/virtual/powercap"];

/// Below `/proc`: what cannot be changed.
const READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

const CGROUPS: &str = "/sys/fs/cgroup";

/// Opens a directory of the root for a mount of the kernel's; one that the image lacks is made and stays in the layer.
pub fn directory(root: &OwnedFd, path: &str) -> Result<OwnedFd, SetupError> {
    walk(root, path, Missing::Make { owner: (0, 0) }).map_err(|error| Refusal::from(error).at(path))
}

/// Mounts `/proc` and returns its root.
pub fn mount_proc(root: &OwnedFd) -> Result<Tree, SetupError> {
    let at = |refusal: Refusal| refusal.at("/proc");
    let proc = Tree::fresh("proc", &[], QUIET).map_err(at)?;
    proc.attach(directory(root, "/proc")?).map_err(at)?;
    Ok(proc)
}

/// Mounts `/sys` with the cgroups, read-only unless insecure.
pub fn mount_sys(root: &OwnedFd, security: Security) -> Result<(), SetupError> {
    let at = |refusal: Refusal| refusal.at("/sys");
    let mut attributes = QUIET;
    if security == Security::Sandbox {
        attributes |= Attributes::MOUNT_ATTR_RDONLY;
    }
    let sys = match Tree::fresh("sysfs", &[], attributes) {
        // In a user namespace the host's network comes with the host's view of devices.
        Err(refusal) if refusal.errno() == libc::EPERM => {
            let tree = host_sys(attributes).map_err(at)?;
            return tree.attach(directory(root, "/sys")?).map_err(at);
        }
        result => result.map_err(at)?,
    };
    sys.attach(directory(root, "/sys")?).map_err(at)?;
    // A host without cgroups, or one that does not let us, has none to show.
    let _ = mount_cgroups(&sys, attributes);
    Ok(())
}

/// The host's own `/sys`, with all that is mounted in it.
fn host_sys(attributes: Attributes) -> Result<Tree, Refusal> {
    let host = openat2(CWD, "/sys", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
    let tree = Tree::clone_of(&host, true)?;
    tree.restrict_all(attributes)?;
    Ok(tree)
}

fn mount_cgroups(sys: &Tree, attributes: Attributes) -> Result<(), Refusal> {
    let Some(place) = inside(sys, "fs/cgroup") else { return Ok(()) };
    if cgroup::is_unified() {
        return Tree::fresh("cgroup2", &[], attributes)?.attach(place);
    }
    // Version 1: one mount per controller, as the host has them.
    let host = openat2(CWD, CGROUPS, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
    let tree = Tree::clone_of(&host, true)?;
    tree.restrict_all(attributes)?;
    tree.attach(place)
}

/// Hides and protects what Docker hides and protects.
pub fn mask(root: &OwnedFd, proc: &Tree, workshop: &Workshop) -> Result<(), SetupError> {
    for name in READ_ONLY {
        let Some(place) = inside(proc, name) else { continue };
        Tree::clone_of(&place, false)
            .and_then(|tree| tree.restrict(QUIET | Attributes::MOUNT_ATTR_RDONLY).map(|()| tree))
            .and_then(|tree| tree.attach(&place))
            .map_err(|refusal| refusal.at(&format!("/proc/{name}")))?;
    }
    for name in MASKED {
        hide(proc, name, workshop).map_err(|refusal| refusal.at(&format!("/proc/{name}")))?;
    }
    let sys = walk(root, "/sys", Missing::Fail).map_err(|error| Refusal::from(error).at("/sys"))?;
    for name in MASKED_SYS {
        hide(&sys, name, workshop).map_err(|refusal| refusal.at(&format!("/sys/{name}")))?;
    }
    Ok(())
}

fn hide(tree: impl AsFd, name: &str, workshop: &Workshop) -> Result<(), Refusal> {
    let Some(place) = inside(tree, name) else { return Ok(()) };
    let mask = if FileType::from_raw_mode(fstat(&place)?.st_mode).is_dir() {
        let empty = Tree::clone_of(workshop.make_directory("empty")?, false)?;
        empty.restrict(QUIET | Attributes::MOUNT_ATTR_RDONLY)?;
        empty
    } else {
        workshop.clone_file(NULL)?
    };
    mask.attach(place)
}

/// Opens a path of one file system of the kernel's, which has no symlinks there; none where the kernel lacks it.
fn inside(tree: impl AsFd, path: &str) -> Option<OwnedFd> {
    let scope = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    openat2(tree, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), scope).ok()
}
