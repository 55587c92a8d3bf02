//! Cutting the arguments of an instruction into words. All of it works on places in the text, so that a word knows
//! where it stands; quotes and escapes stay in the words.

use std::ops::Range;

/// The blanks that separate instruction and arguments. (Elsewhere all Unicode white space counts.)
pub(super) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{b}' | '\u{c}' | '\r')
}

/// Returns the part of a range without white space at its ends.
pub(super) fn trim(text: &str, range: Range<usize>) -> Range<usize> {
    let part = &text[range.clone()];
    let start = range.start + (part.len() - part.trim_start().len());
    let end = (range.end - (part.len() - part.trim_end().len())).max(start);
    start..end
}

/// Splits a range at its first run of blanks. Without one, there is no second part.
pub(super) fn split_once(text: &str, range: Range<usize>) -> (Range<usize>, Option<Range<usize>>) {
    let part = &text[range.clone()];
    let Some(blank) = part.find(is_blank) else { return (range, None) };
    let rest = part[blank..].trim_start_matches(is_blank);
    (range.start..range.start + blank, Some(range.end - rest.len()..range.end))
}

/// Splits a range at runs of blanks.
pub(super) fn split(text: &str, range: Range<usize>) -> Vec<Range<usize>> {
    let mut words = Vec::new();
    let mut rest = Some(range).filter(|range| !range.is_empty());
    while let Some(range) = rest {
        let (word, after) = split_once(text, range);
        words.push(word);
        rest = after;
    }
    words
}

/// A flag: its text without quotes and escapes, and where it is written.
pub(super) struct Flag {
    pub text: String,
    pub range: Range<usize>,
}

/// Takes the flags from the start of a range; returns them and the rest.
pub(super) fn flags(text: &str, range: Range<usize>, escape: char) -> (Vec<Flag>, Range<usize>) {
    let mut flags = Vec::new();
    let mut position = range.start;
    loop {
        let rest = text[position..range.end].trim_start();
        position = range.end - rest.len();
        if !rest.starts_with("--") {
            return (flags, position..range.end);
        }
        let flag = flag(text, position..range.end, escape);
        position = flag.range.end;
        if flag.text == "--" {
            return (flags, position..range.end);
        }
        flags.push(flag);
    }
}

fn flag(text: &str, range: Range<usize>, escape: char) -> Flag {
    let mut value = String::new();
    let mut quote = None;
    let mut chars = text[range.clone()].char_indices();
    let mut end = range.end;
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => {
                end = range.start + at;
                break;
            }
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ if c == escape => value.extend(chars.next().map(|(_, escaped)| escaped)),
            _ => value.push(c),
        }
    }
    Flag { text: value, range: range.start..end }
}

/// Splits a range into the words of ENV, LABEL and ARG: quotes protect white space, an escape its next character.
pub(super) fn name_value_words(text: &str, range: Range<usize>, escape: char) -> Vec<Range<usize>> {
    let mut words = Vec::new();
    let mut start = None;
    let mut quote = None;
    let mut end = range.end;
    let mut chars = text[range.clone()].char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let at = range.start + at;
        if quote.is_none() && c.is_whitespace() {
            words.extend(start.take().map(|start| start..at));
            continue;
        }
        start.get_or_insert(at);
        match quote {
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            Some('\'') => {}
            // An escape at the very end means nothing and goes.
            _ if c == escape && chars.next().is_none() => end = at,
            _ => {}
        }
    }
    words.extend(start.filter(|start| *start < end).map(|start| start..end));
    words
}
