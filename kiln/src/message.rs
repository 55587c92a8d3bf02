//! What a person reads when something went wrong, or is not as it should be.
//!
//! ```text
//! ------
//!  > [2/2] RUN make:
//! 0.123 make: *** No targets. Stop.
//! ------
//! Dockerfile:2
//! --------------------
//!    1 |     FROM alpine
//!    2 | >>> RUN make
//! --------------------
//! ERROR: failed to solve: process "/bin/sh -c make" did not complete successfully: exit code: 2
//! hint: …
//! ```
//!
//! This is how buildx shows it, so that what reads its output can read ours. Drawing is pure; only [`print()`] writes. The
//! exit codes are a promise, kept in `docs/cli.md`.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use kiln_builder::{BuildError, Kind};
use kiln_frontend::check;
use kiln_frontend::dockerfile::{Diagnostic, Lines};

pub use crate::excerpt::SourceText;

use crate::excerpt;
use crate::progress::text::{clean, one_line};

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
    /// What there is to tell has been told; only the exit code is left.
    Told(u8),
    /// Whoever read our output has gone; there is nobody to tell.
    ReaderGone,
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
            Self::Told(code) => ExitCode::from(*code),
            Self::ReaderGone => ExitCode::SUCCESS,
        }
    }
}

/// The exit code of a check that found something.
pub const FOUND: u8 = 1;

/// Returns the exit code for a kind of failure. 2 is clap's, for a command line that it cannot read.
pub fn code(kind: Kind) -> u8 {
    match kind {
        Kind::Input => 1,
        Kind::Environment => 3,
        Kind::Bug => 70,
        Kind::Cancelled => 130,
    }
}

/// No more mistakes than this are told in one run.
const MOST_ERRORS: usize = 50;

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
    let (errors, warnings): (Vec<_>, Vec<_>) = error.diagnostics.iter().cloned().partition(Diagnostic::is_error);
    let mut text = draw_warnings(&warnings);
    if !text.is_empty() {
        text.push('\n');
    }
    if let Some(step) = error.step.as_ref().filter(|_| !error.log.is_empty()) {
        let _ = writeln!(text, "------\n > {}:", one_line(step));
        for line in &error.log {
            let _ = writeln!(text, "{}", clean(line.as_bytes()));
        }
        text.push_str("------\n");
    }
    for (number, found) in errors.iter().take(MOST_ERRORS).enumerate() {
        if number > 0 {
            text.push('\n');
        }
        // Several mistakes in the same lines have them in front of the first.
        if let Some(file) = file.filter(|_| number == 0 || errors[number - 1].lines != found.lines) {
            excerpt::draw(file, &found.lines, &mut text);
        }
        error_line(&found.full_text(), file, colours, &mut text);
        let is_new = number == 0 || errors[number - 1].hint != found.hint;
        if let Some(hint) = found.hint.as_ref().filter(|_| is_new) {
            hint_line(hint, colours, &mut text);
        }
    }
    if errors.len() > MOST_ERRORS {
        let _ = writeln!(text, "\n… and {} more", errors.len() - MOST_ERRORS);
    }
    if errors.is_empty() {
        if let (Some(file), Some(location)) = (file, &error.location) {
            excerpt::draw(file, &[Lines::new(location.lines.0, location.lines.1)], &mut text);
        }
        error_line(&error.message, file, colours, &mut text);
    }
    // Diagnostics have their own hints.
    if let Some(hint) = error.hint.as_ref().filter(|hint| errors.iter().all(|known| known.hint.as_ref() != Some(hint)))
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
    let more = match warnings.iter().any(|warning| !warning.lines.is_empty()) {
        true => " (use `--check` to see the lines)",
        false => "",
    };
    let _ = writeln!(text, "\n {} warning{plural} found{more}:", warnings.len());
    for warning in warnings {
        let _ = writeln!(text, " - {}", warning_line(warning));
    }
    text
}

/// Returns a warning in one line, as BuildKit tells it: `FromAsCasing: 'as' and … do not match (line 1)`.
pub fn warning_line(warning: &Diagnostic) -> String {
    let line = match warning.lines.first() {
        Some(lines) if lines.first > 0 => format!(" (line {})", lines.first),
        _ => String::new(),
    };
    let rule = check::rule(warning.code).map_or(warning.code, |rule| rule.name);
    one_line(&format!("{rule}: {}{line}", warning.text()))
}

