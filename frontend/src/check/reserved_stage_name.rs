//! ReservedStageName: Names that already mean something else.

use super::{Reporter, Rule};
use crate::dockerfile::Instruction;
use crate::dockerfile::ast::From;

/// The rule.
pub(crate) static RULE: Rule = Rule {
    name: "ReservedStageName",
    code: "reserved-stage-name",
    description: "Reserved words should not be used as stage names",
    has_page: true,
    is_experimental: false,
    obeys_comments: false,
};

/// Looks at the name after AS.
pub(super) fn check(instruction: &Instruction, from: &From, reporter: &mut Reporter) {
    let Some(name) = from.stage_name() else { return };
    if matches!(&*name, "context" | "scratch") {
        let message = format!("Stage name should not use the same name as reserved stage \"{name}\"");
        reporter.report(&RULE, message, instruction);
    }
}
