//! Build checks: what works, but is probably not meant.
//!
//! One file for each rule, with its static facts and the code that decides. Some rules look at the file alone
//! ([`file()`]); the others are asked by lowering when it comes by. Everything found goes to a [`Reporter`], which knows
//! what the user wants to hear.

mod options;
mod reporter;

pub(crate) mod consistent_instruction_casing;
pub(crate) mod copy_ignored_file;
pub(crate) mod duplicate_stage_name;
pub(crate) mod expose_invalid_format;
pub(crate) mod expose_proto_casing;
pub(crate) mod from_as_casing;
pub(crate) mod from_platform_flag_const_disallowed;
pub(crate) mod invalid_base_image_platform;
pub(crate) mod invalid_default_arg_in_from;
pub(crate) mod invalid_definition_description;
pub(crate) mod json_args_recommended;
pub(crate) mod legacy_key_value_format;
pub(crate) mod maintainer_deprecated;
pub(crate) mod multiple_instructions_disallowed;
pub(crate) mod no_empty_continuation;
pub(crate) mod redundant_target_platform;
pub(crate) mod reserved_stage_name;
pub(crate) mod secrets_used_in_arg_or_env;
pub(crate) mod stage_name_casing;
pub(crate) mod undefined_arg_in_from;
pub(crate) mod undefined_var;
pub(crate) mod workdir_relative_path;

use std::collections::BTreeSet;

pub use options::{Options, OptionsError, Selection};
pub use reporter::Reporter;

use crate::dockerfile::{Diagnostic, File, InstructionKind};

/// The facts about a rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name: `StageNameCasing`.
    pub name: &'static str,
    /// Its name in kebab case, which is the code of its diagnostics and the end of its address.
    pub code: &'static str,
    /// What it is about.
    pub description: &'static str,
    /// Whether there is a page about it.
    pub has_page: bool,
    /// Whether it must be asked for.
    pub is_experimental: bool,
    /// Whether a comment above the instruction can silence it.
    pub obeys_comments: bool,
}

impl Rule {
    /// Returns the address of the page about it.
    pub fn url(&self) -> Option<String> {
        self.has_page.then(|| format!("https://docs.docker.com/go/dockerfile/rule/{}/", self.code))
    }
}

/// All rules.
pub static RULES: [&Rule; 22] = [
    &stage_name_casing::RULE,
    &from_as_casing::RULE,
    &no_empty_continuation::RULE,
    &consistent_instruction_casing::RULE,
    &duplicate_stage_name::RULE,
    &reserved_stage_name::RULE,
    &json_args_recommended::RULE,
    &maintainer_deprecated::RULE,
    &undefined_arg_in_from::RULE,
    &workdir_relative_path::RULE,
    &undefined_var::RULE,
    &multiple_instructions_disallowed::RULE,
    &legacy_key_value_format::RULE,
    &invalid_base_image_platform::RULE,
    &redundant_target_platform::RULE,
    &secrets_used_in_arg_or_env::RULE,
    &invalid_default_arg_in_from::RULE,
    &from_platform_flag_const_disallowed::RULE,
    &copy_ignored_file::RULE,
    &invalid_definition_description::RULE,
    &expose_proto_casing::RULE,
    &expose_invalid_format::RULE,
];

/// Returns the rule that a diagnostic comes from.
pub fn rule(code: &str) -> Option<&'static Rule> {
    RULES.into_iter().find(|rule| rule.code == code)
}

/// Applies the rules that need nothing but the file, and what the parser said about it.
pub fn file(file: &File, parsed: &[Diagnostic], reporter: &mut Reporter) {
    for found in parsed.iter().filter(|found| found.code == "empty-continuation") {
        no_empty_continuation::check(found, reporter);
    }
    let first = file.instructions.iter().position(|line| matches!(line.kind, InstructionKind::From(_)));
    consistent_instruction_casing::check(file.instructions[first.unwrap_or(0)..].iter(), reporter);
    let mut names = BTreeSet::new();
    for instruction in &file.instructions {
        match &instruction.kind {
            InstructionKind::From(from) => {
                stage_name_casing::check(instruction, from, reporter);
                from_as_casing::check(instruction, from, reporter);
                duplicate_stage_name::check(instruction, from, &mut names, reporter);
                reserved_stage_name::check(instruction, from, reporter);
                let name: Vec<&str> = from.name.iter().map(|name| &*name.text).collect();
                invalid_definition_description::check(instruction, &name, false, reporter);
            }
            InstructionKind::Arg(arguments) => {
                let names: Vec<&str> = arguments.iter().map(|argument| &*argument.name.text).collect();
                invalid_definition_description::check(instruction, &names, true, reporter);
            }
            InstructionKind::Maintainer(_) => maintainer_deprecated::check(instruction, reporter),
            _ => {}
        }
    }
}
