//! Here-documents: which words announce one, and what is left of its body.

use std::borrow::Cow;

use super::expand::Expander;

/// A word that announces a here-document: `<<EOF`, `3<<-"EOF"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The name, without quotes.
    pub name: String,
    /// The number before `<<`, or 0.
    pub file_descriptor: u32,
    /// `<<-`.
    pub chomp: bool,
    /// Whether no part of the name is quoted.
    pub expand: bool,
}

/// Reads a word as the announcement of a here-document, if it is one: digits, `<<`, perhaps `-`, and the name.
pub fn announcement(word: &str) -> Option<Announcement> {
    let (number, written) = word.split_once("<<")?;
    if !number.bytes().all(|byte| byte.is_ascii_digit()) || written.contains('<') {
        return None;
    }
    let (chomp, written) = match written.strip_prefix('-') {
        Some(written) => (true, written),
        None => (false, written),
    };
    let unset = |_: &str| None;
    let lexer = Expander { skip_unset: true, ..Expander::new('\\', &unset) };
    let raw_lexer = Expander { skip_unset: true, raw_quotes: true, raw_escapes: true, ..Expander::new('\\', &unset) };
    let [name] = <[String; 1]>::try_from(lexer.process_words(written).ok()?).ok()?;
    let [raw] = <[String; 1]>::try_from(raw_lexer.process_words(written).ok()?).ok()?;
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    Some(Announcement {
        expand: quotes(&name) == quotes(&raw),
        name,
        file_descriptor: number.parse().unwrap_or(0),
        chomp,
    })
}

/// Returns the here-documents that a logical line announces, in order.
///
/// The line is split as a shell would, always with the backslash as escape; a line that cannot be split has none.
pub fn announcements(line: &str) -> Vec<Announcement> {
    if !line.contains("<<") {
        return Vec::new();
    }
    let unset = |_: &str| None;
    let lexer = Expander { skip_unset: true, raw_quotes: true, raw_escapes: true, ..Expander::new('\\', &unset) };
    let words = lexer.process_words(line).unwrap_or_default();
    words.iter().filter_map(|word| announcement(word)).collect()
}

/// Removes the leading tabs of every line.
pub fn chomp(content: &str) -> String {
    content.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
}

/// Returns the first line of a script and, where there is more, `...`: how a script is shown in one line.
pub fn summary(content: &str) -> Cow<'_, str> {
    match content.split_once('\n') {
        Some((first, rest)) if !rest.is_empty() => Cow::Owned(format!("{first}...")),
        Some((first, _)) => Cow::Borrowed(first),
        None => Cow::Borrowed(content),
    }
}
