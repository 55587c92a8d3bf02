//! JSONArgsRecommended: A program started by a shell does not get the signals.

use super::{Reporter, Rule};
use crate::dockerfile::Instruction;

/// The rule.
pub(crate) static RULE: Rule = Rule {
    name: "JSONArgsRecommended",
    code: "json-args-recommended",
    description: "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
    has_page: true,
    is_experimental: false,
    obeys_comments: true,
};

/// Looks at a CMD or ENTRYPOINT in shell form, unless a shell was chosen.
pub(crate) fn check(instruction: &Instruction, has_shell: bool, reporter: &mut Reporter) {
    if !has_shell {
        let message = format!(
            "JSON arguments recommended for {} to prevent unintended behavior related to OS signals",
            instruction.keyword.text
        );
        reporter.report(&RULE, message, instruction);
    }
}
