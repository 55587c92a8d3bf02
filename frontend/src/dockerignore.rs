//! Ignore files: which paths of a build context are left out.
//!
//! The rules are not those of gitignore: every pattern is anchored at the root, the last one that matches decides, and
//! what is below an ignored directory can be taken back with `!`. The verdict about a path depends on the verdicts
//! about its parents, pattern by pattern, so a walk carries [`Hits`] from each directory to what is in it.
//!
//! ```
//! # use kiln_frontend::dockerignore::{parse, Patterns};
//! let patterns = parse("node_modules\n*.log\n!keep.log\n").unwrap();
//! let root = patterns.root();
//! assert!(patterns.verdict(&root, "a.log").matched);
//! assert!(!patterns.verdict(&root, "keep.log").matched);
//! let (verdict, inside) = patterns.enter(&root, "node_modules");
//! assert!(verdict.matched && patterns.can_prune("node_modules"));
//! assert!(patterns.verdict(&inside, "node_modules/left-pad").matched);
//! ```
//!
//! The same engine serves `COPY --exclude` and the include patterns of `COPY --parents`: make a list with
//! [`Patterns::new`].

mod index;
mod pattern;

use self::index::Index;
use self::pattern::Matcher;
use crate::lower::path::clean;

/// How long a line of an ignore file may be, in bytes.
pub const MAX_LINE: usize = 65_535;

/// A list of patterns.
#[derive(Debug, Clone, Default)]
pub struct Patterns {
    patterns: Vec<Pattern>,
    has_exceptions: bool,
    /// Of a long list.
    index: Option<Index>,
}

/// A pattern of a list.
#[derive(Debug, Clone)]
pub struct Pattern {
    /// The pattern, cleaned, without `!`.
    pub text: String,
    /// Whether it takes back what earlier patterns matched.
    pub is_exception: bool,
    /// The line it stands on, counted from 1; its number in the list where there are no lines.
    pub line: usize,
    matcher: Matcher,
    /// The path it stands for, when it has no wildcards apart from a `/**` or `/*` at its end.
    plain: Option<String>,
}

/// Why a list of patterns cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A class that is not closed or empty, a bad range, an escape at the end.
    #[error("syntax error in pattern")]
    Syntax {
        /// The pattern.
        pattern: String,
        /// Its line.
        line: usize,
    },
    /// `!` and nothing else.
    #[error("illegal exclusion pattern: \"!\"")]
    LoneException {
        /// Its line.
        line: usize,
    },
    /// Longer than [`MAX_LINE`].
    #[error("failed parsing .dockerignore: bufio.Scanner: token too long")]
    LineTooLong {
        /// The line.
        line: usize,
    },
    /// Too many wildcards in one pattern.
    #[error("the pattern on line {line} has too many wildcards")]
    TooComplex {
        /// Its line.
        line: usize,
    },
}

impl PatternError {
    /// Returns the line with the mistake, counted from 1.
    pub fn line(&self) -> usize {
        match self {
            Self::Syntax { line, .. }
            | Self::LoneException { line }
            | Self::LineTooLong { line }
            | Self::TooComplex { line } => *line,
        }
    }

    /// Returns what to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Syntax { .. } => {
                "a class like `[a-z]` must be closed and have something in it; a backslash makes the next character stand for itself"
            }
            Self::LoneException { .. } => {
                "a path goes behind the `!`: what is to be there although a line above leaves it out"
            }
            Self::LineTooLong { .. } => "each pattern has a line of its own",
            Self::TooComplex { .. } => "several simpler patterns do the same",
        }
    }
}

/// What a list says about a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the path is matched: ignored, for an ignore file.
    pub matched: bool,
    /// The pattern that decided, by its number in [`Patterns::patterns`]; nothing when no pattern has to do with it.
    pub decided_by: Option<usize>,
}

/// Which patterns match a directory or one of its parents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hits(Box<[u64]>);

impl Hits {
    /// Returns the numbers of the patterns, in order.
    fn numbers(&self) -> impl Iterator<Item = usize> {
        let words = self.0.iter().enumerate().filter(|(_, word)| **word != 0);
        words.flat_map(|(at, word)| (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at * 64 + bit))
    }

    fn get(&self, index: usize) -> bool {
        self.0[index / 64] >> (index % 64) & 1 == 1
    }

    fn set(&mut self, index: usize) {
        self.0[index / 64] |= 1 << (index % 64);
    }
}

/// Reads an ignore file.
pub fn parse(text: &str) -> Result<Patterns, PatternError> {
    Patterns::compile(lines(text)?)
}

/// Returns the patterns of an ignore file as text, cleaned, each with its line.
pub fn lines(text: &str) -> Result<Vec<(usize, String)>, PatternError> {
    let mut patterns = Vec::new();
    for (index, line) in text.split('\n').enumerate() {
        let number = index + 1;
        if line.len() > MAX_LINE {
            return Err(PatternError::LineTooLong { line: number });
        }
        let line = if index == 0 { line.strip_prefix('\u{feff}').unwrap_or(line) } else { line };
        if line.starts_with('#') {
            continue;
        }
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let (mark, pattern) = match line.strip_prefix('!') {
            Some(rest) => ("!", rest.trim()),
            None => ("", line),
        };
        let mut pattern = if pattern.is_empty() { String::new() } else { clean(pattern) };
        if pattern.len() > 1 && pattern.starts_with('/') {
            pattern.remove(0);
        }
        patterns.push((number, format!("{mark}{pattern}")));
    }
    Ok(patterns)
}

