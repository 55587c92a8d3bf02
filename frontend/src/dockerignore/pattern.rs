//! One pattern of an ignore list: read, and matched against whole paths.
//!
//! Most patterns are plain paths, prefixes (`dir/**`) or suffixes (`**/name`), and are compared as text; the others
//! become regular expressions, whose matching takes linear time. Those are made when the first path comes that has the
//! plain text at the beginning and the end of the pattern, which for most patterns is never.

use std::iter::Peekable;
use std::str::Chars;
use std::sync::OnceLock;

use regex::{Regex, RegexBuilder};

/// How large a compiled pattern may be, in bytes.
const MAX_PROGRAM: usize = 16 << 20;

/// Why a pattern cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CompileError {
    Syntax,
    TooComplex,
}

#[derive(Debug, Clone)]
pub(super) enum Matcher {
    /// The path itself.
    Exact(String),
    /// `x**`: everything that starts with x.
    Prefix(String),
    /// `**x`: everything that ends in x.
    Suffix(String),
    Glob(Glob),
}

/// A pattern with wildcards.
#[derive(Debug, Clone)]
pub(super) struct Glob {
    /// The plain text before the first wildcard.
    pub(super) start: String,
    /// The plain text behind the last one.
    pub(super) end: String,
    source: String,
    regex: OnceLock<Option<Regex>>,
}

/// What every path has that a pattern matches.
#[derive(Debug)]
pub(super) enum Anchor<'a> {
    /// It is this.
    Path(&'a str),
    /// It is this, or ends in it behind a slash.
    Components(&'a str),
    /// It is below this directory.
    Directory(&'a str),
    /// It starts and ends with these, which may overlap or be empty.
    Literals { start: &'a str, end: &'a str },
}

/// A pattern of so few parts cannot become too large a program.
const SURELY_SMALL: usize = 256;

impl Glob {
    fn new(tokens: &[Token]) -> Result<Self, CompileError> {
        let is_wildcard = |token: &Token| !matches!(token, Token::Literal(_));
        let first = tokens.iter().position(is_wildcard).unwrap_or(tokens.len());
        let last = tokens.iter().rposition(is_wildcard).map_or(0, |last| last + 1);
        let glob = Self {
            start: text_of(&tokens[..first]),
            end: text_of(&tokens[last..]),
            source: regex_of(tokens),
            regex: OnceLock::new(),
        };
        if tokens.len() > SURELY_SMALL && glob.regex().is_none() {
            return Err(CompileError::TooComplex);
        }
        Ok(glob)
    }

    fn regex(&self) -> Option<&Regex> {
        let build = || RegexBuilder::new(&self.source).dot_matches_new_line(true).size_limit(MAX_PROGRAM).build().ok();
        self.regex.get_or_init(build).as_ref()
    }

    fn matches(&self, path: &str) -> bool {
        path.starts_with(&*self.start)
            && path.ends_with(&*self.end)
            && self.regex().is_some_and(|regex| regex.is_match(path))
    }
}

impl Matcher {
    pub fn compile(pattern: &str) -> Result<Self, CompileError> {
        let tokens = tokens(pattern)?;
        Ok(match &*tokens {
            [Token::AnyPath] => Self::Prefix(String::new()),
            [literals @ .., Token::AnyPath] if is_literal(literals) => Self::Prefix(text_of(literals)),
            [Token::AnyDirectories, literals @ ..] if is_literal(literals) && !pattern.contains('\\') => {
                Self::Suffix(pattern["**".len()..].to_owned())
            }
            tokens if is_literal(tokens) => Self::Exact(text_of(tokens)),
            tokens => Self::Glob(Glob::new(tokens)?),
        })
    }

    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(text) => path == text,
            Self::Prefix(prefix) => path.starts_with(&**prefix),
            Self::Suffix(suffix) => {
                path.ends_with(&**suffix) || suffix.strip_prefix('/').is_some_and(|name| path == name)
            }
            Self::Glob(glob) => glob.matches(path),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Literal(char),
    /// `?`
    One,
    /// `*`
    Any,
    /// `**` before more, and the slash behind it.
    AnyDirectories,
    /// `**` at the end.
    AnyPath,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// Whether the tokens are plain text. An escaped character makes a pattern a regular expression only for upstream's
/// engine; the result is the same, and text is faster.
fn is_literal(tokens: &[Token]) -> bool {
    tokens.iter().all(|token| matches!(token, Token::Literal(_)))
}

fn text_of(tokens: &[Token]) -> String {
    tokens
        .iter()
        .filter_map(|token| match token {
            Token::Literal(c) => Some(*c),
            _ => None,
        })
        .collect()
}

fn tokens(pattern: &str) -> Result<Vec<Token>, CompileError> {
    let mut tokens = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        tokens.push(match c {
            '*' if chars.next_if_eq(&'*').is_some() => {
                chars.next_if_eq(&'/');
                if chars.peek().is_some() { Token::AnyDirectories } else { Token::AnyPath }
            }
            '*' => Token::Any,
            '?' => Token::One,
            '\\' => Token::Literal(chars.next().ok_or(CompileError::Syntax)?),
            '[' => class(&mut chars)?,
            c => Token::Literal(c),
        });
    }
    Ok(tokens)
}

/// Reads a class, from behind its `[`.
fn class(chars: &mut Peekable<Chars<'_>>) -> Result<Token, CompileError> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
            return Ok(Token::Class { negated, ranges });
        }
        let low = class_character(chars)?;
        let high = if chars.next_if_eq(&'-').is_some() { class_character(chars)? } else { low };
        if low > high {
            return Err(CompileError::Syntax);
        }
        ranges.push((low, high));
    }
}

fn class_character(chars: &mut Peekable<Chars<'_>>) -> Result<char, CompileError> {
    match chars.next() {
        None | Some('-' | ']') => Err(CompileError::Syntax),
        Some('\\') => chars.next().ok_or(CompileError::Syntax),
        Some(c) => Ok(c),
    }
}

fn regex_of(tokens: &[Token]) -> String {
    let mut source = String::from("^");
    let literal = |source: &mut String, c: char| source.push_str(&regex::escape(c.encode_utf8(&mut [0; 4])));
    for token in tokens {
        match token {
            Token::Literal(c) => literal(&mut source, *c),
            Token::One => source.push_str("[^/]"),
            Token::Any => source.push_str("[^/]*"),
            Token::AnyDirectories => source.push_str("(?:.*/)?"),
            Token::AnyPath => source.push_str(".*"),
            Token::Class { negated, ranges } => {
                source.push_str(if *negated { "[^" } else { "[" });
                for (low, high) in ranges {
                    literal(&mut source, *low);
                    source.push('-');
                    literal(&mut source, *high);
                }
                source.push(']');
            }
        }
    }
    source.push('$');
    source
}
