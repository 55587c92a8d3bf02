//! MaintainerDeprecated: MAINTAINER has gone out of use.

use super::{Reporter, Rule};
use crate::dockerfile::Instruction;

/// The rule.
pub(crate) static RULE: Rule = Rule {
    name: "MaintainerDeprecated",
    code: "maintainer-deprecated",
    description: "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
    has_page: true,
    is_experimental: false,
    obeys_comments: true,
};

/// Any MAINTAINER.
pub(super) fn check(instruction: &Instruction, reporter: &mut Reporter) {
    reporter.report(&RULE, "Maintainer instruction is deprecated in favor of using label".to_owned(), instruction);
}
