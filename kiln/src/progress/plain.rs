//! Progress as plain lines, the way buildx prints them: what ends up in the logs of CI systems.
//!
//! ```text
//! #4 [2/3] RUN make
//! #4 0.123 cc -o app main.c
//! #4 DONE 0.2s
//! ```
//!
//! Steps run side by side, but a reader wants one at a time. One step is *current* and writes at once; the others wait
//! until it is over, has been quiet for a while, or has kept them waiting too long; while it has said nothing at all it gives
//! way at once. A change in the middle of a step is marked by `#4 ...`. A step that ends is written at once, whoever is current.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use kiln_builder::progress::{Event, EventKind, OutputStream};

use super::text::{LineCutter, one_line};
use crate::message::warning_line;
use crate::units::{exact_bytes, seconds};

/// A current step that wrote nothing for so long gives way.
const QUIET: Duration = Duration::from_secs(2);
/// A waiting step waits no longer than this.
const PATIENCE: Duration = Duration::from_secs(8);
/// A transfer is mentioned no more often than this.
const TRANSFER_INTERVAL: Duration = Duration::from_secs(5);
/// So many waiting lines are not kept longer.
const MOST_PENDING: usize = 1000;

/// Turns events into lines.
#[derive(Debug, Default)]
pub struct Plain {
    steps: BTreeMap<u32, Step>,
    current: Option<u32>,
    something_printed: bool,
}

#[derive(Debug, Default)]
struct Step {
    name: String,
    started: Duration,
    over: bool,
    /// Lines that wait, without the number in front.
    pending: Vec<String>,
    /// Since when.
    waiting: Duration,
    /// When this step last wrote something.
    last: Duration,
    /// Whether it wrote something since it became current.
    spoke: bool,
    stdout: LineCutter,
    stderr: LineCutter,
    transfers: BTreeMap<String, Transfer>,
}

#[derive(Debug)]
struct Transfer {
    started: Duration,
    mentioned: Duration,
    over: bool,
}

impl Plain {
    /// Takes an event and appends the lines that are to be printed now.
    pub fn event(&mut self, event: &Event, out: &mut String) {
        let number = event.step.0;
        let step = self.steps.entry(number).or_default();
        if step.over {
            // The build file has been read for long when its checks are through.
            if matches!(event.kind, EventKind::Warning { .. }) {
                step.take(event);
                self.make_current(number, out);
                self.flush(number, event.at, out);
            }
            return;
        }
        if step.pending.is_empty() {
            step.waiting = event.at;
        }
        step.take(event);
        if step.over {
            self.make_current(number, out);
            self.flush(number, event.at, out);
            self.current = None;
            // What waited longest goes on; a step that only runs is named again, so that the last line tells what is
            // being waited for.
            let next = self
                .steps
                .iter()
                .filter(|(_, step)| !step.over)
                .min_by_key(|(number, step)| (step.pending.is_empty(), step.waiting, **number));
            if let Some((&next, _)) = next {
                self.make_current(next, out);
                self.flush(next, event.at, out);
            }
            return;
        }
        if self.may_speak(number, event.at) {
            self.make_current(number, out);
            self.flush(number, event.at, out);
        }
    }

    fn may_speak(&self, number: u32, now: Duration) -> bool {
        let Some(current) = self.running().filter(|current| *current != number) else { return true };
        let step = &self.steps[&number];
        if step.pending.is_empty() {
            return false;
        }
        let quiet =
            self.steps.get(&current).is_none_or(|current| !current.spoke || now.saturating_sub(current.last) >= QUIET);
        quiet || now.saturating_sub(step.waiting) >= PATIENCE || step.pending.len() >= MOST_PENDING
    }

    /// Returns the current step unless it is over.
    fn running(&self) -> Option<u32> {
        self.current.filter(|current| self.steps.get(current).is_some_and(|step| !step.over))
    }

    fn make_current(&mut self, number: u32, out: &mut String) {
        if self.current == Some(number) {
            return;
        }
        if let Some(old) = self.running() {
            let _ = writeln!(out, "#{old} ...");
        }
        if self.something_printed {
            out.push('\n');
        }
        self.something_printed = true;
        self.current = Some(number);
        if let Some(step) = self.steps.get_mut(&number) {
            step.spoke = false;
            let _ = writeln!(out, "#{number} {}", step.name);
        }
    }

