//! MultipleInstructionsDisallowed: Of several CMD, ENTRYPOINT or HEALTHCHECK only the last counts.

use super::{Reporter, Rule};
use crate::dockerfile::Instruction;

/// The rule.
pub(crate) static RULE: Rule = Rule {
    name: "MultipleInstructionsDisallowed",
    code: "multiple-instructions-disallowed",
    description: "Multiple instructions of the same type should not be used in the same stage",
    has_page: true,
    is_experimental: false,
    obeys_comments: true,
};

/// Reports the earlier of two; the comment above the later one can silence it.
pub(crate) fn check(earlier: &Instruction, later: &Instruction, reporter: &mut Reporter) {
    let Some(name) = later.kind.name() else { return };
    let message = format!(
        "Multiple {name} instructions should not be used in the same stage because only the last one will be used"
    );
    reporter.report_with_comments(&RULE, message, &[earlier.lines], &[earlier.span], Some(&later.comments));
}
