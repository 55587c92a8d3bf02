//! What a command that failed, or could not be started, is reported as.

use std::collections::VecDeque;
use std::path::Path;

use kiln_frontend::graph::Exec;
use kiln_runtime::{Isolation, Outcome, RunError, SetupError};

use crate::error::{BuildError, chain};
use crate::layers::FOREIGN_ID_HINT;

/// How many of a command's last lines go into the error.
const TAIL_LINES: usize = 20;
/// How much of a line.
const TAIL_LINE: usize = 2_000;

/// Says that a command ran and failed. `limit` is the memory it had, in bytes, where that was limited.
pub(super) fn command_failed(
    command: &str,
    op: &Exec,
    outcome: Outcome,
    limit: Option<u64>,
    log: Vec<String>,
) -> BuildError {
    let code = outcome.code();
    let mut message = format!("process {command:?} did not complete successfully: exit code: {code}");
    let mut hint = None;
    match outcome {
        Outcome::OutOfMemory { .. } => {
            message.push_str(": cannot allocate memory");
            hint = Some(match limit {
                Some(limit) => format!("killed: {} limit reached; `--memory` sets it", mebibytes(limit)),
                None => "the machine ran out of memory while the command ran".to_owned(),
            });
        }
        Outcome::Killed { signal } => hint = Some(format!("signal {signal} ended the command")),
        Outcome::Exited(127) => hint = not_found_hint(op, &log),
        Outcome::Exited(126) => {
            hint = Some("the shell found the program but could not execute it: check its mode and format".to_owned());
        }
        Outcome::Exited(_) => {}
    }
    BuildError { hint, log, status: Some(code), ..BuildError::input(message) }
}

/// Adds whose space is at an end, where a command says that some is.
pub(super) fn explain_disk(error: BuildError, store: &Path) -> BuildError {
    /// With less than this a disk is as good as full.
    const NOTHING: u64 = 16 << 20;
    if error.hint.is_some() || !error.log.iter().any(|line| line.contains("No space left on device")) {
        return error;
    }
    let free = rustix::fs::statvfs(store).map(|disk| disk.f_bavail * disk.f_frsize);
    match free {
        Ok(free) if free < NOTHING => {
            let hint = format!("the disk of kiln's store, {}, is full: `kiln prune` makes room", store.display());
            BuildError { kind: crate::Kind::Environment, ..error }.hint(hint)
        }
        _ => error.hint("the disk has room: it is a tmpfs mount (`size=`) or /dev/shm (`--shm-size`) that is full"),
    }
}

/// Says which ids there are, where a command in a user namespace says that it may not give something to one.
pub(super) fn explain_id(error: BuildError, isolation: Isolation) -> BuildError {
    let is_refused = |line: &String| line.contains("Invalid argument") && line.contains("own");
    match isolation {
        Isolation::UserNamespace if error.hint.is_none() && error.log.iter().any(is_refused) => {
            error.hint(FOREIGN_ID_HINT)
        }
        _ => error,
    }
}

/// Writes a limit as people give it: `512 MiB`, and in bytes where it is no whole number of them.
fn mebibytes(bytes: u64) -> String {
    const MEBIBYTE: u64 = 1 << 20;
    match (bytes / MEBIBYTE, bytes % MEBIBYTE) {
        (whole @ 1.., 0) => format!("{whole} MiB"),
        _ => format!("{bytes} bytes"),
    }
}

/// `sh: 1: foo: not found` and its relatives.
fn not_found_hint(op: &Exec, log: &[String]) -> Option<String> {
    let line = log.iter().rev().find(|line| line.contains("not found"))?;
    let word = line.split(": ").filter(|part| !part.contains("not found")).last()?.trim();
    if word.is_empty() || word.contains(' ') {
        return None;
    }
    let shell = op.args.first().map_or("the shell", String::as_str);
    if word.contains('/') {
        return Some(format!(
            "`{word}` is not in the image, or it is and what its `#!` line or its header asks for is not: an interpreter, \
             or a loader of another C library; lines that end in CR LF ask for an interpreter with a CR behind its name"
        ));
    }
    Some(format!("{shell} found no program `{word}` in the image: install it in an earlier RUN, or check the spelling"))
}

