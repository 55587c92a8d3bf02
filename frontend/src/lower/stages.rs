//! The stages of a file: which instructions belong to which, and how they are called.

use std::collections::HashMap;

use crate::dockerfile::ast::From;
use crate::dockerfile::expand::ExpandError;
use crate::dockerfile::{Diagnostic, File, Instruction, InstructionKind, Phase, hint};

/// A file, cut at its FROMs.
#[derive(Debug)]
pub(super) struct Stages<'a> {
    /// The ARGs before the first FROM.
    pub(super) globals: Vec<&'a Instruction>,
    /// The stages, in order; at least one.
    pub(super) list: Vec<Stage<'a>>,
    /// For each name the stages that have it, in order.
    by_name: HashMap<String, Vec<usize>>,
}

/// A FROM and what follows it.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    /// Its number in the file, from 0.
    pub(super) index: usize,
    /// The FROM.
    pub(super) instruction: &'a Instruction,
    /// What the FROM says.
    pub(super) from: &'a From,
    /// The name after AS, in lower case.
    pub(super) name: Option<String>,
    /// The instructions, without the FROM.
    pub(super) instructions: Vec<&'a Instruction>,
}

impl<'a> Stages<'a> {
    /// Cuts a file into its stages.
    pub(super) fn of(file: &'a File) -> Result<Self, Diagnostic> {
        let mut stages = Self { globals: Vec::new(), list: Vec::new(), by_name: HashMap::new() };
        for instruction in &file.instructions {
            match (&instruction.kind, stages.list.last_mut()) {
                (InstructionKind::From(from), _) => stages.list.push(Stage {
                    index: stages.list.len(),
                    instruction,
                    from,
                    name: from.stage_name(),
                    instructions: Vec::new(),
                }),
                (InstructionKind::Invalid, _) => {
                    let message = format!("`{}` has mistakes in it", instruction.original);
                    return Err(error("invalid-instruction", message).at(instruction.lines, instruction.span));
                }
                (_, Some(stage)) => stage.instructions.push(instruction),
                (InstructionKind::Arg(_), None) => stages.globals.push(instruction),
                (_, None) => {
                    let message = "no build stage in current context";
                    return Err(error("no-stage", message).at(instruction.lines, instruction.span));
                }
            }
        }
        if file.instructions.is_empty() {
            return Err(error("empty-file", "the Dockerfile cannot be empty"));
        }
        if stages.list.is_empty() {
            return Err(error("no-stages", "dockerfile contains no stages to build")
                .hint("begin a stage with `FROM` and an image, or `FROM scratch`"));
        }
        for stage in &stages.list {
            if let Some(name) = &stage.name {
                stages.by_name.entry(name.clone()).or_default().push(stage.index);
            }
        }
        Ok(stages)
    }

    /// Returns the stage of that name among the stages before `before`; of two the later.
    pub(super) fn earlier(&self, name: &str, before: usize) -> Option<usize> {
        let stages = self.by_name.get(name)?;
        stages[..stages.partition_point(|&stage| stage < before)].last().copied()
    }

    /// Returns the stage of that name in any case; of two the later.
    pub(super) fn named(&self, name: &str) -> Option<usize> {
        let name = name.to_lowercase();
        self.earlier(&name, self.list.len())
    }

    /// Returns the names there are.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.list.iter().filter_map(|stage| stage.name.as_deref())
    }

    /// Says which stages there are, for somebody who named one that there is not.
    pub(super) fn hint(&self) -> String {
        let shown: Vec<String> = self.names().take(MOST_NAMES).map(|name| format!("`{name}`")).collect();
        let more = if self.names().nth(MOST_NAMES).is_some() { ", …" } else { "" };
        match &shown[..] {
            [] => "no stage of this file has a name; give one with `FROM … AS name`".to_owned(),
            [only] => format!("the only stage with a name is {only}"),
            several => format!("the stages of this file are {}{more}", several.join(", ")),
        }
    }
}

/// How many stages a hint names.
const MOST_NAMES: usize = 20;

impl Stage<'_> {
    /// Returns how messages call it: its name, or `stage-2`.
    pub(super) fn display(&self) -> String {
        self.name.clone().unwrap_or_else(|| format!("stage-{}", self.index))
    }
}

/// The error about a word that cannot be expanded.
pub(super) fn not_expanded(cause: &ExpandError) -> Diagnostic {
    Diagnostic { hint: hint::expansion(&cause.cause).map(str::to_owned), ..error("expansion", cause.to_string()) }
}

/// An error of lowering.
pub(super) fn error(code: &'static str, message: impl Into<String>) -> Diagnostic {
    Diagnostic::error(Phase::Lower, code, message)
}
