//! The weakest sandbox, for where the kernel grants neither mounts nor namespaces: another root directory.
//!
//! The layers are copied, and what would be mounted is copied into that copy as a [`Cover`]. What cannot be had that way is
//! refused, or said.

use std::cell::RefCell;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, fchown, fstat, utimensat};
use rustix::thread::{CapabilitySet, set_no_new_privs};

use crate::cgroup::Group;
use crate::cover::Cover;
use crate::error::{Doing, SetupError, reason};
use crate::init::pty::Pty;
use crate::init::source::Source;
use crate::init::user::{self, Identity};
use crate::init::walk::{Missing, walk};
use crate::init::{child, devices, environment, overlay, privilege, source};
use crate::plain;
use crate::spec::{Mount, MountKind, Network, Security, Spec};
use crate::stub::{self, KEPT};
use crate::wire::{self, Message, Plan, Stub};

/// The kernel's number for tmpfs.
const TMPFS: i64 = 0x0102_1994;

/// Makes this process one in another root directory, without rights that would lead out; returns its environment.
pub fn build(socket: &UnixStream, plan: &Plan, group: &Group) -> Result<Vec<String>, SetupError> {
    let spec = &plan.spec;
    refuse(spec)?;
    child::start_session()?;
    let terminal = plan.at_terminal.then(Pty::of_the_host).transpose()?;
    rustix::process::umask(Mode::empty());
    let are_devices_judged = group.join();
    if let Network::Private { namespace, .. } = &spec.network {
        child::join_network(namespace)?;
    }
    let copies = spec.root.work.join(plain::COPIES);
    let copy = plain::copy_layers(&spec.root.lowers, &copies, plain::ROOT).doing(|| "copy the layers".to_owned())?;
    let root = overlay::open_directory(&copy)?;
    let files = user::Files::read(&root);
    let identity = files.resolve(&spec.user)?;
    let home = files.home(identity.uid);
    let kept = keep(&root, spec, &identity)?;

    let room = Room { root, copies, spec, covers: RefCell::default(), lacks: RefCell::default() };
    room.cover_all(plan)?;
    let cwd = child::working_directory(&room.root, spec, (0, 0))?;
    // From here on what changes is the command's: the mark is made when the builder has changed all that it had to.
    plain::finish(&room.copies).doing(|| "mark the copy".to_owned())?;
    for directory in &kept {
        touch(directory).doing(|| "keep a directory".to_owned())?;
    }
    // A warning that nobody hears harms nobody, and the covers of a socket that is closed nobody collects.
    for lack in room.lacks.take() {
        let _ = wire::send(socket, &Message::Warning(lack));
    }
    for cover in room.covers.take() {
        let _ = wire::send(socket, &Message::Cover(cover));
    }
    rustix::process::fchdir(&room.root).doing(|| "enter the root directory".to_owned())?;
    rustix::process::chroot(".").doing(|| "change the root directory".to_owned())?;
    rustix::process::fchdir(&cwd).doing(|| format!("enter {}", spec.cwd))?;
    drop((room, cwd, kept));
    if spec.security == Security::Sandbox {
        // Without namespaces the first leads out of the root, and the second to the disks of the host.
        let mut leads_out = CapabilitySet::SYS_CHROOT;
        if !are_devices_judged {
            leads_out |= CapabilitySet::MKNOD;
        }
        privilege::withhold(leads_out)?;
        set_no_new_privs(true).doing(|| "set no_new_privs".to_owned())?;
    }
    let environment = environment::complete(&spec.env, &home);
    child::give_up_rights(socket, plan, &identity, terminal)?;
    Ok(environment)
}

/// Fails for what cannot be done well here.
fn refuse(spec: &Spec) -> Result<(), SetupError> {
    let unable = |what: &str, why: &str| {
        let reason = format!("isolation `chroot` has no mounts and no namespaces: {why}");
        Err(SetupError::System { what: what.to_owned(), reason, errno: libc::EPERM })
    };
    if spec.network == Network::None {
        return unable("cut the command off the network", "it would see the host's");
    }
    if spec.emulator.as_ref().is_some_and(|emulator| emulator.program.is_some()) {
        return unable("register an emulator", "register it for the whole machine (Debian: package qemu-user-binfmt)");
    }
    let is_memory = rustix::fs::statfs(&spec.root.work).is_ok_and(|found| found.f_type == TMPFS);
    for mount in &spec.mounts {
        let target = &mount.target;
        match &mount.kind {
            MountKind::Bytes { .. } if !is_memory => {
                return unable(
                    &format!("put a secret at {target}"),
                    "it would be written to a disk; put the state into memory (KILN_ROOT in /dev/shm), or give it as a variable (`env=`)",
                );
            }
            MountKind::Socket { .. } => return unable(&format!("put a socket at {target}"), "it cannot be copied"),
            _ => {}
        }
        let path = stub::clean(target);
        let is_around =
            |other: &&Mount| stub::clean(&other.target) != path && stub::clean(&other.target).starts_with(&path);
        if is_written_back(mount)
            && let Some(inner) = spec.mounts.iter().find(is_around)
        {
            return unable(
                &format!("put a mount at {}", inner.target),
                &format!("it would get into the cache mount at {target}"),
            );
        }
    }
    Ok(())
}

