//! What commands write, made fit to be shown: whole lines, without anything that could move
//! the cursor, change the terminal, or hide text.

/// How much of a line without end is kept before it is shown as it is.
const LONGEST_LINE: usize = 64 << 10;

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
pub struct LineCutter {
    pending: Vec<u8>,
}

impl LineCutter {
    /// Adds bytes and hands out every line that is complete now, cleaned.
    pub fn push(&mut self, mut bytes: &[u8], mut line: impl FnMut(String)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.pending.extend_from_slice(&bytes[..end]);
            line(clean(&self.pending));
            self.pending.clear();
            bytes = &bytes[end + 1..];
        }
        self.pending.extend_from_slice(bytes);
        if self.pending.len() > LONGEST_LINE {
            line(clean(&self.pending));
            self.pending.clear();
        }
    }

    /// Hands out what is left when the stream ends.
    pub fn finish(&mut self, mut line: impl FnMut(String)) {
        if !self.pending.is_empty() {
            line(clean(&self.pending));
            self.pending.clear();
        }
    }
}

/// Returns a line as a terminal would show it in the end: what stands after the last carriage return, without escape
/// sequences and control characters. Bytes that are not UTF-8 become replacement characters.
pub fn clean(line: &[u8]) -> String {
    let end = line.iter().rposition(|byte| *byte != b'\r').map_or(0, |last| last + 1);
    let start = line[..end].iter().rposition(|byte| *byte == b'\r').map_or(0, |at| at + 1);
    let text = String::from_utf8_lossy(&line[start..end]);
    let mut shown = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\u{1b}' => skip_escape(&mut characters),
            '\t' => shown.push('\t'),
            // Right-to-left overrides can make a line read as something else.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {}
            character if character.is_control() => {}
            character => shown.push(character),
        }
    }
    shown
}

/// Skips what follows an escape character: a control sequence (`[` … letter), a string (`]`, `P`, `_`, `^`, `X` … end),
/// or one character.
fn skip_escape(characters: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match characters.next() {
        Some('[') => {
            while let Some(next) = characters.next_if(|next| !next.is_control()) {
                if ('@'..='~').contains(&next) {
                    return;
                }
            }
        }
        Some(']' | 'P' | '_' | '^' | 'X') => {
            while let Some(next) = characters.next() {
                if next == '\u{7}' {
                    return;
                }
                if next == '\u{1b}' {
                    characters.next_if_eq(&'\\');
                    return;
                }
            }
        }
        Some('(' | ')' | '#' | '%') => {
            characters.next();
        }
        _ => {}
    }
}

/// Returns a text of several lines as one, cleaned: names of steps can hold here-documents.
pub fn one_line(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for line in text.lines() {
        let line = clean(line.as_bytes());
        if !shown.is_empty() && !line.trim().is_empty() {
            shown.push(' ');
        }
        shown.push_str(line.trim());
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> Vec<String> {
        let mut cutter = LineCutter::default();
        let mut lines = Vec::new();
        for chunk in chunks {
            cutter.push(chunk, |line| lines.push(line));
        }
        cutter.finish(|line| lines.push(line));
        lines
    }

    #[test]
    fn lines_come_whole_however_they_arrive() {
        assert_eq!(lines(&[b"a", b"b\nc", b"\n\nd"]), ["ab", "c", "", "d"]);
        assert_eq!(lines(&[b"\xc3", b"\xa9\n"]), ["é"]);
    }

    #[test]
    fn a_progress_bar_is_shown_as_it_ends() {
        assert_eq!(clean(b"10%\r50%\r100%\r"), "100%");
        assert_eq!(clean(b"text\r"), "text");
    }

    #[test]
    fn nothing_that_moves_the_cursor_or_sets_the_title_comes_through() {
        assert_eq!(
            clean(b"\x1b[31mred\x1b[0m \x1b[2Jgone \x1b]0;title\x07and\x1b]8;;u\x1b\\link\x1b(B\x08\x07"),
            "red gone andlink"
        );
        assert_eq!(clean("a\u{202e}b\u{9b}31mc".as_bytes()), "ab31mc");
        assert_eq!(clean(b"\x1b["), "");
        assert_eq!(clean(b"\x1b"), "");
    }

    #[test]
    fn a_line_without_end_does_not_pile_up() {
        let mut cutter = LineCutter::default();
        let mut seen = 0;
        for _ in 0..100 {
            cutter.push(&[b'x'; 4096], |line| seen += line.len());
        }
        assert!(seen > 300_000);
        assert!(cutter.pending.len() <= LONGEST_LINE);
    }

    #[test]
    fn a_here_document_in_a_name_becomes_one_line() {
        assert_eq!(one_line("RUN <<EOF\n  a\n\n b\nEOF\n"), "RUN <<EOF a b EOF");
    }
}
