//! What the build checks found.

use std::fmt::Write as _;

use kiln_builder::BuildError;
use kiln_frontend::check;
use kiln_frontend::dockerfile::{Diagnostic, Lines};
use kiln_oci::base64;
use serde::Serialize;

use super::{Location, json};
use crate::excerpt::{self, SourceText};

/// The outcome of a check.
#[derive(Debug)]
pub struct Report {
    /// What was found, in order.
    pub warnings: Vec<Diagnostic>,
    /// Why the file cannot be built, if it cannot.
    pub error: Option<BuildError>,
}

#[derive(Serialize)]
struct Document {
    warnings: Option<Vec<Warning>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sources: Vec<Source>,
    #[serde(rename = "buildError", skip_serializing_if = "Option::is_none")]
    error: Option<Wrong>,
}

#[derive(Serialize)]
struct Warning {
    #[serde(rename = "ruleName")]
    rule: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<Location>,
}

#[derive(Serialize)]
struct Source {
    filename: String,
    data: String,
    language: &'static str,
}

#[derive(Serialize)]
struct Wrong {
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<Location>,
}

impl Report {
    /// Returns the report for people. What keeps the file from being built is not in it.
    pub fn text(&self, file: &SourceText) -> String {
        let mut text = String::new();
        match (self.warnings.len(), &self.error) {
            (0, Some(_)) => {}
            (0, None) => text.push_str("Check complete, no warnings found.\n"),
            (1, _) => text.push_str("Check complete, 1 warning has been found!\n"),
            (count, _) => {
                let _ = writeln!(text, "Check complete, {count} warnings have been found!");
            }
        }
        let mut sorted: Vec<&Diagnostic> = self.warnings.iter().collect();
        sorted.sort_by_key(|warning| warning.lines.first().map_or(0, |lines| lines.first));
        for warning in sorted {
            let rule = check::rule(warning.code);
            let url = rule.and_then(check::Rule::url).map(|url| format!(" - {url}")).unwrap_or_default();
            let name = rule.map_or(warning.code, |rule| rule.name);
            let detail = crate::progress::text::one_line(&warning.text());
            let _ = writeln!(text, "\nWARNING: {name}{url}\n{detail}");
            excerpt::draw(file, &warning.lines, &mut text);
        }
        text
    }

    /// Returns the report for programs.
    pub fn json(&self, file: &SourceText) -> String {
        let warnings: Vec<Warning> = self.warnings.iter().map(warning).collect();
        let error = self.error.as_ref().map(wrong);
        let has_source = !warnings.is_empty() || error.as_ref().is_some_and(|error| error.location.is_some());
        let source = has_source.then(|| Source {
            filename: file.name.clone(),
            data: base64::encode(file.text.as_bytes()),
            language: "Dockerfile",
        });
        json(&Document {
            warnings: (!warnings.is_empty()).then_some(warnings),
            sources: source.into_iter().collect(),
            error,
        })
    }
}

fn warning(found: &Diagnostic) -> Warning {
    let rule = check::rule(found.code);
    Warning {
        rule: rule.map_or(found.code, |rule| rule.name),
        description: rule.map_or("", |rule| rule.description),
        url: rule.and_then(check::Rule::url),
        detail: found.text(),
        location: Location::of(&found.lines),
    }
}

/// What a builder would stop at.
fn wrong(error: &BuildError) -> Wrong {
    match kiln_frontend::dockerfile::diagnostic::first_error(&error.diagnostics) {
        Some(found) => Wrong { message: found.full_text(), location: Location::of(&found.reported_lines()) },
        None => {
            let lines: Vec<Lines> =
                error.location.iter().map(|location| Lines::new(location.lines.0, location.lines.1)).collect();
            Wrong { message: error.message.clone(), location: Location::of(&lines) }
        }
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use kiln_frontend::dockerfile::{Phase, Span};

    use super::*;

    fn report() -> (Report, SourceText) {
        let text = "# VER tool release to fetch\nARG VER=3\nFROM scratch AS Fetch\nARG VER\nRUN x\n";
        let file = SourceText { name: "Dockerfile".to_owned(), text: text.to_owned() };
        let found = Diagnostic::warning(Phase::Lower, "stage-name-casing", "Stage name 'Fetch' should be lowercase")
            .at(Lines::single(3), Span::default());
        let platform = Diagnostic::warning(Phase::Lower, "invalid-base-image-platform", "Base image x was pulled");
        (Report { warnings: vec![found, platform], error: None }, file)
    }

    #[test]
    fn the_text_is_that_of_buildkit() {
        let (report, file) = report();
        assert_snapshot!(report.text(&file), @r#"
        Check complete, 2 warnings have been found!

        WARNING: InvalidBaseImagePlatform
        Base image x was pulled

        WARNING: StageNameCasing - https://docs.docker.com/go/dockerfile/rule/stage-name-casing/
        Stage name 'Fetch' should be lowercase
        Dockerfile:3
        --------------------
           1 |     # VER tool release to fetch
           2 |     ARG VER=3
           3 | >>> FROM scratch AS Fetch
           4 |     ARG VER
           5 |     RUN x
        --------------------
        "#);
        let clean = Report { warnings: Vec::new(), error: None };
        assert_eq!(clean.text(&file), "Check complete, no warnings found.\n");
        assert_eq!(Report { warnings: Vec::new(), error: Some(BuildError::input("x")) }.text(&file), "");
    }

    #[test]
    fn the_json_is_that_of_buildkit() {
        let (mut report, mut file) = report();
        file.text = "FROM scratch AS Fetch\n".to_owned();
        report.warnings.truncate(1);
        let found = Diagnostic::error(Phase::Instruction, "network", "invalid network mode \"x\"")
            .at(Lines::new(4, 5), Span::default());
        report.error = Some(BuildError { diagnostics: vec![found], ..BuildError::input("x") });
        assert_snapshot!(report.json(&file), @r#"
        {
          "warnings": [
            {
              "ruleName": "StageNameCasing",
              "description": "Stage names should be lowercase",
              "url": "https://docs.docker.com/go/dockerfile/rule/stage-name-casing/",
              "detail": "Stage name 'Fetch' should be lowercase",
              "location": {
                "ranges": [
                  {
                    "start": {
                      "line": 3
                    },
                    "end": {
                      "line": 3
                    }
                  }
                ]
              }
            }
          ],
          "sources": [
            {
              "filename": "Dockerfile",
              "data": "RlJPTSBzY3JhdGNoIEFTIEZldGNoCg==",
              "language": "Dockerfile"
            }
          ],
          "buildError": {
            "message": "dockerfile parse error on line 4: invalid network mode \"x\"",
            "location": {
              "ranges": [
                {
                  "start": {
                    "line": 4
                  },
                  "end": {
                    "line": 4
                  }
                },
                {
                  "start": {
                    "line": 5
                  },
                  "end": {
                    "line": 5
                  }
                }
              ]
            }
          }
        }
        "#);
        let clean = Report { warnings: Vec::new(), error: None };
        assert_eq!(clean.json(&file), "{\n  \"warnings\": null\n}\n");
    }
}
