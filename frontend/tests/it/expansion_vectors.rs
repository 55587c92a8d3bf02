//! expansion.json: word expansion.

use std::collections::{BTreeMap, BTreeSet};

use kiln_frontend::dockerfile::expand::Expander;
use serde_json::Value;

use crate::vectors::{run, same, text};

fn names(value: &Value) -> BTreeSet<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Rows in which upstream reads the replacement of `//` as a template once more.
fn is_template_defect(template: &str) -> bool {
    template.contains("//") && (template.contains("$doll") || template.contains("$zero"))
}

/// Rows in which upstream, splitting into words, forgets the text in front of a modifier. Ours is then longer.
fn is_words_defect(template: &str, got: &[String], recorded: &[String]) -> bool {
    let has_modifier =
        template.find("${").is_some_and(|at| template[at..].contains([':', '-', '+', '?', '#', '%', '/']));
    has_modifier
        && got.len() == recorded.len()
        && got.iter().zip(recorded).all(|(got, recorded)| got.ends_with(&**recorded))
}

#[test]
fn words_expand_as_recorded() {
    run("expansion", |case| {
        let template = text(case, "template");
        let env: BTreeMap<String, String> = serde_json::from_value(case["env"].clone()).unwrap_or_default();
        let lookup = |name: &str| env.get(name).map(String::as_str);
        let flag = |key: &str| case[key].as_bool().unwrap_or(false);
        let expander = Expander {
            skip_unset: flag("skip_unset"),
            raw_quotes: flag("raw_quotes"),
            raw_escapes: flag("raw_escapes"),
            skip_quotes: flag("skip_quotes"),
            ..Expander::new(text(case, "escape").chars().next().unwrap_or('\\'), &lookup)
        };
        let result = expander.process_word_with_matches(template);
        if let Some(error) = case["error"].as_str() {
            return match result {
                Ok(expansion) => Err(format!("is {:?}, not the error {error}", expansion.text)),
                Err(got) => same("error", got.to_string(), error.to_owned()),
            };
        }
        let expansion = result.map_err(|error| error.to_string())?;
        same("word", expander.process_word(template).map_err(|error| error.to_string())?, expansion.text.clone())?;
        if !is_template_defect(template) {
            same("result", &*expansion.text, text(case, "result"))?;
            let words: Vec<String> = serde_json::from_value(case["words"].clone()).unwrap_or_default();
            if !is_words_defect(template, &expansion.words, &words) {
                same("words", &expansion.words, &words)?;
            }
        }
        same("matched", &expansion.matched, &names(&case["matched"]))?;
        same("unmatched", &expansion.unmatched, &names(&case["unmatched"]))
    });
}