    fn flush(&mut self, number: u32, now: Duration, out: &mut String) {
        if let Some(step) = self.steps.get_mut(&number) {
            step.last = now;
            step.spoke |= !step.pending.is_empty();
            for line in step.pending.drain(..) {
                let _ = writeln!(out, "#{number} {line}");
            }
        }
    }
}

impl Step {
    fn take(&mut self, event: &Event) {
        let age = event.at.saturating_sub(self.started);
        match &event.kind {
            EventKind::Started { name } => {
                self.name = one_line(name);
                self.started = event.at;
                self.last = event.at;
            }
            EventKind::Output { stream, bytes } => {
                let cutter = match stream {
                    OutputStream::Stdout => &mut self.stdout,
                    OutputStream::Stderr => &mut self.stderr,
                };
                let pending = &mut self.pending;
                cutter.push(bytes, |line| pending.push(format!("{:.3} {line}", age.as_secs_f64())));
            }
            EventKind::Progress { item, current, total, done } => {
                let line = self.transfer(event.at, item, *current, *total, *done);
                self.pending.extend(line);
            }
            EventKind::Note { text } => self.pending.push(format!("NOTE: {}", one_line(text))),
            EventKind::Warning { warning, .. } => self.pending.push(format!("WARN: {}", warning_line(warning))),
            EventKind::Cached => self.end("CACHED".to_owned(), age),
            EventKind::Done => self.end(format!("DONE {}", seconds(age)), age),
            EventKind::Failed { message } => self.end(format!("ERROR: {}", one_line(message)), age),
            EventKind::Cancelled => self.end("CANCELED".to_owned(), age),
        }
    }

    fn transfer(&mut self, now: Duration, item: &str, bytes: u64, total: Option<u64>, done: bool) -> Option<String> {
        let item = one_line(item);
        let transfer =
            self.transfers.entry(item.clone()).or_insert(Transfer { started: now, mentioned: now, over: false });
        if transfer.over || (!done && now.saturating_sub(transfer.mentioned) < TRANSFER_INTERVAL) {
            return None;
        }
        transfer.mentioned = now;
        transfer.over = done;
        let mut line = item;
        match total.filter(|total| *total > 0) {
            Some(total) => {
                let _ = write!(line, " {} / {}", exact_bytes(bytes), exact_bytes(total));
            }
            None if bytes > 0 => {
                let _ = write!(line, " {}", exact_bytes(bytes));
            }
            None => {}
        }
        let time = now.saturating_sub(transfer.started);
        if time > Duration::from_millis(10) {
            let _ = write!(line, " {}", seconds(time));
        }
        if done {
            line.push_str(" done");
        }
        Some(line)
    }

