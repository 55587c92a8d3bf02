//! The targets of a build file.

use kiln_frontend::lower::Target;
use kiln_oci::base64;
use serde::Serialize;

use super::{Location, columns, json};
use crate::excerpt::SourceText;

#[derive(Serialize)]
struct Document<'a> {
    targets: Vec<Row<'a>>,
    sources: [String; 1],
}

#[derive(Serialize)]
struct Row<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    default: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    base: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<Location>,
}

/// Returns the targets for programs.
pub fn document(targets: &[Target], file: &SourceText) -> String {
    let rows = targets.iter().map(|target| Row {
        name: target.name.as_deref(),
        default: target.is_default,
        description: target.description.as_deref(),
        base: &target.base,
        platform: target.platform.as_deref(),
        location: Location::of(&[target.lines]),
    });
    json(&Document { targets: rows.collect(), sources: [base64::encode(file.text.as_bytes())] })
}

/// Returns the targets for people.
pub fn text(targets: &[Target]) -> String {
    let mut rows = vec![vec!["TARGET".to_owned(), "DESCRIPTION".to_owned()]];
    rows.extend(targets.iter().map(|target| {
        let name = match (&target.name, target.is_default) {
            (Some(name), true) => format!("{name} (default)"),
            (Some(name), false) => name.clone(),
            (None, true) => "(default)".to_owned(),
            (None, false) => String::new(),
        };
        vec![name, target.description.clone().unwrap_or_default()]
    }));
    columns(&rows, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets() -> Vec<Target> {
        let text = "FROM scratch AS fetch\n# pack final stage\nFROM --platform=$BUILDPLATFORM scratch AS pack\n";
        kiln_frontend::lower::targets(&kiln_frontend::dockerfile::parse(text).0).unwrap()
    }

    #[test]
    fn the_text_is_that_of_buildkit() {
        assert_eq!(text(&targets()), "TARGET         DESCRIPTION\nfetch          \npack (default) final stage\n");
    }

    #[test]
    fn the_json_is_that_of_buildkit() {
        let file = SourceText { name: "Dockerfile".to_owned(), text: "foo".to_owned() };
        let value: serde_json::Value = serde_json::from_str(&document(&targets(), &file)).unwrap();
        let place = |line: usize| serde_json::json!({"ranges": [{"start": {"line": line}, "end": {"line": line}}]});
        let expected = serde_json::json!({
            "targets": [
                {"name": "fetch", "base": "scratch", "location": place(1)},
                {"name": "pack", "default": true, "description": "final stage", "base": "scratch",
                    "platform": "$BUILDPLATFORM", "location": place(3)},
            ],
            "sources": ["Zm9v"],
        });
        assert_eq!(value, expected);
    }
}
