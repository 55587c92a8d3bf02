//! Stacks of layers as one mount. The only place where a root file system is put together.
//!
//! Layers are handed to the kernel as `/proc/self/fd/N`: short enough for a hundred of them in the single page that kernels
//! before 6.8 want, free of the characters that need escaping, and nothing of the host's paths shows in the
//! sandbox's mount table.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, fstat, mkdirat, openat};
use rustix::mount::MountFlags;

use crate::error::{Doing, SetupError};
use crate::init::mount::{Attributes, Context, Refusal, Tree, Workshop};
use crate::isolation::Isolation;
use crate::plain;

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// What the overlay may do beside what layers can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Features {
    /// Nothing.
    None,
    /// Rename directories that come from below, where it can: not with [`USER_MARKS`].
    Renames,
}

impl Features {
    /// Returns the settings. A kernel that does not know one has it off.
    fn settings(self, isolation: Isolation) -> [(&'static str, &'static str); 3] {
        let renames = if self == Self::Renames && !isolation.is_confined() { "on" } else { "nofollow" };
        [("redirect_dir", renames), ("metacopy", "off"), ("index", "off")]
    }
}

/// Makes the overlay's marks attributes of users, as they must be in a user namespace. There the kernel would mount without,
/// too, and then fail to delete what lies below.
const USER_MARKS: &str = "userxattr";

/// Opens a directory of the host.
pub fn open_directory(path: &Path) -> Result<OwnedFd, SetupError> {
    openat(CWD, path, DIRECTORY, Mode::empty()).doing(|| format!("open {}", path.display()))
}

/// Makes a directory and opens it.
pub fn make_directory(parent: &OwnedFd, name: &str) -> rustix::io::Result<OwnedFd> {
    mkdirat(parent, name, Mode::from_raw_mode(0o700))?;
    openat(parent, name, DIRECTORY, Mode::empty())
}

/// Opens layers, top first.
///
/// Of a directory that occurs more than once only the highest occurrence is kept, since the kernel takes each only once:
/// everything that a lower one could add is already there from the higher.
pub fn open_layers(paths: &[PathBuf]) -> Result<Vec<OwnedFd>, SetupError> {
    let mut layers = Vec::with_capacity(paths.len() + 1);
    let mut seen = std::collections::HashSet::with_capacity(paths.len());
    for path in paths {
        let layer = open_directory(path)?;
        let stat = fstat(&layer).doing(|| format!("look at {}", path.display()))?;
        if seen.insert((stat.st_dev, stat.st_ino)) {
            layers.push(layer);
        }
    }
    Ok(layers)
}

/// Mounts layers, top first, at `name` in the workshop and returns the root. With a writable pair (upper, work) changes go
/// to upper; without, at least two layers are needed and nothing can be changed.
pub fn mount(
    layers: &[OwnedFd],
    writable: Option<(BorrowedFd<'_>, BorrowedFd<'_>)>,
    attributes: Attributes,
    workshop: &Workshop,
    name: &str,
) -> Result<OwnedFd, Refusal> {
    let place = workshop.make_directory(name)?;
    match mount_on(layers, writable, attributes, &place, (workshop.isolation, Features::None)) {
        Ok(Some(root)) => Ok(root),
        Ok(None) => workshop.open(name),
        Err(refusal) => copied(layers, attributes, workshop, name, &place, &refusal),
    }
}

/// Mounts a copy of the layers where the kernel refuses to stack them.
fn copied(
    layers: &[OwnedFd],
    attributes: Attributes,
    workshop: &Workshop,
    name: &str,
    place: &OwnedFd,
    refusal: &Refusal,
) -> Result<OwnedFd, Refusal> {
    *workshop.refusal.borrow_mut() = Some(refusal.reason().to_owned());
    let layers: Vec<PathBuf> = layers.iter().map(|layer| PathBuf::from(path(layer))).collect();
    let copy = plain::assemble(&layers, &workshop.copies, name)?;
    let tree = Tree::clone_of(openat(CWD, &copy, DIRECTORY, Mode::empty())?, false)?;
    tree.restrict(attributes)?;
    tree.attach(place)?;
    Ok(tree.into_fd())
}

/// Mounts layers on a directory, as [`mount`]. Returns the root; `None` where it must be opened anew by its path.
pub fn mount_on(
    layers: &[OwnedFd],
    writable: Option<(BorrowedFd<'_>, BorrowedFd<'_>)>,
    attributes: Attributes,
    place: &OwnedFd,
    (isolation, features): (Isolation, Features),
) -> Result<Option<OwnedFd>, Refusal> {
    match modern(layers, writable, attributes, (isolation, features)) {
        Ok(tree) => {
            tree.attach(place)?;
            Ok(Some(tree.into_fd()))
        }
        Err(Unsuitable::Old) => legacy(layers, writable, attributes, place, (isolation, features)).map(|()| None),
        Err(Unsuitable::Refused(refusal)) => Err(refusal),
    }
}

enum Unsuitable {
    Old,
    Refused(Refusal),
}

impl From<Refusal> for Unsuitable {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

fn path(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

fn modern(
    layers: &[OwnedFd],
    writable: Option<(BorrowedFd<'_>, BorrowedFd<'_>)>,
    attributes: Attributes,
    (isolation, features): (Isolation, Features),
) -> Result<Tree, Unsuitable> {
    let context = Context::open("overlay")?;
    context.set("source", "overlay")?;
    for (index, layer) in layers.iter().enumerate() {
        match context.set("lowerdir+", &path(layer)) {
            Err(refusal) if index == 0 && refusal.errno() == libc::EINVAL => return Err(Unsuitable::Old),
            result => result?,
        }
    }
    for (key, value) in features.settings(isolation) {
        // Refused only where unknown.
        let _ = context.set(key, value);
    }
    if isolation.is_confined() {
        context.set_flag(USER_MARKS)?;
    }
    if let Some((upper, work)) = writable {
        context.set("upperdir", &path(upper))?;
        context.set("workdir", &path(work))?;
        // No flushing: what a crash leaves is thrown away with the run.
        let _ = context.set_flag("volatile");
    }
    Ok(context.mount(attributes)?)
}

fn legacy(
    layers: &[OwnedFd],
    writable: Option<(BorrowedFd<'_>, BorrowedFd<'_>)>,
    attributes: Attributes,
    place: &OwnedFd,
    (isolation, features): (Isolation, Features),
) -> Result<(), Refusal> {
    let lowers: Vec<String> = layers.iter().map(path).collect();
    let mut options = format!("lowerdir={}", lowers.join(":"));
    if let Some((upper, work)) = writable {
        options.push_str(&format!(",upperdir={},workdir={}", path(upper), path(work)));
    }
    if isolation.is_confined() {
        options.push_str(&format!(",{USER_MARKS}"));
    }
    let flags = if attributes.contains(Attributes::MOUNT_ATTR_NODEV) { MountFlags::NODEV } else { MountFlags::empty() };
    let mount = |more: &str| {
        let options = std::ffi::CString::new(format!("{options}{more}")).map_err(|_| rustix::io::Errno::INVAL)?;
        rustix::mount::mount("overlay", path(place), "overlay", flags, &*options)
    };
    let volatile = if writable.is_some() { ",volatile" } else { "" };
    let [(redirect, value), metacopy, index] = features.settings(isolation);
    mount(&format!(",{redirect}={value},{}={},{}={}{volatile}", metacopy.0, metacopy.1, index.0, index.1))
        .or_else(|_| mount(&format!(",{redirect}={value},{}={}", index.0, index.1)))
        .or_else(|_| mount(""))
        .map_err(Refusal::from)
}