/// The line that tools look for. What is about a build file has the words in front that they know.
fn error_line(message: &str, file: Option<&SourceText>, colours: bool, text: &mut String) {
    let (on, off) = if colours { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
    let context = if file.is_some() { "failed to solve: " } else { "" };
    let _ = writeln!(text, "{on}ERROR:{off} {context}{}", clean_lines(message));
}

fn hint_line(hint: &str, colours: bool, text: &mut String) {
    let (on, off) = if colours { ("\x1b[1;36m", "\x1b[0m") } else { ("", "") };
    let _ = writeln!(text, "{on}hint:{off} {}", clean_lines(hint));
}

/// Cleans each line of a text of several.
fn clean_lines(text: &str) -> String {
    text.lines().map(|line| clean(line.as_bytes())).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use kiln_frontend::dockerfile::{Phase, Span};
    use kiln_frontend::graph::Location;

    use super::*;

    fn file() -> SourceText {
        SourceText {
            name: "docker/app.Dockerfile".to_owned(),
            text: "FROM alpine\nRUN make \\\n  all\nCOPPY a b\n".to_owned(),
        }
    }

    #[test]
    fn lines_are_shown_once_and_mistakes_without_number_are_counted() {
        let found = Diagnostic::error(Phase::Lower, "word", "no").at(Lines::new(2, 3), Span::default());
        let error = BuildError { diagnostics: vec![found; 60], ..BuildError::input("no") };
        let text = draw(&error, Some(&file()), false);
        assert_eq!((text.matches(">>> RUN make").count(), text.matches("ERROR: ").count()), (1, 50), "{text}");
        assert!(text.ends_with("\n… and 10 more\n"), "{text}");
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
        docker/app.Dockerfile:2
        --------------------
           1 |     FROM alpine
           2 | >>> RUN make \
           3 | >>>   all
           4 |     COPPY a b
        --------------------
        ERROR: failed to solve: process "/bin/sh -c make   all" did not complete successfully: exit code: 2
        hint: read the lines above
        "#);
    }

    #[test]
    fn every_mistake_in_the_file_is_drawn() {
        let unknown = |line| {
            Diagnostic::error(Phase::Instruction, "unknown-instruction", "unknown instruction: COPPY")
                .at(Lines::single(line), Span::default())
                .suggest(Some("COPY".to_owned()))
        };
        let diagnostics = vec![unknown(1), unknown(4).hint("read the list")];
        let error = BuildError { diagnostics, ..BuildError::input("Dockerfile has 2 errors") };
        assert_snapshot!(draw(&error, Some(&file()), false), @r#"
        docker/app.Dockerfile:1
        --------------------
           1 | >>> FROM alpine
           2 |     RUN make \
           3 |       all
        --------------------
        ERROR: failed to solve: dockerfile parse error on line 1: unknown instruction: COPPY (did you mean COPY?)

        docker/app.Dockerfile:4
        --------------------
           2 |     RUN make \
           3 |       all
           4 | >>> COPPY a b
           5 |     
        --------------------
        ERROR: failed to solve: dockerfile parse error on line 4: unknown instruction: COPPY (did you mean COPY?)
        hint: read the list
        "#);
    }

    #[test]
    fn warnings_before_an_error_are_listed_first() {
        let warning =
            Diagnostic::warning(Phase::Lower, "maintainer-deprecated", "Maintainer instruction is deprecated")
                .at(Lines::single(2), Span::default());
        let error = Diagnostic::error(Phase::Lower, "invalid-signal", "invalid signal: X")
            .at(Lines::single(4), Span::default());
        let error = BuildError { diagnostics: vec![warning, error], ..BuildError::input("2 errors") };
        assert_snapshot!(draw(&error, Some(&file()), false), @r#"

         1 warning found (use `--check` to see the lines):
         - MaintainerDeprecated: Maintainer instruction is deprecated (line 2)

        docker/app.Dockerfile:4
        --------------------
           2 |     RUN make \
           3 |       all
           4 | >>> COPPY a b
           5 |     
        --------------------
        ERROR: failed to solve: invalid signal: X
        "#);
    }

    #[test]
    fn an_error_without_a_place_is_a_sentence() {
        let error = BuildError::environment("cannot pull `alpine:3`: the registry answered 429\x1b[2J").hint("wait");
        assert_snapshot!(draw(&error, None, false), @r#"
        ERROR: cannot pull `alpine:3`: the registry answered 429
        hint: wait
        "#);
        assert!(draw(&error, Some(&file()), false).starts_with("ERROR: failed to solve: cannot pull"));
        assert!(draw(&BuildError::bug("no"), None, false).contains("mistake in kiln"));
        assert!(draw(&BuildError::input("no").hint("x"), None, true).contains("\x1b["));
    }

    #[test]
    fn no_place_is_too_strange_to_draw() {
        for file in [SourceText { name: String::new(), text: String::new() }, file()] {
            for lines in [(0, 0), (1, 1), (2, 9), (3, 2), (usize::MAX, usize::MAX)] {
                let location = Some(Location { span: std::ops::Range { start: 100, end: 7 }, lines });
                draw(&BuildError { location, ..BuildError::input("x") }, Some(&file), false);
            }
        }
    }

    #[test]
    fn warnings_are_listed_as_buildx_does() {
        let warning = Diagnostic::warning(Phase::Lower, "json-args-recommended", "JSON arguments recommended for CMD");
        assert_eq!(draw_warnings(&[]), "");
        assert_snapshot!(draw_warnings(&[warning.clone().at(Lines::single(3), Span::default()), warning]), @r#"

        2 warnings found (use `--check` to see the lines):
        - JSONArgsRecommended: JSON arguments recommended for CMD (line 3)
        - JSONArgsRecommended: JSON arguments recommended for CMD
        "#);
    }
}
