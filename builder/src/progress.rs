//! What happens while a build runs, as events. Drawing them is the client's business.

use std::sync::Arc;
use std::time::Duration;

use kiln_frontend::dockerfile::Diagnostic;

use crate::request::BuildFile;

/// Takes events. Called from many threads; must not block for long.
pub trait Progress: Send + Sync {
    /// Something happened.
    fn event(&self, event: Event);
}

/// The number of a step, in the order in which steps were first mentioned, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepId(pub u32);

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Since the build began.
    pub at: Duration,
    /// To which step.
    pub step: StepId,
    /// What.
    pub kind: EventKind,
}

/// What happened to a step.
#[derive(Debug, Clone, PartialEq)]
pub enum EventKind {
    /// It is being worked on. Always the first event of a step.
    Started {
        /// `[build 2/5] RUN make`, `[internal] load build context`, `exporting to image`, …
        name: String,
    },
    /// It was found in the cache; nothing ran. The step is over.
    Cached,
    /// It wrote something.
    Output {
        /// On which stream.
        stream: OutputStream,
        /// Raw bytes, not necessarily whole lines or UTF-8.
        bytes: Vec<u8>,
    },
    /// A transfer or a piece of work inside the step moved on.
    Progress {
        /// Which piece: `sha256:1234…`, `exporting layers`.
        item: String,
        /// How far, in bytes; or 0.
        current: u64,
        /// Of how much, where it is known.
        total: Option<u64>,
        /// Whether this piece is finished.
        done: bool,
    },
    /// Something the user should know about this step.
    Note {
        /// A sentence.
        text: String,
    },
    /// The build file, whose step this is, has something in it that is probably not meant. May come after the step
    /// is over.
    Warning {
        /// What.
        warning: Diagnostic,
        /// The build file.
        file: Arc<BuildFile>,
    },
    /// It is over, and well.
    Done,
    /// It is over, and failed.
    Failed {
        /// In one line.
        message: String,
    },
    /// It was stopped because something else failed or the user said so.
    Cancelled,
}

/// Standard output or standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputStream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

/// Ignores every event.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _event: Event) {}
}
