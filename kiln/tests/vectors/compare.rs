//! Comparing what came with what is recorded: one line for every difference.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;
use serde_json::Value;

use crate::base::base;
use crate::case::Object;
use crate::servers::Servers;

/// What is compared, in this order.
const MEMBERS: &[&str] = &["tree", "image", "config", "history", "layers", "diff_ids", "steps", "logs", "platforms"];

/// What came of a build.
#[derive(Debug)]
pub struct Outcome {
    /// The members of a case.
    pub seen: Object,
    /// What the program said that is no progress.
    pub said: String,
}

/// Compares a build.
pub fn compare(expected: &Object, outcome: &Outcome, servers: &Servers) -> Vec<String> {
    let seen = &outcome.seen;
    match (expected.get("error"), seen.get("error")) {
        (Some(expected_error), Some(error)) => {
            let mut found = compare_error(expected_error, error, &outcome.said, servers);
            found.extend(compare_members(expected, seen, &["steps", "logs"]));
            found
        }
        (Some(error), None) => vec![format!("built, but should fail: {}", short(&error["message"]))],
        (None, Some(error)) => vec![format!("failed: {}", squeeze(text(&error["message"])))],
        (None, None) => compare_members(expected, seen, MEMBERS),
    }
}

fn compare_error(expected: &Value, error: &Value, said: &str, servers: &Servers) -> Vec<String> {
    let mut found = Vec::new();
    // In files without groups an error is its message.
    let message = if expected.is_string() { expected } else { &expected["message"] };
    let others = expected["or"].as_array().into_iter().flatten();
    let said = format!("{said}\n{}", text(&error["message"]));
    if !std::iter::once(message).chain(others).any(|message| says(&said, &servers.name(text(message)))) {
        found.push(format!("error is {}, want {}", squeeze(text(&error["message"])), short(message)));
    }
    if expected["lines"].is_array() && expected["lines"] != error["lines"] {
        found.push(format!("failing lines are {}, want {}", error["lines"], expected["lines"]));
    }
    found
}

fn compare_members(expected: &Object, seen: &Object, members: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for member in members {
        let Some(expected) = expected.get(*member) else { continue };
        let seen = seen.get(*member).unwrap_or(&Value::Null);
        match *member {
            "tree" => compare_trees(expected, seen, &mut found),
            "platforms" => compare_platforms(expected, seen, &mut found),
            "image" if expected["architecture"] == "{HOST}" => {
                let (mut expected, mut seen) = (expected.clone(), seen.clone());
                expected["architecture"] = base().config["architecture"].clone();
                // A machine may have any variant.
                for image in [&mut expected, &mut seen] {
                    image.as_object_mut().map(|image| image.remove("variant"));
                }
                differences(member, &expected, &seen, &mut found);
            }
            _ => differences(member, expected, seen, &mut found),
        }
    }
    found
}

fn compare_platforms(expected: &Value, seen: &Value, found: &mut Vec<String>) {
    let (nothing, empty) = (Object::new(), Object::new());
    let (expected, seen) = (expected.as_object().unwrap_or(&nothing), seen.as_object().unwrap_or(&empty));
    for platform in expected.keys().chain(seen.keys()).collect::<BTreeSet<_>>() {
        match (expected.get(platform).and_then(Value::as_object), seen.get(platform).and_then(Value::as_object)) {
            (Some(expected), Some(seen)) => {
                let differences = compare_members(expected, seen, MEMBERS);
                found.extend(differences.into_iter().map(|line| format!("{platform}: {line}")));
            }
            (Some(_), None) => found.push(format!("platforms: {platform} missing")),
            (None, _) => found.push(format!("platforms: {platform} not expected")),
        }
    }
}

fn compare_trees(expected: &Value, seen: &Value, found: &mut Vec<String>) {
    let by_path = |tree: &Value| -> BTreeMap<String, Object> {
        let entries = tree.as_array().into_iter().flatten().filter_map(Value::as_object);
        entries.map(|entry| (text(&entry["path"]).to_owned(), entry.clone())).collect()
    };
    let (expected, mut seen) = (by_path(expected), by_path(seen));
    for (path, mut want) in expected {
        let Some(mut is) = seen.remove(&path) else {
            found.push(format!("tree: {path} missing, want {}", short(&want.into())));
            continue;
        };
        if want.remove("opaque").is_some() {
            for key in ["content", "sha256", "size"] {
                want.remove(key);
                is.remove(key);
            }
        }
        if want["type"] == "hardlink" {
            // Everything else is that of the first name.
            want.retain(|key, _| key == "type" || key == "link");
            is.retain(|key, _| key == "type" || key == "link");
        }
        if !want.contains_key("dev") {
            is.remove("dev");
        }
        for key in want.keys().chain(is.keys()).collect::<BTreeSet<_>>() {
            let (want, is) = (want.get(key).unwrap_or(&Value::Null), is.get(key).unwrap_or(&Value::Null));
            if want.is_null() && key == "mtime" {
                found.push(format!("tree: {path} mtime {is}, expected the time of the build"));
            } else if want != is {
                found.push(format!("tree: {path} {key} is {}, want {}", short(is), short(want)));
            }
        }
    }
    found.extend(seen.into_iter().map(|(path, is)| format!("tree: {path} not expected, is {}", short(&is.into()))));
}

fn differences(name: &str, expected: &Value, seen: &Value, found: &mut Vec<String>) {
    match (expected, seen) {
        _ if expected == seen => {}
        (Value::Object(want), Value::Object(is)) => {
            for key in want.keys().chain(is.keys()).collect::<BTreeSet<_>>() {
                let (want, is) = (want.get(key).unwrap_or(&Value::Null), is.get(key).unwrap_or(&Value::Null));
                differences(&format!("{name}.{key}"), want, is, found);
            }
        }
        (Value::Array(want), Value::Array(is)) if want.len() == is.len() => {
            for (index, (want, is)) in want.iter().zip(is).enumerate() {
                differences(&format!("{name}[{index}]"), want, is, found);
            }
        }
        _ => found.push(format!("{name} is {}, want {}", short(seen), short(expected))),
    }
}

/// Whether `expected` is part of `said`. Blanks do not matter, and a path in `expected` may be
/// the tail of one in `said`.
fn says(said: &str, expected: &str) -> bool {
    let mut pattern = String::new();
    let mut before = ' ';
    for letter in squeeze(expected).chars() {
        if letter == '/' && matches!(before, ' ' | ':' | '"') {
            pattern.push_str(r"\S*");
        }
        pattern.push_str(&regex::escape(letter.encode_utf8(&mut [0; 4])));
        before = letter;
    }
    Regex::new(&pattern).is_ok_and(|pattern| pattern.is_match(&squeeze(said)))
}

fn squeeze(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn short(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if text.chars().count() <= 300 { text } else { text.chars().take(300).chain(['…']).collect() }
}
