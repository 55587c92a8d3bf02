//! Answers to questions about a build file that is not built: its checks, its outline, its targets.
//!
//! Each has a text for people and JSON for programs, in the shapes that BuildKit answers in.

pub mod check;
pub mod describe;
pub mod outline;
pub mod targets;

use std::num::NonZeroUsize;

use kiln_frontend::dockerfile::Lines;
use serde::Serialize;

/// A place in the build file: one range for each line, as BuildKit has it.
#[derive(Debug, Serialize)]
pub struct Location {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    /// Its lines.
    pub ranges: Vec<Range>,
}

/// Part of a build file.
#[derive(Debug, Serialize)]
pub struct Range {
    start: Position,
    end: Position,
}

#[derive(Debug, Serialize)]
struct Position {
    /// Counted from 1; there is none where BuildKit has counted 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<NonZeroUsize>,
}

impl Location {
    /// The place of some lines; nothing for none.
    pub fn of(lines: &[Lines]) -> Option<Self> {
        let position = |line| Position { line: NonZeroUsize::new(line) };
        let range = |line| Range { start: position(line), end: position(line) };
        let each = lines.iter().flat_map(|lines| lines.first..=lines.last.max(lines.first));
        (!lines.is_empty()).then(|| Self { ranges: each.map(range).collect() })
    }
}

/// Writes JSON as people read it.
fn json(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_else(|error| format!("{{\"error\": \"{error}\"}}"));
    text.push('\n');
    text
}

/// Draws rows in columns. The last cell of a row is not padded, so that an empty one leaves the padding of the one before.
fn columns(rows: &[Vec<String>], padding: usize) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0) + padding
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (number, cell) in row.iter().enumerate() {
            let cell = crate::progress::text::one_line(cell);
            text.push_str(&cell);
            if number + 1 < row.len() {
                let missing = widths[number].saturating_sub(cell.chars().count());
                text.extend(std::iter::repeat_n(' ', missing));
            }
        }
        text.push('\n');
    }
    text
}
