//! Answers to questions about a build file that is not built: its checks, its outline, its targets.
//!
//! Each has a text for people and JSON for programs, in the shapes that BuildKit answers in.

pub mod check;
pub mod describe;
pub mod outline;
pub mod targets;

use kiln_frontend::dockerfile::Lines;
use serde::Serialize;

/// A place in the build file.
#[derive(Debug, Serialize)]
struct Location {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<Range>,
}

#[derive(Debug, Serialize)]
struct Range {
    start: Position,
    end: Position,
}

#[derive(Debug, Serialize)]
struct Position {
    line: usize,
}

impl Location {
    /// The place of some lines; nothing for none.
    fn of(lines: &[Lines]) -> Option<Self> {
        let range = |lines: &Lines| Range { start: Position { line: lines.first }, end: Position { line: lines.last } };
        (!lines.is_empty()).then(|| Self { ranges: lines.iter().map(range).collect() })
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
