//! ExposeInvalidFormat: Ports are published by who runs the image, not by EXPOSE.

use super::{Reporter, Rule};
use crate::dockerfile::Instruction;

/// The rule.
pub(crate) static RULE: Rule = Rule {
    name: "ExposeInvalidFormat",
    code: "expose-invalid-format",
    description: "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release",
    has_page: true,
    is_experimental: false,
    obeys_comments: true,
};

/// Looks at an argument after expansion.
pub(crate) fn check(instruction: &Instruction, argument: &str, reporter: &mut Reporter) {
    if argument.split('/').next().and_then(|ports| ports.rsplit_once(':')).is_some_and(|(host, _)| !host.is_empty()) {
        let message =
            format!("EXPOSE instruction should not define an IP address or host-port mapping, found '{argument}'");
        reporter.report(&RULE, message, instruction);
    }
}
