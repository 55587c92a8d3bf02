//! One frame of the terminal display: a pure function of the board, the time and the size of the terminal.
//!
//! ```text
//! [+] Building 12.3s (4/6)
//!  => [internal] load build definition from Dockerfile               0.0s
//!  => CACHED [1/3] FROM docker.io/library/python:3.12-slim           0.0s
//!  => [2/3] RUN pip install -r requirements.txt                     11.9s
//!  => => # Collecting flask
//! ```

use std::time::Duration;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::board::{Board, State, Step, Transfer};
use crate::units::{exact_bytes, seconds};

/// What a frame is drawn for.
#[derive(Debug, Clone, Copy)]
pub struct Canvas {
    /// Columns.
    pub width: usize,
    /// Lines that may be used; `None` for as many as it takes.
    pub height: Option<usize>,
    /// Whether to use colours.
    pub colours: bool,
    /// Whether this is the last frame.
    pub last: bool,
}

/// A line, and what it matters when there is not room for all.
struct Line {
    text: String,
    rank: Rank,
}

#[derive(PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
enum Rank {
    /// A step that is over.
    Past,
    /// Output of a running step, or a transfer.
    Detail,
    /// A running or failed step.
    Present,
}

/// Draws a frame.
pub fn frame(board: &Board, now: Duration, canvas: Canvas) -> Vec<String> {
    let finished = if canvas.last { " FINISHED" } else { "" };
    let head = format!("[+] Building {} ({}/{}){finished}", seconds(now), board.over(), board.steps.len());
    let mut lines = Vec::new();
    for step in board.steps.values() {
        step_lines(step, now, canvas, &mut lines);
    }
    if let Some(height) = canvas.height.filter(|_| !canvas.last) {
        fit(&mut lines, height.saturating_sub(1));
    }
    let head = cut(&head, canvas.width).to_owned();
    std::iter::once(paint(head, BLUE, canvas.colours && canvas.last))
        .chain(lines.into_iter().map(|line| line.text))
        .collect()
}

fn step_lines(step: &Step, now: Duration, canvas: Canvas, lines: &mut Vec<Line>) {
    let running = step.state == State::Running;
    let (word, colour) = match step.state {
        State::Running => ("", ""),
        State::Done => ("", BLUE),
        State::Cached => ("CACHED ", BLUE),
        State::Failed => ("ERROR ", RED),
        State::Cancelled => ("CANCELED ", YELLOW),
    };
    let end = if running { now } else { step.ended };
    let time = seconds(end.saturating_sub(step.started));
    let text = row(&format!(" => {word}{}", step.name), &time, canvas.width);
    let rank = if running || step.state == State::Failed { Rank::Present } else { Rank::Past };
    lines.push(Line { text: paint(text, colour, canvas.colours), rank });
    for note in &step.notes {
        let text = cut(&format!(" => => note: {note}"), canvas.width).to_owned();
        lines.push(Line {
            text: paint(text, YELLOW, canvas.colours),
            rank: if running { Rank::Detail } else { Rank::Past },
        });
    }
    if !running {
        return;
    }
    for transfer in &step.transfers {
        let text = row(&format!(" => => {}", transfer.item), &amount(transfer, now), canvas.width);
        lines.push(Line { text, rank: if transfer.done { Rank::Past } else { Rank::Detail } });
    }
    for line in &step.tail {
        let text = cut(&format!(" => => # {}", line.replace('\t', "    ")), canvas.width).to_owned();
        lines.push(Line { text: paint(text, DIM, canvas.colours), rank: Rank::Detail });
    }
}

fn amount(transfer: &Transfer, now: Duration) -> String {
    let end = if transfer.done { transfer.last } else { now };
    let time = seconds(end.saturating_sub(transfer.started));
    match (transfer.current, transfer.total.filter(|total| *total > 0)) {
        (current, Some(total)) => format!("{} / {} {time:>6}", exact_bytes(current), exact_bytes(total)),
        (0, None) => time,
        (current, None) => format!("{} {time:>6}", exact_bytes(current)),
    }
}

/// Drops lines until there are no more than `height`: what is over first, then details, both from the top.
fn fit(lines: &mut Vec<Line>, height: usize) {
    for rank in [Rank::Past, Rank::Detail, Rank::Present] {
        let mut excess = lines.len().saturating_sub(height);
        lines.retain(|line| {
            let drop = excess > 0 && line.rank == rank;
            excess -= usize::from(drop);
            !drop
        });
    }
}

/// Puts `right` at the right edge and as much of `left` as fits before it; `left` alone where there is no room for both.
fn row(left: &str, right: &str, width: usize) -> String {
    let Some(room) = width.checked_sub(right.width() + 1) else { return cut(left, width).to_owned() };
    let left = cut(left, room);
    let gap = room.saturating_sub(left.width()) + 1;
    format!("{left}{:gap$}{right}", "")
}

