//! Build arguments that nothing asks for: most often a typing mistake.

use std::collections::BTreeSet;

use super::prepare::Prepared;
use super::{epoch, onbuild};
use crate::dockerfile::suggest::Suggestions;
use crate::dockerfile::{Diagnostic, InstructionKind, Phase};

/// The variables for proxies, which every command gets, in any case.
const PROXIES: [&str; 5] = ["ALL_PROXY", "FTP_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"];

/// What the builder reads itself, declared or not.
const SWITCHES: [&str; 11] = [
    "BUILDKIT_BUILD_NAME",
    "BUILDKIT_CACHE_MOUNT_NS",
    "BUILDKIT_CONTEXT_KEEP_GIT_DIR",
    "BUILDKIT_DOCKERFILE_CHECK",
    "BUILDKIT_INLINE_CACHE",
    "BUILDKIT_MULTI_PLATFORM",
    "BUILDKIT_SANDBOX_HOSTNAME",
    "BUILDKIT_SBOM_SCAN_CONTEXT",
    "BUILDKIT_SBOM_SCAN_STAGE",
    "BUILDKIT_SYNTAX",
    epoch::NAME,
];

/// Returns a warning for each build argument that neither the file nor a trigger of a base declares, and that means
/// nothing to the builder. BuildKit says nothing about them.
pub(super) fn arguments(prepared: &Prepared<'_>) -> Vec<Diagnostic> {
    let mut unknown = prepared.request.build_args.keys().filter(|name| !is_predefined(name)).peekable();
    if unknown.peek().is_none() {
        return Vec::new();
    }
    let declared = declared(prepared);
    let mut suggestions = Suggestions::default();
    unknown
        .filter(|name| !declared.contains(*name))
        .map(|name| {
            let message = format!("build argument '{name}' is declared by no ARG");
            let known = declared.iter().map(String::as_str).chain(SWITCHES);
            Diagnostic::warning(Phase::Lower, "undeclared-build-arg", message)
                .suggest(suggestions.closest(name, known).map(str::to_owned))
        })
        .collect()
}

fn is_predefined(name: &str) -> bool {
    SWITCHES.contains(&name) || PROXIES.iter().any(|proxy| proxy.eq_ignore_ascii_case(name))
}

/// Returns the automatic arguments, and the names that any ARG has: global, of a stage, of a trigger.
fn declared(prepared: &Prepared<'_>) -> BTreeSet<String> {
    let stages = &prepared.stages.list;
    let own = stages.iter().flat_map(|stage| stage.instructions.iter().copied());
    let triggers = prepared.triggers.iter().flat_map(|triggers| triggers.iter().map(|trigger| &trigger.instruction));
    let mut declared = prepared.globals.declared.clone();
    let mut add = |kind: &InstructionKind| {
        if let InstructionKind::Arg(arguments) = kind {
            declared.extend(arguments.iter().map(|argument| argument.name.text.clone()));
        }
    };
    for instruction in own.chain(triggers) {
        add(&instruction.kind);
    }
    // What the image does to those built on it is its own affair, but whoever wrote it knows the name.
    for text in stages.iter().flat_map(onbuild::texts) {
        if let Ok(trigger) = onbuild::parse(&text) {
            add(&trigger.instruction.kind);
        }
    }
    declared
}
