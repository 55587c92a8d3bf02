//! FromAsCasing: FROM and AS in one case.

use super::{Reporter, Rule};
use crate::dockerfile::Instruction;
use crate::dockerfile::ast::From;

/// The rule.
pub(crate) static RULE: Rule = Rule {
    name: "FromAsCasing",
    code: "from-as-casing",
    description: "The 'as' keyword should match the case of the 'from' keyword",
    has_page: true,
    is_experimental: false,
    obeys_comments: true,
};

/// Compares the two words; a FROM in mixed case is not judged.
pub(super) fn check(instruction: &Instruction, from: &From, reporter: &mut Reporter) {
    let Some(word) = from.as_keyword.as_ref().map(|word| &word.text) else { return };
    let keyword = &instruction.keyword.text;
    let is_lower = |text: &str| text == text.to_lowercase();
    let is_upper = |text: &str| text == text.to_uppercase();
    if (is_lower(keyword) && !is_lower(word)) || (is_upper(keyword) && !is_upper(word)) {
        reporter.report(&RULE, format!("'{word}' and '{keyword}' keywords' casing do not match"), instruction);
    }
}
