//! CopyIgnoredFile: A COPY or ADD of what the ignore file keeps out of the context.

use super::{Reporter, Rule};
use crate::dockerfile::Instruction;
use crate::dockerignore::Patterns;
use crate::lower::path::clean;

/// The rule.
pub(crate) static RULE: Rule = Rule {
    name: "CopyIgnoredFile",
    code: "copy-ignored-file",
    description: "Attempting to Copy file that is excluded by .dockerignore",
    has_page: true,
    is_experimental: false,
    obeys_comments: true,
};

/// Looks at one source of the context.
pub(crate) fn check(instruction: &Instruction, source: &str, ignore: Option<&Patterns>, reporter: &mut Reporter) {
    let Some(ignore) = ignore.filter(|ignore| !ignore.has_exceptions()) else { return };
    let path = clean(source);
    let is_ignored = if matches!(&*path, "." | "/") {
        ignore.patterns().iter().any(|pattern| matches!(&*pattern.text, "*" | "**" | "**/*"))
    } else {
        ignore.matches_or_parent_matches(&path).matched
    };
    if is_ignored {
        let verb = if instruction.keyword.text.eq_ignore_ascii_case("add") { "Add" } else { "Copy" };
        let message = format!("Attempting to {verb} file \"{path}\" that is excluded by .dockerignore");
        reporter.report(&RULE, message, instruction);
    }
}
