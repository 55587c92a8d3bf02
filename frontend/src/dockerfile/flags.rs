//! The flags of instructions: which there are, and what was given.

use super::{
    ast::{Node, Span, Word},
    diagnostic::Problem,
    suggest,
};

/// What a flag holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FlagKind {
    /// `--x`, `--x=true`, `--x=false`.
    Boolean,
    /// `--x=text`, once.
    Text,
    /// `--x=text`, any number of times.
    List,
}

/// The flags an instruction knows, by name.
pub(super) type FlagTable = &'static [(&'static str, FlagKind)];

pub(super) const NONE: FlagTable = &[];
pub(super) const FROM: FlagTable = &[("platform", FlagKind::Text)];
pub(super) const RUN: FlagTable =
    &[("device", FlagKind::List), ("mount", FlagKind::List), ("network", FlagKind::Text), ("security", FlagKind::Text)];
pub(super) const ADD: FlagTable = &[
    ("checksum", FlagKind::Text),
    ("chmod", FlagKind::Text),
    ("chown", FlagKind::Text),
    ("exclude", FlagKind::List),
    ("keep-git-dir", FlagKind::Boolean),
    ("link", FlagKind::Boolean),
    ("unpack", FlagKind::Boolean),
];
pub(super) const COPY: FlagTable = &[
    ("chmod", FlagKind::Text),
    ("chown", FlagKind::Text),
    ("exclude", FlagKind::List),
    ("from", FlagKind::Text),
    ("link", FlagKind::Boolean),
    ("parents", FlagKind::Boolean),
];
pub(super) const HEALTHCHECK: FlagTable = &[
    ("interval", FlagKind::Text),
    ("retries", FlagKind::Text),
    ("start-interval", FlagKind::Text),
    ("start-period", FlagKind::Text),
    ("timeout", FlagKind::Text),
];

/// The flags that were given.
#[derive(Debug, Default)]
pub(super) struct Flags {
    given: Vec<(&'static str, Value)>,
}

#[derive(Debug)]
enum Value {
    Boolean(bool),
    Text(Word),
}

impl Flags {
    /// Reads the flags of a node by its table; what is wrong goes to `problems`.
    pub fn parse(node: &Node, table: FlagTable, problems: &mut Vec<Problem>) -> Self {
        let mut flags = Self::default();
        for flag in &node.flags {
            match flags.read(flag, table) {
                Ok(given) => flags.given.push(given),
                Err(problem) => problems.push(problem),
            }
        }
        flags
    }

    fn read(&self, flag: &Word, table: FlagTable) -> Result<(&'static str, Value), Problem> {
        let (dashed, value) = match flag.text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (&*flag.text, None),
        };
        let problem = |code, message: String| Problem::instruction(code, message, flag.span);
        let name = dashed.strip_prefix("--").unwrap_or(dashed);
        let Some(&(name, kind)) = table.iter().find(|(known, _)| *known == name) else {
            let suggestion = suggest::closest(name, table.iter().map(|(known, _)| *known)).map(str::to_owned);
            let found = problem("unknown-flag", format!("unknown flag: {dashed}"));
            return Err(match suggestion {
                None => found.hint(known(table)),
                suggestion => found.suggest(suggestion),
            });
        };
        if kind != FlagKind::List && self.given.iter().any(|(given, _)| *given == name) {
            let found = problem("duplicate-flag", format!("duplicate flag specified: {dashed}"));
            return Err(found.hint("leave one of them out"));
        }
        let missing = || {
            problem("missing-flag-value", format!("missing a value on flag: {dashed}"))
                .hint(format!("write `{dashed}=VALUE`, without blanks"))
        };
        if kind != FlagKind::Boolean {
            let value = value.ok_or_else(missing)?;
            let start = (flag.span.start + dashed.len() + 1).min(flag.span.end);
            return Ok((name, Value::Text(Word::new(value, Span::new(start, flag.span.end)))));
        }
        match value {
            Some("") => Err(missing()),
            None => Ok((name, Value::Boolean(true))),
            Some(value) if value.eq_ignore_ascii_case("true") => Ok((name, Value::Boolean(true))),
            Some(value) if value.eq_ignore_ascii_case("false") => Ok((name, Value::Boolean(false))),
            Some(value) => {
                let message = format!("expecting boolean value for flag {dashed}, not: {}", value.to_lowercase());
                Err(problem("flag-value", message).hint(format!("write `{dashed}` or `{dashed}=false`")))
            }
        }
    }

    /// Returns the value of a flag.
    pub fn text(&self, name: &str) -> Option<Word> {
        self.list(name).into_iter().next()
    }

    /// Returns the value of a flag, unless it is empty.
    pub fn non_empty(&self, name: &str) -> Option<Word> {
        self.text(name).filter(|word| !word.text.is_empty())
    }

    /// Returns the values of a flag.
    pub fn list(&self, name: &str) -> Vec<Word> {
        let values = self.given.iter().filter(|(given, _)| *given == name);
        let texts = values.filter_map(|(_, value)| match value {
            Value::Text(word) => Some(word.clone()),
            Value::Boolean(_) => None,
        });
        texts.collect()
    }

    /// Returns what a switch was set to, if it was.
    pub fn switch(&self, name: &str) -> Option<bool> {
        self.given.iter().find_map(|(given, value)| match value {
            Value::Boolean(on) if *given == name => Some(*on),
            _ => None,
        })
    }
}

/// Says which flags there are.
fn known(table: FlagTable) -> String {
    let names: Vec<String> = table.iter().map(|(name, _)| format!("`--{name}`")).collect();
    match &names[..] {
        [] => "this instruction takes no flags".to_owned(),
        [only] => format!("the only flag here is {only}"),
        several => format!("the flags here are {}", several.join(", ")),
    }
}
