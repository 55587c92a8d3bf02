//! InvalidDefaultArgInFrom: Without any `--build-arg`, FROM should still name an image.

use kiln_oci::Reference;

use super::{Reporter, Rule};
use crate::dockerfile::Instruction;

/// The rule.
pub(crate) static RULE: Rule = Rule {
    name: "InvalidDefaultArgInFrom",
    code: "invalid-default-arg-in-from",
    description: "Default value for global ARG results in an empty or invalid base image name",
    has_page: true,
    is_experimental: false,
    obeys_comments: false,
};

/// Looks at what FROM names with the defaults alone.
pub(crate) fn check(instruction: &Instruction, written: &str, by_default: &str, reporter: &mut Reporter) {
    if by_default.parse::<Reference>().is_err() {
        let message = format!("Default value for ARG {written} results in empty or invalid base image name");
        reporter.report(&RULE, message, instruction);
    }
}
