//! NoEmptyContinuation: Blank lines in the middle of an instruction.

use super::{Reporter, Rule};
use crate::dockerfile::Diagnostic;

/// The rule.
pub(crate) static RULE: Rule = Rule {
    name: "NoEmptyContinuation",
    code: "no-empty-continuation",
    description: "Empty continuation lines will become errors in a future release",
    has_page: true,
    is_experimental: false,
    obeys_comments: false,
};

/// Takes over what the parser saw.
pub(super) fn check(found: &Diagnostic, reporter: &mut Reporter) {
    reporter.report_at(&RULE, "Empty continuation line".to_owned(), &found.lines, &found.spans);
}
