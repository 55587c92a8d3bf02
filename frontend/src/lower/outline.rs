//! The outline of a target: the arguments, secrets and agents that it can be given.

use std::collections::{BTreeMap, BTreeSet};

use super::arguments::expand;
use super::prepare::Prepared;
use crate::dockerfile::{InstructionKind, Lines};

/// What can be given to a target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline {
    /// The name of the stage, in lower case.
    pub name: Option<String>,
    /// What the comment above it says of it.
    pub description: Option<String>,
    /// The arguments that have a say in it, by where they are declared.
    pub arguments: Vec<OutlineArgument>,
    /// The secrets that its commands ask for.
    pub secrets: Vec<OutlineMount>,
    /// The agents that its commands ask for.
    pub ssh: Vec<OutlineMount>,
}

/// An argument of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlineArgument {
    /// Its name.
    pub name: String,
    /// What the comment above it says of it.
    pub description: Option<String>,
    /// What it is worth with the arguments that are given now.
    pub value: Option<String>,
    /// Where it is declared.
    pub lines: Lines,
}

/// A secret or an agent of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlineMount {
    /// Its id.
    pub id: String,
    /// Whether the build fails without it.
    pub required: bool,
    /// The first command that asks for it.
    pub lines: Lines,
}

/// What the instructions of the stages say, as they are worked through.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// Each ARG of a stage. One that only takes over a global argument has no lines.
    pub(super) arguments: Vec<OutlineArgument>,
    pub(super) secrets: Vec<OutlineMount>,
    pub(super) ssh: Vec<OutlineMount>,
}

/// An ARG before the first FROM.
struct Global {
    argument: OutlineArgument,
    /// The arguments that its default uses.
    uses: BTreeSet<String>,
}

/// Makes an outline of what was gathered.
pub(super) fn outline(prepared: &Prepared<'_>, gathered: Gathered) -> Outline {
    let target = &prepared.stages.list[prepared.target];
    let written = target.from.name.as_ref().map(|name| name.text.as_str());
    let globals = globals(prepared);
    let mut found: BTreeMap<String, OutlineArgument> = BTreeMap::new();
    let mut used: Vec<String> = used_by_heads(prepared).into_iter().collect();
    // Of two stages that declare the same argument the later is nearer to the target.
    for argument in gathered.arguments.into_iter().rev() {
        if argument.lines == Lines::default() {
            used.push(argument.name);
        } else {
            found.entry(argument.name.clone()).or_insert(argument);
        }
    }
    let mut seen = BTreeSet::new();
    while let Some(name) = used.pop() {
        if let Some(global) = globals.get(&name).filter(|_| seen.insert(name.clone())) {
            used.extend(global.uses.iter().cloned());
            found.entry(name).or_insert_with(|| global.argument.clone());
        }
    }
    let mut arguments: Vec<OutlineArgument> = found.into_values().collect();
    arguments.sort_by_key(|argument| argument.lines.first);
    Outline {
        name: target.name.clone(),
        description: written.and_then(|name| target.instruction.description_of(name)).map(str::to_owned),
        arguments,
        secrets: first_of_each(gathered.secrets),
        ssh: first_of_each(gathered.ssh),
    }
}

fn globals(prepared: &Prepared<'_>) -> BTreeMap<String, Global> {
    let mut globals = BTreeMap::new();
    for instruction in &prepared.stages.globals {
        let InstructionKind::Arg(arguments) = &instruction.kind else { continue };
        for argument in arguments {
            let name = &argument.name.text;
            let uses = match &argument.default {
                Some(default) if !prepared.request.build_args.contains_key(name) => matched(&default.text, prepared),
                _ => BTreeSet::new(),
            };
            let argument = OutlineArgument {
                name: name.clone(),
                description: argument.description.clone(),
                value: prepared.globals.values.get(name).map(str::to_owned),
                lines: instruction.lines,
            };
            globals.insert(name.clone(), Global { argument, uses });
        }
    }
    globals
}

/// Returns the arguments in the FROM lines of the stages that are needed.
fn used_by_heads(prepared: &Prepared<'_>) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for &index in &prepared.wanted {
        let from = prepared.stages.list[index].from;
        for word in std::iter::once(&from.image).chain(&from.platform) {
            used.extend(matched(&word.text, prepared));
        }
    }
    used
}

fn matched(text: &str, prepared: &Prepared<'_>) -> BTreeSet<String> {
    expand(text, &prepared.globals.values, prepared.escape).map(|found| found.matched).unwrap_or_default()
}

fn first_of_each(mut mounts: Vec<OutlineMount>) -> Vec<OutlineMount> {
    mounts.sort_by_key(|mount| mount.lines.first);
    let mut seen = BTreeSet::new();
    mounts.retain(|mount| seen.insert(mount.id.clone()));
    mounts
}
