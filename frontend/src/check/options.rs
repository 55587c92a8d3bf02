//! Which checks to make: `skip=…;experimental=…;error=…`.

use std::collections::BTreeSet;

use super::Rule;
use crate::dockerfile::File;
use crate::dockerfile::ast::{Comment, DirectiveName};

/// What the `check` directive or its build argument say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The rules to leave out.
    pub skip: Selection,
    /// The experimental rules to apply.
    pub experimental: Selection,
    /// Fail the build when anything is found.
    pub error: bool,
}

/// Some rules, or all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// All, whatever the names say.
    pub all: bool,
    /// These; unknown names mean nothing.
    pub names: BTreeSet<String>,
}

/// Why options are not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// Neither skip nor experimental nor error, or no value.
    #[error("invalid check option {0:?}")]
    Unknown(String),
    /// Not a boolean.
    #[error("failed to parse check option {option:?}: strconv.ParseBool: parsing {value:?}: invalid syntax")]
    Boolean {
        /// The whole option.
        option: String,
        /// What stands after `=`.
        value: String,
    },
}

impl Selection {
    fn contains(&self, rule: &Rule) -> bool {
        self.all || self.names.contains(rule.name)
    }

    /// A later list replaces an earlier one; `all` stays.
    fn set(&mut self, value: &str) {
        if value == "all" {
            self.all = true;
        } else {
            self.names = value.split(',').map(|name| name.trim().to_owned()).collect();
        }
    }

    fn merge(&mut self, other: Self) {
        self.all |= other.all;
        self.names.extend(other.names);
    }
}

impl Options {
    /// Reads options; the empty text is the defaults.
    pub fn parse(text: &str) -> Result<Self, OptionsError> {
        let mut options = Self::default();
        let text = text.trim();
        if text.is_empty() {
            return Ok(options);
        }
        for part in text.splitn(3, ';') {
            let Some((key, value)) = part.split_once('=') else {
                return Err(OptionsError::Unknown(part.to_owned()));
            };
            let (key, value) = (key.trim(), value.trim());
            match key {
                "skip" => options.skip.set(value),
                "experimental" => options.experimental.set(value),
                "error" => {
                    let wrong = || OptionsError::Boolean { option: part.to_owned(), value: value.to_owned() };
                    options.error = boolean(value).ok_or_else(wrong)?;
                }
                other => return Err(OptionsError::Unknown(other.to_owned())),
            }
        }
        Ok(options)
    }

    /// Returns the options of a build: those of the build argument if it is given, even empty,
    /// and else those of the file's directive. The error is the whole message.
    pub fn of(file: &File, argument: Option<&str>) -> Result<Self, String> {
        if let Some(argument) = argument {
            return Self::parse(argument)
                .map_err(|cause| format!("failed to parse build-arg:BUILDKIT_DOCKERFILE_CHECK: {cause}"));
        }
        match file.directive(DirectiveName::Check) {
            None => Ok(Self::default()),
            Some(directive) => Self::parse(first_word(&directive.value.text))
                .map_err(|cause| format!("failed to parse check options: {cause}")),
        }
    }

    /// Adds what a comment above an instruction says; one that is not understood says nothing.
    #[must_use]
    pub fn with_comments(&self, comments: &[Comment]) -> Self {
        let mut options = self.clone();
        let said = comments.iter().find_map(|comment| directive(&comment.text));
        if let Some(Ok(said)) = said.map(|text| Self::parse(first_word(text))) {
            options.skip.merge(said.skip);
            options.experimental.merge(said.experimental);
        }
        options
    }

    /// Whether a rule is to be applied.
    pub fn wants(&self, rule: &Rule) -> bool {
        if rule.is_experimental { self.experimental.contains(rule) } else { !self.skip.contains(rule) }
    }
}

/// Returns what stands after `check=` in a comment.
fn directive(comment: &str) -> Option<&str> {
    let (name, value) = comment.split_once('=')?;
    name.trim().eq_ignore_ascii_case("check").then(|| value.trim())
}

fn first_word(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or_default()
}

/// Reads a boolean as Go does.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_lists_replace_and_all_stays() {
        let options = Options::parse("skip=A,B;skip=C").unwrap();
        assert_eq!(options.skip.names, BTreeSet::from(["C".to_owned()]));
        let options = Options::parse("skip=all;skip=C;error=1").unwrap();
        assert!(options.skip.all && options.error);
    }

    #[test]
    fn mistakes_are_named() {
        let text = |options: &str| Options::parse(options).unwrap_err().to_string();
        assert_eq!(text("skip"), "invalid check option \"skip\"");
        assert_eq!(text("x=1"), "invalid check option \"x\"");
        assert_eq!(
            text("error=yes"),
            "failed to parse check option \"error=yes\": strconv.ParseBool: parsing \"yes\": invalid syntax"
        );
    }
}
