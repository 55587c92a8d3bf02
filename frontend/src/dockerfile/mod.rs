//! Dockerfile text into instructions.
//!
//! ```text
//! text ── lines ──▶ logical lines ── node ──▶ keyword, flags, words ── instruction ──▶ typed instructions
//!          │ directives, comments,      │ the grammar of each keyword,      │ the rules of each keyword
//!          │ continuations, bodies      │ JSON form
//! ```
//!
//! [`parse`] never fails: it returns what could be read, and everything that is wrong with it. Words stay as they are
//! written; [`expand::Expander`] expands them where they are used.

pub mod ast;
pub mod code;
pub mod csv;
pub mod device;
pub mod diagnostic;
pub mod directive;
pub mod dump;
pub mod duration;
mod encoding;
pub mod expand;
mod flags;
pub mod git;
mod glob;
mod healthcheck;
pub mod heredoc;
pub mod hint;
mod instruction;
mod json;
mod lines;
pub mod mode;
pub mod mount;
mod node;
pub mod quote;
pub mod signal;
pub mod size;
pub mod suggest;
mod words;

pub use ast::{File, Instruction, InstructionKind, Lines, Span, Word};
pub use diagnostic::{Diagnostic, Phase, Severity};
pub use encoding::parse_bytes;
pub use instruction::{KEYWORDS, is_stage_name};
pub use lines::MAX_LINE;

use lines::{LogicalLine, Reader};

/// Reads a Dockerfile.
pub fn parse(text: &str) -> (File, Vec<Diagnostic>) {
    read(text, true)
}

/// Reads a trigger that ONBUILD has left in an image: one instruction, which needs no FROM before it.
pub fn parse_trigger(text: &str) -> (File, Vec<Diagnostic>) {
    read(text, false)
}

/// A file with more mistakes is not read to its end: it is something else, and nobody reads so many.
pub const MAX_MISTAKES: usize = 10_000;

/// Few files have more than one instruction in so many bytes.
const ORDINARY_LENGTH: usize = 24;

fn read(text: &str, needs_stage: bool) -> (File, Vec<Diagnostic>) {
    let mut reader = Reader::new(text);
    // Growing would copy them again and again; memory that is not used in the end costs nothing.
    let mut instructions = Vec::with_capacity(text.len() / ORDINARY_LENGTH + 1);
    let mut diagnostics = Vec::new();
    let mut has_stage = !needs_stage;
    let frontend = if needs_stage { directive::detect_syntax(text) } else { None };
    let mut mistakes = 0;
    while let Some(line) = reader.logical() {
        let known = diagnostics.len();
        let instruction = read_instruction(&mut reader, line, &mut diagnostics);
        let is_from = instruction.keyword.text.eq_ignore_ascii_case("from");
        let needs_none = matches!(instruction.kind, InstructionKind::Arg(_) | InstructionKind::Invalid);
        if !has_stage && !is_from && !needs_none {
            diagnostics.push(
                Diagnostic::error(Phase::Instruction, "no-stage", "no build stage in current context")
                    .at(instruction.lines, instruction.keyword.span)
                    .hint("start the file with FROM; only ARG may stand before it"),
            );
            has_stage = true;
        }
        has_stage |= is_from;
        let lines = instruction.lines;
        instructions.push(instruction);
        mistakes += diagnostics[known..].iter().filter(|found| found.is_error()).count();
        if mistakes >= MAX_MISTAKES {
            let message = format!("there are more than {MAX_MISTAKES} mistakes: the file is not read behind this line");
            let place = Lines::single(lines.last);
            diagnostics.push(
                Diagnostic::error(Phase::Instruction, "too-many-mistakes", message)
                    .at(place, Span::new(reader.position(), reader.position()))
                    .hint("is it a build file?"),
            );
            break;
        }
    }
    if instructions.is_empty() {
        diagnostics.push(
            Diagnostic::error(Phase::Syntax, "no-instructions", "file with no instructions")
                .at(Lines::single(reader.line_count), Span::new(text.len(), text.len())),
        );
    }
    diagnostics.append(&mut reader.diagnostics);
    // By line only: inside of an instruction they are in the order in which BuildKit looks, and it tells the first.
    diagnostics.sort_by_key(|diagnostic| diagnostic.lines.first().map_or(0, |lines| lines.first));
    let file = File {
        escape: reader.escape,
        directives: reader.directives,
        frontend,
        instructions,
        line_count: reader.line_count,
    };
    (file, diagnostics)
}

fn read_instruction(reader: &mut Reader<'_>, line: LogicalLine, diagnostics: &mut Vec<Diagnostic>) -> Instruction {
    let LogicalLine { joined, lines, comments, has_empty_continuation } = line;
    let mut problems = Vec::new();
    let node = node::split(&joined, reader.escape, &mut problems);
    let mut span = joined.span(0..joined.text.trim_end().len());
    if has_empty_continuation {
        let message = format!("Empty continuation line found in: {}", joined.text);
        diagnostics.push(
            Diagnostic::warning(Phase::Syntax, "empty-continuation", message)
                .at(Lines::single(lines.last), span)
                .hint("remove the blank line, or the escape character before it"),
        );
    }
    let mut heredocs = Vec::new();
    let mut unterminated = None;
    if node::takes_heredocs(&node) {
        for announcement in heredoc::announcements(&joined.text) {
            let (heredoc, terminated) = reader.body(announcement);
            span.end = reader.position();
            if !terminated {
                unterminated = Some(heredoc.name.clone());
            }
            heredocs.push(heredoc);
            if !terminated {
                break;
            }
        }
    }
    let lines = Lines::new(lines.first, reader.line_count);
    if let Some(name) = unterminated {
        diagnostics.push(
            Diagnostic::error(Phase::Syntax, "unterminated-heredoc", "unterminated heredoc").at(lines, span).hint(
                format!(
                    "end it with a line that is exactly `{name}`; a `<<` that is not meant to start one goes in quotes"
                ),
            ),
        );
    }
    let has_syntax_error = !problems.is_empty();
    let line = instruction::Line { node: &node, original: &joined.text, heredocs: &heredocs, comments: &comments };
    let kind = match has_syntax_error {
        true => InstructionKind::Invalid,
        false => instruction::build(&line, &mut problems),
    };
    diagnostics.extend(problems.into_iter().map(|problem| problem.into_diagnostic(lines)));
    let keyword = node.keyword.clone();
    Instruction { keyword, kind, node, span, lines, original: joined.text, heredocs, comments }
}