/// Returns the longest beginning of `text` that takes no more than `width` columns.
fn cut(text: &str, width: usize) -> &str {
    let mut used = 0;
    for (at, character) in text.char_indices() {
        used += character.width().unwrap_or(0);
        if used > width {
            return &text[..at];
        }
    }
    text
}

const RED: &str = "31";
const YELLOW: &str = "33";
const BLUE: &str = "34";
const DIM: &str = "2";

fn paint(text: String, colour: &str, colours: bool) -> String {
    if colours && !colour.is_empty() { format!("\x1b[{colour}m{text}\x1b[0m") } else { text }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use kiln_builder::progress::{Event, EventKind, OutputStream, StepId};

    use super::*;

    const PLAIN: Canvas = Canvas { width: 60, height: None, colours: false, last: false };

    fn board(events: &[(u64, u32, EventKind)]) -> Board {
        let mut board = Board::default();
        for (millis, step, kind) in events {
            board.event(&Event { at: Duration::from_millis(*millis), step: StepId(*step), kind: kind.clone() });
        }
        board
    }

    fn started(name: &str) -> EventKind {
        EventKind::Started { name: name.to_owned() }
    }

    fn example() -> Board {
        board(&[
            (0, 1, started("[internal] load build definition from Dockerfile")),
            (20, 1, EventKind::Done),
            (30, 2, started("[1/4] FROM docker.io/library/python:3.12-slim")),
            (30, 2, EventKind::Cached),
            (40, 3, started("[2/4] RUN pip install --no-cache-dir -r requirements.txt")),
            (
                50,
                3,
                EventKind::Output {
                    stream: OutputStream::Stderr,
                    bytes: b"Collecting \x1b[1mflask\x1b[0m\n\tdone\nhalf".to_vec(),
                },
            ),
            (60, 4, started("[other 1/2] FROM docker.io/library/节点:20")),
            (
                60,
                4,
                EventKind::Progress {
                    item: "sha256:12ab".to_owned(),
                    current: 1_050_000,
                    total: Some(3_400_000),
                    done: false,
                },
            ),
        ])
    }

    fn draw(board: &Board, canvas: Canvas) -> String {
        frame(board, Duration::from_millis(12_340), canvas).join("|\n") + "|"
    }

    #[test]
    fn running_steps_show_what_they_do() {
        assert_snapshot!(draw(&example(), PLAIN), @r"
        [+] Building 12.3s (2/4)|
         => [internal] load build definition from Dockerfile    0.0s|
         => CACHED [1/4] FROM docker.io/library/python:3.12-sli 0.0s|
         => [2/4] RUN pip install --no-cache-dir -r requiremen 12.3s|
         => => # Collecting flask|
         => => #     done|
         => [other 1/2] FROM docker.io/library/节点:20         12.3s|
         => => sha256:12ab                    1.05MB / 3.40MB  12.3s|
        ");
    }

    #[test]
    fn a_low_terminal_shows_what_is_going_on() {
        let canvas = Canvas { height: Some(5), ..PLAIN };
        assert_snapshot!(draw(&example(), canvas), @r"
        [+] Building 12.3s (2/4)|
         => [2/4] RUN pip install --no-cache-dir -r requiremen 12.3s|
         => => #     done|
         => [other 1/2] FROM docker.io/library/节点:20         12.3s|
         => => sha256:12ab                    1.05MB / 3.40MB  12.3s|
        ");
        assert_eq!(frame(&example(), Duration::ZERO, Canvas { height: Some(0), ..PLAIN }).len(), 1);
    }

    #[test]
    fn the_last_frame_tells_how_it_ended() {
        let mut board = example();
        let at = Duration::from_millis(12_000);
        board.event(&Event { at, step: StepId(3), kind: EventKind::Failed { message: "exit code: 1".to_owned() } });
        board.event(&Event { at, step: StepId(4), kind: EventKind::Cancelled });
        let canvas = Canvas { last: true, height: Some(2), width: 40, ..PLAIN };
        assert_snapshot!(draw(&board, canvas), @r"
        [+] Building 12.3s (4/4) FINISHED|
         => [internal] load build definitio 0.0s|
         => CACHED [1/4] FROM docker.io/lib 0.0s|
         => ERROR [2/4] RUN pip install -- 12.0s|
         => CANCELED [other 1/2] FROM dock 11.9s|
        ");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for width in 0..70 {
            for line in frame(&example(), Duration::from_secs(100), Canvas { width, ..PLAIN }) {
                assert!(line.width() <= width, "{width}: {line:?}");
            }
        }
    }
}
