//! RedundantTargetPlatform: `--platform=$TARGETPLATFORM` is what FROM does anyway.

use super::{Reporter, Rule};
use crate::dockerfile::Instruction;
use crate::dockerfile::expand::Expansion;

/// The rule.
pub(crate) static RULE: Rule = Rule {
    name: "RedundantTargetPlatform",
    code: "redundant-target-platform",
    description: "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
    has_page: true,
    is_experimental: false,
    obeys_comments: true,
};

/// Looks at a `--platform` and what it became.
pub(crate) fn check(
    instruction: &Instruction,
    written: &str,
    expansion: &Expansion,
    target: Option<&str>,
    reporter: &mut Reporter,
) {
    let is_only = expansion.matched.len() == 1 && expansion.matched.contains("TARGETPLATFORM");
    if is_only && expansion.unmatched.is_empty() && Some(&*expansion.text) == target {
        let message =
            format!("Setting platform to predefined {written} in FROM is redundant as this is the default behavior");
        reporter.report(&RULE, message, instruction);
    }
}
