//! The process that builds the sandbox around itself and becomes the command.
//!
//! The order is the contract: sources are opened and judged before anything of the image is looked at; the user and the
//! working directory are found in the image itself, before anything is mounted on it; rights are given up last.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::cgroup::{self, Group};
use crate::error::{Doing, SetupError, reason};
use crate::init::mount::{Attributes, Refusal, Workshop};
use crate::init::pty::Pty;
use crate::init::source::Source;
use crate::init::user::Identity;
use crate::init::walk::{Missing, walk};
use crate::init::{
    answer, chroot, devices, emulate, environment, exec, kernel_files, mount, overlay, privilege, source, user,
};
use crate::isolation::Isolation;
use crate::spec::{Mount, MountKind, Network, Security, Spec};
use crate::wire::{self, Message, Plan, Stub};
use crate::{plain, stub, sys};

/// Builds the sandbox and becomes the command; returns only what prevented it.
pub fn run(socket: &UnixStream, plan: Plan, group: &Group, door: Option<&UnixStream>) -> SetupError {
    let built = match plan.spec.isolation {
        Isolation::Chroot => chroot::build(socket, &plan, group),
        _ => build(socket, &plan, group, door),
    };
    match built {
        Ok(environment) => exec::exec(&plan.spec.args, &environment),
        Err(error) => error,
    }
}

fn build(
    socket: &UnixStream,
    plan: &Plan,
    group: &Group,
    door: Option<&UnixStream>,
) -> Result<Vec<String>, SetupError> {
    let spec = &plan.spec;
    start_session()?;
    rustix::process::umask(Mode::empty());
    // Before the namespace of cgroups, whose top will be the group.
    // In a user namespace nobody can make devices, neither now nor before.
    let devices = match group.join() || spec.security == Security::Insecure || spec.isolation.is_confined() {
        true => Attributes::empty(),
        false => Attributes::MOUNT_ATTR_NODEV,
    };
    leave_namespaces(spec)?;

    let emulator = match &spec.emulator {
        Some(emulator) => emulate::open(emulator)?.map(|program| (emulator, program)),
        None => None,
    };
    let place = Place::open(spec)?;
    let sources = source::open_all(&spec.mounts, &place.workshop)?;
    let root = place.mount_root(spec, &sources, devices)?;
    let report = |stub: Stub| {
        // An unreported stub would stay in the layer; a closed socket means that there will be none.
        let _ = wire::send(socket, &Message::Stub(stub));
    };

    let files = user::Files::read(&root);
    let identity = files.resolve(&spec.user)?;
    let home = files.home(identity.uid);
    let owner = (identity.uid, identity.gid);
    working_directory(&root, spec, owner)?;

    mount_kernel(&root, plan, &place.workshop, devices)?;
    let terminal = plan.at_terminal.then(|| Pty::open(&root)).transpose()?;
    for (path, name) in [("/etc/hosts", "hosts"), ("/etc/resolv.conf", "resolv.conf")] {
        let file = place.workshop.clone_file(name).map_err(|refusal| refusal.at(path))?;
        file.restrict(
            Attributes::MOUNT_ATTR_RDONLY
                | Attributes::MOUNT_ATTR_NOSUID
                | Attributes::MOUNT_ATTR_NODEV
                | Attributes::MOUNT_ATTR_NOEXEC,
        )
        .map_err(|refusal| refusal.at(path))?;
        attach(&root, path, file, false, &report)?;
    }
    for (index, source) in ordered(&spec.mounts, sources) {
        mount_one(&root, &spec.mounts[index], source, devices, &report)?;
    }

    // Mounts may have covered it.
    let cwd = working_directory(&root, spec, (0, 0))?;
    enter(&root)?;
    rustix::process::fchdir(&cwd).map_err(|error| bad_directory(spec, &error.into()))?;
    // A directory that was reached through a leaked descriptor would lie outside (CVE-2024-21626).
    let seen = rustix::process::getcwd(Vec::new()).map_err(|error| bad_directory(spec, &error.into()))?;
    if !seen.as_bytes().starts_with(b"/") {
        return Err(bad_directory(spec, &Errno::XDEV.into()));
    }
    // The directory that mirrors what the command changes: a copy is its own mirror.
    let changes = match place.workshop.refusal.take() {
        Some(reason) => {
            let text =
                format!("layers are copied, which takes time and room: the kernel refuses an overlay ({reason})");
            // A warning that nobody hears harms nobody.
            let _ = wire::send(socket, &Message::Warning(text));
            root
        }
        None => place.upper,
    };
    drop((cwd, place.work, place.overlay, place.workshop));
    if let Some((emulator, program)) = &emulator {
        emulate::register(emulator, program, spec.isolation)?;
    }
    let environment = environment::complete(&spec.env, &home);
    if let (Some(door), Some(filter)) = (door, &plan.answers) {
        answer::hand_over(door, filter, &changes, &identity)?;
        // What it makes anew belongs to it; a socket that is closed has nobody to know.
        let _ = wire::send(socket, &Message::Identity(identity.uid, identity.gid));
    }
    drop(changes);
    give_up_rights(socket, plan, &identity, terminal)?;
    Ok(environment)
}

