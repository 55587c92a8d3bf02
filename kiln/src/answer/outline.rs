//! The outline of a target: what it can be given.

use kiln_frontend::lower::{Outline, OutlineArgument, OutlineMount};
use kiln_oci::base64;
use serde::Serialize;

use super::{Location, columns, json};
use crate::excerpt::SourceText;

#[derive(Serialize)]
struct Document<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<Argument<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    secrets: Vec<Mount<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ssh: Vec<Mount<'a>>,
    sources: [String; 1],
}

#[derive(Serialize)]
struct Argument<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<Location>,
}

#[derive(Serialize)]
struct Mount<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    required: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<Location>,
}

/// Returns the outline for programs.
pub fn document(outline: &Outline, file: &SourceText) -> String {
    json(&Document {
        name: outline.name.as_deref(),
        description: outline.description.as_deref(),
        args: outline.arguments.iter().map(argument).collect(),
        secrets: outline.secrets.iter().map(mount).collect(),
        ssh: outline.ssh.iter().map(mount).collect(),
        sources: [base64::encode(file.text.as_bytes())],
    })
}

fn argument(found: &OutlineArgument) -> Argument<'_> {
    Argument {
        name: &found.name,
        description: found.description.as_deref(),
        value: found.value.as_deref().filter(|value| !value.is_empty()),
        location: Location::of(&[found.lines]),
    }
}

fn mount(found: &OutlineMount) -> Mount<'_> {
    Mount { name: &found.id, required: found.required, location: Location::of(&[found.lines]) }
}

/// Returns the outline for people.
pub fn text(outline: &Outline) -> String {
    let mut text = String::new();
    if outline.name.is_some() || outline.description.is_some() {
        let name = outline.name.clone().unwrap_or_else(|| "(default)".to_owned());
        let mut rows = vec![vec!["TARGET:".to_owned(), name]];
        rows.extend(outline.description.clone().map(|text| vec!["DESCRIPTION:".to_owned(), text]));
        text.push_str(&columns(&rows, 1));
        text.push('\n');
    }
    let arguments = outline.arguments.iter().map(|found| {
        vec![found.name.clone(), found.value.clone().unwrap_or_default(), found.description.clone().unwrap_or_default()]
    });
    table(&["BUILD ARG", "VALUE", "DESCRIPTION"], arguments.collect(), &mut text);
    for (heading, mounts) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        let rows = mounts
            .iter()
            .map(|found| vec![found.id.clone(), if found.required { "true".to_owned() } else { String::new() }]);
        table(&[heading, "REQUIRED"], rows.collect(), &mut text);
    }
    text
}

fn table(heading: &[&str], rows: Vec<Vec<String>>, text: &mut String) {
    if rows.is_empty() {
        return;
    }
    let mut all = vec![heading.iter().map(|&cell| cell.to_owned()).collect()];
    all.extend(rows);
    text.push_str(&columns(&all, 3));
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use kiln_frontend::dockerfile::Lines;

    use super::*;

    fn outline() -> Outline {
        let mount = |id: &str, required| OutlineMount { id: id.to_owned(), required, lines: Lines::single(5) };
        Outline {
            name: Some("pack".to_owned()),
            description: Some("final stage".to_owned()),
            arguments: vec![OutlineArgument {
                name: "VER".to_owned(),
                description: Some("tool release to fetch".to_owned()),
                value: Some("3".to_owned()),
                lines: Lines::single(2),
            }],
            secrets: vec![mount("api", true), mount("opt", false)],
            ssh: vec![mount("default", false)],
        }
    }

    #[test]
    fn the_text_is_that_of_buildkit() {
        let expected = "TARGET:      pack\nDESCRIPTION: final stage\n\n\
            BUILD ARG   VALUE   DESCRIPTION\nVER         3       tool release to fetch\n\n\
            SECRET   REQUIRED\napi      true\nopt      \n\n\
            SSH       REQUIRED\ndefault   \n\n";
        assert_eq!(text(&outline()), expected);
        assert_eq!(text(&Outline::default()), "");
    }

    #[test]
    fn the_json_is_that_of_buildkit() {
        let file = SourceText { name: "Dockerfile".to_owned(), text: "foo".to_owned() };
        let value: serde_json::Value = serde_json::from_str(&document(&outline(), &file)).unwrap();
        let location = serde_json::json!({"ranges": [{"start": {"line": 5}, "end": {"line": 5}}]});
        assert_eq!(value["secrets"][0], serde_json::json!({"name": "api", "required": true, "location": location}));
        assert_eq!(value["ssh"][0], serde_json::json!({"name": "default", "location": location}));
        assert_eq!((&value["args"][0]["value"], &value["sources"][0]), (&"3".into(), &"Zm9v".into()));
    }
}
