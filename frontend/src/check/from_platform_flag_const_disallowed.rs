//! FromPlatformFlagConstDisallowed: A fixed `--platform` makes the stage unfit for other targets.

use kiln_oci::Platform;

use super::{Reporter, Rule};
use crate::dockerfile::Instruction;
use crate::dockerfile::expand::Expansion;

/// The rule.
pub(crate) static RULE: Rule = Rule {
    name: "FromPlatformFlagConstDisallowed",
    code: "from-platform-flag-const-disallowed",
    description: "FROM --platform flag should not use a constant value",
    has_page: true,
    is_experimental: false,
    obeys_comments: true,
};

/// Looks at a `--platform` without variables; a stage that is named after its platform is meant so.
pub(crate) fn check(instruction: &Instruction, stage: Option<&str>, expansion: &Expansion, reporter: &mut Reporter) {
    if !expansion.matched.is_empty() || !expansion.unmatched.is_empty() {
        return;
    }
    let Ok(platform) = expansion.text.parse::<Platform>() else { return };
    let platform = platform.normalized();
    let is_named_so = |part: &str| stage.is_some_and(|stage| stage.contains(part));
    if !is_named_so(&platform.os) && !is_named_so(&platform.architecture) {
        let message = format!("FROM --platform flag should not use constant value \"{}\"", expansion.text);
        reporter.report(&RULE, message, instruction);
    }
}
