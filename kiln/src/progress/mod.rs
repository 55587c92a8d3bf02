//! Drawing the progress of a build on standard error.
//!
//! Three of the four forms are pure: events go in, text comes out ([`plain`], [`rawjson`]), or a board is kept from which
//! a frame is drawn ([`board`], [`frame`]). Only [`terminal`] and this file touch the stream.

mod board;
mod frame;
mod plain;
mod rawjson;
mod terminal;
pub mod text;

use std::io::{IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use kiln_builder::progress::{Event, Progress, Silent};

use plain::Plain;
use rawjson::RawJson;
use terminal::Terminal;

/// How progress is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// `tty` on a terminal, else `plain`
    #[default]
    Auto,
    /// Lines, one after the other
    Plain,
    /// A display that is redrawn in place
    Tty,
    /// Nothing
    Quiet,
    /// One JSON object per line
    Rawjson,
}

/// A running display.
pub struct Display {
    sink: Arc<dyn Progress>,
    terminal: Option<Arc<Terminal>>,
}

impl Display {
    /// Starts a display.
    pub fn start(mode: Mode) -> Self {
        match mode {
            Mode::Auto if std::io::stderr().is_terminal() && !dumb_terminal() => Self::start(Mode::Tty),
            Mode::Auto => Self::start(Mode::Plain),
            Mode::Quiet => Self { sink: Arc::new(Silent), terminal: None },
            Mode::Plain => Self { sink: Arc::new(Writer(Mutex::new(Plain::default()))), terminal: None },
            Mode::Rawjson => {
                Self { sink: Arc::new(Writer(Mutex::new(RawJson::new(SystemTime::now())))), terminal: None }
            }
            Mode::Tty => {
                let terminal = Arc::new(Terminal::start(crate::message::colours()));
                Self { sink: Arc::clone(&terminal) as Arc<dyn Progress>, terminal: Some(terminal) }
            }
        }
    }

    /// Returns what takes the events.
    pub fn sink(&self) -> Arc<dyn Progress> {
        Arc::clone(&self.sink)
    }
}

impl Drop for Display {
    /// Draws what is still to be drawn, so that what is printed next stands below it.
    fn drop(&mut self) {
        if let Some(terminal) = &self.terminal {
            terminal.finish();
        }
    }
}

fn dumb_terminal() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// Writes the text of each event at once.
struct Writer<R>(Mutex<R>);

trait Render: Send {
    fn render(&mut self, event: &Event, out: &mut String);
}

impl Render for Plain {
    fn render(&mut self, event: &Event, out: &mut String) {
        self.event(event, out);
    }
}

impl Render for RawJson {
    fn render(&mut self, event: &Event, out: &mut String) {
        out.push_str(&self.event(event));
    }
}

impl<R: Render> Progress for Writer<R> {
    fn event(&self, event: Event) {
        let mut text = String::new();
        let mut renderer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        renderer.render(&event, &mut text);
        // Still under the lock, so that lines keep their order. Whoever closed the stream does not want to read.
        if !text.is_empty() {
            let _ = std::io::stderr().lock().write_all(text.as_bytes());
        }
    }
}
