//! Steps: what the user sees of the work, told to the client as events.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use kiln_frontend::dockerfile::Diagnostic;

use crate::progress::{Event, EventKind, OutputStream, Progress, StepId};
use crate::request::BuildFile;

/// Hands out steps and knows the time.
#[derive(Clone)]
pub struct Steps(Arc<Inner>);

struct Inner {
    progress: Arc<dyn Progress>,
    began: Instant,
    next: AtomicU32,
}

/// One step that was started. It must be ended by one of the methods that consume it.
pub struct Step {
    steps: Steps,
    id: StepId,
}

impl Steps {
    /// Starts the clock.
    pub fn new(progress: Arc<dyn Progress>) -> Self {
        Self(Arc::new(Inner { progress, began: Instant::now(), next: AtomicU32::new(1) }))
    }

    /// Starts a step.
    pub fn start(&self, name: impl Into<String>) -> Step {
        let id = StepId(self.0.next.fetch_add(1, Ordering::Relaxed));
        let step = Step { steps: self.clone(), id };
        step.tell(EventKind::Started { name: name.into() });
        step
    }

    /// Tells what is to be known about the build file that a step loaded, which may be over by now.
    pub fn warn(&self, step: StepId, warning: Diagnostic, file: Arc<BuildFile>) {
        self.tell(step, EventKind::Warning { warning, file });
    }

    fn tell(&self, step: StepId, kind: EventKind) {
        self.0.progress.event(Event { at: self.0.began.elapsed(), step, kind });
    }
}

impl Step {
    fn tell(&self, kind: EventKind) {
        self.steps.tell(self.id, kind);
    }

    /// Returns what the step is known by.
    pub fn id(&self) -> StepId {
        self.id
    }

    /// Passes on what a command wrote.
    pub fn output(&self, stream: OutputStream, bytes: &[u8]) {
        self.tell(EventKind::Output { stream, bytes: bytes.to_vec() });
    }

    /// Says something to the user.
    pub fn note(&self, text: impl Into<String>) {
        self.tell(EventKind::Note { text: text.into() });
    }

    /// Tells how far a piece of the step is.
    pub fn progress(&self, item: &str, current: u64, total: Option<u64>, done: bool) {
        self.tell(EventKind::Progress { item: item.to_owned(), current, total, done });
    }

    /// Ends the step: it was in the cache.
    pub fn cached(self) {
        self.tell(EventKind::Cached);
    }

    /// Ends the step: it went well.
    pub fn done(self) {
        self.tell(EventKind::Done);
    }

    /// Ends the step: it failed, or was cancelled.
    pub fn failed(self, error: &crate::BuildError) {
        if error.kind == crate::Kind::Cancelled {
            self.tell(EventKind::Cancelled);
        } else {
            self.tell(EventKind::Failed { message: error.message.clone() });
        }
    }

    /// Ends the step with a result, and passes that on.
    ///
    /// # Errors
    /// The one it is given.
    pub fn end<T>(self, result: Result<T, crate::BuildError>) -> Result<T, crate::BuildError> {
        match &result {
            Ok(_) => self.done(),
            Err(error) => self.failed(error),
        }
        result
    }
}
