//! UndefinedVar: Variables that nothing sets.

use super::{Reporter, Rule};
use crate::dockerfile::Instruction;

/// The rule.
pub(crate) static RULE: Rule = Rule {
    name: "UndefinedVar",
    code: "undefined-var",
    description: "Variables should be defined before their use",
    has_page: true,
    is_experimental: false,
    obeys_comments: true,
};

/// Reports a name that was looked up and not found, with the nearest of the names there are.
pub(crate) fn check<'a>(
    instruction: &Instruction,
    name: &str,
    known: impl Iterator<Item = &'a str>,
    reporter: &mut Reporter,
) {
    let mut message = format!("Usage of undefined variable '${name}'");
    if let Some(suggestion) = reporter.suggestions.closest(name, known) {
        message.push_str(&format!(" (did you mean ${suggestion}?)"));
    }
    reporter.report(&RULE, message, instruction);
}
