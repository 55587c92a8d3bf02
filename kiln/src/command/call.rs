//! `kiln build --call`: asking about a build file instead of building it.

use kiln_builder::{BuildError, BuildRequest, Client, Engine, parse_build_file};
use kiln_frontend::check::{self, Options, Reporter};
use kiln_frontend::dockerfile::{self, Diagnostic, csv, suggest};
use kiln_frontend::lower;

use crate::answer::check::Report;
use crate::answer::{describe, outline, targets};
use crate::message::{self, Failure, SourceText};

/// What is asked, and how it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What.
    pub method: Method,
    /// Whether the answer is JSON.
    json: bool,
    /// Whether what a check finds leaves the exit code alone.
    ignore_status: bool,
}

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Nothing: build.
    Build,
    /// What the build checks find.
    Check,
    /// What the target can be given.
    Outline,
    /// Which targets there are.
    Targets,
    /// What can be asked.
    Describe,
}

/// The methods by name. The first of each is what is suggested.
const METHODS: [(&str, Method); 6] = [
    ("build", Method::Build),
    ("check", Method::Check),
    ("lint", Method::Check),
    ("outline", Method::Outline),
    ("targets", Method::Targets),
    ("subrequests.describe", Method::Describe),
];

impl Call {
    /// Reads `METHOD[,format=json|text][,ignorestatus=true]`.
    ///
    /// # Errors
    /// When there is no such method or option.
    pub fn parse(text: &str) -> Result<Self, BuildError> {
        let wrong = |why: String| BuildError::input(format!("invalid value `{text}` for `--call`: {why}"));
        let fields = csv::fields(text).map_err(|error| wrong(error.to_string()))?;
        let mut call = Self { method: Method::Build, json: false, ignore_status: false };
        for (number, field) in fields.iter().enumerate() {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key.trim(), value.trim()),
                None if number == 0 => ("method", field.trim()),
                None => return Err(wrong(format!("`{field}` is not of the form `key=value`"))),
            };
            match (key, value) {
                ("method", name) => call.method = method(name)?,
                ("format", "json") => call.json = true,
                ("format", "text") => call.json = false,
                ("format", _) => return Err(wrong("the format is `json` or `text`".to_owned())),
                ("ignorestatus", value) => {
                    let set = csv::boolean(value);
                    call.ignore_status = set.ok_or_else(|| wrong("`ignorestatus` is `true` or `false`".to_owned()))?;
                }
                _ => return Err(wrong(format!("there is no option `{key}`")).hint("use `format` and `ignorestatus`")),
            }
        }
        Ok(call)
    }

    /// Asks, and prints the answer. A check answers with what keeps the file from being built, too: `ignored` is whether
    /// the ignore file can be used.
    pub fn run(
        &self,
        engine: &Engine,
        mut request: BuildRequest,
        client: &Client<'_>,
        file: &SourceText,
        ignored: Result<(), BuildError>,
    ) -> Result<(), Failure> {
        let failed = |error: BuildError| Failure::Error { error, file: Some(file.clone()) };
        match self.method {
            Method::Build => Ok(()),
            Method::Describe => super::print(&if self.json { describe::document() } else { describe::text() }),
            Method::Targets => {
                let found = targets_of(&request).map_err(failed)?;
                super::print(&if self.json { targets::document(&found, file) } else { targets::text(&found) })
            }
            Method::Outline => {
                let plan = ignored.and_then(|()| engine.plan(&request, client)).map_err(failed)?;
                super::print(&match self.json {
                    true => outline::document(&plan.outline, file),
                    false => outline::text(&plan.outline),
                })
            }
            Method::Check => {
                request.options.check = true;
                let report = match ignored.and_then(|()| engine.plan(&request, client)) {
                    Ok(plan) => Report { warnings: plan.warnings, error: None },
                    Err(error) => refused(error, &request, file),
                };
                self.report(report, file)
            }
        }
    }

    fn report(&self, report: Report, file: &SourceText) -> Result<(), Failure> {
        super::print(&if self.json { report.json(file) } else { report.text(file) })?;
        match report.error {
            Some(error) => Err(Failure::Error { error, file: Some(file.clone()) }),
            None if report.warnings.is_empty() || self.ignore_status => Ok(()),
            None => Err(Failure::Told(message::FOUND)),
        }
    }
}

fn method(name: &str) -> Result<Method, BuildError> {
    if let Some((_, method)) = METHODS.iter().find(|(known, _)| *known == name) {
        return Ok(*method);
    }
    let error = BuildError::input(format!("unsupported request frontend.{name}"));
    Err(match suggest::closest(name, METHODS.iter().map(|(known, _)| *known)) {
        Some(known) => error.hint(format!("did you mean `--call={known}`?")),
        None => error.hint("use `check`, `outline` or `targets`"),
    })
}

/// Lists the targets of a file without asking anybody for images.
fn targets_of(request: &BuildRequest) -> Result<Vec<lower::Target>, BuildError> {
    let (parsed, _) = parse_build_file(&request.build_file, &request.options)?;
    lower::targets(&parsed)
        .map_err(|found| BuildError { diagnostics: vec![found.clone()], ..BuildError::input(found.message) })
}

/// Makes a report of what was found before an error. Of a file with mistakes in its text only the text is checked.
fn refused(mut error: BuildError, request: &BuildRequest, file: &SourceText) -> Report {
    let found: Vec<Diagnostic> = std::mem::take(&mut error.diagnostics);
    let (errors, mut warnings): (Vec<_>, Vec<_>) = found.into_iter().partition(Diagnostic::is_error);
    error.diagnostics = errors;
    let (parsed, diagnostics) = dockerfile::parse(&file.text);
    if diagnostics.iter().any(Diagnostic::is_error) {
        let argument = request.options.build_args.get("BUILDKIT_DOCKERFILE_CHECK").map(String::as_str);
        let mut reporter = Reporter::new(Options::of(&parsed, argument).unwrap_or_default());
        check::file(&parsed, &diagnostics, &mut reporter);
        warnings = reporter.into_warnings();
    }
    Report { warnings, error: Some(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_and_options_are_read() {
        let call = Call::parse("check,format=json,ignorestatus=true").unwrap();
        assert_eq!(call, Call { method: Method::Check, json: true, ignore_status: true });
        assert_eq!(Call::parse("lint").unwrap().method, Method::Check);
        assert_eq!(Call::parse("method=targets").unwrap().method, Method::Targets);
        assert_eq!(Call::parse("build").unwrap().method, Method::Build);
        for wrong in ["outlin", "check,format=xml", "check,x=1", "check,json", "check,ignorestatus=maybe"] {
            assert!(Call::parse(wrong).is_err(), "{wrong}");
        }
        let error = Call::parse("outlin").unwrap_err();
        assert_eq!(error.message, "unsupported request frontend.outlin");
        assert!(error.hint.unwrap().contains("--call=outline"));
    }
}
