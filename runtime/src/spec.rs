//! What a sandbox is to do: a plain value, sent to the helper as JSON.
//!
//! Paths of the host must be UTF-8 and absolute; paths inside the sandbox are strings as the Dockerfile wrote them.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::emulation::Emulator;

use crate::isolation::Isolation;

/// One command and everything around it.
#[derive(Clone, Serialize, Deserialize)]
pub struct Spec {
    /// The file system of the command.
    pub root: Root,
    /// The command and its arguments; never empty.
    pub args: Vec<String>,
    /// `NAME=value`; a later entry replaces an earlier one of the same name. PATH and HOME are added where absent.
    pub env: Vec<String>,
    /// The working directory; created where missing, owned by the user, and kept in the layer.
    pub cwd: String,
    /// The user as written in USER: empty, `uid`, `uid:gid`, `name`, `name:group`.
    pub user: String,
    /// The name the command sees as its host.
    pub hostname: String,
    /// Further lines of `/etc/hosts`: (name, address).
    pub extra_hosts: Vec<(String, String)>,
    /// Which network the command sees.
    pub network: Network,
    /// What runs programs of another processor; none where they are this machine's.
    pub emulator: Option<Emulator>,
    /// After so long the command is ended, as if it were cancelled.
    pub timeout: Option<Duration>,
    /// How much the command may do.
    pub security: Security,
    /// What the caller's [`Footing`](crate::Footing) is.
    pub isolation: Isolation,
    /// Mounts; sorted by target before use, the last of equal targets wins.
    pub mounts: Vec<Mount>,
    /// The size of `/dev/shm` in bytes; 64 MiB where absent.
    pub shm_size: Option<u64>,
    /// Limits that replace the inherited ones.
    pub rlimits: Vec<Rlimit>,
    /// What the command and its children may use together.
    pub resources: Resources,
    /// The cgroup in which that of the command is made, from the top of the hierarchy; empty for the builder's own.
    pub cgroup_parent: String,
}

impl Spec {
    /// Returns a spec that runs `args` in `root` as root, in `/`, with the host's network and nothing else.
    pub fn new(root: Root, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            root,
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            cwd: "/".to_owned(),
            user: String::new(),
            hostname: "buildkitsandbox".to_owned(),
            extra_hosts: Vec::new(),
            network: Network::Host,
            emulator: None,
            timeout: None,
            security: Security::Sandbox,
            isolation: Isolation::Root,
            mounts: Vec::new(),
            shm_size: None,
            rlimits: Vec::new(),
            resources: Resources::default(),
            cgroup_parent: String::new(),
        }
    }
}

// The environment may hold secrets: only the names are shown.
impl fmt::Debug for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.env.iter().map(|entry| entry.split('=').next().unwrap_or("")).collect();
        f.debug_struct("Spec")
            .field("root", &self.root)
            .field("args", &self.args)
            .field("env", &names)
            .field("cwd", &self.cwd)
            .field("user", &self.user)
            .field("hostname", &self.hostname)
            .field("network", &self.network)
            .field("security", &self.security)
            .field("mounts", &self.mounts)
            .finish_non_exhaustive()
    }
}

/// The layers a command sees and the directory its changes go to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// The directories of the layers below, top first; may be empty. A directory that occurs twice counts where it is highest.
    pub lowers: Vec<PathBuf>,
    /// An existing directory that receives the changes in overlayfs form. Its owner and mode are those of `/`.
    pub upper: PathBuf,
    /// An existing empty directory on the file system of `upper`, for this run alone; empty again at the end.
    pub work: PathBuf,
}

/// Which network a command sees.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Network {
    /// The network of the host.
    Host,
    /// A namespace of its own with nothing but a loopback device.
    None,
    /// A namespace that is there: a [`PrivateNetwork`](crate::PrivateNetwork).
    Private {
        /// Where it can be opened.
        namespace: PathBuf,
        /// A resolver inside that leads to those of the host, where these cannot be reached.
        resolver: Option<IpAddr>,
    },
}

/// How much a command may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Security {
    /// Docker's default capabilities, seccomp filter, masked and read-only paths.
    Sandbox,
    /// Everything the builder itself may do. The caller has checked the entitlement.
    Insecure,
}

