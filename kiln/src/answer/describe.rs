//! The questions that can be asked of a build file.

use serde::Serialize;

use super::{columns, json};

#[derive(Serialize)]
struct Question {
    name: &'static str,
    version: &'static str,
    r#type: &'static str,
    description: &'static str,
    opts: Option<()>,
    inputs: Option<()>,
    metadata: [Entry; 2],
    refs: Option<()>,
}

#[derive(Serialize)]
struct Entry {
    name: &'static str,
    description: &'static str,
}

fn questions() -> [Question; 3] {
    let question = |name, description| Question {
        name,
        version: "1.0.0",
        r#type: "rpc",
        description,
        opts: None,
        inputs: None,
        metadata: [
            Entry { name: "result.json", description: "the answer as JSON" },
            Entry { name: "result.txt", description: "the answer as text" },
        ],
        refs: None,
    };
    [
        question("frontend.outline", "List all parameters the current build target supports"),
        question("frontend.targets", "List all targets the current build supports"),
        question("frontend.subrequests.describe", "List available subrequest types"),
    ]
}

/// Returns the list for programs.
pub fn document() -> String {
    json(&questions())
}

/// Returns the list for people.
pub fn text() -> String {
    let row = |question: &Question| {
        let name = question.name.trim_start_matches("frontend.");
        [name, question.version, question.description].map(str::to_owned).to_vec()
    };
    let mut rows = vec![["NAME", "VERSION", "DESCRIPTION"].map(str::to_owned).to_vec()];
    rows.extend(questions().iter().map(row));
    columns(&rows, 1)
}

#[cfg(test)]
mod tests {
    #[test]
    fn questions_are_listed() {
        assert!(super::text().contains("\noutline              1.0.0   List all parameters"), "{}", super::text());
        assert!(super::document().contains("\"opts\": null"));
    }
}
