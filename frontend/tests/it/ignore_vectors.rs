//! dockerignore.json: ignore files and their verdicts.

use kiln_frontend::dockerignore;

use crate::vectors::{run, same, text};

#[test]
fn paths_are_ignored_as_recorded() {
    run("dockerignore", |case| {
        if case.get("upstream_defect").is_some() {
            return Ok(());
        }
        let file = text(case, "file");
        let parsed = dockerignore::parse(file);
        if let Some(error) = case["error"].as_str() {
            let got = parsed.err().map(|error| error.to_string());
            return same("error", got.as_deref(), Some(error));
        }
        let patterns = parsed.map_err(|error| error.to_string())?;
        let lines = dockerignore::lines(file).map_err(|error| error.to_string())?;
        let recorded: Vec<String> = serde_json::from_value(case["patterns"].clone()).unwrap_or_default();
        same("patterns", lines.into_iter().map(|(_, text)| text).collect(), recorded)?;
        for (path, ignored) in case["ignored"].as_object().into_iter().flatten() {
            same(path, Some(patterns.verdict_of(path).matched), ignored.as_bool())?;
        }
        for (path, ignored) in case["parent_or_self"].as_object().into_iter().flatten() {
            same(path, Some(patterns.matches_or_parent_matches(path).matched), ignored.as_bool())?;
        }
        Ok(())
    });
}
