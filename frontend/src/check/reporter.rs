//! Collects what the checks find.

use std::collections::BTreeSet;

use super::{Options, Rule};
use crate::dockerfile::ast::Comment;
use crate::dockerfile::suggest::Suggestions;
use crate::dockerfile::{Diagnostic, Instruction, Lines, Phase, Span};

/// Collects what the checks find, in order, and drops what nobody wants to hear.
#[derive(Debug, Default)]
pub struct Reporter {
    options: Options,
    warnings: Vec<Diagnostic>,
    is_muted: bool,
    /// Finds the names that were perhaps meant.
    pub(super) suggestions: Suggestions,
    /// Rule, message and first line of what was found.
    seen: BTreeSet<(&'static str, String, usize)>,
}

impl Reporter {
    /// Starts with nothing found.
    pub fn new(options: Options) -> Self {
        Self { options, ..Self::default() }
    }

    /// Hears nothing any more: what is found after an error may only be its consequence.
    pub(crate) fn mute(&mut self) {
        self.is_muted = true;
    }

    /// Reports something about an instruction.
    pub(crate) fn report(&mut self, rule: &'static Rule, message: String, instruction: &Instruction) {
        let (lines, spans) = ([instruction.lines], [instruction.span]);
        self.report_with_comments(rule, message, &lines, &spans, Some(&instruction.comments));
    }

    /// Reports something about a place.
    pub(crate) fn report_at(&mut self, rule: &'static Rule, message: String, lines: &[Lines], spans: &[Span]) {
        self.report_with_comments(rule, message, lines, spans, None);
    }

    /// Reports something about a place unless the comments, of whatever instruction, are against it.
    pub(crate) fn report_with_comments(
        &mut self,
        rule: &'static Rule,
        message: String,
        lines: &[Lines],
        spans: &[Span],
        comments: Option<&[Comment]>,
    ) {
        let is_wanted = match comments {
            Some(comments) if !comments.is_empty() && (rule.obeys_comments || rule.is_experimental) => {
                self.options.with_comments(comments).wants(rule)
            }
            _ => self.options.wants(rule),
        };
        if !is_wanted || self.is_muted {
            return;
        }
        let mut warning = Diagnostic::warning(Phase::Lower, rule.code, message);
        warning.lines = lines.to_vec();
        warning.spans = spans.to_vec();
        // The same thing may be seen twice: once as a stage of its own, once as the base of another.
        let line = lines.first().map_or(0, |lines| lines.first);
        if self.seen.insert((rule.code, warning.message.clone(), line)) {
            self.warnings.push(warning);
        }
    }

    /// Returns the error that the user asked for when there are warnings.
    pub fn verdict(&self) -> Option<Diagnostic> {
        if !self.options.error || self.warnings.is_empty() {
            return None;
        }
        let names: BTreeSet<&str> = self
            .warnings
            .iter()
            .map(|warning| super::rule(warning.code).map_or(warning.code, |rule| rule.name))
            .collect();
        let names: Vec<&str> = names.into_iter().collect();
        let message = format!("lint violation found for rules: {}", names.join(", "));
        Some(Diagnostic::error(Phase::Lower, "lint-violation", message))
    }

    /// Returns what was found, in order.
    pub fn into_warnings(self) -> Vec<Diagnostic> {
        self.warnings
    }
}
