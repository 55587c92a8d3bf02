//! DuplicateStageName: Two stages of one name: the later hides the earlier.

use std::collections::BTreeSet;

use super::{Reporter, Rule};
use crate::dockerfile::Instruction;
use crate::dockerfile::ast::From;

/// The rule.
pub(crate) static RULE: Rule = Rule {
    name: "DuplicateStageName",
    code: "duplicate-stage-name",
    description: "Stage names should be unique",
    has_page: true,
    is_experimental: false,
    obeys_comments: false,
};

/// Looks at a name after the ones that came before it, and adds it to them.
pub(super) fn check(instruction: &Instruction, from: &From, seen: &mut BTreeSet<String>, reporter: &mut Reporter) {
    let Some(name) = from.stage_name() else { return };
    if seen.contains(&name) {
        let message = format!("Duplicate stage name \"{name}\", stage names should be unique");
        reporter.report(&RULE, message, instruction);
    }
    seen.insert(name);
}
