//! ConsistentInstructionCasing: All keywords in one case, whichever most of them have.

use super::{Reporter, Rule};
use crate::dockerfile::Instruction;

/// The rule.
pub(crate) static RULE: Rule = Rule {
    name: "ConsistentInstructionCasing",
    code: "consistent-instruction-casing",
    description: "All commands within the Dockerfile should use the same casing (either upper or lower)",
    has_page: true,
    is_experimental: false,
    obeys_comments: false,
};

/// Looks at the keywords of the whole file, but for the ARGs before the first FROM.
pub(super) fn check<'a>(instructions: impl Iterator<Item = &'a Instruction> + Clone, reporter: &mut Reporter) {
    let is_lower = |word: &str| is_unchanged(word, |byte| !byte.is_ascii_uppercase(), str::to_lowercase);
    let is_upper = |word: &str| is_unchanged(word, |byte| !byte.is_ascii_lowercase(), str::to_uppercase);
    let words = || instructions.clone().map(|instruction| &*instruction.keyword.text);
    let lower = words().filter(|word| is_lower(word)).count();
    let upper = words().filter(|word| is_upper(word)).count();
    let wants_lower = lower > upper;
    let case = if wants_lower { "lowercase" } else { "uppercase" };
    for instruction in instructions {
        let word = &instruction.keyword.text;
        if if wants_lower { !is_lower(word) } else { !is_upper(word) } {
            let message = format!("Command '{word}' should match the case of the command majority ({case})");
            reporter.report(&RULE, message, instruction);
        }
    }
}

/// Whether a word stays as it is in another case. Nearly all keywords are ASCII, where that needs no copy.
fn is_unchanged(word: &str, fits: impl Fn(&u8) -> bool, convert: impl Fn(&str) -> String) -> bool {
    if word.is_ascii() { word.as_bytes().iter().all(fits) } else { word == convert(word) }
}
