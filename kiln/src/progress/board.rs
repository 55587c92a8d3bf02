//! All steps of a build and how they stand: what a frame is drawn from.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use kiln_builder::progress::{Event, EventKind, OutputStream};

use super::text::{LineCutter, one_line};

/// How many lines of a running step's output are kept.
pub const TAIL: usize = 6;
/// How many transfers of a step are kept; finished ones make room first.
const MOST_TRANSFERS: usize = 64;

/// The steps, by number.
#[derive(Debug, Default)]
pub struct Board {
    /// In the order of their numbers.
    pub steps: BTreeMap<u32, Step>,
}

/// One step.
#[derive(Debug, Default)]
pub struct Step {
    /// In one line, clean.
    pub name: String,
    /// When it began.
    pub started: Duration,
    /// When it was over.
    pub ended: Duration,
    /// How it stands.
    pub state: State,
    /// The last lines it wrote.
    pub tail: VecDeque<String>,
    /// Transfers and other pieces of work, in the order of their beginning.
    pub transfers: Vec<Transfer>,
    /// What the user should know.
    pub notes: Vec<String>,
    stdout: LineCutter,
    stderr: LineCutter,
}

/// How a step stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum State {
    /// At work.
    #[default]
    Running,
    /// Found in the cache.
    Cached,
    /// Well done.
    Done,
    /// Failed.
    Failed,
    /// Stopped.
    Cancelled,
}

/// A piece of work inside a step.
#[derive(Debug, Clone)]
pub struct Transfer {
    /// What, in one line, clean.
    pub item: String,
    /// When it began.
    pub started: Duration,
    /// When it was last heard of.
    pub last: Duration,
    /// Bytes so far.
    pub current: u64,
    /// Of how many.
    pub total: Option<u64>,
    /// Whether it is over.
    pub done: bool,
}

impl Board {
    /// Takes an event.
    pub fn event(&mut self, event: &Event) {
        let step = self.steps.entry(event.step.0).or_default();
        if step.state == State::Running {
            step.take(event);
        }
    }

    /// Returns how many steps are over.
    pub fn over(&self) -> usize {
        self.steps.values().filter(|step| step.state != State::Running).count()
    }
}

impl Step {
    fn take(&mut self, event: &Event) {
        match &event.kind {
            EventKind::Started { name } => {
                self.name = one_line(name);
                self.started = event.at;
            }
            EventKind::Output { stream, bytes } => {
                let cutter = match stream {
                    OutputStream::Stdout => &mut self.stdout,
                    OutputStream::Stderr => &mut self.stderr,
                };
                let tail = &mut self.tail;
                cutter.push(bytes, |line| {
                    if tail.len() == TAIL {
                        tail.pop_front();
                    }
                    tail.push_back(line);
                });
            }
            EventKind::Progress { item, current, total, done } => {
                self.transfer(event.at, item, *current, *total, *done)
            }
            EventKind::Note { text } => self.notes.push(one_line(text)),
            // They are listed below the frame when the build is over.
            EventKind::Warning { .. } => {}
            EventKind::Cached => self.end(State::Cached, event.at),
            EventKind::Done => self.end(State::Done, event.at),
            EventKind::Failed { .. } => self.end(State::Failed, event.at),
            EventKind::Cancelled => self.end(State::Cancelled, event.at),
        }
    }

    fn transfer(&mut self, now: Duration, item: &str, current: u64, total: Option<u64>, done: bool) {
        let item = one_line(item);
        if let Some(known) = self.transfers.iter_mut().find(|known| known.item == item) {
            known.last = now;
            known.current = current;
            known.total = total.or(known.total);
            known.done = done;
            return;
        }
        if self.transfers.len() >= MOST_TRANSFERS {
            let finished = self.transfers.iter().position(|transfer| transfer.done).unwrap_or(0);
            self.transfers.remove(finished);
        }
        self.transfers.push(Transfer { item, started: now, last: now, current, total, done });
    }

    fn end(&mut self, state: State, now: Duration) {
        self.state = state;
        self.ended = now;
        self.tail.clear();
        self.transfers.clear();
    }
}