/// Says whether what is written to a mount lasts.
fn is_written_back(mount: &Mount) -> bool {
    !mount.read_only && matches!(mount.kind, MountKind::Directory { .. } | MountKind::Bind { upper: None, .. })
}

/// Makes the directories that stay in the layer where they are missing, and returns those.
fn keep(root: &OwnedFd, spec: &Spec, identity: &Identity) -> Result<Vec<OwnedFd>, SetupError> {
    let mut made = Vec::new();
    let mut make = |path: &str, owner| -> Result<(), SetupError> {
        let is_new = walk(root, path, Missing::Fail).is_err();
        let found = walk(root, path, Missing::Make { owner })
            .map_err(|error| SetupError::WorkingDirectory { path: path.to_owned(), reason: reason(&error) })?;
        if is_new {
            made.push(found);
        }
        Ok(())
    };
    for (end, _) in spec.cwd.match_indices('/').skip(1).chain([(spec.cwd.len(), "")]) {
        make(&spec.cwd[..end], (identity.uid, identity.gid))?;
    }
    for name in KEPT {
        make(&format!("/{name}"), (0, 0))?;
    }
    Ok(made)
}

/// Gives a directory a younger change time.
fn touch(directory: &OwnedFd) -> io::Result<()> {
    let mode = fstat(directory)?.st_mode & 0o7777;
    Ok(rustix::fs::chmod(link(directory), Mode::from_raw_mode(mode))?)
}

fn link(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// What a mount would show.
enum Content {
    /// A file or directory that is there.
    Existing { source: PathBuf, home: Option<PathBuf> },
    /// An empty directory for everybody.
    Empty,
    /// A file with this content, owner and mode.
    File { bytes: Vec<u8>, owner: (u32, u32), mode: u32 },
}

impl Content {
    fn is_dir(&self) -> bool {
        match self {
            Self::Existing { source, .. } => source.is_dir(),
            Self::Empty => true,
            Self::File { .. } => false,
        }
    }
}

/// The copy while it is furnished.
struct Room<'a> {
    root: OwnedFd,
    copies: PathBuf,
    spec: &'a Spec,
    covers: RefCell<Vec<Cover>>,
    /// What is less than it should be.
    lacks: RefCell<Vec<String>>,
}

