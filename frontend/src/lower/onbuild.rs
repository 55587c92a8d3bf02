//! Triggers: instructions that a base leaves for those who build on it.

use super::stages::{Stage, error};
use crate::dockerfile::diagnostic::first_error;
use crate::dockerfile::{self, Diagnostic, Instruction, InstructionKind};

/// A trigger, read.
#[derive(Debug, Clone)]
pub(super) struct Trigger {
    /// What to do. Its spans and lines are of the trigger's own text and mean nothing in the file.
    pub(super) instruction: Instruction,
}

/// Returns the triggers that a stage leaves for stages on top of it.
pub(super) fn texts(stage: &Stage<'_>) -> Vec<String> {
    let texts = stage.instructions.iter().filter_map(|instruction| match &instruction.kind {
        InstructionKind::Onbuild(onbuild) => Some(onbuild.trigger.clone()),
        _ => None,
    });
    texts.collect()
}

/// Reads a trigger.
pub(super) fn parse(text: &str) -> Result<Trigger, Diagnostic> {
    let (file, diagnostics) = dockerfile::parse_trigger(text);
    if let Some(found) = first_error(&diagnostics) {
        return Err(error(found.code, found.text()));
    }
    let mut instructions = file.instructions;
    match (instructions.pop(), instructions.is_empty()) {
        (Some(instruction), true) => match instruction.kind {
            InstructionKind::From(_) => Err(error("invalid-trigger", "*instructions.Stage is not a command type")),
            _ => Ok(Trigger { instruction }),
        },
        _ => Err(error("invalid-trigger", "onbuild trigger should be a single expression")),
    }
}
