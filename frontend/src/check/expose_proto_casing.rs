//! ExposeProtoCasing: Protocols are written in lower case.

use super::{Reporter, Rule};
use crate::dockerfile::Instruction;

/// The rule.
pub(crate) static RULE: Rule = Rule {
    name: "ExposeProtoCasing",
    code: "expose-proto-casing",
    description: "Protocol in EXPOSE instruction should be lowercase",
    has_page: true,
    is_experimental: false,
    obeys_comments: true,
};

/// Looks at an argument after expansion.
pub(crate) fn check(instruction: &Instruction, argument: &str, reporter: &mut Reporter) {
    let Some((_, protocol)) = argument.split_once('/') else { return };
    if protocol != protocol.to_lowercase() {
        let message = format!("Defined protocol '{argument}' in EXPOSE instruction should be lowercase");
        reporter.report(&RULE, message, instruction);
    }
}
