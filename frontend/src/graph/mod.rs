//! The graph language: what is to be made, as a value.
//!
//! A [`Graph`] is a list of vertices in an order in which every vertex comes after its
//! inputs. A vertex is an [`Op`] and its inputs; each vertex has one output per writable
//! mount or file system it makes, and [`Edge`] names one of them. The semantics are those of
//! BuildKit's LLB (source, exec, file, merge), so that LLB can be translated at the border.
//!
//! Everything that goes into a cache key is in [`Op`]; what is only shown to people
//! (name, source lines, stage) is in [`Vertex`] beside it.

mod encode;
pub mod print;
mod union;

use std::collections::BTreeSet;
use std::ops::Range;

use kiln_oci::{Digest, Platform, ReferenceDigest};
use serde::{Deserialize, Serialize};

pub use encode::{content_op_digest, op_digest, vertex_digests};
pub use union::Union;

/// What is to be made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Graph {
    /// The vertices; inputs come before those who use them.
    pub vertices: Vec<Vertex>,
}

/// The number of a vertex in [`Graph::vertices`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VertexId(pub u32);

/// One output of one vertex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Edge {
    /// The vertex that makes it.
    pub vertex: VertexId,
    /// Which of its outputs; 0 is the root file system.
    pub output: u32,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Vertex {
    /// What.
    pub op: Op,
    /// To what. `None` is the empty file system (`FROM scratch`).
    pub inputs: Vec<Option<Edge>>,
    /// The platform a command runs for, or an image is wanted for. Part of the key of
    /// exec and image sources only.
    pub platform: Option<Platform>,
    /// How to show it: `[build 2/5] RUN make`.
    pub name: String,
    /// The stage's name or index, for messages and `--no-cache-filter`.
    pub stage: Option<String>,
    /// The lines of the build file it comes from.
    pub location: Option<Location>,
    /// Skip the look-up, but save the result (`--no-cache`).
    pub ignore_cache: bool,
}

/// Where in a build file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Byte range in the text.
    pub span: Range<usize>,
    /// First and last line, from 1.
    pub lines: (usize, usize),
}

/// What a vertex does.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// Brings something from outside.
    Source(Source),
    /// Runs a command; output 0 is its root file system afterwards.
    Exec(Exec),
    /// Copies and makes files; output 0 is input 0 with them.
    File(FileOp),
    /// Stacks the layers of the inputs, the first lowest. Made by `--link`.
    Merge,
}

/// Something from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An image in a registry or in kiln's own store.
    Image {
        /// Normalised, with the digest it was resolved to: `docker.io/library/alpine:3@sha256:…`.
        reference: String,
    },
    /// An image in an OCI layout directory that the client named.
    OciLayout {
        /// The layout's path as given by the user.
        store: String,
        /// The manifest or index.
        digest: Digest,
    },
    /// A directory of the client.
    Local(LocalSource),
    /// A file from a web server.
    Http {
        /// Where.
        url: String,
        /// The name of the file in the tree that is made.
        filename: String,
        /// What it must hash to. Only sha256 is ever computed: another algorithm never matches.
        checksum: Option<ReferenceDigest>,
    },
    /// A git checkout.
    Git {
        /// The repository, without fragment.
        remote: String,
        /// Branch, tag or commit; empty for the remote's HEAD.
        reference: String,
        /// The directory of the checkout that is wanted.
        subdir: String,
        /// Keep `.git`.
        keep_git_dir: bool,
        /// The commit it must be.
        checksum: Option<String>,
        /// Fetch submodules.
        submodules: bool,
        /// Files have the time of the commit rather than that of the checkout.
        commit_times: bool,
    },
}

/// A directory of the client, as much of it as is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalSource {
    /// `context`, or the name of a named context.
    pub name: String,
    /// The paths that the build uses; empty means all of it.
    pub follow_paths: Vec<String>,
}

/// A command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exec {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// `NAME=value` in order.
    pub env: Vec<String>,
    /// Absolute working directory; made when missing.
    pub cwd: String,
    /// As written: empty, name, uid, with or without group.
    pub user: String,
    /// Empty for the default, `buildkitsandbox`.
    pub hostname: String,
    /// `(name, ip)` of `--add-host`.
    pub extra_hosts: Vec<(String, String)>,
    /// `--network`.
    pub network: Network,
    /// `--security`.
    pub security: Security,
    /// Further file systems, in order. The root is input 0 and is not listed.
    pub mounts: Vec<Mount>,
    /// Proxy variables: in the environment, never in the key.
    pub proxy_env: Vec<String>,
    /// `name=soft[:hard]`.
    pub ulimits: Vec<String>,
    /// Size of /dev/shm in bytes; `None` for 64 MiB.
    pub shm_size: Option<u64>,
    /// Parent cgroup; empty for none.
    pub cgroup_parent: String,
    /// CDI devices: name and whether required.
    pub devices: Vec<(String, bool)>,
}

/// Stands for the address of the host in [`Exec::extra_hosts`].
pub const HOST_GATEWAY: &str = "host-gateway";

/// Which network a command sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// The engine's choice.
    #[default]
    Default,
    /// Loopback only.
    None,
    /// The host's.
    Host,
}

/// How tightly a command is held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Security {
    /// Default capabilities, filter, masked paths.
    #[default]
    Sandbox,
    /// Nothing of it.
    Insecure,
}

