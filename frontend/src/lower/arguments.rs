//! Arguments: the automatic ones, the global ones, and the predefined ones for proxies.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use kiln_oci::Platform;

use super::Request;
use super::environment::Environment;
use super::stages::{Stages, not_expanded};
use crate::dockerfile::expand::{ExpandError, Expander, Expansion};
use crate::dockerfile::{Diagnostic, Instruction, InstructionKind};

/// Arguments that BuildKit keeps for itself even when a stage declares them.
pub(super) const SCAN: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// The scope before the first FROM: what FROM lines see, and what `ARG name` brings into a stage.
#[derive(Debug, Clone, Default)]
pub(super) struct Globals {
    /// The values.
    pub(super) values: Environment,
    /// The values that there would be without `--build-arg`; nothing when there is a mistake in them.
    pub(super) defaults: Option<Environment>,
    /// The names that are declared, with or without a value.
    pub(super) declared: BTreeSet<String>,
}

impl Globals {
    /// Evaluates the ARGs before the first FROM.
    pub(super) fn of(stages: &Stages<'_>, request: &Request, escape: char) -> Result<Self, Diagnostic> {
        let automatic = automatic(stages, request);
        let declared: BTreeSet<String> = automatic.names().map(str::to_owned).collect();
        let mut globals = Self { values: automatic.clone(), defaults: None, declared };
        for (name, value) in &request.build_args {
            if globals.declared.contains(name) {
                globals.values.set(name, value);
            }
        }
        for instruction in &stages.globals {
            globals.declare(instruction, &request.build_args, escape)?;
        }
        let mut defaults = Self { values: automatic, ..Self::default() };
        let none = BTreeMap::new();
        let all_fine = stages.globals.iter().try_for_each(|line| defaults.declare(line, &none, escape));
        globals.defaults = all_fine.is_ok().then_some(defaults.values);
        Ok(globals)
    }

    fn declare(
        &mut self,
        instruction: &Instruction,
        build_args: &BTreeMap<String, String>,
        escape: char,
    ) -> Result<(), Diagnostic> {
        let InstructionKind::Arg(arguments) = &instruction.kind else { return Ok(()) };
        for argument in arguments {
            let name = &argument.name.text;
            self.declared.insert(name.clone());
            match (build_args.get(name), &argument.default) {
                (Some(value), _) => self.values.set(name, value),
                (None, Some(default)) => {
                    let expanded = expand(&default.text, &self.values, escape)
                        .map_err(|cause| not_expanded(&cause).at(instruction.lines, default.span))?;
                    self.values.set(name, &expanded.text);
                }
                (None, None) => {}
            }
        }
        Ok(())
    }
}

/// The names that the ARGs of a stage declare, in order of their first declaration.
#[derive(Debug, Clone, Default)]
pub(super) struct Declared {
    names: Vec<String>,
    known: HashSet<String>,
}

impl Declared {
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.known.contains(name)
    }

    pub(super) fn add(&mut self, name: &str) {
        if self.known.insert(name.to_owned()) {
            self.names.push(name.to_owned());
        }
    }
}

/// Expands a word as arguments of instructions are.
pub(super) fn expand(word: &str, environment: &Environment, escape: char) -> Result<Expansion, ExpandError> {
    Expander::new(escape, &|name| environment.get(name)).process_word_with_matches(word)
}

/// Returns the arguments that are there without being declared.
fn automatic(stages: &Stages<'_>, request: &Request) -> Environment {
    let mut values = Environment::default();
    let build = request.build_platform.normalized();
    let target = request.target_platform();
    let mut platform = |prefix: &str, text: String, platform: &Platform| {
        values.set(&format!("{prefix}PLATFORM"), &text);
        values.set(&format!("{prefix}OS"), &platform.os);
        values.set(&format!("{prefix}ARCH"), &platform.architecture);
        values.set(&format!("{prefix}VARIANT"), &platform.variant);
        values.set(&format!("{prefix}OSVERSION"), &platform.os_version);
    };
    platform("BUILD", build.to_string(), &build);
    platform("TARGET", target.format_all(), &target);
    let last = stages.list.last().and_then(|stage| stage.name.clone());
    let stage = request.target.clone().or(last).unwrap_or_else(|| "default".to_owned());
    values.set("TARGETSTAGE", &stage);
    values
}

/// Returns the proxy variables that `--build-arg` gives to every command, in both cases.
pub(super) fn proxy_variables(build_args: &BTreeMap<String, String>) -> Vec<String> {
    let mut out = Vec::new();
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"] {
        // Of several spellings the bytewise last wins, and a map is in that order.
        let given = build_args.iter().rfind(|(key, _)| key.eq_ignore_ascii_case(name));
        if let Some((_, value)) = given.filter(|(_, value)| !value.is_empty()) {
            out.push(format!("{name}={value}"));
            out.push(format!("{}={value}", name.to_lowercase()));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_given_in_both_cases() {
        let arguments =
            BTreeMap::from([("HTTP_PROXY".to_owned(), "a".to_owned()), ("http_proxy".to_owned(), "b".to_owned())]);
        assert_eq!(proxy_variables(&arguments), ["HTTP_PROXY=b", "http_proxy=b"]);
        assert!(proxy_variables(&BTreeMap::from([("NO_PROXY".to_owned(), String::new())])).is_empty());
    }
}
