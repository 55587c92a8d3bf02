//! LegacyKeyValueFormat: `ENV key value` instead of `ENV key=value`.

use super::{Reporter, Rule};
use crate::dockerfile::Instruction;

/// The rule.
pub(crate) static RULE: Rule = Rule {
    name: "LegacyKeyValueFormat",
    code: "legacy-key-value-format",
    description: "Legacy key/value format with whitespace separator should not be used",
    has_page: true,
    is_experimental: false,
    obeys_comments: true,
};

/// An ENV or LABEL in the old form.
pub(crate) fn check(instruction: &Instruction, reporter: &mut Reporter) {
    let word = &instruction.keyword.text;
    let message = format!("\"{word} key=value\" should be used instead of legacy \"{word} key value\" format");
    reporter.report(&RULE, message, instruction);
}
