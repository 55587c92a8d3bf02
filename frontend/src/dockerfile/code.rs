//! The codes of diagnostics. They are stable: scripts may rely on them, and `docs/diagnostics.md` lists them.
//!
//! The build checks have codes too, which are the names of their rules in kebab case: [`crate::check::RULES`].

/// Every code that is not a build check's, with what it says about the file.
pub static CODES: &[(&str, &str)] = &[
    ("arguments", "an instruction has too few or too many arguments"),
    ("blank-base-name", "the name behind FROM is empty once its variables are expanded"),
    ("blank-name", "a name in ENV, LABEL or ARG is empty"),
    ("blank-platform", "the value of `--platform` is empty once its variables are expanded"),
    ("cache-import", "a cache elsewhere, or something in it, cannot be had"),
    ("circular-dependency", "stages take files from each other in a circle"),
    ("copied-secrets", "a copy from the context takes files that look like secrets"),
    ("device", "`RUN --device` cannot be read"),
    ("directive", "a parser directive is there twice, or its value is not possible"),
    ("duplicate-flag", "a flag that may stand once is there twice"),
    ("duration", "a time of HEALTHCHECK cannot be read, or is out of range"),
    ("empty-command", "RUN has no command"),
    ("empty-continuation", "a blank line inside a continued instruction"),
    ("empty-file", "the file has no instructions"),
    ("empty-volume", "a path of VOLUME is empty"),
    ("encoding", "an instruction has bytes that are not UTF-8 text"),
    ("expansion", "a word with `$` in it cannot be expanded"),
    ("flag-value", "the value of a flag is not possible"),
    ("foreign-frontend", "the file asks for a frontend that kiln does not have"),
    ("graph-too-large", "the stages repeat so much of each other that the graph would not fit into memory"),
    ("healthcheck", "HEALTHCHECK is neither NONE nor CMD, or has no command"),
    ("heredoc-destination", "the destination of COPY or ADD is a here-document"),
    ("heredoc-name", "a here-document of COPY or ADD has a name that no file can have"),
    ("invalid-check-options", "the options of the build checks cannot be read"),
    ("invalid-checksum", "`ADD --checksum` cannot be read, or cannot be used here"),
    ("invalid-chmod", "`--chmod` cannot be read"),
    ("invalid-git-source", "a git source of ADD cannot be read"),
    ("invalid-instruction", "the instruction has mistakes that are reported on their own"),
    ("invalid-mount", "`RUN --mount` cannot be read, or is not possible"),
    ("invalid-platform", "the value of `--platform` cannot be read"),
    ("invalid-port", "a port of EXPOSE cannot be read"),
    ("invalid-reference", "the name of an image cannot be read"),
    ("invalid-signal", "the signal of STOPSIGNAL does not exist"),
    ("invalid-stage-index", "`COPY --from` has a number that no earlier stage has"),
    ("invalid-trigger", "an ONBUILD trigger of the base cannot be carried out"),
    ("invalid-workdir", "the path of WORKDIR is not possible"),
    ("json-strings", "a JSON array has something else than strings in it"),
    ("large-copy", "a copy from the context takes very many files, or very large ones"),
    ("line-too-long", "a line is longer than the limit"),
    ("lint-violation", "the file asks for an error when a build check finds something, and one did"),
    ("missing-flag-value", "a flag stands without its value"),
    ("missing-image", "an image cannot be found"),
    ("missing-target", "`--target` names a stage that does not exist"),
    ("mount-from", "the `from` of a mount has a variable in it"),
    ("named-context", "a context that was given cannot be used"),
    ("network", "`RUN --network` is not possible"),
    ("no-instructions", "the file has no instructions"),
    ("no-stage", "an instruction stands before the first FROM"),
    ("no-stages", "the file has no FROM"),
    ("onbuild-trigger", "the instruction cannot be an ONBUILD trigger"),
    ("pair-form", "ENV or LABEL is not of the form `name=value`"),
    ("path-too-long", "a path, or a name in it, is longer than files may have"),
    ("remote-copy", "COPY or ADD uses a URL or a flag in a way that is not possible"),
    ("retries", "`--retries` of HEALTHCHECK cannot be read, or is out of range"),
    ("security", "`RUN --security` is not possible"),
    ("shell-form", "SHELL is not a JSON array"),
    ("source-date-epoch", "SOURCE_DATE_EPOCH cannot be read, or what it points to has no time"),
    ("stage-name", "a stage has a name that is not possible"),
    ("stage-order", "a stage is used before it is defined"),
    ("too-many-mistakes", "the file has more mistakes than are looked for"),
    ("undeclared-build-arg", "`--build-arg` gives a value to an argument that no ARG declares"),
    ("unknown-flag", "the instruction does not have this flag"),
    ("unknown-instruction", "there is no such instruction"),
    ("unterminated-heredoc", "a here-document does not end"),
    ("variable-in-from", "`COPY --from` has a variable in it"),
];

/// Returns what a code means.
pub fn meaning(code: &str) -> Option<&'static str> {
    match CODES.binary_search_by_key(&code, |(known, _)| known) {
        Ok(found) => Some(CODES[found].1),
        Err(_) => crate::check::rule(code).map(|rule| rule.description),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use regex::Regex;

    use super::*;

    fn sources(folder: &Path, out: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, out);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                out.push_str(text.split("#[cfg(test)]").next().unwrap());
            }
        }
    }

    #[test]
    fn the_list_has_every_code_that_the_program_uses() {
        let mut text = String::new();
        for folder in ["src", "../builder/src"] {
            sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut text);
        }
        let form =
            r#"\b(?:error|warning|problem|hinted|syntax|instruction)\(\s*(?:Phase::\w+,\s*)?"([a-z][a-z0-9-]*)","#;
        let used: BTreeSet<&str> =
            Regex::new(form).unwrap().captures_iter(&text).map(|found| found.get(1).unwrap().as_str()).collect();
        let listed: BTreeSet<&str> = CODES.iter().map(|(code, _)| *code).collect();
        assert_eq!(used, listed);
        assert!(CODES.is_sorted(), "the list is in order");
    }

    #[test]
    fn the_documentation_has_every_code_and_no_other() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/diagnostics.md");
        let text = std::fs::read_to_string(path).unwrap();
        let rows: Vec<(String, String)> = text
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |")?.split_once("` | "))
            .map(|(code, meaning)| (code.to_owned(), meaning.to_owned()))
            .collect();
        let codes = CODES.iter().map(|(code, meaning)| (code.to_string(), meaning.to_string()));
        let rules = crate::check::RULES.iter().map(|rule| {
            let name = rule.name;
            (
                rule.code.to_owned(),
                format!(
                    "{name} | {}{}",
                    rule.description.replace('|', "\\|"),
                    if rule.is_experimental { " (experimental)" } else { "" }
                ),
            )
        });
        let expected: Vec<(String, String)> = codes.chain(rules).collect();
        for (found, expected) in rows.iter().zip(&expected) {
            assert_eq!(found, expected);
        }
        assert_eq!(rows.len(), expected.len());
        assert_eq!(meaning("no-stage"), Some("an instruction stands before the first FROM"));
        assert!(meaning("from-as-casing").is_some() && meaning("x").is_none());
    }
}
