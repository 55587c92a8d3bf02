//! What a person reads when something went wrong, or is not as it should be.
//!
//! ```text
//! ------
//!  > [2/2] RUN make:
//! 0.123 make: *** No targets. Stop.
//! ------
//! error: process "/bin/sh -c make" did not complete successfully: exit code: 2
//!  --> Dockerfile:2:1
//!   |
//! 2 | RUN make
//!   | ^^^^^^^^
//! hint: …
//! ```
//!
//! Drawing is pure; only [`print`] writes. The exit codes are a promise, kept in `docs/cli.md`.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::ops::Range;
use std::process::ExitCode;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use kiln_builder::{BuildError, Kind};
use kiln_frontend::dockerfile::Diagnostic;

use crate::progress::text::clean;

/// Why a command ended badly.
#[derive(Debug)]
pub enum Failure {
    /// Something to tell.
    Error {
        /// What.
        error: BuildError,
        /// The build file it is about.
        file: Option<SourceText>,
    },
    /// Whoever read our output has gone; there is nobody to tell.
    ReaderGone,
}

/// A build file, for excerpts.
#[derive(Debug, Clone)]
pub struct SourceText {
    /// As the user knows it.
    pub name: String,
    /// Its text.
    pub text: String,
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        Self::Error { error, file: None }
    }
}

impl Failure {
    /// Sorts an error of writing to standard output.
    pub fn output(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::ReaderGone,
            _ => BuildError::environment(format!("cannot write to standard output: {error}")).into(),
        }
    }

    /// Returns the exit code.
    pub fn code(&self) -> ExitCode {
        match self {
            Self::Error { error, .. } => ExitCode::from(code(error.kind)),
            Self::ReaderGone => ExitCode::SUCCESS,
        }
    }
}

/// Returns the exit code for a kind of failure. 2 is clap's, for a command line that it cannot read.
pub fn code(kind: Kind) -> u8 {
    match kind {
        Kind::Input => 1,
        Kind::Environment => 3,
        Kind::Bug => 70,
        Kind::Cancelled => 130,
    }
}

/// Draws a failure on standard error.
pub fn print(failure: &Failure) {
    if let Failure::Error { error, file } = failure {
        let text = draw(error, file.as_ref(), colours());
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }
}

/// Whether standard error wants colours.
pub fn colours() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Draws an error.
pub fn draw(error: &BuildError, file: Option<&SourceText>, colours: bool) -> String {
    let mut text = String::new();
    if let Some(step) = error.step.as_ref().filter(|_| !error.log.is_empty()) {
        let _ = writeln!(text, "------\n > {}:", crate::progress::text::one_line(step));
        for line in &error.log {
            let _ = writeln!(text, "{}", clean(line.as_bytes()));
        }
        text.push_str("------\n");
    }
    for diagnostic in &error.diagnostics {
        draw_diagnostic(diagnostic, file, colours, &mut text);
    }
    let place = error.location.as_ref().map(|location| Place { span: location.span.clone(), lines: location.lines });
    excerpt(Level::ERROR, &error.message, place, file, colours, &mut text);
    // Diagnostics have their own hints.
    if let Some(hint) =
        error.hint.as_ref().filter(|hint| error.diagnostics.iter().all(|known| known.hint.as_ref() != Some(hint)))
    {
        hint_line(hint, colours, &mut text);
    }
    if error.kind == Kind::Bug {
        hint_line("this is a mistake in kiln: please report it with the lines above", colours, &mut text);
    }
    text
}

/// Draws the warnings of a build, the way buildx lists them: one line each.
pub fn draw_warnings(warnings: &[Diagnostic]) -> String {
    let mut text = String::new();
    if warnings.is_empty() {
        return text;
    }
    let plural = if warnings.len() == 1 { "" } else { "s" };
    let _ = writeln!(text, "\n {} warning{plural} found:", warnings.len());
    for warning in warnings {
        let line = match warning.lines.first() {
            Some(lines) if lines.first > 0 => format!(" (line {})", lines.first),
            _ => String::new(),
        };
        let _ = writeln!(text, " - {}: {}{line}", warning.code, clean_lines(&warning.text()));
    }
    text
}

fn draw_diagnostic(diagnostic: &Diagnostic, file: Option<&SourceText>, colours: bool, text: &mut String) {
    let level = if diagnostic.is_error() { Level::ERROR } else { Level::WARNING };
    let span = diagnostic.spans.first().map(|span| span.start..span.end);
    let lines = diagnostic.lines.first().map(|lines| (lines.first, lines.last));
    let place = match (span, lines) {
        (None, None) => None,
        (span, lines) => Some(Place { span: span.unwrap_or_default(), lines: lines.unwrap_or_default() }),
    };
    excerpt(level, &diagnostic.text(), place, file, colours, text);
    if let Some(hint) = &diagnostic.hint {
        hint_line(hint, colours, text);
    }
    text.push('\n');
}

struct Place {
    span: Range<usize>,
    lines: (usize, usize),
}

