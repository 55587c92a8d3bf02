//! InvalidBaseImagePlatform: A base image for another platform than was asked for.

use kiln_oci::Platform;

use super::{Reporter, Rule};
use crate::dockerfile::Instruction;

/// The rule.
pub(crate) static RULE: Rule = Rule {
    name: "InvalidBaseImagePlatform",
    code: "invalid-base-image-platform",
    description: "Base image platform does not match expected target platform",
    has_page: false,
    is_experimental: false,
    obeys_comments: false,
};

/// Compares system and architecture; the variant does not count.
pub(crate) fn check(
    instruction: &Instruction,
    image: &str,
    found: &Platform,
    expected: &Platform,
    reporter: &mut Reporter,
) {
    let (found, expected) = (found.normalized(), expected.normalized());
    if found.os != expected.os || found.architecture != expected.architecture {
        let message = format!(
            "Base image {image} was pulled with platform \"{found}\", expected \"{expected}\" for current build"
        );
        reporter.report(&RULE, message, instruction);
    }
}