/// Something mounted for the command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where, absolute; missing mount points are made for the run and gone after it.
    pub target: String,
    /// Whether writes fail.
    pub read_only: bool,
    /// What.
    pub kind: MountKind,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A file or directory out of a tree. Without `upper` and not read-only, writes go to the tree itself, which must then
    /// be a single directory.
    Bind {
        /// The tree: one directory, or several layers, top first; none is an empty tree.
        layers: Vec<PathBuf>,
        /// The part of the tree to mount; symlinks stay inside the tree.
        path: String,
        /// Directories (upper, work) that take writes which nobody wants; both empty, on one file system, on the host.
        upper: Option<(PathBuf, PathBuf)>,
    },
    /// A directory of the host, as it is: a cache mount.
    Directory {
        /// The directory on the host.
        path: PathBuf,
    },
    /// A fresh tmpfs.
    Tmpfs {
        /// Its size in bytes; the kernel's default where absent or zero.
        size: Option<u64>,
    },
    /// A file that exists in memory only: a secret. Always read-only, nosuid, nodev, and noexec unless `mode` has an x bit.
    Bytes {
        /// What it holds.
        content: SecretBytes,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
        /// Its permissions.
        mode: u32,
    },
    /// A socket of the host, such as one that leads to an ssh agent: nosuid, nodev.
    Socket {
        /// The socket on the host, which belongs to this run alone.
        path: PathBuf,
        /// The owner it is given, as the command sees it.
        uid: u32,
        /// Its group.
        gid: u32,
        /// Its permissions.
        mode: u32,
    },
}

/// Bytes that no log may show.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretBytes(pub Vec<u8>);

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} bytes)", self.0.len())
    }
}

/// A resource limit. One that the host refuses is left as it was, with a warning that names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Of what.
    pub limit: Limit,
    /// The soft limit; none is unlimited.
    pub soft: Option<u64>,
    /// The hard limit; none is unlimited.
    pub hard: Option<u64>,
}

/// What a command and its children may use together. What is absent is not limited; one that the host refuses is a warning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of memory and swap; -1 for no limit. Twice the memory where absent.
    pub memory_swap: Option<i64>,
    /// The share of the processors when others want them too; 1,024 is usual.
    pub cpu_shares: Option<u64>,
    /// Microseconds in which `cpu_quota` counts.
    pub cpu_period: Option<u64>,
    /// Microseconds of processor time in each period; not above zero for no limit.
    pub cpu_quota: Option<i64>,
    /// Processors: `0-3,5`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes: `0-3,5`.
    pub cpuset_mems: Option<String>,
}

impl Resources {
    /// How many processes and threads a command may have where nobody says: far more than builds need, and less than a
    /// machine needs for itself.
    pub const DEFAULT_PIDS: u64 = 4096;
}

impl Default for Resources {
    fn default() -> Self {
        Self {
            pids: Some(Self::DEFAULT_PIDS),
            memory: None,
            memory_swap: None,
            cpu_shares: None,
            cpu_period: None,
            cpu_quota: None,
            cpuset_cpus: None,
            cpuset_mems: None,
        }
    }
}

macro_rules! limits {
    ($($variant:ident $name:literal $doc:literal,)*) => {
        /// What a resource limit limits.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Limit { $(#[doc = $doc] $variant,)* }

        impl Limit {
            /// Returns the name as `--ulimit` writes it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Returns the limit that `--ulimit` calls `name`.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

limits! {
    Core "core" "Bytes of a core file.",
    Cpu "cpu" "Seconds of processor time.",
    Data "data" "Bytes of the data segment.",
    Fsize "fsize" "Bytes of one file.",
    Locks "locks" "File locks.",
    Memlock "memlock" "Bytes locked in memory.",
    Msgqueue "msgqueue" "Bytes in message queues.",
    Nice "nice" "Ceiling of the nice value.",
    Nofile "nofile" "Open files.",
    Nproc "nproc" "Processes of the user.",
    Rss "rss" "Resident bytes.",
    Rtprio "rtprio" "Real-time priority.",
    Rttime "rttime" "Microseconds of real-time processor time.",
    Sigpending "sigpending" "Queued signals.",
    Stack "stack" "Bytes of the stack.",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_secrets() {
        let root = Root { lowers: vec![], upper: "/u".into(), work: "/w".into() };
        let mut spec = Spec::new(root, ["true"]);
        spec.env.push("TOKEN=hunter2".into());
        let content = SecretBytes(b"hunter2".to_vec());
        let kind = MountKind::Bytes { content, uid: 0, gid: 0, mode: 0o400 };
        spec.mounts.push(Mount { target: "/run/secrets/t".into(), read_only: true, kind });
        let text = format!("{spec:?}");
        assert!(text.contains("TOKEN") && !text.contains("hunter2"), "{text}");
        assert!(!text.contains("104, 117"), "{text}");
    }

    #[test]
    fn limit_names_read_back() {
        for name in ["core", "nofile", "rttime"] {
            assert_eq!(Limit::from_name(name).map(Limit::name), Some(name));
        }
        assert_eq!(Limit::from_name("files"), None);
    }
}