    fn end(&mut self, line: String, age: Duration) {
        for cutter in [&mut self.stdout, &mut self.stderr] {
            cutter.finish(|line| self.pending.push(format!("{:.3} {line}", age.as_secs_f64())));
        }
        self.pending.push(line);
        self.over = true;
        self.transfers.clear();
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use std::sync::Arc;

    use kiln_builder::BuildFile;
    use kiln_builder::progress::StepId;
    use kiln_frontend::dockerfile::{Diagnostic, Lines, Phase, Span};

    use super::*;

    fn print(events: &[(u64, u32, EventKind)]) -> String {
        let mut plain = Plain::default();
        let mut out = String::new();
        for (millis, step, kind) in events {
            plain.event(
                &Event { at: Duration::from_millis(*millis), step: StepId(*step), kind: kind.clone() },
                &mut out,
            );
        }
        out
    }

    fn started(name: &str) -> EventKind {
        EventKind::Started { name: name.to_owned() }
    }

    fn wrote(text: &str) -> EventKind {
        EventKind::Output { stream: OutputStream::Stdout, bytes: text.as_bytes().to_vec() }
    }

    #[test]
    fn one_step_after_the_other() {
        let text = print(&[
            (0, 1, started("[internal] load build definition from Dockerfile")),
            (20, 1, EventKind::Done),
            (30, 2, started("[1/3] FROM docker.io/library/alpine:3")),
            (30, 2, EventKind::Cached),
            (40, 3, started("[2/3] RUN make")),
            (163, 3, wrote("cc -o ap")),
            (170, 3, wrote("p main.c\nld")),
            (240, 3, EventKind::Done),
            (250, 4, started("[3/3] RUN false")),
            (260, 4, EventKind::Failed { message: "exit code: 1".to_owned() }),
        ]);
        assert_snapshot!(text, @r"
        #1 [internal] load build definition from Dockerfile
        #1 DONE 0.0s

        #2 [1/3] FROM docker.io/library/alpine:3
        #2 CACHED

        #3 [2/3] RUN make
        #3 0.130 cc -o app main.c
        #3 0.200 ld
        #3 DONE 0.2s

        #4 [3/3] RUN false
        #4 ERROR: exit code: 1
        ");
    }

    #[test]
    fn steps_side_by_side_are_told_one_at_a_time() {
        let text = print(&[
            (0, 1, started("[a 1/2] RUN one")),
            (0, 2, started("[b 1/2] RUN two")),
            (100, 1, wrote("one: first\n")),
            (150, 2, wrote("two: first\n")),
            (200, 1, wrote("one: second\n")),
            (250, 3, started("[c 1/2] RUN three")),
            (300, 3, EventKind::Done),
            (350, 1, wrote("one: third\n")),
            (400, 1, EventKind::Done),
            (500, 2, EventKind::Cancelled),
        ]);
        assert_snapshot!(text, @r"
        #1 [a 1/2] RUN one
        #1 0.100 one: first
        #1 0.200 one: second
        #1 ...

        #3 [c 1/2] RUN three
        #3 DONE 0.1s

        #2 [b 1/2] RUN two
        #2 0.150 two: first
        #2 ...

        #1 [a 1/2] RUN one
        #1 0.350 one: third
        #1 DONE 0.4s

        #2 [b 1/2] RUN two
        #2 CANCELED
        ");
    }

    #[test]
    fn a_quiet_step_gives_way() {
        let text = print(&[
            (0, 1, started("RUN sleep 100")),
            (0, 2, started("RUN make")),
            (3000, 2, wrote("making\n")),
            (3100, 1, wrote("slept\n")),
            (12000, 2, wrote("made\n")),
        ]);
        assert_snapshot!(text, @r"
        #1 RUN sleep 100
        #1 ...

        #2 RUN make
        #2 3.000 making
        #2 12.000 made
        ");
    }

    #[test]
    fn warnings_come_when_the_build_file_has_been_read_for_long() {
        let warning = |line| EventKind::Warning {
            warning: Diagnostic::warning(Phase::Lower, "from-as-casing", "'as' and 'FROM'\x1b[0m differ")
                .at(Lines::single(line), Span::default()),
            file: Arc::new(BuildFile { name: "Dockerfile".to_owned(), text: Vec::new() }),
        };
        let text = print(&[
            (0, 1, started("[internal] load build definition from Dockerfile")),
            (10, 1, EventKind::Done),
            (20, 2, started("[internal] load metadata for x")),
            (30, 1, warning(3)),
            (30, 1, warning(4)),
            (40, 2, wrote("found\n")),
            (50, 2, EventKind::Done),
        ]);
        assert_snapshot!(text, @r"
        #1 [internal] load build definition from Dockerfile
        #1 DONE 0.0s

        #2 [internal] load metadata for x
        #2 ...

        #1 [internal] load build definition from Dockerfile
        #1 WARN: FromAsCasing: 'as' and 'FROM' differ (line 3)
        #1 WARN: FromAsCasing: 'as' and 'FROM' differ (line 4)

        #2 [internal] load metadata for x
        #2 0.020 found
        #2 DONE 0.0s
        ");
    }

    #[test]
    fn transfers_are_mentioned_now_and_then_and_at_the_end() {
        let moved = |current, done| EventKind::Progress {
            item: "sha256:12ab".to_owned(),
            current,
            total: Some(3_400_000),
            done,
        };
        let text = print(&[
            (0, 1, started("[1/2] FROM docker.io/library/alpine:3")),
            (10, 1, moved(0, false)),
            (400, 1, moved(1_050_000, false)),
            (5400, 1, moved(2_000_000, false)),
            (6000, 1, moved(3_400_000, true)),
            (6001, 1, moved(3_400_000, true)),
            (6100, 1, EventKind::Note { text: "the network is the host's".to_owned() }),
            (6200, 1, EventKind::Done),
            (6300, 1, EventKind::Done),
        ]);
        assert_snapshot!(text, @r"
        #1 [1/2] FROM docker.io/library/alpine:3
        #1 sha256:12ab 2.00MB / 3.40MB 5.4s
        #1 sha256:12ab 3.40MB / 3.40MB 6.0s done
        #1 NOTE: the network is the host's
        #1 DONE 6.2s
        ");
    }
}
