//! The display on a terminal: a thread that redraws the frame in place, ten times a second.
//!
//! Events only change the board; nothing is drawn on the thread that reports them. A build that is over before the
//! first tick draws one frame, the last.

use std::io::Write as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kiln_builder::progress::{Event, Progress};

use super::board::Board;
use super::frame::{Canvas, frame};

const TICK: Duration = Duration::from_millis(100);

/// A running display.
pub struct Terminal {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    colours: bool,
}

struct State {
    board: Board,
    begun: Instant,
    /// How many lines the last frame had.
    drawn: usize,
    over: bool,
}

impl Terminal {
    /// Starts to draw on standard error.
    pub fn start(colours: bool) -> Self {
        let state = State { board: Board::default(), begun: Instant::now(), drawn: 0, over: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), wake: Condvar::new(), colours });
        let drawing = Arc::clone(&shared);
        // Without a thread nothing moves, but the last frame still comes.
        let thread = std::thread::Builder::new().name("progress".to_owned()).spawn(move || drawing.run()).ok();
        Self { shared, thread: Mutex::new(thread) }
    }

    /// Draws the last frame and stops.
    pub fn finish(&self) {
        {
            let mut state = self.shared.lock();
            if state.over {
                return;
            }
            state.over = true;
            self.shared.draw(&mut state);
        }
        self.shared.wake.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Progress for Terminal {
    fn event(&self, event: Event) {
        self.shared.lock().board.event(&event);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut state = self.lock();
        loop {
            let (next, _) = self.wake.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner);
            state = next;
            if state.over {
                return;
            }
            self.draw(&mut state);
        }
    }

    fn draw(&self, state: &mut State) {
        if state.board.steps.is_empty() {
            return;
        }
        let (width, height) = size();
        // A line that fills the last column may or may not wrap: leave it free.
        let canvas = Canvas {
            width: width.saturating_sub(1),
            height: Some(height.saturating_sub(1)),
            colours: self.colours,
            last: state.over,
        };
        let lines = frame(&state.board, state.begun.elapsed(), canvas);
        let mut text = String::new();
        if state.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", state.drawn));
        }
        for line in &lines {
            text.push_str(line);
            text.push_str("\x1b[K\n");
        }
        text.push_str("\x1b[J");
        state.drawn = lines.len();
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }
}

/// Returns the columns and lines of the terminal.
fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(std::io::stderr()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}
