//! Physical lines into logical ones: comments go, continuations are joined, here-document bodies are cut out.

use std::ops::Range;

use super::{
    ast::{Comment, Directive, DirectiveName, Heredoc, Lines, Span, Word},
    diagnostic::{Diagnostic, Phase},
    directive,
    heredoc::Announcement,
};

/// How long a physical line may be, in bytes, without its line feed.
pub const MAX_LINE: usize = 65_535;

/// A piece of source text that was put together from pieces of physical lines.
#[derive(Debug, Clone, Default)]
pub(super) struct Joined {
    pub text: String,
    /// Where each piece starts: in `text`, and in the source. In rising order.
    pieces: Vec<(usize, usize)>,
}

impl Joined {
    fn push(&mut self, text: &str, start: usize) {
        if !text.is_empty() {
            self.pieces.push((self.text.len(), start));
            self.text.push_str(text);
        }
    }

    /// Returns where a part of the text stands in the source.
    pub fn span(&self, range: Range<usize>) -> Span {
        let start = self.offset(range.start);
        if range.is_empty() {
            return Span::new(start, start);
        }
        Span::new(start, self.offset(range.end - 1) + 1)
    }

    /// Returns a part of the text as a word.
    pub fn word(&self, range: Range<usize>) -> Word {
        Word::new(&self.text[range.clone()], self.span(range))
    }

    fn offset(&self, position: usize) -> usize {
        let next = self.pieces.partition_point(|(start, _)| *start <= position);
        match self.pieces.get(next.saturating_sub(1)) {
            Some((start, source)) => source + (position - start),
            None => 0,
        }
    }
}

/// A logical line.
#[derive(Debug)]
pub(super) struct LogicalLine {
    pub joined: Joined,
    pub lines: Lines,
    /// The comment lines directly above.
    pub comments: Vec<Comment>,
    /// Whether a blank line was skipped inside.
    pub has_empty_continuation: bool,
}

struct Physical<'a> {
    /// The line with its line feed, without a byte-order mark.
    text: &'a str,
    start: usize,
    number: usize,
}

impl<'a> Physical<'a> {
    fn content(&self) -> &'a str {
        self.text.trim_end_matches(['\r', '\n'])
    }

    fn is_comment(&self) -> bool {
        self.text.trim_start().starts_with('#')
    }
}

/// Reads the source from top to bottom.
pub(super) struct Reader<'a> {
    source: &'a str,
    position: usize,
    /// The number of physical lines read so far.
    pub line_count: usize,
    pub escape: char,
    pub directives: Vec<Directive>,
    directives_possible: bool,
    pub diagnostics: Vec<Diagnostic>,
}

impl<'a> Reader<'a> {
    pub fn new(source: &'a str) -> Self {
        Self {
            source,
            position: 0,
            line_count: 0,
            escape: '\\',
            directives: Vec::new(),
            directives_possible: true,
            diagnostics: Vec::new(),
        }
    }

    /// The number of bytes read so far.
    pub fn position(&self) -> usize {
        self.position
    }

