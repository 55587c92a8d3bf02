//! Lines of a build file, drawn the way buildx draws them: editors and CI systems know how to read it.
//!
//! ```text
//! Dockerfile:3
//! --------------------
//!    1 |     FROM busybox
//!    2 |     COPY . .
//!    3 | >>> RUN make
//!    4 |     CMD ["./app"]
//! --------------------
//! ```
//!
//! The number behind the name is that of the first marked line. Everything between two marked lines is shown, unless it
//! is very long.

use std::fmt::Write as _;

use kiln_frontend::dockerfile::Lines;

use crate::progress::text::clean;

/// A build file, for excerpts.
#[derive(Debug, Clone)]
pub struct SourceText {
    /// As the user knows it.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// More lines than this in a row, and the middle of them is left out.
const MOST_LINES: usize = 400;
/// So many of them are shown at each end.
const END_LINES: usize = 100;
/// A longer line is cut.
const LONGEST_LINE: usize = 4096;
const RULE: &str = "--------------------";

/// Draws the lines of `ranges` with some lines around them. Nothing for ranges that the file does not have.
pub fn draw(file: &SourceText, ranges: &[Lines], out: &mut String) {
    let lines: Vec<&str> = file.text.split('\n').collect();
    let Some(first) = ranges.iter().map(|range| range.first).min().filter(|first| (1..=lines.len()).contains(first))
    else {
        return;
    };
    let last = ranges.iter().map(|range| range.last).max().unwrap_or(first).clamp(first, lines.len());
    let shown = around(first, last, lines.len());
    let _ = writeln!(out, "{}:{first}\n{RULE}", clean(file.name.as_bytes()));
    let is_long = shown.1 - shown.0 >= MOST_LINES;
    for number in shown.0..=shown.1 {
        if is_long && number == shown.0 + END_LINES {
            let _ = writeln!(out, "     |     … {} lines", shown.1 + 1 - shown.0 - 2 * END_LINES);
        }
        if is_long && (shown.0 + END_LINES..=shown.1 - END_LINES).contains(&number) {
            continue;
        }
        let is_marked = ranges.iter().any(|range| (range.first..=range.last).contains(&number));
        let _ =
            writeln!(out, " {number:3} | {} {}", if is_marked { ">>>" } else { "   " }, shown_line(lines[number - 1]));
    }
    let _ = writeln!(out, "{RULE}");
}

/// Returns the first and the last line to show: two more on each side of a single line, one more on each side of
/// several, and more on one side where the other has none.
fn around(mut first: usize, mut last: usize, count: usize) -> (usize, usize) {
    let wanted = if first == last { 4 } else { 2 };
    let mut added = 0;
    while added < wanted {
        if first > 1 {
            first -= 1;
            added += 1;
        }
        if last < count {
            last += 1;
            added += 1;
        }
        // Each round counts for itself too, so it ends where there is nothing left to add.
        added += 1;
    }
    (first, last)
}

fn shown_line(line: &str) -> String {
    let mut text = clean(line.as_bytes());
    if text.len() > LONGEST_LINE {
        text.truncate(text.floor_char_boundary(LONGEST_LINE));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    fn drawn(text: &str, ranges: &[(usize, usize)]) -> String {
        let file = SourceText { name: "Dockerfile".to_owned(), text: text.to_owned() };
        let ranges: Vec<Lines> = ranges.iter().map(|&(first, last)| Lines::new(first, last)).collect();
        let mut out = String::new();
        draw(&file, &ranges, &mut out);
        out
    }

    #[test]
    fn one_line_has_two_on_each_side() {
        assert_snapshot!(drawn("a\nb\nc\nd\ne\nf\ng\n", &[(4, 4)]), @r"
        Dockerfile:4
        --------------------
           2 |     b
           3 |     c
           4 | >>> d
           5 |     e
           6 |     f
        --------------------
        ");
    }

    #[test]
    fn at_an_end_of_the_file_the_other_side_grows() {
        assert_snapshot!(drawn("a\nb\nc\nd\ne\n", &[(1, 1)]), @r"
        Dockerfile:1
        --------------------
           1 | >>> a
           2 |     b
           3 |     c
        --------------------
        ");
        assert_snapshot!(drawn("FROM busybox\n\nRUN false\n", &[(3, 3)]), @r"
        Dockerfile:3
        --------------------
           1 |     FROM busybox
           2 |     
           3 | >>> RUN false
           4 |     
        --------------------
        ");
    }

    #[test]
    fn several_lines_have_one_on_each_side_and_all_are_marked() {
        assert_snapshot!(drawn("a\nb\nc\nd\ne\nf\n", &[(3, 4)]), @r"
        Dockerfile:3
        --------------------
           2 |     b
           3 | >>> c
           4 | >>> d
           5 |     e
        --------------------
        ");
        assert_snapshot!(drawn("a\nb\nc\nd\n", &[(4, 4), (2, 2)]), @r"
        Dockerfile:2
        --------------------
           1 |     a
           2 | >>> b
           3 |     c
           4 | >>> d
           5 |     
        --------------------
        ");
    }

    #[test]
    fn what_is_long_is_cut_and_what_is_not_there_is_not_drawn() {
        let long = "x\n".repeat(100_000);
        let text = drawn(&long, &[(2, 100_000)]);
        assert_eq!(text.lines().count(), 204);
        assert!(text.contains("… 99801 lines"), "{text}");
        assert!(drawn(&"é".repeat(1 << 20), &[(1, 1)]).len() < 5000);
        for ranges in [&[][..], &[(0, 0)], &[(9, 9)], &[(usize::MAX, usize::MAX)]] {
            assert_eq!(drawn("a\nb\n", ranges), "");
        }
        assert!(drawn("a\nb\n", &[(2, usize::MAX)]).contains("   2 | >>> b\n"));
        assert!(drawn("a\nb\n", &[(2, 1)]).contains("   2 |     b\n"));
        assert!(!drawn("a\x1b[2J\r\n", &[(1, 1)]).contains(['\x1b', '\r']));
    }
}
