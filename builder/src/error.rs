//! Why a build, or another use of the engine, failed.

use std::fmt;

use kiln_frontend::dockerfile::Diagnostic;
use kiln_frontend::graph::Location;

/// Whose business a failure is; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The build file, the context, the flags, a command that failed.
    Input,
    /// The machine, the network, a registry.
    Environment,
    /// The user stopped it.
    Cancelled,
    /// Kiln itself.
    Bug,
}

/// A failure, ready to be shown.
#[derive(Debug)]
pub struct BuildError {
    /// Whose business it is.
    pub kind: Kind,
    /// What failed and why, one sentence without full stop, innermost cause last.
    pub message: String,
    /// Where in the build file.
    pub location: Option<Location>,
    /// What to try.
    pub hint: Option<String>,
    /// The step that failed, by its shown name.
    pub step: Option<String>,
    /// The last lines that step wrote.
    pub log: Vec<String>,
    /// Errors of the build file itself, each with its own place; then `message` only counts them.
    pub diagnostics: Vec<Diagnostic>,
    /// The exit status of the command, where a RUN failed.
    pub status: Option<i32>,
    /// What the command left is kept, for [`Engine::shell`](crate::Engine::shell).
    pub is_kept: bool,
    /// Something in the store turned out to be damaged, and was moved aside: trying again helps.
    pub is_damage: bool,
    /// A file of the context changed while it was read: trying again may help.
    pub is_change: bool,
}

impl BuildError {
    /// Makes an error of `kind` that says `message`.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            location: None,
            hint: None,
            step: None,
            log: Vec::new(),
            diagnostics: Vec::new(),
            status: None,
            is_kept: false,
            is_damage: false,
            is_change: false,
        }
    }

    /// The user's input is wrong.
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(Kind::Input, message)
    }

    /// The machine or the network said no.
    pub fn environment(message: impl Into<String>) -> Self {
        Self::new(Kind::Environment, message)
    }

    /// Something that cannot be, is.
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(Kind::Bug, message)
    }

    /// The user stopped the build.
    pub fn cancelled() -> Self {
        Self::new(Kind::Cancelled, "the build was cancelled")
    }

    /// Adds what to try.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts `context` in front of the message: "cannot pull `x`: …".
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for BuildError {}

/// Writes an error and everything underneath it in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let line = cause.to_string();
        // Some errors already repeat their cause.
        if !text.ends_with(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        source = cause.source();
    }
    text
}
