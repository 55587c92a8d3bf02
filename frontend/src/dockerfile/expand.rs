//! Word expansion: variables, quotes and escapes.
//!
//! One pass over the characters of a word. `${name:-word}` and its relatives hold words themselves, so the pass calls
//! itself, at most [`MAX_NESTING`] deep. What comes out is at most [`MAX_EXPANDED`] bytes long, whatever the variables
//! hold; both limits are far above what people write and keep hostile input from costing more than its size.

use std::collections::BTreeSet;

use super::{glob, quote::go_quote};

/// How deep `${a:-${b:-…}}` may nest.
pub const MAX_NESTING: usize = 100;

/// How long the result of one expansion may be, in bytes.
pub const MAX_EXPANDED: usize = 8 << 20;

/// Finds the value of a variable.
pub type Lookup<'a> = dyn Fn(&str) -> Option<&'a str> + 'a;

/// Expands words. With all switches off it does what instructions do to their arguments.
pub struct Expander<'a> {
    /// The escape character.
    pub escape: char,
    /// Quotes stay in the result.
    pub raw_quotes: bool,
    /// Escape characters stay in the result.
    pub raw_escapes: bool,
    /// Quotes are ordinary characters.
    pub skip_quotes: bool,
    /// References to undefined variables stay as they are.
    pub skip_unset: bool,
    /// Finds the values.
    pub lookup: &'a Lookup<'a>,
}

/// What a word became, and which variables it asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expansion {
    /// The text.
    pub text: String,
    /// The text split at unquoted white space; empty words are not in it.
    pub words: Vec<String>,
    /// The variables that were looked up and defined.
    pub matched: BTreeSet<String>,
    /// The variables that were looked up and not defined.
    pub unmatched: BTreeSet<String>,
}

/// Why a word cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to process {}: {cause}", go_quote(word))]
pub struct ExpandError {
    /// The word.
    pub word: String,
    /// What is wrong with it.
    pub cause: ExpandCause,
}

/// What is wrong with a word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpandCause {
    /// A quote is not closed.
    #[error("unexpected end of statement while looking for matching {0}")]
    Unterminated(&'static str),
    /// `${` at the end, or without its `}`.
    #[error("syntax error: missing '}}'")]
    MissingBrace,
    /// `${x/p` without the second slash.
    #[error("syntax error: missing '/' in ${{}}")]
    MissingSlash,
    /// `${}`, `${{`, `${:`.
    #[error("syntax error: bad substitution")]
    BadSubstitution,
    /// `${x=…}` and others that there are not.
    #[error("unsupported modifier ({0}) in substitution")]
    UnsupportedModifier(String),
    /// `${x?word}` and x is not set.
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// What the word says, or that the variable is not set.
        message: String,
    },
    /// A pattern with an escape that means nothing.
    #[error("invalid pattern ({pattern}) in substitution: {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Deeper than [`MAX_NESTING`].
    #[error("substitutions are nested more than {MAX_NESTING} deep")]
    TooDeep,
    /// Longer than [`MAX_EXPANDED`].
    #[error("the expanded text is longer than {MAX_EXPANDED} bytes")]
    TooLong,
}

impl<'a> Expander<'a> {
    /// An expander for arguments of instructions.
    pub fn new(escape: char, lookup: &'a Lookup<'a>) -> Self {
        Self { escape, raw_quotes: false, raw_escapes: false, skip_quotes: false, skip_unset: false, lookup }
    }

    /// An expander for the bodies of here-documents.
    pub fn for_heredoc(lookup: &'a Lookup<'a>) -> Self {
        Self { skip_quotes: true, ..Self::new('\\', lookup) }
    }

    /// An expander for display: quotes stay and so do references to variables that are not set.
    pub fn for_display(escape: char, lookup: &'a Lookup<'a>) -> Self {
        Self { raw_quotes: true, skip_unset: true, ..Self::new(escape, lookup) }
    }

    /// Expands a word into one text.
    pub fn process_word(&self, word: &str) -> Result<String, ExpandError> {
        if self.is_plain(word) {
            return Ok(word.to_owned());
        }
        Ok(self.process_word_with_matches(word)?.text)
    }

    /// Expands a word and splits the result at unquoted white space.
    pub fn process_words(&self, word: &str) -> Result<Vec<String>, ExpandError> {
        Ok(self.process_word_with_matches(word)?.words)
    }

    /// Expands a word and says which variables it asked for.
    pub fn process_word_with_matches(&self, word: &str) -> Result<Expansion, ExpandError> {
        let mut lexer = Lexer {
            expander: self,
            text: word.strip_prefix('\u{feff}').unwrap_or(word),
            position: 0,
            depth: 0,
            raw_escapes: self.raw_escapes,
            budget: MAX_EXPANDED,
            matched: BTreeSet::new(),
            unmatched: BTreeSet::new(),
        };
        let mut words = Words::default();
        let text = lexer.until(None, Some(&mut words)).map_err(|cause| ExpandError { word: word.to_owned(), cause })?;
        Ok(Expansion { text, words: words.finish(), matched: lexer.matched, unmatched: lexer.unmatched })
    }

