//! Finds, among very many patterns, those that may match a path, without looking at the others.
//!
//! A list of a hundred patterns is looked through faster than anything is looked up; one of a hundred thousand is not. Each
//! pattern goes under something that every path has which it matches: the path itself, its last components, its first
//! ones, or else the last or first few bytes that the pattern has as plain text. What has none of these is looked at
//! for every path.

use std::collections::{HashMap, HashSet};

use super::Pattern;
use super::pattern::{Anchor, Matcher};

/// Shorter lists have no index.
const SHORTEST: usize = 64;

/// So many bytes of a plain beginning or end count.
const MOST_BYTES: usize = 4;

/// Where the patterns of a list are found. Only looked up, never walked.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    /// By the path.
    exact: HashMap<Box<str>, Vec<usize>>,
    /// By what stands behind some slash of the path, or by the path.
    behind_slash: HashMap<Box<str>, Vec<usize>>,
    /// By what stands before some slash of the path.
    before_slash: HashMap<Box<str>, Vec<usize>>,
    /// By the last bytes of the path.
    ends: HashMap<Box<[u8]>, Vec<usize>>,
    /// By the first bytes of the path.
    starts: HashMap<Box<[u8]>, Vec<usize>>,
    /// Those that may match anything.
    rest: Vec<usize>,
}

impl Index {
    /// Makes an index of a list, if that is worth it.
    pub(super) fn of(patterns: &[Pattern]) -> Option<Self> {
        if patterns.len() < SHORTEST {
            return None;
        }
        let mut index = Self::default();
        let mut known = HashSet::new();
        let mut run = 0;
        for (number, pattern) in patterns.iter().enumerate() {
            if number > 0 && patterns[number - 1].is_exception != pattern.is_exception {
                run += 1;
            }
            // As long as nothing of the other kind stands between, the second of two equal patterns decides nothing:
            // where the first matches, the verdict is what both make it.
            if known.insert((run, &*pattern.text)) {
                index.add(number, pattern);
            }
        }
        Some(index)
    }

    fn add(&mut self, number: usize, pattern: &Pattern) {
        let list = match pattern.matcher.anchor() {
            Anchor::Path(path) => self.exact.entry(path.into()).or_default(),
            Anchor::Components(path) => self.behind_slash.entry(path.into()).or_default(),
            Anchor::Directory(path) => self.before_slash.entry(path.into()).or_default(),
            Anchor::Literals { end, .. } if !end.is_empty() => {
                let bytes = &end.as_bytes()[end.len().saturating_sub(MOST_BYTES)..];
                self.ends.entry(bytes.into()).or_default()
            }
            Anchor::Literals { start, .. } if !start.is_empty() => {
                let bytes = &start.as_bytes()[..start.len().min(MOST_BYTES)];
                self.starts.entry(bytes.into()).or_default()
            }
            Anchor::Literals { .. } => &mut self.rest,
        };
        list.push(number);
    }

    /// Returns the numbers of all patterns that match a path, and of some more; in order, each once.
    pub(super) fn candidates(&self, path: &str, also: impl Iterator<Item = usize>) -> Vec<usize> {
        let mut found: Vec<usize> = also.collect();
        let mut take = |list: Option<&Vec<usize>>| found.extend(list.into_iter().flatten());
        take(Some(&self.rest));
        take(self.exact.get(path));
        take(self.behind_slash.get(path));
        for (slash, _) in path.match_indices('/') {
            take(self.behind_slash.get(&path[slash + 1..]));
            take(self.before_slash.get(&path[..slash]));
        }
        let bytes = path.as_bytes();
        for length in 1..=MOST_BYTES.min(bytes.len()) {
            take(self.ends.get(&bytes[bytes.len() - length..]));
            take(self.starts.get(&bytes[..length]));
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

impl Matcher {
    /// Returns what every path has that this matches.
    fn anchor(&self) -> Anchor<'_> {
        match self {
            Self::Exact(path) => Anchor::Path(path),
            Self::Suffix(suffix) => match suffix.strip_prefix('/') {
                Some(components) => Anchor::Components(components),
                None => Anchor::Literals { start: "", end: suffix },
            },
            Self::Prefix(prefix) => match prefix.strip_suffix('/') {
                Some(directory) => Anchor::Directory(directory),
                None => Anchor::Literals { start: prefix, end: "" },
            },
            Self::Glob(glob) => Anchor::Literals { start: &glob.start, end: &glob.end },
        }
    }
}
