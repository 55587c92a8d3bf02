//! The patterns of `${x#p}`, `${x%p}` and `${x/p/r}`: `*` and `?`, which do not match a line break, and escapes.

use regex::{Regex, RegexBuilder};

use super::expand::ExpandCause;

/// How large a compiled pattern may be, in bytes.
const MAX_PROGRAM: usize = 4 << 20;

/// Removes what `pattern` matches from the start of `value`, or from its end.
pub(super) fn trim(value: &str, pattern: &str, from_end: bool, longest: bool) -> Result<String, ExpandCause> {
    let mut tokens = tokens(pattern)?;
    if from_end {
        // Read backwards a suffix is a prefix; the shortest match of the one is the shortest of the other.
        tokens.reverse();
        let value: String = value.chars().rev().collect();
        let regex = compile(pattern, &tokens, true, longest)?;
        let length = regex.find(&value).map_or(0, |found| found.end());
        return Ok(value[length..].chars().rev().collect());
    }
    let regex = compile(pattern, &tokens, true, longest)?;
    let length = regex.find(value).map_or(0, |found| found.end());
    Ok(value[length..].to_owned())
}

/// Replaces the first match of `pattern` in `value`, or all of them, by `text`. The result may have `limit` bytes.
pub(super) fn replace(value: &str, pattern: &str, text: &str, all: bool, limit: usize) -> Result<String, ExpandCause> {
    let regex = compile(pattern, &tokens(pattern)?, false, true)?;
    let mut result = String::new();
    let mut done = 0;
    for found in regex.find_iter(value).take(if all { usize::MAX } else { 1 }) {
        result.push_str(&value[done..found.start()]);
        result.push_str(text);
        done = found.end();
        if result.len() > limit {
            return Err(ExpandCause::TooLong);
        }
    }
    result.push_str(&value[done..]);
    Ok(result)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Any,
    One,
    Literal(char),
}

fn tokens(pattern: &str) -> Result<Vec<Token>, ExpandCause> {
    let mut tokens = Vec::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        tokens.push(match c {
            '*' => Token::Any,
            '?' => Token::One,
            '\\' => match chars.next() {
                Some(escaped @ ('}' | '/' | '*' | '?' | '\\')) => Token::Literal(escaped),
                escaped => {
                    let escape: String = ['\\'].into_iter().chain(escaped).collect();
                    return Err(ExpandCause::Pattern {
                        pattern: pattern.to_owned(),
                        reason: format!("invalid escape '{escape}'"),
                    });
                }
            },
            c => Token::Literal(c),
        });
    }
    Ok(tokens)
}

fn compile(pattern: &str, tokens: &[Token], anchored: bool, longest: bool) -> Result<Regex, ExpandCause> {
    let mut source = String::from(if anchored { "^" } else { "" });
    let mut previous = None;
    for &token in tokens {
        match token {
            // Several stars in a row are one.
            Token::Any if previous == Some(Token::Any) => {}
            Token::Any => source.push_str(if longest { ".*" } else { ".*?" }),
            Token::One => source.push('.'),
            Token::Literal(c) => source.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
        previous = Some(token);
    }
    RegexBuilder::new(&source).size_limit(MAX_PROGRAM).build().map_err(|_| ExpandCause::Pattern {
        pattern: pattern.chars().take(64).collect(),
        reason: "the pattern is too long".to_owned(),
    })
}