    /// Whether nothing in the word means anything.
    fn is_plain(&self, word: &str) -> bool {
        !word.starts_with('\u{feff}') && !word.contains(['$', '\'', '"', self.escape])
    }
}

/// The words of a text that is being put together.
#[derive(Default)]
struct Words {
    words: Vec<String>,
    word: String,
}

impl Words {
    /// Adds text that white space splits.
    fn split(&mut self, text: &str) {
        for c in text.chars() {
            if !c.is_whitespace() {
                self.word.push(c);
            } else if !self.word.is_empty() {
                self.words.push(std::mem::take(&mut self.word));
            }
        }
    }

    /// Adds text that belongs to the word as it is.
    fn glue(&mut self, text: &str) {
        self.word.push_str(text);
    }

    fn finish(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.words.push(self.word);
        }
        self.words
    }
}

struct Lexer<'e, 'a> {
    expander: &'e Expander<'a>,
    text: &'e str,
    position: usize,
    depth: usize,
    raw_escapes: bool,
    budget: usize,
    matched: BTreeSet<String>,
    unmatched: BTreeSet<String>,
}

impl<'e, 'a> Lexer<'e, 'a> {
    fn peek(&self) -> Option<char> {
        self.text[self.position..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.position += c.len_utf8();
        Some(c)
    }

    fn at_end(&self) -> bool {
        self.position == self.text.len()
    }

    fn spend(&mut self, bytes: usize) -> Result<(), ExpandCause> {
        self.budget = self.budget.checked_sub(bytes).ok_or(ExpandCause::TooLong)?;
        Ok(())
    }

    /// Reads plain text up to `stop`, which is consumed, or to the end.
    fn until(&mut self, stop: Option<char>, mut words: Option<&mut Words>) -> Result<String, ExpandCause> {
        let mut result = String::new();
        while let Some(c) = self.peek() {
            if Some(c) == stop {
                self.next();
                return Ok(result);
            }
            let start = result.len();
            let mut splits = false;
            match c {
                '\'' if !self.expander.skip_quotes => self.single_quote(&mut result)?,
                '"' if !self.expander.skip_quotes => self.double_quote(&mut result)?,
                '$' => {
                    let value = self.dollar()?;
                    self.spend(value.len())?;
                    result.push_str(&value);
                    splits = true;
                }
                '<' => self.angle(&mut result),
                c if c == self.expander.escape => {
                    self.next();
                    if self.raw_escapes {
                        result.push(c);
                    }
                    if let Some(escaped) = self.next() {
                        result.push(escaped);
                    }
                }
                c => {
                    self.next();
                    result.push(c);
                    splits = true;
                }
            }
            if let Some(words) = &mut words {
                if splits { words.split(&result[start..]) } else { words.glue(&result[start..]) }
            }
        }
        match stop {
            Some('/') => Err(ExpandCause::MissingSlash),
            Some(_) => Err(ExpandCause::MissingBrace),
            None => Ok(result),
        }
    }

    /// `<<` holds on to the blanks behind it, so that `<< EOF` is one word.
    fn angle(&mut self, result: &mut String) {
        self.next();
        result.push('<');
        if self.peek() != Some('<') {
            return;
        }
        self.next();
        result.push('<');
        while let Some(c @ (' ' | '\t' | '\r')) = self.peek() {
            self.next();
            result.push(c);
        }
    }

    fn single_quote(&mut self, result: &mut String) -> Result<(), ExpandCause> {
        self.next();
        let rest = &self.text[self.position..];
        let Some(length) = rest.find('\'') else {
            self.position = self.text.len();
            return Err(ExpandCause::Unterminated("single-quote"));
        };
        if self.expander.raw_quotes {
            result.push('\'');
        }
        result.push_str(&rest[..length]);
        if self.expander.raw_quotes {
            result.push('\'');
        }
        self.position += length + 1;
        Ok(())
    }

    fn double_quote(&mut self, result: &mut String) -> Result<(), ExpandCause> {
        self.next();
        if self.expander.raw_quotes {
            result.push('"');
        }
        loop {
            match self.peek() {
                None => return Err(ExpandCause::Unterminated("double-quote")),
                Some('"') => {
                    self.next();
                    if self.expander.raw_quotes {
                        result.push('"');
                    }
                    return Ok(());
                }
                Some('$') => {
                    let value = self.dollar()?;
                    self.spend(value.len())?;
                    result.push_str(&value);
                }
                Some(c) if c == self.expander.escape => {
                    self.next();
                    match self.peek() {
                        Some(escaped) if escaped == '"' || escaped == '$' || escaped == c => {
                            if self.raw_escapes {
                                result.push(c);
                            }
                            self.next();
                            result.push(escaped);
                        }
                        Some(_) => result.push(c),
                        None => {}
                    }
                }
                Some(c) => {
                    self.next();
                    result.push(c);
                }
            }
        }
    }

    /// A `$` and what belongs to it.
    fn dollar(&mut self) -> Result<String, ExpandCause> {
        self.next();
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match self.value(name) {
                None if self.expander.skip_unset => format!("${name}"),
                value => value.unwrap_or_default().to_owned(),
            });
        }
        self.next();
        match self.peek() {
            None => return Err(ExpandCause::MissingBrace),
            Some('{' | '}' | ':') => return Err(ExpandCause::BadSubstitution),
            Some(_) => {}
        }
        if self.depth == MAX_NESTING {
            return Err(ExpandCause::TooDeep);
        }
        self.depth += 1;
        let result = self.braces();
        self.depth -= 1;
        result
    }

    /// What stands between `${` and `}`.
    fn braces(&mut self) -> Result<String, ExpandCause> {
        let name = self.name();
        let text = self.text;
        let start = self.position;
        match self.next() {
            Some('}') => Ok(match self.value(name) {
                None if self.expander.skip_unset => format!("${{{name}}}"),
                value => value.unwrap_or_default().to_owned(),
            }),
            Some(':') => {
                let modifier = self.next();
                if matches!(modifier, Some('#' | '%')) {
                    return Err(ExpandCause::UnsupportedModifier(self.text[start..self.position].to_owned()));
                }
                self.modified(name, &text[start..self.position], modifier, true)
            }
            modifier @ Some('+' | '-' | '?' | '#' | '%') => {
                self.modified(name, &text[start..self.position], modifier, false)
            }
            Some('/') => self.replaced(name),
            Some(_) => Err(ExpandCause::UnsupportedModifier(self.text[start..self.position].to_owned())),
            None => Err(ExpandCause::UnsupportedModifier("\u{fffd}".to_owned())),
        }
    }

    /// `${name:-word}` and the like, from the word on.
    fn modified(
        &mut self,
        name: &str,
        written: &str,
        modifier: Option<char>,
        empty_is_unset: bool,
    ) -> Result<String, ExpandCause> {
        let is_trim = matches!(modifier, Some('#' | '%'));
        let word = self.nested('}', is_trim)?;
        let value = self.value(name);
        if value.is_none() && self.expander.skip_unset {
            return Ok(format!("${{{name}{written}{word}}}"));
        }
        let given = value.filter(|value| !(empty_is_unset && value.is_empty()));
        let required = |word: String, otherwise: &str| ExpandCause::Required {
            name: name.to_owned(),
            message: if word.is_empty() { otherwise.to_owned() } else { word },
        };
        match modifier {
            Some('-') => Ok(given.map_or(word, str::to_owned)),
            Some('+') => Ok(if given.is_some() { word } else { String::new() }),
            Some('?') => match (given, value) {
                (Some(given), _) => Ok(given.to_owned()),
                (None, Some(_)) => Err(required(word, "is not allowed to be empty")),
                (None, None) => Err(required(word, "is not allowed to be unset")),
            },
            Some(end @ ('#' | '%')) => {
                let (pattern, longest) = match word.strip_prefix(end) {
                    Some(pattern) => (pattern, true),
                    None => (&*word, false),
                };
                glob::trim(value.unwrap_or_default(), pattern, end == '%', longest)
            }
            _ => Err(ExpandCause::UnsupportedModifier(written.to_owned())),
        }
    }

    /// `${name/pattern/text}`, from the first slash on.
    fn replaced(&mut self, name: &str) -> Result<String, ExpandCause> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let pattern = self.nested('/', true)?;
        let text = self.nested('}', true)?;
        match self.value(name) {
            None if self.expander.skip_unset => {
                let slash = if all { "//" } else { "/" };
                Ok(format!("${{{name}{slash}{pattern}/{text}}}"))
            }
            value => glob::replace(value.unwrap_or_default(), &pattern, &text, all, MAX_EXPANDED),
        }
    }

    /// A word inside braces. When the input ends in it, what is missing is the brace, not the quote inside.
    fn nested(&mut self, stop: char, raw_escapes: bool) -> Result<String, ExpandCause> {
        let outer = std::mem::replace(&mut self.raw_escapes, raw_escapes);
        let result = self.until(Some(stop), None);
        self.raw_escapes = outer;
        result.map_err(|cause| match cause {
            ExpandCause::TooDeep | ExpandCause::TooLong => cause,
            _ if self.at_end() && stop == '/' => ExpandCause::MissingSlash,
            _ if self.at_end() => ExpandCause::MissingBrace,
            cause => cause,
        })
    }

    fn name(&mut self) -> &'e str {
        let text = self.text;
        let rest = &text[self.position..];
        let length = match rest.chars().next() {
            Some('0'..='9') => rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => 1,
            _ => rest.find(|c: char| !is_name(c)).unwrap_or(rest.len()),
        };
        self.position += length;
        &rest[..length]
    }

    fn value(&mut self, name: &str) -> Option<&'a str> {
        let value = (self.expander.lookup)(name);
        let names = if value.is_some() { &mut self.matched } else { &mut self.unmatched };
        if !names.contains(name) {
            names.insert(name.to_owned());
        }
        value
    }
}

fn is_name(c: char) -> bool {
    c == '_' || c.is_alphabetic() || c.is_numeric()
}