/// Says that a command could not be run.
pub(super) fn not_run(command: &str, error: &RunError, log: Vec<String>) -> BuildError {
    let text = chain(error);
    let built = match error {
        RunError::Cancelled => return BuildError::cancelled(),
        RunError::TimedOut(_) => {
            BuildError::input(format!("process {command:?} did not complete successfully: {text}"))
                .hint("`--step-timeout` says how long a step may take")
        }
        RunError::Setup(setup) => {
            let hint = setup_hint(setup);
            let mut built = BuildError::input(format!("process {command:?} did not complete successfully: {text}"));
            if matches!(setup, SetupError::System { .. } | SetupError::Mount { .. }) {
                built.kind = crate::Kind::Environment;
            }
            built.hint = hint;
            built
        }
        RunError::Invalid { .. } => BuildError::input(text),
        RunError::Spawn(_) | RunError::Collect(_) | RunError::Lost(_) => BuildError::environment(text),
    };
    BuildError { log, ..built }
}

fn setup_hint(error: &SetupError) -> Option<String> {
    match error {
        SetupError::System { errno, .. } | SetupError::Mount { errno, .. } if *errno == 1 => Some(
            "the host forbids it, perhaps as kiln runs in a container: `kiln info` shows what is possible".to_owned(),
        ),
        SetupError::CommandNotFound { name } => {
            Some(format!("install `{name}` in an earlier RUN, or check the spelling and PATH"))
        }
        SetupError::FileNotFound { exists: true, .. } => Some(
            "the image lacks the program's interpreter or C library: use a base that has it, or link statically"
                .to_owned(),
        ),
        SetupError::FileNotFound { exists: false, .. } => Some(
            "a shell form needs /bin/sh in the image; an image without it takes `RUN [\"/program\", \"argument\"]`"
                .to_owned(),
        ),
        SetupError::ExecFormat { architecture: Some(found), .. } => Some(format!(
            "it is a program for linux/{found}, and this machine is {}: build for that platform, or install an emulator \
             (Debian: `qemu-user-static`)",
            kiln_oci::Platform::host()
        )),
        SetupError::ExecFormat { .. } => Some("it is no program, or a script without `#!` line".to_owned()),
        SetupError::PermissionDenied { .. } => Some("give it an x bit: `COPY --chmod=755`".to_owned()),
        SetupError::ForeignId { .. } => Some(FOREIGN_ID_HINT.to_owned()),
        SetupError::UnknownUser(_) | SetupError::UnknownGroup(_) => {
            Some("add it with `RUN useradd` or `RUN adduser` before USER, or use a number".to_owned())
        }
        _ => None,
    }
}

/// The last lines of what a command wrote.
#[derive(Default)]
pub(super) struct Tail {
    lines: VecDeque<Vec<u8>>,
    open: bool,
}

impl Tail {
    /// Takes what came.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if !self.open {
                if self.lines.len() == TAIL_LINES {
                    self.lines.pop_front();
                }
                self.lines.push_back(Vec::new());
            }
            self.open = !piece.ends_with(b"\n");
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            if let Some(line) = self.lines.back_mut() {
                let room = TAIL_LINE.saturating_sub(line.len());
                line.extend_from_slice(&text[..text.len().min(room)]);
            }
        }
    }

    /// Returns the last lines, as text.
    pub(super) fn lines(self) -> Vec<String> {
        self.lines.into_iter().map(|line| String::from_utf8_lossy(&line).into_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_keeps_the_last_lines_whole() {
        let mut tail = Tail::default();
        for number in 0..100 {
            tail.push(b"li");
            tail.push(format!("ne {number}\n").as_bytes());
        }
        tail.push(b"open");
        let lines = tail.lines();
        assert_eq!(lines.len(), TAIL_LINES);
        assert_eq!(lines.first().map(String::as_str), Some("line 81"));
        assert_eq!(lines.last().map(String::as_str), Some("open"));
    }
}
