//! Reading the recorded cases: from the folder in `KILN_VECTORS`, else from `testdata/vectors`.

use std::path::PathBuf;

use serde_json::Value;

/// Returns the cases of a vector file.
pub fn load(name: &str) -> Vec<Value> {
    let folder = std::env::var_os("KILN_VECTORS")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/vectors")), PathBuf::from);
    let path = folder.join(name).with_extension("json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    let file: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let cases = file["cases"].as_array().unwrap_or_else(|| panic!("{} has no cases", path.display())).clone();
    assert!(!cases.is_empty(), "{} has no cases", path.display());
    cases
}

/// Runs every case and reports all that fail.
#[track_caller]
pub fn run(name: &str, mut check: impl FnMut(&Value) -> Result<(), String>) {
    let mut failures = Vec::new();
    let cases = load(name);
    for (index, case) in cases.iter().enumerate() {
        if let Err(reason) = check(case) {
            let label = ["name", "input", "template", "mount", "device", "file", "mode", "argument"]
                .iter()
                .find_map(|key| case[*key].as_str())
                .unwrap_or_default();
            failures.push(format!("{name}[{index}] {label:?}: {reason}"));
        }
    }
    assert!(failures.is_empty(), "{} of {} cases fail:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

/// Returns a text of a case; absent is empty.
pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// Compares, and says both when they differ.
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: T, expected: T) -> Result<(), String> {
    if got == expected { Ok(()) } else { Err(format!("{what} is {got:?}, not {expected:?}")) }
}
