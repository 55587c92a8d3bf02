//! `/dev` of the sandbox.
//!
//! Where the command's cgroup says what may be opened, the nodes are simply made. Elsewhere `/dev` itself is `nodev`, so that
//! a node which the command makes there does not open; the six that it may have are mounted one by one from the workshop.

use rustix::fs::{AtFlags, FileType, Mode, OFlags, mkdirat, mknodat, statat, symlinkat};
use std::os::fd::OwnedFd;

use crate::error::SetupError;
use crate::init::kernel_files::directory;
use crate::init::mount::{Attributes, Refusal, Tree, Workshop, open_at};
use crate::isolation::Isolation;
use crate::spec::{Security, Spec};

/// Name, major and minor number.
const NODES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
    ("core", "/proc/kcore"),
];

/// More nodes of the host that an insecure command gets, where the host has them.
const INSECURE: [&str; 12] =
    ["kmsg", "cuse", "fuse", "kvm", "net/tun", "loop-control", "loop0", "loop1", "loop2", "loop3", "loop4", "loop5"];

/// 64 MiB.
const SHM: u64 = 64 << 20;

/// The name under which the workshop keeps a null device, for masks.
pub const NULL: &str = "null";

/// Mounts `/dev` and what is below it. `devices` is what all mounts forbid for the sake of devices.
pub fn mount(root: &OwnedFd, spec: &Spec, workshop: &Workshop, devices: Attributes) -> Result<(), SetupError> {
    let at = |refusal: Refusal| refusal.at("/dev");
    let attributes = Attributes::MOUNT_ATTR_NOSUID | Attributes::MOUNT_ATTR_STRICTATIME | devices;
    let is_confined = spec.isolation.is_confined();
    let nodes_open = devices.is_empty() && !is_confined;
    let dev = Tree::fresh("tmpfs", &[("mode", "755"), ("size", "65536k")], attributes).map_err(at)?;
    fill(&dev, nodes_open).map_err(at)?;
    if spec.security == Security::Insecure && !is_confined {
        add_insecure(&dev).map_err(at)?;
    }
    dev.attach(directory(root, "/dev")?).map_err(at)?;
    for (name, major, minor) in NODES {
        if !nodes_open {
            bind_node(&dev, name, (major, minor), workshop).map_err(at)?;
        } else if name == NULL {
            workshop.make_device(name, major, minor).map_err(at)?;
        }
    }
    let size = spec.shm_size.filter(|size| *size > 0).unwrap_or(SHM).to_string();
    let quiet = Attributes::MOUNT_ATTR_NOSUID | Attributes::MOUNT_ATTR_NOEXEC;
    // Where there is one id, there is no group of terminals.
    let group = if spec.isolation == Isolation::SingleId { "0" } else { "5" };
    let pts = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", group)];
    for (kind, name, options, attributes) in [
        ("devpts", "pts", &pts[..], quiet),
        ("tmpfs", "shm", &[("mode", "1777"), ("size", &size)], quiet | Attributes::MOUNT_ATTR_NODEV),
        ("mqueue", "mqueue", &[], quiet | Attributes::MOUNT_ATTR_NODEV),
    ] {
        let target = || format!("/dev/{name}");
        // Options without a value are there for old kernels; newer ones know nothing else.
        let options: Vec<(&str, &str)> = options.iter().copied().filter(|(_, value)| !value.is_empty()).collect();
        let tree = match Tree::fresh(kind, &options, attributes) {
            // A kernel without message queues: `/dev/mqueue` stays an empty directory.
            Err(refusal) if kind == "mqueue" && refusal.errno() == libc::ENODEV => continue,
            result => result.map_err(|refusal| refusal.at(&target()))?,
        };
        let place = open_at(&dev, name).map_err(|error| Refusal::from(error).at(&target()))?;
        tree.attach(&place).map_err(|refusal| refusal.at(&target()))?;
    }
    Ok(())
}

fn fill(dev: &Tree, nodes_open: bool) -> Result<(), Refusal> {
    let node = Mode::from_raw_mode(0o666);
    for (name, major, minor) in NODES {
        if nodes_open {
            mknodat(dev, name, FileType::CharacterDevice, node, rustix::fs::makedev(major, minor))?;
        } else {
            mknodat(dev, name, FileType::RegularFile, node, 0)?;
        }
    }
    for (name, target) in LINKS {
        symlinkat(target, dev, name)?;
    }
    for name in ["pts", "shm", "mqueue"] {
        mkdirat(dev, name, Mode::from_raw_mode(0o755))?;
    }
    Ok(())
}

/// Makes the nodes in a directory that mounts nothing, and returns the names of those that cannot be had.
pub fn make_nodes(dev: &OwnedFd) -> Vec<&'static str> {
    let make = |(name, major, minor): &(&'static str, u32, u32)| {
        let mode = Mode::from_raw_mode(0o666);
        mknodat(dev, *name, FileType::CharacterDevice, mode, rustix::fs::makedev(*major, *minor)).err()?;
        Some(*name)
    };
    NODES.iter().filter_map(make).collect()
}

fn add_insecure(dev: &Tree) -> Result<(), Refusal> {
    mkdirat(dev, "net", Mode::from_raw_mode(0o755))?;
    for name in INSECURE {
        let host = format!("/dev/{name}");
        if let Ok(stat) = statat(rustix::fs::CWD, &*host, AtFlags::SYMLINK_NOFOLLOW) {
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind.is_char_device() || kind.is_block_device() {
                mknodat(dev, name, kind, Mode::from_raw_mode(stat.st_mode & 0o777), stat.st_rdev)?;
            }
        }
    }
    Ok(())
}

fn bind_node(dev: &Tree, name: &str, (major, minor): (u32, u32), workshop: &Workshop) -> Result<(), Refusal> {
    workshop.make_device(name, major, minor)?;
    workshop.clone_file(name)?.attach(open_at(dev, name)?)
}

/// Makes the sandbox's `/dev/null` the standard input, when it is what it should be.
pub fn take_null_as_stdin() {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let Ok(null) = rustix::fs::open("/dev/null", flags, Mode::empty()) else { return };
    let is_null = rustix::fs::fstat(&null).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode).is_char_device() && stat.st_rdev == rustix::fs::makedev(1, 3)
    });
    // Otherwise the host's null device, which is there already, stays.
    if is_null {
        let _ = rustix::stdio::dup2_stdin(&null);
    }
}
