//! UndefinedArgInFrom: Variables of FROM that no ARG above it declares.

use std::collections::BTreeSet;

use super::{Reporter, Rule};
use crate::dockerfile::Instruction;

/// The rule.
pub(crate) static RULE: Rule = Rule {
    name: "UndefinedArgInFrom",
    code: "undefined-arg-in-from",
    description: "FROM command must use declared ARGs",
    has_page: true,
    is_experimental: false,
    obeys_comments: true,
};

/// Reports the names that are not declared.
pub(crate) fn check(
    instruction: &Instruction,
    unset: &BTreeSet<String>,
    declared: &BTreeSet<String>,
    reporter: &mut Reporter,
) {
    for name in unset.iter().filter(|name| !declared.contains(*name)) {
        let mut message = format!("FROM argument '{name}' is not declared");
        if let Some(suggestion) = reporter.suggestions.closest(name, declared) {
            message.push_str(&format!(" (did you mean {suggestion}?)"));
        }
        reporter.report(&RULE, message, instruction);
    }
}
