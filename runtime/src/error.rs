//! Why a command could not be run. A command that ran and failed is not an error but an [`Outcome`](crate::Outcome).

use std::io;

use serde::{Deserialize, Serialize};

/// Why there is no outcome.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The caller cancelled; everything has ended.
    #[error("context canceled")]
    Cancelled,
    /// The command took longer than it may; everything has ended.
    #[error("it took longer than {}", crate::run::shown(*.0))]
    TimedOut(std::time::Duration),
    /// A value of the spec cannot be used.
    #[error("invalid {what} {value:?}: {reason}")]
    Invalid {
        /// The part of the spec.
        what: &'static str,
        /// What it held.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The helper could not be started.
    #[error("cannot start the sandbox's helper process")]
    Spawn(#[source] io::Error),
    /// Where layers are copied, what the command changed could not be told from the rest.
    #[error("cannot collect what the command changed")]
    Collect(#[source] io::Error),
    /// The helper broke off without a report.
    #[error("the sandbox ended without a report ({0})")]
    Lost(String),
    /// The sandbox could not be set up, or the command could not be started in it.
    #[error(transparent)]
    Setup(#[from] SetupError),
}

/// What went wrong between the fresh process and the command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum SetupError {
    /// Something the host refused.
    #[error("cannot {what}: {reason}")]
    System {
        /// What was being done, to what.
        what: String,
        /// What the kernel said.
        reason: String,
        /// The error number.
        errno: i32,
    },
    /// A mount could not be made.
    #[error("cannot mount {target}: {reason}")]
    Mount {
        /// Where.
        target: String,
        /// What the kernel said, with the messages it left in the file system context.
        reason: String,
        /// The error number.
        errno: i32,
    },
    /// The source of a bind mount is missing or cannot be opened.
    #[error("open {path}: {reason}")]
    Source {
        /// The path inside the tree.
        path: String,
        /// What the kernel said.
        reason: String,
        /// The error number.
        errno: i32,
    },
    /// The user is not in the image.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    UnknownUser(String),
    /// The group is not in the image.
    #[error("unable to find group {0}: no matching entries in group file")]
    UnknownGroup(String),
    /// A number of a user or group that cannot be.
    #[error("uids and gids must be in range 0-2147483647")]
    IdRange,
    /// A user or group that the user namespace does not have.
    #[error("cannot become {kind} {id}: this user namespace has no such id")]
    ForeignId {
        /// Which of the two.
        kind: String,
        /// Its number.
        id: u32,
    },
    /// The working directory cannot be entered or made.
    #[error("cannot use working directory {path}: {reason}")]
    WorkingDirectory {
        /// As given.
        path: String,
        /// What the kernel said.
        reason: String,
    },
    /// The command has no slash and is in no directory of PATH.
    #[error("exec: {name:?}: executable file not found in $PATH")]
    CommandNotFound {
        /// The command.
        name: String,
    },
    /// The command has a slash and is not there, or the interpreter it names is not.
    #[error("exec: {path:?}: {}", if *.exists { "no such file or directory: the file is there, its interpreter is not" } else { "no such file or directory" })]
    FileNotFound {
        /// The command.
        path: String,
        /// Whether the file itself is there, so that its interpreter must be missing.
        exists: bool,
    },
    /// The file may not be executed.
    #[error("exec: {path:?}: permission denied")]
    PermissionDenied {
        /// The file.
        path: String,
    },
    /// The file is not a program for this machine.
    #[error("exec: {path:?}: exec format error")]
    ExecFormat {
        /// The file.
        path: String,
        /// The architecture that it is for, as images name it, where it is a program at all.
        architecture: Option<String>,
    },
    /// Any other refusal of `execve`.
    #[error("exec: {path:?}: {reason}")]
    Exec {
        /// The file.
        path: String,
        /// What the kernel said.
        reason: String,
    },
}

impl SetupError {
    /// Says whether the sandbox stood and only the command could not be started: a failure of the Dockerfile, not the host.
    pub fn is_command(&self) -> bool {
        matches!(
            self,
            Self::CommandNotFound { .. }
                | Self::FileNotFound { .. }
                | Self::PermissionDenied { .. }
                | Self::ExecFormat { .. }
                | Self::Exec { .. }
        )
    }
}

/// Returns the words for an error number, lower-case and without the number: "no such file or directory".
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// Names what was being done when the kernel refused.
pub(crate) trait Doing<T> {
    /// Turns the kernel's error into one that says what was being done.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, SetupError>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, SetupError> {
        self.map_err(|error| {
            let error = error.into();
            SetupError::System { what: what(), reason: reason(&error), errno: error.raw_os_error().unwrap_or(0) }
        })
    }
}