/// Ties this process to its parent, and gives it a session of its own.
pub fn start_session() -> Result<(), SetupError> {
    // Should the helper be killed, this goes with it.
    set_parent_process_death_signal(Some(Signal::KILL)).doing(|| "tie the command to its parent".to_owned())?;
    // No controlling terminal: nothing can be typed into the user's.
    rustix::process::setsid().doing(|| "start a session".to_owned()).map(drop)
}

fn leave_namespaces(spec: &Spec) -> Result<(), SetupError> {
    let mut flags = UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    match &spec.network {
        Network::Host => {}
        Network::None => flags |= UnshareFlags::NEWNET,
        Network::Private { namespace, .. } => join_network(namespace)?,
    }
    if cgroup::is_unified() {
        flags |= UnshareFlags::NEWCGROUP;
    }
    sys::unshare(flags).doing(|| "make the sandbox's namespaces".to_owned())?;
    // From here on no mount of ours shows outside, and none from outside shows up here.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .doing(|| "make mounts private".to_owned())?;
    rustix::system::sethostname(spec.hostname.as_bytes()).doing(|| format!("set the hostname {:?}", spec.hostname))?;
    if spec.network == Network::None {
        sys::loopback_up().doing(|| "switch the loopback device on".to_owned())?;
    }
    Ok(())
}

/// Moves into a network namespace.
pub fn join_network(path: &Path) -> Result<(), SetupError> {
    let namespace = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .doing(|| "open the private network".to_owned())?;
    let kind = Some(LinkNameSpaceType::Network);
    move_into_link_name_space(namespace.as_fd(), kind).doing(|| "enter the private network".to_owned())
}

/// The directories of the root file system, opened, and the workshop.
struct Place {
    upper: OwnedFd,
    work: OwnedFd,
    overlay: OwnedFd,
    workshop: Workshop,
}

impl Place {
    fn open(spec: &Spec) -> Result<Self, SetupError> {
        let root = &spec.root;
        let upper = overlay::open_directory(&root.upper)?;
        let work = overlay::open_directory(&root.work)?;
        let overlay = overlay::make_directory(&work, stub::OVERLAY)
            .doing(|| format!("make {}/{}", root.work.display(), stub::OVERLAY))?;
        // Covering the work directory is as good a place as any: it is ours, and only this namespace sees it.
        let workshop = Workshop::attach(&work, spec.isolation).map_err(|refusal| refusal.at("a workshop"))?;
        Ok(Self { upper, work, overlay, workshop })
    }

    /// Mounts the root file system, with the mount points that it lacks as its lowest layer.
    fn mount_root(&self, spec: &Spec, sources: &[Source], attributes: Attributes) -> Result<OwnedFd, SetupError> {
        let planted = PathBuf::from(format!("/proc/self/fd/{}/{}", self.work.as_raw_fd(), stub::PLANTED));
        let files = [("/etc/hosts", false), ("/etc/resolv.conf", false)].into_iter();
        let mounts = spec.mounts.iter().zip(sources).map(|(mount, source)| (&*mount.target, source.is_dir()));
        stub::plant(&planted, files.chain(mounts), &spec.cwd, &spec.root.lowers)
            .doing(|| "make the mount points' layer".to_owned())?;
        let mut layers = overlay::open_layers(&spec.root.lowers)?;
        layers.push(overlay::open_directory(&planted)?);
        let writable = Some((self.upper.as_fd(), self.overlay.as_fd()));
        overlay::mount(&layers, writable, attributes, &self.workshop, plain::ROOT).map_err(|refusal| refusal.at("/"))
    }
}

/// Opens the working directory; what of it is missing is made for `owner`.
pub fn working_directory(root: &OwnedFd, spec: &Spec, owner: (u32, u32)) -> Result<OwnedFd, SetupError> {
    walk(root, &spec.cwd, Missing::Make { owner }).map_err(|error| bad_directory(spec, &error))
}

fn bad_directory(spec: &Spec, error: &std::io::Error) -> SetupError {
    SetupError::WorkingDirectory { path: spec.cwd.clone(), reason: reason(error) }
}

fn mount_kernel(root: &OwnedFd, plan: &Plan, workshop: &Workshop, devices: Attributes) -> Result<(), SetupError> {
    workshop.write_file("hosts", plan.hosts.as_bytes(), 0o644, (0, 0)).map_err(|refusal| refusal.at("/etc/hosts"))?;
    workshop
        .write_file("resolv.conf", plan.resolv.as_bytes(), 0o644, (0, 0))
        .map_err(|refusal| refusal.at("/etc/resolv.conf"))?;
    let proc = kernel_files::mount_proc(root)?;
    devices::mount(root, &plan.spec, workshop, devices)?;
    kernel_files::mount_sys(root, plan.spec.security)?;
    if plan.spec.security == Security::Sandbox {
        kernel_files::mask(root, &proc, workshop)?;
    }
    Ok(())
}