impl Patterns {
    /// Makes a list of patterns that are not lines of a file. A leading slash is kept: such a pattern matches nothing.
    pub fn new<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Result<Self, PatternError> {
        let numbered = patterns.into_iter().enumerate().map(|(index, text)| (index + 1, text.as_ref().to_owned()));
        Self::compile(numbered.collect())
    }

    fn compile(lines: Vec<(usize, String)>) -> Result<Self, PatternError> {
        let mut list = Self::default();
        for (line, text) in lines {
            let text = text.trim();
            if text.is_empty() {
                continue;
            }
            let cleaned = clean(text);
            let (text, is_exception) = match cleaned.strip_prefix('!') {
                Some("") => return Err(PatternError::LoneException { line }),
                Some(rest) => (rest, true),
                None => (&*cleaned, false),
            };
            let matcher = Matcher::compile(text).map_err(|error| match error {
                pattern::CompileError::Syntax => PatternError::Syntax { pattern: text.to_owned(), line },
                pattern::CompileError::TooComplex => PatternError::TooComplex { line },
            })?;
            list.has_exceptions |= is_exception;
            let plain = plain(text).map(str::to_owned);
            list.patterns.push(Pattern { text: text.to_owned(), is_exception, line, matcher, plain });
        }
        list.index = Index::of(&list.patterns);
        Ok(list)
    }

    /// Returns the patterns, in order.
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// Whether there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether a pattern takes something back.
    pub fn has_exceptions(&self) -> bool {
        self.has_exceptions
    }

    /// Returns the hits of the root, with which a walk begins.
    pub fn root(&self) -> Hits {
        Hits(vec![0; self.patterns.len().div_ceil(64)].into())
    }

    /// Judges a path: relative to the root, `/` between its parts, none in front. `parent` are the hits of the
    /// directory it is in.
    pub fn verdict(&self, parent: &Hits, path: &str) -> Verdict {
        self.judge(parent, path, |_| {})
    }

    /// Judges a directory and returns the hits for what is in it.
    pub fn enter(&self, parent: &Hits, path: &str) -> (Verdict, Hits) {
        let mut hits = self.root();
        let verdict = self.judge(parent, path, |index| hits.set(index));
        (verdict, hits)
    }

    fn judge(&self, parent: &Hits, path: &str, mut hit: impl FnMut(usize)) -> Verdict {
        let mut verdict = Verdict { matched: false, decided_by: None };
        let mut look_at = |index: usize| {
            let pattern = &self.patterns[index];
            // A pattern that could not change the verdict is not looked at, and then does not count for what is below
            // either: that can be seen, and is what other builders do.
            let is_hit =
                parent.get(index) || (pattern.is_exception == verdict.matched && pattern.matcher.matches(path));
            if is_hit {
                hit(index);
                verdict = Verdict { matched: !pattern.is_exception, decided_by: Some(index) };
            }
        };
        match &self.index {
            None => (0..self.patterns.len()).for_each(look_at),
            Some(index) => index.candidates(path, parent.numbers()).into_iter().for_each(&mut look_at),
        }
        verdict
    }

    /// Judges a path alone, going through its parents. A walk is cheaper with [`Patterns::enter`].
    pub fn verdict_of(&self, path: &str) -> Verdict {
        let mut hits = self.root();
        for (slash, _) in path.match_indices('/') {
            hits = self.enter(&hits, &path[..slash]).1;
        }
        self.verdict(&hits, path)
    }

    /// Judges a path by whether any pattern matches it or one of its parents, without the memory of a walk. Only the
    /// check for ignored sources looks at it this way.
    pub fn matches_or_parent_matches(&self, path: &str) -> Verdict {
        let mut verdict = Verdict { matched: false, decided_by: None };
        for (index, pattern) in self.patterns.iter().enumerate() {
            if pattern.is_exception != verdict.matched {
                continue;
            }
            let mut parents = path.match_indices('/').map(|(slash, _)| &path[..slash]);
            if pattern.matcher.matches(path) || parents.any(|parent| pattern.matcher.matches(parent)) {
                verdict = Verdict { matched: !pattern.is_exception, decided_by: Some(index) };
            }
        }
        verdict
    }

    /// Whether an ignored directory need not be entered, because nothing below it can be taken back.
    pub fn can_prune(&self, directory: &str) -> bool {
        let mut exceptions = self.patterns.iter().filter(|pattern| pattern.is_exception);
        exceptions.all(|pattern| !pattern.may_reach_below(directory))
    }

    /// Whether something below a directory that is itself not matched may be: the counterpart of
    /// [`Patterns::can_prune`] for a list of what to include.
    pub fn may_match_below(&self, directory: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.may_reach_below(directory))
    }
}

impl Pattern {
    /// Whether the pattern may match something below a directory that it does not match itself.
    fn may_reach_below(&self, directory: &str) -> bool {
        let is_within = |path: &str, other: &str| {
            path.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        match &self.plain {
            // With wildcards at its end it reaches further than the path in front of them: `a/*/**` matches `a/b/c`.
            Some(path) => {
                let has_wildcards = path.len() < self.text.len();
                is_within(path, directory) || has_wildcards && is_within(directory, path)
            }
            None => true,
        }
    }
}

/// Returns the path that a pattern stands for, when it has no wildcards but those at its end.
fn plain(text: &str) -> Option<&str> {
    let path = text.strip_suffix("/**").unwrap_or(text);
    let path = path.strip_suffix("/*").unwrap_or(path);
    (!path.contains(['*', '[', ']', '?', '^', '\\'])).then_some(path)
}

#[cfg(test)]
mod tests;
