//! Shell-style wildcards in the sources of COPY and ADD (spec: copy-add.md §6).
//!
//! `*` and `?` stay within a component, `[a-z]` and `[^a]` are sets, `\` takes the next byte
//! as it is. `**` means the same as `*`.

use super::copy;
use super::files::{FileNode, Name};

/// Why a pattern could not be expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WildcardError {
    /// It is malformed.
    Syntax,
    /// Its fixed part runs in circles.
    Links,
    /// Its fixed part is not there.
    NoDirectory(Vec<Name>),
}

/// Whether a pattern is more than a name.
pub fn has_wildcard(pattern: &[u8]) -> bool {
    let mut bytes = pattern.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// Returns the paths that match, in byte order of components.
///
/// # Errors
/// When the pattern is malformed, or its fixed part has too many symlinks or is not there.
pub fn expand(root: &FileNode, pattern: &[u8]) -> Result<Vec<Vec<Name>>, WildcardError> {
    let parts: Vec<&[u8]> = pattern.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
    for part in &parts {
        check(part)?;
    }
    let fixed = parts.iter().position(|part| has_wildcard(part)).unwrap_or(parts.len());
    // Without a wildcard of its own a component is taken as it is, backslashes and all.
    let mut prefix: Vec<Name> = parts[..fixed].iter().map(|part| Name::from(*part)).collect();
    let physical = copy::resolve(root, &prefix, true).map_err(|_| WildcardError::Links)?;
    let mut found = Vec::new();
    match root.get(&physical) {
        Some(node) => walk(node, &parts[fixed..], &mut prefix, &mut found),
        None => return Err(WildcardError::NoDirectory(physical)),
    }
    Ok(found)
}

fn walk(node: &FileNode, parts: &[&[u8]], path: &mut Vec<Name>, found: &mut Vec<Vec<Name>>) {
    let Some((part, rest)) = parts.split_first() else { return };
    for (name, child) in &node.children {
        if !is_match(part, name) {
            continue;
        }
        path.push(name.clone());
        if rest.is_empty() {
            found.push(path.clone());
        } else {
            // A symlinked directory has no children here: it is not entered.
            walk(child, rest, path, found);
        }
        path.pop();
    }
}

/// Reads through a component as a matcher would.
fn check(part: &[u8]) -> Result<(), WildcardError> {
    let mut at = 0;
    while at < part.len() {
        match part[at] {
            b'\\' => {
                if at + 1 == part.len() {
                    return Err(WildcardError::Syntax);
                }
                at += 2;
            }
            b'[' => at = set(part, at, None).ok_or(WildcardError::Syntax)?.1,
            _ => at += 1,
        }
    }
    Ok(())
}

/// Whether one component matches. The pattern was checked.
pub fn is_match(pattern: &[u8], name: &[u8]) -> bool {
    // Backtracks to the last star only, which is enough: a star matches anything.
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        if p < pattern.len() && pattern[p] == b'*' {
            star = Some((p + 1, n));
            p += 1;
            continue;
        }
        if n == name.len() {
            if p == pattern.len() {
                return true;
            }
        } else if let Some((next, width)) = step(pattern, p, &name[n..]) {
            p = next;
            n += width;
            continue;
        }
        match star {
            Some((after, from)) if from < name.len() => {
                star = Some((after, from + 1));
                (p, n) = (after, from + 1);
            }
            _ => return false,
        }
    }
}

/// Matches one character at the front of `name`; returns the next pattern position and the
/// character's width in bytes.
fn step(pattern: &[u8], at: usize, name: &[u8]) -> Option<(usize, usize)> {
    let (character, width) = first_character(name);
    match *pattern.get(at)? {
        b'?' => Some((at + 1, width)),
        b'[' => {
            let (is_in, next) = set(pattern, at, Some(character))?;
            is_in.then_some((next, width))
        }
        b'\\' => (pattern.get(at + 1) == name.first()).then_some((at + 2, 1)),
        byte => (byte == name[0]).then_some((at + 1, 1)),
    }
}

fn first_character(bytes: &[u8]) -> (char, usize) {
    let head = &bytes[..bytes.len().min(4)];
    for end in 1..=head.len() {
        if let Ok(text) = std::str::from_utf8(&head[..end])
            && let Some(character) = text.chars().next()
        {
            return (character, end);
        }
    }
    (char::REPLACEMENT_CHARACTER, 1)
}

/// Reads `[…]` at `at`; returns whether `character` is in it, and where it ends. `None` when
/// it is malformed.
fn set(pattern: &[u8], at: usize, character: Option<char>) -> Option<(bool, usize)> {
    let mut i = at + 1;
    let is_negated = pattern.get(i) == Some(&b'^');
    if is_negated {
        i += 1;
    }
    let mut is_in = false;
    let mut count = 0;
    loop {
        if pattern.get(i) == Some(&b']') && count > 0 {
            return Some((is_in != is_negated, i + 1));
        }
        let low;
        (low, i) = member(pattern, i)?;
        let mut high = low;
        if pattern.get(i) == Some(&b'-') {
            (high, i) = member(pattern, i + 1)?;
        }
        if character.is_some_and(|character| low <= character && character <= high) {
            is_in = true;
        }
        count += 1;
    }
}

fn member(pattern: &[u8], mut at: usize) -> Option<(char, usize)> {
    match pattern.get(at)? {
        b'-' | b']' => return None,
        b'\\' => at += 1,
        _ => {}
    }
    if at >= pattern.len() {
        return None;
    }
    let (character, width) = first_character(&pattern[at..]);
    // The set must go on behind its member.
    (at + width < pattern.len()).then_some((character, at + width))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_match(pattern: &str, name: &str, expected: bool) {
        assert_eq!(is_match(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} on {name}");
    }

    #[test]
    fn stars_and_questions() {
        check_match("*.txt", "a.txt", true);
        check_match("*.txt", ".txt", true);
        check_match("a*b*c", "axxbyyc", true);
        check_match("a*b*c", "axxbyy", false);
        check_match("?", "é", true);
        check_match("**", "anything", true);
        check_match("", "", true);
    }

    #[test]
    fn sets() {
        check_match("[a-c]x", "bx", true);
        check_match("[^a-c]x", "bx", false);
        check_match("[!a]", "!", true);
        check_match("[!a]", "b", false);
        check_match("[[]", "[", true);
        check_match("[*]", "*", true);
        check_match(r"a\*b", "a*b", true);
        check_match(r"a\*b", "axb", false);
    }

    #[test]
    fn malformed_patterns_are_found_before_matching() {
        for pattern in ["a[", "[]", "[a", "[a-", "[-a]", "x\\"] {
            assert_eq!(check(pattern.as_bytes()), Err(WildcardError::Syntax), "{pattern}");
        }
    }

    #[test]
    fn many_stars_do_not_explode() {
        let pattern = "*a".repeat(2_000);
        let name = "a".repeat(4_000) + "b";
        assert!(!is_match(pattern.as_bytes(), name.as_bytes()));
    }
}
