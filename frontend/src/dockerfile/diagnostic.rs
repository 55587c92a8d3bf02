//! What is wrong with a Dockerfile, and where.

use super::ast::{Lines, Span};

/// An error or a warning about the source text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What it is: stable, in kebab case, listed in the documentation.
    pub code: &'static str,
    /// Which part of the work found it.
    pub phase: Phase,
    /// The message, without a place and without a suggestion.
    pub message: String,
    /// A name that was perhaps meant.
    pub suggestion: Option<String>,
    /// The lines it is about.
    pub lines: Vec<Lines>,
    /// The bytes it is about; the first is the main one. May be empty.
    pub spans: Vec<Span>,
    /// What to try.
    pub hint: Option<String>,
}

/// How bad a diagnostic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The file can be built.
    Warning,
    /// It cannot.
    Error,
}

/// Which part of the work a diagnostic comes from. Errors of an earlier one are what other builders report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Lines into nodes.
    Syntax,
    /// Nodes into typed instructions.
    Instruction,
    /// Instructions among each other: stages, arguments, the graph.
    Lower,
}

impl Diagnostic {
    /// An error.
    pub fn error(phase: Phase, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            phase,
            message: message.into(),
            suggestion: None,
            lines: Vec::new(),
            spans: Vec::new(),
            hint: None,
        }
    }

    /// A warning.
    pub fn warning(phase: Phase, code: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(phase, code, message) }
    }

    /// Says where.
    pub fn at(mut self, lines: Lines, span: Span) -> Self {
        self.lines.push(lines);
        self.spans.push(span);
        self
    }

    /// Adds what was perhaps meant.
    pub fn suggest(mut self, suggestion: Option<String>) -> Self {
        self.suggestion = suggestion;
        self
    }

    /// Adds what to try.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Whether the file cannot be built.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// Returns the lines that BuildKit reports to programs (spec: dockerfile-syntax.md §14). They are those it is about,
    /// but for directives, which it counts before it has read them.
    pub fn reported_lines(&self) -> Vec<Lines> {
        let uncounted = usize::from(self.code == "directive");
        self.lines
            .iter()
            .map(|lines| Lines::new(lines.first.saturating_sub(uncounted), lines.last.saturating_sub(uncounted)))
            .collect()
    }

    /// Returns the message with the suggestion behind it: `unknown flag: --x (did you mean y?)`.
    pub fn text(&self) -> String {
        match &self.suggestion {
            Some(suggestion) => format!("{} (did you mean {suggestion}?)", self.message),
            None => self.message.clone(),
        }
    }

    /// Returns the text that BuildKit prints: mistakes in an instruction name their line.
    pub fn full_text(&self) -> String {
        match (self.phase, self.code, self.lines.first()) {
            (_, "no-stage", _) => self.text(),
            (Phase::Instruction, _, Some(lines)) => {
                format!("dockerfile parse error on line {}: {}", lines.first, self.text())
            }
            _ => self.text(),
        }
    }
}

/// Returns the error that a builder which stops at the first one would stop at: syntax errors of the whole file come
/// before mistakes in its instructions.
pub fn first_error(diagnostics: &[Diagnostic]) -> Option<&Diagnostic> {
    diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).min_by_key(|diagnostic| diagnostic.phase)
}

/// A mistake inside an instruction, before it is known which lines that has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub phase: Phase,
    pub code: &'static str,
    pub message: String,
    pub suggestion: Option<String>,
    pub hint: Option<String>,
    pub span: Span,
}

impl Problem {
    pub fn syntax(code: &'static str, message: impl Into<String>, span: Span) -> Self {
        Self { phase: Phase::Syntax, code, message: message.into(), suggestion: None, hint: None, span }
    }

    pub fn instruction(code: &'static str, message: impl Into<String>, span: Span) -> Self {
        Self { phase: Phase::Instruction, ..Self::syntax(code, message, span) }
    }

    pub fn suggest(mut self, suggestion: Option<String>) -> Self {
        self.suggestion = suggestion;
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The diagnostic about an instruction that has these lines.
    pub fn into_diagnostic(self, lines: Lines) -> Diagnostic {
        let diagnostic =
            Diagnostic::error(self.phase, self.code, self.message).suggest(self.suggestion).at(lines, self.span);
        Diagnostic { hint: self.hint, ..diagnostic }
    }
}