/// Returns the mounts in the order of their targets; of equal targets only the last.
pub fn ordered<T>(mounts: &[Mount], sources: Vec<T>) -> Vec<(usize, T)> {
    let mut ordered: Vec<(PathBuf, usize, T)> = mounts
        .iter()
        .zip(sources)
        .enumerate()
        .map(|(index, (mount, source))| (stub::clean(&mount.target), index, source))
        .collect();
    ordered.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    ordered.dedup_by(|later, first| later.0 == first.0);
    ordered.into_iter().map(|(_, index, source)| (index, source)).collect()
}

fn mount_one(
    root: &OwnedFd,
    mount: &Mount,
    source: Source,
    devices: Attributes,
    report: &dyn Fn(Stub),
) -> Result<(), SetupError> {
    let is_dir = source.is_dir();
    let mut attributes = match &mount.kind {
        MountKind::Bind { .. } | MountKind::Directory { .. } => Attributes::empty(),
        MountKind::Tmpfs { .. } => Attributes::MOUNT_ATTR_NOSUID,
        MountKind::Socket { .. } => Attributes::MOUNT_ATTR_NOSUID | Attributes::MOUNT_ATTR_NODEV,
        MountKind::Bytes { mode, .. } => {
            let noexec = if mode & 0o111 == 0 { Attributes::MOUNT_ATTR_NOEXEC } else { Attributes::empty() };
            Attributes::MOUNT_ATTR_NOSUID | Attributes::MOUNT_ATTR_NODEV | Attributes::MOUNT_ATTR_RDONLY | noexec
        }
    };
    attributes |= devices;
    if mount.read_only {
        attributes |= Attributes::MOUNT_ATTR_RDONLY;
    }
    let tree = source.into_tree(attributes).map_err(|refusal| refusal.at(&mount.target))?;
    attach(root, &mount.target, tree, is_dir, report)
}

/// Mounts a tree at a path of the sandbox, making the mount point where it is missing.
fn attach(
    root: &OwnedFd,
    path: &str,
    tree: mount::Tree,
    is_dir: bool,
    report: &dyn Fn(Stub),
) -> Result<(), SetupError> {
    let target = walk(root, path, Missing::Stub { is_dir, report }).map_err(|error| Refusal::from(error).at(path))?;
    same_kind(&target, is_dir, path)?;
    tree.attach(&target).map_err(|refusal| refusal.at(path))
}

/// Fails where a directory is to cover something else, or the other way round: the kernel would only say "invalid argument".
pub fn same_kind(target: &OwnedFd, is_dir: bool, path: &str) -> Result<(), SetupError> {
    let stat = rustix::fs::fstat(target).map_err(|error| Refusal::from(error).at(path))?;
    match (is_dir, FileType::from_raw_mode(stat.st_mode).is_dir()) {
        (true, false) => Err(Refusal::from(Errno::NOTDIR).at(path)),
        (false, true) => Err(Refusal::from(Errno::ISDIR).at(path)),
        _ => Ok(()),
    }
}

/// Makes the mounted tree the root of this process and lets go of everything else.
fn enter(root: &OwnedFd) -> Result<(), SetupError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let old = rustix::fs::openat(CWD, "/", flags, Mode::empty()).doing(|| "open the host's root".to_owned())?;
    rustix::process::fchdir(root).doing(|| "enter the root file system".to_owned())?;
    // The old root ends up on top of the new one, where nothing of the image has to be trusted for a place to put it.
    rustix::process::pivot_root(".", ".").doing(|| "change the root".to_owned())?;
    rustix::process::fchdir(&old).doing(|| "reach the old root".to_owned())?;
    unmount(".", UnmountFlags::DETACH).doing(|| "leave the old root".to_owned())?;
    rustix::process::chdir("/").doing(|| "enter the new root".to_owned())
}

/// Leaves this process with the rights of the command.
pub fn give_up_rights(
    socket: &UnixStream,
    plan: &Plan,
    identity: &Identity,
    terminal: Option<Pty>,
) -> Result<(), SetupError> {
    let warn = |text: String| {
        // A warning that nobody hears harms nobody.
        let _ = wire::send(socket, &Message::Warning(text));
    };
    privilege::set_limits(&plan.spec.rlimits, &warn);
    match terminal {
        Some(terminal) => terminal.take()?,
        None => devices::take_null_as_stdin(),
    }
    if identity.uid != 0 {
        // `/dev/stdout` is opened anew by programs, which asks for the owner.
        for fd in [rustix::stdio::stdout(), rustix::stdio::stderr()] {
            let _ = rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(identity.uid)), None);
        }
    }
    sys::close_on_exec_from(3).doing(|| "close descriptors".to_owned())?;
    sys::new_session_keyring();
    privilege::drop_to(identity, plan.spec.security, plan.spec.isolation, plan.filter.as_deref())?;
    // Changing the user has undone it.
    set_parent_process_death_signal(Some(Signal::KILL)).doing(|| "tie the command to its parent".to_owned())?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    sys::reset_signals();
    Ok(())
}
