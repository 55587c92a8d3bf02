//! What BuildKit made of the same files.

use serde_json::{Value, json};

use super::*;

/// Returns the cases of a vector file.
fn cases(file: &str) -> Vec<Value> {
    let folder = std::env::var_os("KILN_VECTORS")
        .map_or_else(|| format!("{}/../testdata/vectors", env!("CARGO_MANIFEST_DIR")).into(), std::path::PathBuf::from);
    let path = folder.join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let Value::Object(mut document) = serde_json::from_str(&text).unwrap() else { panic!("not an object") };
    let Some(Value::Array(cases)) = document.remove("cases") else { panic!("no cases") };
    assert!(!cases.is_empty());
    cases
}

/// Runs every case and reports all that differ.
fn run(file: &str, name: impl Fn(&Value) -> String, check: impl Fn(&Value) -> Result<(), String>) {
    let cases = cases(file);
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|case| check(case).err().map(|difference| format!("== {}\n{difference}", name(case))))
        .collect();
    assert!(
        failures.is_empty(),
        "{} of {} cases of {file} differ\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
}

fn equal(what: &str, found: &Value, expected: &Value) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}:\n  found    {found}\n  expected {expected}")) }
}

fn text(case: &Value, key: &str) -> String {
    case[key].as_str().unwrap_or_default().to_owned()
}

fn strings(value: &Value) -> BTreeMap<String, String> {
    value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
        .collect()
}

fn request_of(case: &Value) -> Request {
    let platform = |key: &str| case[key].as_str().map(|text| text.parse::<Platform>().unwrap());
    Request {
        target: case["target"].as_str().map(str::to_owned),
        build_args: strings(&case["build_args"]),
        labels: strings(&case["labels"]),
        platform: platform("platform"),
        build_platform: platform("build_platform").unwrap_or_else(|| Platform::new("linux", "amd64")),
        ..request()
    }
}

/// Returns warnings as the vectors have them.
fn rules(warnings: &[Diagnostic]) -> Value {
    let mut rules: Vec<(i64, String, String, Value)> = warnings
        .iter()
        .map(|warning| {
            let rule = check::rule(warning.code).map_or(warning.code, |rule| rule.name).to_owned();
            let line = warning.lines.first().map_or(0, |lines| lines.first as i64);
            let lines = warning.lines.first().map_or(json!(null), |lines| json!([lines.first, lines.last]));
            (line, rule, warning.text(), lines)
        })
        .collect();
    rules.sort_by(|a, b| (a.0, &a.1, &a.2).cmp(&(b.0, &b.1, &b.2)));
    rules
        .into_iter()
        .map(|(_, rule, message, lines)| json!({"rule": rule, "message": message, "lines": lines}))
        .collect()
}

fn sorted(warnings: &Value) -> Value {
    let mut warnings: Vec<Value> = warnings.as_array().cloned().unwrap_or_default();
    let key = |warning: &Value| (warning["lines"][0].as_i64(), text(warning, "rule"), text(warning, "message"));
    warnings.sort_by_key(key);
    Value::Array(warnings)
}

fn lines_of(found: &Diagnostic) -> Value {
    found.lines.iter().map(|lines| json!([lines.first, lines.last])).collect()
}

#[test]
fn convert() {
    run(
        "convert.json",
        |case| text(case, "name"),
        |case| {
            let outcome = lower_text(&text(case, "dockerfile"), &request_of(case), &strings(&case["images"]));
            equal("warnings", &rules(&outcome.warnings), &sorted(&case["warnings"]))?;
            if case["want"].as_array().is_some_and(|want| want.contains(&json!("resolved"))) {
                equal("resolved", &json!(outcome.resolved), &case.get("resolved").cloned().unwrap_or(json!([])))?;
            }
            let plan = match (outcome.result, case["error"].as_str()) {
                (Ok(plan), None) => plan,
                (Ok(_), Some(expected)) => return Err(format!("expected {expected}")),
                (Err(found), None) => return Err(format!("found {}", found.full_text())),
                (Err(found), Some(expected)) => {
                    equal("error", &json!(found.full_text()), &json!(expected))?;
                    return match case.get("error_lines") {
                        None => Ok(()),
                        Some(expected) => equal("error lines", &lines_of(&found), expected),
                    };
                }
            };
            let mut image = serde_json::to_value(&plan.config).unwrap();
            let image = image.as_object_mut().unwrap();
            equal("config", &image.remove("config").unwrap(), &case["config"])?;
            equal("history", &image.remove("history").unwrap_or(json!([])), case.get("history").unwrap_or(&json!([])))?;
            image.remove("rootfs");
            equal("image", &Value::Object(image.clone()), &case["image"])?;
            let new = &plan.config.history[plan.base_history..];
            let layers = new.iter().filter(|entry| !entry.empty_layer).count();
            equal("layers", &json!(plan.layer_edges.len()), &json!(layers))
        },
    );
}