    fn physical(&mut self) -> Option<Physical<'a>> {
        let rest = &self.source[self.position..];
        if rest.is_empty() {
            return None;
        }
        let length = rest.find('\n').map_or(rest.len(), |feed| feed + 1);
        let mut line = Physical { text: &rest[..length], start: self.position, number: self.line_count + 1 };
        self.position += length;
        self.line_count += 1;
        if line.text.strip_suffix('\n').unwrap_or(line.text).len() > MAX_LINE {
            let message = format!("dockerfile line greater than max allowed size of {MAX_LINE}");
            let span = Span::new(line.start, line.start + length);
            self.diagnostics.push(
                Diagnostic::error(Phase::Syntax, "line-too-long", message)
                    .at(Lines::single(line.number), span)
                    .hint("split the line with a continuation"),
            );
        }
        if line.number == 1
            && let Some(text) = line.text.strip_prefix('\u{feff}')
        {
            line.start += line.text.len() - text.len();
            line.text = text;
        }
        Some(line)
    }

    /// Reads the next logical line.
    pub fn logical(&mut self) -> Option<LogicalLine> {
        let mut comments: Vec<Comment> = Vec::new();
        loop {
            let line = self.physical()?;
            if line.is_comment() {
                // The first byte goes even where it is not the `#`.
                let mut text = line.text.chars();
                text.next();
                let text = text.as_str().trim();
                let is_directive = self.directives_possible && self.read_directive(&line);
                if text.is_empty() {
                    comments.clear();
                } else if !is_directive {
                    let span = Span::new(line.start, line.start + line.content().len());
                    comments.push(Comment { text: text.to_owned(), span, line: line.number });
                }
                continue;
            }
            self.directives_possible = false;
            let content = line.content();
            let trimmed = content.trim_start();
            let (piece, mut continues) = cut_continuation(trimmed, self.escape);
            if piece.is_empty() && !continues {
                continue;
            }
            let mut joined = Joined::default();
            joined.push(piece, line.start + content.len() - trimmed.len());
            let mut has_empty_continuation = false;
            while continues {
                let Some(next) = self.physical() else { break };
                if next.is_comment() {
                    continue;
                }
                let content = next.content();
                if content.trim_start().is_empty() {
                    has_empty_continuation = true;
                    continue;
                }
                let (piece, goes_on) = cut_continuation(content, self.escape);
                joined.push(piece, next.start);
                continues = goes_on;
            }
            let lines = Lines::new(line.number, self.line_count);
            return Some(LogicalLine { joined, lines, comments, has_empty_continuation });
        }
    }

    /// Takes a comment line at the top as a directive, if it is one.
    fn read_directive(&mut self, line: &Physical<'a>) -> bool {
        let content = line.content();
        let trimmed = content.trim_start();
        let Some((name, value)) = directive::parse_line(trimmed, "#") else {
            self.directives_possible = false;
            return false;
        };
        let start = line.start + content.len() - trimmed.len() + value.start;
        let span = Span::new(start, start + value.len());
        let value = Word::new(&trimmed[value], span);
        let mut problem = |message: String, hint: &str| {
            let found = Diagnostic::error(Phase::Syntax, "directive", message).at(Lines::single(line.number), span);
            self.diagnostics.push(found.hint(hint));
        };
        if self.directives.iter().any(|known| known.name == name) {
            let name = name.as_str();
            problem(
                format!("only one {name} parser directive can be used"),
                "remove one of them; an ordinary comment is told apart by another word before the `=`",
            );
        } else if name == DirectiveName::Escape {
            match &*value.text {
                "\\" => self.escape = '\\',
                "`" => self.escape = '`',
                other => problem(
                    format!("invalid escape token '{other}' does not match ` or \\"),
                    "write `# escape=\\`, which is the default, or `# escape=` with a backtick",
                ),
            }
        }
        self.directives.push(Directive { name, value, line: line.number });
        true
    }

    /// Reads the body of a here-document. Without its terminator everything up to the end is the body, and the second
    /// value is false.
    pub fn body(&mut self, announcement: Announcement) -> (Heredoc, bool) {
        let start = self.position;
        let mut end = start;
        let mut terminated = false;
        while let Some(line) = self.physical() {
            let mut content = line.content();
            if announcement.chomp {
                content = content.trim_start_matches('\t');
            }
            if content == announcement.name {
                terminated = true;
                break;
            }
            end = self.position;
        }
        let heredoc = Heredoc {
            name: announcement.name,
            file_descriptor: announcement.file_descriptor,
            chomp: announcement.chomp,
            expand: announcement.expand,
            content: self.source[start..end].to_owned(),
            span: Span::new(start, end),
        };
        (heredoc, terminated)
    }
}

/// Removes the escape character that ends a line, with the blanks behind it. Two in a row are no continuation.
fn cut_continuation(line: &str, escape: char) -> (&str, bool) {
    match line.trim_end_matches([' ', '\t']).strip_suffix(escape) {
        Some(before) if !before.ends_with(escape) => (before, true),
        _ => (line, false),
    }
}