impl Room<'_> {
    fn cover_all(&self, plan: &Plan) -> Result<(), SetupError> {
        let mounts = &self.spec.mounts;
        let contents: Vec<Content> =
            mounts.iter().enumerate().map(|(index, mount)| self.content(index, mount)).collect::<Result<_, _>>()?;
        self.devices()?;
        for (path, text) in [("/etc/hosts", &plan.hosts), ("/etc/resolv.conf", &plan.resolv)] {
            self.cover(path, Content::File { bytes: text.clone().into_bytes(), owner: (0, 0), mode: 0o644 })?;
        }
        for (index, content) in child::ordered(mounts, contents) {
            self.cover(&mounts[index].target, content)?;
        }
        let lack = |text: &str| self.lacks.borrow_mut().push(text.to_owned());
        lack(
            "isolation `chroot`: /proc and /sys are empty, and the command shares processes and network with the host",
        );
        if mounts.iter().any(|mount| mount.read_only && !matches!(mount.kind, MountKind::Bytes { .. })) {
            lack("isolation `chroot`: read-only mounts are copies; what is written to them is lost instead of refused");
        }
        if mounts.iter().any(|mount| matches!(mount.kind, MountKind::Tmpfs { .. })) {
            lack("isolation `chroot`: tmpfs mounts are directories on disk without a limit, deleted after the command");
        }
        Ok(())
    }

    /// Empties `/dev` and makes the nodes in it that can be had.
    fn devices(&self) -> Result<(), SetupError> {
        let place = walk(&self.root, "/dev", Missing::Fail).doing(|| "open /dev".to_owned())?;
        // A /dev that is something else is the image's own affair.
        if place_of(&place)?.strip_prefix(place_of(&self.root)?) != Ok(Path::new("dev")) {
            return Ok(());
        }
        let time = fstat(&place).doing(|| "look at /dev".to_owned())?;
        for name in ["/dev", "/proc", "/sys"] {
            let Ok(directory) = walk(&self.root, name, Missing::Fail) else { continue };
            if place_of(&directory)?.parent() == Some(&place_of(&self.root)?) {
                clear(Path::new(&link(&directory))).doing(|| format!("empty {name}"))?;
            }
        }
        let missing = devices::make_nodes(&place);
        if !missing.is_empty() {
            self.lacks
                .borrow_mut()
                .push(format!("isolation `chroot`: the host refuses the devices {}", missing.join(", ")));
        }
        let shm = Path::new(&link(&place)).join("shm");
        let made = fs::create_dir(&shm).and_then(|()| fs::set_permissions(&shm, Permissions::from_mode(0o1777)));
        made.doing(|| "make /dev/shm".to_owned())?;
        set_time(&place, "", (time.st_mtime, time.st_mtime_nsec as i64)).doing(|| "restore the time of /dev".to_owned())
    }

    fn content(&self, index: usize, mount: &Mount) -> Result<Content, SetupError> {
        let existing = |fd: &OwnedFd| -> Result<Content, SetupError> {
            let source = place_of(fd)?;
            let home = Some(source.clone()).filter(|_| is_written_back(mount) && source.is_dir());
            Ok(Content::Existing { source, home })
        };
        match &mount.kind {
            MountKind::Tmpfs { .. } | MountKind::Socket { .. } => Ok(Content::Empty),
            MountKind::Bytes { content, uid, gid, mode } => {
                Ok(Content::File { bytes: content.0.clone(), owner: (*uid, *gid), mode: *mode })
            }
            MountKind::Directory { path } => existing(&overlay::open_directory(path)?),
            MountKind::Bind { layers, path, .. } => {
                let tree = match &layers[..] {
                    [layer] => overlay::open_directory(layer)?,
                    layers => {
                        let copied = plain::copy_layers(layers, &self.copies, &format!("tree{index}"));
                        overlay::open_directory(&copied.doing(|| format!("copy the mount {}", mount.target))?)?
                    }
                };
                match source::inside(&tree, path)? {
                    Source::Existing { fd, .. } => existing(&fd),
                    Source::Tmpfs(_) => Ok(Content::Empty),
                }
            }
        }
    }

    /// Puts something where a mount would be.
    fn cover(&self, target: &str, content: Content) -> Result<(), SetupError> {
        let failed = |error: io::Error| SetupError::Mount {
            target: target.to_owned(),
            reason: reason(&error),
            errno: error.raw_os_error().unwrap_or(0),
        };
        let is_dir = content.is_dir();
        let stubs: RefCell<Vec<Stub>> = RefCell::default();
        let report = |stub: Stub| stubs.borrow_mut().push(stub);
        let place = walk(&self.root, target, Missing::Stub { is_dir, report: &report }).map_err(failed)?;
        child::same_kind(&place, is_dir, target)?;
        let path = place_of(&place)?;
        let inside = path.strip_prefix(place_of(&self.root)?).map(Path::to_owned).unwrap_or_default();
        let Some(parent) = path.parent().filter(|_| !inside.as_os_str().is_empty()) else {
            return Err(failed(io::Error::from_raw_os_error(libc::EBUSY)));
        };
        let time = fs::metadata(parent).map_err(failed)?;
        let home = fill(&path, content).map_err(failed)?;
        plain::set_time(parent, &time).map_err(failed)?;
        for Stub { parent, before, .. } in stubs.take().into_iter().rev() {
            set_time(&self.root, &parent, before).map_err(|error| failed(error.into()))?;
        }
        self.covers.borrow_mut().push(Cover { path: inside, home });
        Ok(())
    }
}

/// Replaces what is at a path; returns where it goes back to.
fn fill(path: &Path, content: Content) -> io::Result<Option<PathBuf>> {
    let is_dir = content.is_dir();
    if is_dir {
        clear(path)?;
    } else {
        fs::remove_file(path)?;
    }
    match content {
        Content::Empty => {
            chown(path, Some(0), Some(0))?;
            fs::set_permissions(path, Permissions::from_mode(0o1777))?;
            Ok(None)
        }
        Content::Existing { source, home } => {
            if is_dir {
                plain::copy_into(&[source], path)?;
            } else {
                plain::copy(&source, &fs::metadata(&source)?, path)?;
            }
            Ok(home)
        }
        Content::File { bytes, owner: (uid, gid), mode } => {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(&bytes)?;
            fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
            file.set_permissions(Permissions::from_mode(mode & 0o7777))?;
            Ok(None)
        }
    }
}

/// Takes away all that is in a directory.
fn clear(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
    }
    Ok(())
}

/// Returns where a handle leads, without symlinks.
fn place_of(fd: &OwnedFd) -> Result<PathBuf, SetupError> {
    fs::read_link(link(fd)).doing(|| "find a place in the copy".to_owned())
}

fn set_time(root: &OwnedFd, path: &str, (tv_sec, tv_nsec): (i64, i64)) -> rustix::io::Result<()> {
    let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ };
    let last_modification = Timespec { tv_sec, tv_nsec: tv_nsec as _ };
    let path = format!("{}/{path}", link(root));
    utimensat(rustix::fs::CWD, path, &Timestamps { last_access, last_modification }, AtFlags::empty())
}
