//! InvalidDefinitionDescription: Comments above ARG and FROM that look like a description of something else.

use super::{Reporter, Rule};
use crate::dockerfile::Instruction;

/// The rule.
pub(crate) static RULE: Rule = Rule {
    name: "InvalidDefinitionDescription",
    code: "invalid-definition-description",
    description: "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.",
    has_page: true,
    is_experimental: true,
    obeys_comments: false,
};

/// Looks at the comment above; its last line must begin with one of the names.
pub(super) fn check(instruction: &Instruction, names: &[&str], is_argument: bool, reporter: &mut Reporter) {
    let Some(comment) = instruction.comments.last().map(|comment| &comment.text) else { return };
    if names.is_empty() || comment.is_empty() {
        return;
    }
    let describes = |name: &&str| comment.strip_prefix(*name).is_some_and(|rest| rest.starts_with(' '));
    if names.iter().any(describes) {
        return;
    }
    let (keyword, shown) = match (is_argument, names) {
        (false, [name, ..]) => (instruction.keyword.text.to_uppercase(), *name),
        (true, [name]) => (instruction.keyword.text.to_uppercase(), *name),
        _ => (instruction.keyword.text.to_uppercase(), "<arg_key>"),
    };
    let message = format!("Comment for {keyword} should follow the format: `# {shown} <description>`");
    reporter.report(&RULE, message, instruction);
}
