//! One sandboxed command: root mount, namespaces, users, rights, and a clean end.
//!
//! ```text
//! engine (threads)            helper (fresh process)          command
//! run(program, spec, …)
//!   spawn the sealed copy ──▶ init::main()
//!   send the plan over a      fork into a new pid namespace ─▶ mounts, pivot_root, rights
//!   socket                    wait for it; TERM and KILL       execve: pid 1 of its namespace
//!   read stdout, stderr  ◀──────────────────────────────────── its own two pipes
//!   and the report       ◀──  how it ended
//! ```
//!
//! The process that has threads never forks: it spawns a [`Program`], a sealed copy in memory of a program that calls
//! [`init::main`] when its first argument is [`init::ARGUMENT`]. The helper ends the command when the socket closes, so a
//! killed engine leaves nothing behind; all mounts live in the command's own mount namespace and end with it.
//!
//! Contracts: a [`Root`] names directories that belong to this run alone (`upper`, `work`) and layers that nobody changes
//! meanwhile (`lowers`). Everything in them is hostile: paths are only ever resolved component by component or by the kernel
//! inside that root. This is the only crate with `unsafe`, all of it in `sys`.
//!
//! Device nodes: the command's cgroup lets it open the ordinary ones only, whoever made the node. Where no cgroup can be had,
//! all mounts are `nodev` instead: nodes can be made and kept in a layer, but not be opened.

mod cancel;
mod cgroup;
mod cover;
pub mod emulation;
mod error;
mod hosts;
pub mod init;
mod interrupt;
mod isolation;
pub mod network;
mod plain;
mod program;
mod resolv;
mod run;
pub mod seccomp;
mod shared_overlay;
mod spec;
mod stub;
mod sys;
mod terminal;
mod wire;

pub use cancel::Cancel;
pub use cgroup::limits;
pub use emulation::Emulator;
pub use error::{RunError, SetupError};
pub use interrupt::on_interrupt;
pub use isolation::{Footing, Ids, Isolation, IsolationError};
pub use network::{NoNetwork, PrivateNetwork, Refusal};
pub use program::Program;
pub use run::{Event, Outcome, Stream, is_shell, run, run_at_terminal};
pub use shared_overlay::{OwnMounts, overlay_refusal};
pub use spec::{Limit, Mount, MountKind, Network, Resources, Rlimit, Root, SecretBytes, Security, Spec};
pub use terminal::Terminal;
pub use wire::Note;

/// The attribute in which a user namespace with one id ([`Isolation::SingleId`]) keeps the owner of a file, as `uid:gid`.
pub const OWNER_MARK: &str = "user.kiln.owner";

/// The attribute of an empty file that stands for a whiteout in a layer's directory, on file systems that take none.
pub const WHITEOUT_MARK: &str = "user.kiln.whiteout";