#[test]
fn lint() {
    run(
        "lint.json",
        |case| text(case, "name"),
        |case| {
            let request = Request { check: true, ..request_of(case) };
            let outcome = lower_text(&text(case, "dockerfile"), &request, &strings(&case["images"]));
            let error = outcome.result.err();
            let message = error.as_ref().map(|found| found.full_text());
            if let Some(expected) = case.get("setup_error") {
                return equal("setup error", &json!(message), expected);
            }
            equal("warnings", &rules(&outcome.warnings), &sorted(&case["warnings"]))?;
            equal("error", &json!(message), case.get("error").unwrap_or(&Value::Null))?;
            match (error, case["error_lines"].as_array()) {
                (Some(found), Some(expected)) => {
                    let lines = lines_of(&found);
                    equal("error lines", lines.get(0).unwrap_or(&json!([])), &json!(expected))
                }
                _ => Ok(()),
            }
        },
    );
}

#[test]
fn lint_ignore() {
    let name = |case: &Value| format!("{:?} with {:?}", text(case, "dockerfile"), text(case, "dockerignore"));
    run("lint-ignore.json", name, |case| {
        let ignore = crate::dockerignore::parse(&text(case, "dockerignore")).map_err(|error| error.to_string())?;
        let request = Request { check: true, ignore: Some(ignore), ..request() };
        let outcome = lower_text(&text(case, "dockerfile"), &request, &BTreeMap::new());
        let found = outcome.warnings.iter().filter(|warning| warning.code == "copy-ignored-file");
        equal("warnings", &found.map(|warning| json!(warning.text())).collect(), &case["warnings"])
    });
}

#[test]
fn working_directories() {
    run(
        "workdir.json",
        |case| format!("{} in {}", case["wd"], case["current"]),
        |case| {
            let found = workdir::next(&text(case, "current"), &text(case, "wd"), &text(case, "os"));
            let found = found.map_err(|error| json!({"error": error.to_string()}));
            match found {
                Ok(found) => equal("result", &json!(found), &case["result"]),
                Err(found) => equal("error", &found["error"], &case["error"]),
            }
        },
    );
}

#[test]
fn destinations() {
    run(
        "copy-dest-path.json",
        |case| format!("{} in {}", case["path"], case["parent"]),
        |case| {
            let keep_slash = case["keep_slash"] == true;
            let found = path::destination(&text(case, "parent"), &text(case, "path"), keep_slash);
            equal("result", &json!(found), &case["result"])
        },
    );
}

#[test]
fn exposed_ports() {
    run(
        "expose.json",
        |case| text(case, "argument"),
        |case| {
            let file = format!("FROM scratch\nENV P=70 Q=1\nEXPOSE {}\n", text(case, "argument"));
            let outcome = lower_text(&file, &request(), &BTreeMap::new());
            let mut rules: Vec<&str> =
                outcome.warnings.iter().map(|warning| check::rule(warning.code).unwrap().name).collect();
            rules.sort_unstable();
            rules.dedup();
            equal("warnings", &json!(rules), case.get("warnings").unwrap_or(&json!([])))?;
            match outcome.result {
                Err(found) => equal("error", &json!(found.text()), case.get("error").unwrap_or(&Value::Null)),
                Ok(plan) => {
                    let ports: Vec<&String> = plan.config.config.exposed_ports.keys().collect();
                    equal("ports", &json!(ports), case.get("exposed_ports").unwrap_or(&json!([])))?;
                    let history = plan.config.history.last().map(|entry| &entry.created_by);
                    equal("history", &json!(history), &case["history"])
                }
            }
        },
    );
}