/// Draws a message with the lines it is about.
fn excerpt(
    level: Level<'_>,
    message: &str,
    place: Option<Place>,
    file: Option<&SourceText>,
    colours: bool,
    text: &mut String,
) {
    let message = clean_lines(message);
    let group = match (place, file) {
        (Some(place), Some(file)) => {
            // The renderer shows control characters as pictures, so the text itself stays as it is: spans must fit.
            let span = span_in(&file.text, &place);
            level.primary_title(message).element(
                Snippet::source(file.text.as_str())
                    .path(file.name.as_str())
                    .annotation(AnnotationKind::Primary.span(span)),
            )
        }
        _ => Group::with_title(level.primary_title(message)),
    };
    let renderer = if colours { Renderer::styled() } else { Renderer::plain() };
    text.push_str(&renderer.decor_style(DecorStyle::Ascii).render(&[group]));
    text.push('\n');
}

/// Returns a span that lies inside the text, on character boundaries. An empty span stands for its lines.
fn span_in(text: &str, place: &Place) -> Range<usize> {
    let Range { start, end } = place.span;
    if start < end && end <= text.len() && text.is_char_boundary(start) && text.is_char_boundary(end) {
        // The end of the last line is not worth an arrow of its own.
        let shown = text[start..end].trim_end().len();
        return start..start + shown.max(1).min(end - start);
    }
    let first = place.lines.0.max(1) - 1;
    let mut at = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if number == first {
            return at..at + line.trim_end().len();
        }
        at += line.len();
    }
    text.len()..text.len()
}

fn hint_line(hint: &str, colours: bool, text: &mut String) {
    let (on, off) = if colours { ("\x1b[1;36m", "\x1b[0m") } else { ("", "") };
    let _ = writeln!(text, "{on}hint{off}: {}", clean_lines(hint));
}

/// Cleans each line of a text of several.
fn clean_lines(text: &str) -> String {
    text.lines().map(|line| clean(line.as_bytes())).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use kiln_frontend::dockerfile::{Lines, Phase, Span};
    use kiln_frontend::graph::Location;

    use super::*;

    fn file() -> SourceText {
        SourceText {
            name: "docker/app.Dockerfile".to_owned(),
            text: "FROM alpine\nRUN make \\\n  all\nCOPPY a b\n".to_owned(),
        }
    }

    #[test]
    fn a_failed_command_shows_its_last_words_and_its_lines() {
        let error = BuildError {
            step: Some("[2/2] RUN make   all".to_owned()),
            log: vec!["0.123 make: *** No rule\x1b[0m".to_owned()],
            location: Some(Location { span: 12..28, lines: (2, 3) }),
            status: Some(2),
            ..BuildError::input("process \"/bin/sh -c make   all\" did not complete successfully: exit code: 2")
        };
        assert_snapshot!(draw(&error.hint("read the lines above"), Some(&file()), false), @r#"
        ------
         > [2/2] RUN make   all:
        0.123 make: *** No rule
        ------
        error: process "/bin/sh -c make   all" did not complete successfully: exit code: 2
         --> docker/app.Dockerfile:2:1
          |
        2 | / RUN make \
        3 | |   all
          | |_____^
        hint: read the lines above
        "#);
    }

    #[test]
    fn every_mistake_in_the_file_is_drawn() {
        let diagnostic = Diagnostic::error(Phase::Instruction, "unknown-instruction", "unknown instruction: COPPY")
            .at(Lines::single(4), Span::new(29, 34))
            .suggest(Some("COPY".to_owned()));
        let error =
            BuildError { diagnostics: vec![diagnostic], ..BuildError::input("1 error in `docker/app.Dockerfile`") };
        assert_snapshot!(draw(&error, Some(&file()), false), @"
        error: unknown instruction: COPPY (did you mean COPY?)
         --> docker/app.Dockerfile:4:1
          |
        4 | COPPY a b
          | ^^^^^

        error: 1 error in `docker/app.Dockerfile`
        ");
    }

    #[test]
    fn an_error_without_a_place_is_a_sentence() {
        let error = BuildError::environment("cannot pull `alpine:3`: the registry answered 429\x1b[2J").hint("wait");
        assert_snapshot!(draw(&error, None, false), @"
        error: cannot pull `alpine:3`: the registry answered 429
        hint: wait
        ");
        assert!(draw(&BuildError::bug("no"), None, false).contains("mistake in kiln"));
        assert!(draw(&BuildError::input("no").hint("x"), None, true).contains("\x1b["));
    }

    #[test]
    fn no_span_is_too_strange_to_draw() {
        let wide = SourceText { name: "Dockerfile".to_owned(), text: "FROM é\n\u{7}\n".to_owned() };
        for empty in [SourceText { name: String::new(), text: String::new() }, wide, file()] {
            for span in [0..0, 5..6, 6..7, 3..1, 100..200, 0..usize::MAX, 7..8] {
                for lines in [(0, 0), (1, 1), (2, 9), (usize::MAX, usize::MAX)] {
                    let location = Some(Location { span: span.clone(), lines });
                    draw(&BuildError { location, ..BuildError::input("x") }, Some(&empty), false);
                }
            }
        }
    }

    #[test]
    fn warnings_are_listed_as_buildx_does() {
        let warning = Diagnostic::warning(Phase::Lower, "JSONArgsRecommended", "JSON arguments recommended for CMD");
        assert_eq!(draw_warnings(&[]), "");
        assert_snapshot!(draw_warnings(&[warning.clone().at(Lines::single(3), Span::default()), warning]), @r"

         2 warnings found:
         - JSONArgsRecommended: JSON arguments recommended for CMD (line 3)
         - JSONArgsRecommended: JSON arguments recommended for CMD
        ");
    }
}
