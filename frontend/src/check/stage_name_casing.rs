//! StageNameCasing: Names of stages are compared in lower case, and should be written so.

use super::{Reporter, Rule};
use crate::dockerfile::Instruction;
use crate::dockerfile::ast::From;

/// The rule.
pub(crate) static RULE: Rule = Rule {
    name: "StageNameCasing",
    code: "stage-name-casing",
    description: "Stage names should be lowercase",
    has_page: true,
    is_experimental: false,
    obeys_comments: true,
};

/// Looks at the name after AS.
pub(super) fn check(instruction: &Instruction, from: &From, reporter: &mut Reporter) {
    let Some(name) = from.name.as_ref().map(|name| &name.text) else { return };
    if *name != name.to_lowercase() {
        reporter.report(&RULE, format!("Stage name '{name}' should be lowercase"), instruction);
    }
}
