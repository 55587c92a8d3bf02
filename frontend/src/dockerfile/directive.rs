//! The lines at the top of a file that direct its reading, and which frontend a file asks for.

use std::{ops::Range, sync::LazyLock};

use regex::Regex;

use super::ast::{Directive, DirectiveName, Span, Word};

static FORM: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^[\t\n\x0c\r ]*([a-zA-Z][a-zA-Z0-9]*)[\t\n\x0c\r ]*=[\t\n\x0c\r ]*(.+?)[\t\n\x0c\r ]*$")
        .expect("the pattern is constant")
});

impl DirectiveName {
    /// Returns the name as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::Escape => "escape",
            Self::Check => "check",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Syntax, Self::Escape, Self::Check].into_iter().find(|name| text.eq_ignore_ascii_case(name.as_str()))
    }
}

/// Reads a line as a directive: its name, and where in the line its value stands. Unknown names are none.
pub(super) fn parse_line(line: &str, comment: &str) -> Option<(DirectiveName, Range<usize>)> {
    let rest = line.strip_prefix(comment)?;
    let parts = FORM.captures(rest)?;
    let name = DirectiveName::parse(&parts[1])?;
    let value = parts.get(2)?;
    let skipped = line.len() - rest.len();
    Some((name, value.start() + skipped..value.end() + skipped))
}

/// The frontend that a file asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxRequest {
    /// The image of the frontend.
    pub reference: String,
    /// The reference and what follows it.
    pub command_line: String,
    /// The line, counted from 1; 0 when the whole file is JSON.
    pub line: usize,
    /// Where the value stands.
    pub span: Span,
}

/// Finds the frontend that a file asks for: by `# syntax=`, by `// syntax=`, or by the member `syntax` of a JSON object.
///
/// Unlike the parser this also looks behind a first line that starts with `#!`.
pub fn detect_syntax(text: &str) -> Option<SyntaxRequest> {
    let found = ["#", "//"].into_iter().find_map(|comment| find(text, comment, DirectiveName::Syntax));
    if let Some(directive) = found {
        let command_line = directive.value.text;
        let reference = command_line.split(' ').next().unwrap_or_default().to_owned();
        return Some(SyntaxRequest { reference, command_line, line: directive.line, span: directive.value.span });
    }
    let reference = syntax_member(without_script_line(without_mark(text)))?;
    Some(SyntaxRequest { command_line: reference.clone(), reference, line: 0, span: Span::default() })
}

/// Returns the member `syntax` of a text that is a JSON object; case does not count, as nowhere in the JSON of Go.
fn syntax_member(text: &str) -> Option<String> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).ok()?;
    let (_, value) = object.into_iter().find(|(key, _)| key.eq_ignore_ascii_case("syntax"))?;
    value.as_str().filter(|value| !value.is_empty()).map(str::to_owned)
}

/// Returns what follows a first line that starts with `#!`.
fn without_script_line(text: &str) -> &str {
    if text.starts_with("#!") { text.split_once('\n').map_or("", |(_, rest)| rest) } else { text }
}

/// Finds the `# check=` of a file. Unlike the parser this also looks behind a first line that starts with `#!`.
pub fn detect_check(text: &str) -> Option<Directive> {
    find(text, "#", DirectiveName::Check)
}

fn find(text: &str, comment: &str, wanted: DirectiveName) -> Option<Directive> {
    let whole = text;
    let text = without_mark(text);
    let mut offset = whole.len() - text.len();
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let start = offset;
        offset += line.len();
        let line = line.trim_end_matches(['\r', '\n']);
        if index == 0 && line.starts_with("#!") {
            continue;
        }
        let (name, value) = parse_line(line, comment)?;
        if name == wanted {
            let span = Span::new(start + value.start, start + value.end);
            return Some(Directive { name, value: Word::new(&line[value], span), line: index + 1 });
        }
    }
    None
}

fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}
