//! WorkdirRelativePath: A relative WORKDIR depends on the base image.

use super::{Reporter, Rule};
use crate::dockerfile::Instruction;

/// The rule.
pub(crate) static RULE: Rule = Rule {
    name: "WorkdirRelativePath",
    code: "workdir-relative-path",
    description: "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes",
    has_page: true,
    is_experimental: false,
    obeys_comments: true,
};

/// Looks at the first WORKDIR of a chain of stages.
pub(crate) fn check(instruction: &Instruction, directory: &str, reporter: &mut Reporter) {
    if !directory.starts_with('/') {
        let message = format!("Relative workdir \"{directory}\" can have unexpected results if the base image changes");
        reporter.report(&RULE, message, instruction);
    }
}