/// A file system beside the root.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    /// Where, absolute and clean.
    pub target: String,
    /// No writes.
    pub read_only: bool,
    /// What.
    pub kind: MountKind,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum MountKind {
    /// Part of an input. Writes are discarded.
    Bind {
        /// The index in [`Vertex::inputs`].
        input: usize,
        /// The path in it, absolute and clean.
        source: String,
    },
    /// A directory that outlives the build.
    Cache {
        /// Its stored name, with the namespace in front: `/root/.cache` is stored as `//root/.cache`.
        id: String,
        /// Who may use it at the same time.
        sharing: Sharing,
        /// The index in [`Vertex::inputs`] of what it starts with.
        input: Option<usize>,
        /// The path in that input, absolute and clean.
        source: String,
        /// Owner and mode of a new one.
        owner: CacheOwner,
    },
    /// Memory.
    Tmpfs {
        /// Bytes; 0 for the kernel's default.
        size: u64,
    },
    /// A secret as a file, a variable, or both.
    Secret {
        /// Its name on the command line.
        id: String,
        /// Whether there is a file at `target`.
        file: bool,
        /// The variable to set.
        env: Option<String>,
        /// Fail when it is missing.
        required: bool,
        /// Of the file.
        uid: u32,
        /// Of the file.
        gid: u32,
        /// Of the file.
        mode: u32,
    },
    /// The socket of an ssh agent.
    Ssh {
        /// Its name on the command line.
        id: String,
        /// Fail when it is missing.
        required: bool,
        /// Of the socket.
        uid: u32,
        /// Of the socket.
        gid: u32,
        /// Of the socket.
        mode: u32,
    },
}

/// Owner and mode of a new cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheOwner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

/// Who may use a cache mount at the same time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sharing {
    /// Everybody.
    #[default]
    Shared,
    /// Each user gets one of their own.
    Private,
    /// One after the other.
    Locked,
}

/// Copies and made files, applied in order to input 0.
#[derive(Debug, Clone, PartialEq)]
pub struct FileOp {
    /// What to do.
    pub actions: Vec<FileAction>,
}

/// One step of a [`FileOp`].
#[derive(Debug, Clone, PartialEq)]
pub enum FileAction {
    /// `mkdir -p`, as WORKDIR does it: every directory made gets owner and mode.
    MakeDir {
        /// Absolute and clean.
        path: String,
        /// Permission bits.
        mode: u32,
        /// Owner of each directory that is made.
        owner: Option<Owner>,
        /// Time of the last directory made (SOURCE_DATE_EPOCH), seconds.
        time: Option<i64>,
    },
    /// Copies from an input.
    Copy(Copy),
}

/// Where a copy's files come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyFrom {
    /// The index in [`Vertex::inputs`]. That input may be `None`, the empty file system.
    Input(usize),
    /// A here-document: one file of this name and content, mode 0644.
    Inline {
        /// The file's name.
        name: String,
        /// Its bytes.
        data: Vec<u8>,
    },
}

/// A copy, by the rules of COPY and ADD.
#[derive(Debug, Clone, PartialEq)]
pub struct Copy {
    /// Whence.
    pub from: CopyFrom,
    /// The source path or pattern, absolute and clean, without trailing slash.
    pub source: String,
    /// The destination, absolute; a trailing slash means "into".
    pub destination: String,
    /// `--chown`.
    pub owner: Option<Owner>,
    /// `--chmod`.
    pub mode: Option<Mode>,
    /// Expand wildcards in the source.
    pub wildcards: bool,
    /// Follow a symlink that the source names.
    pub follow_symlinks: bool,
    /// A directory stands for its contents.
    pub contents_only: bool,
    /// Extract what is an archive.
    pub unpack: bool,
    /// `--parents`: copy only what matches, with its parents.
    pub include: Option<Vec<String>>,
    /// `--parents` without wildcards: paths that must exist, relative to the source.
    pub required: Vec<String>,
    /// `--exclude`.
    pub exclude: Vec<String>,
}

/// `--chown`, `user[:group]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub user: Principal,
    /// The group; `None` when not given.
    pub group: Option<Principal>,
}

/// A user or group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// By number.
    Id(u32),
    /// By name, to be looked up in the destination's /etc/passwd or /etc/group.
    Name(String),
}

/// `--chmod`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Twelve bits.
    Octal(u32),
    /// `u+x,g-w`, checked.
    Symbolic(String),
}

impl Graph {
    /// Adds a vertex and returns its first output.
    pub fn push(&mut self, vertex: Vertex) -> Edge {
        let id = VertexId(u32::try_from(self.vertices.len()).expect("fewer than 2^32 vertices"));
        self.vertices.push(vertex);
        Edge { vertex: id, output: 0 }
    }

    /// Returns a vertex.
    pub fn vertex(&self, id: VertexId) -> &Vertex {
        &self.vertices[id.0 as usize]
    }

    /// Returns everything that `roots` need, themselves included; nothing for the empty file system.
    pub fn needed(&self, roots: impl IntoIterator<Item = Edge>) -> BTreeSet<VertexId> {
        let mut needed = BTreeSet::new();
        let mut ahead: Vec<VertexId> = roots.into_iter().map(|edge| edge.vertex).collect();
        while let Some(id) = ahead.pop() {
            if needed.insert(id) {
                ahead.extend(self.vertex(id).inputs.iter().flatten().map(|edge| edge.vertex));
            }
        }
        needed
    }
}
