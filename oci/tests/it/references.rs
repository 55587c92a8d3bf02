//! `image-ref.json`: references as Docker reads them.

use kiln_oci::Reference;
use serde_json::{Value, json};

fn seen(input: &str) -> Value {
    let reference: Reference = match input.parse() {
        Ok(reference) => reference,
        Err(error) => return json!({ "input": input, "error": error.to_string() }),
    };
    let mut parsed = json!({ "domain": reference.domain, "path": reference.path, "name": reference.name() });
    if let Some(tag) = &reference.tag {
        parsed["tag"] = json!(tag);
    }
    if let Some(digest) = &reference.digest {
        parsed["digest"] = json!(digest.to_string());
    }
    json!({
        "input": input,
        "parsed": parsed,
        "normalized": reference.to_string(),
        "familiar": reference.familiar(),
        "tag_name_only": reference.with_default_tag().to_string(),
        "named_context_key": reference.named_context_key(),
    })
}

#[test]
fn references_read_as_docker_reads_them() {
    let mut failures = Vec::new();
    let cases = crate::vectors::<Value>("image-ref.json");
    assert!(cases.len() >= 50);
    for case in cases {
        let input = case["input"].as_str().expect("an input");
        let seen = seen(input);
        if seen != case {
            failures.push(format!("{input:?}:\n  expected {case}\n  seen     {seen}"));
        }
    }
    crate::report(&failures);
}

#[test]
fn the_domain_does_not_count_for_the_length() {
    let path = "x".repeat(255);
    assert!(format!("registry.example.com/{path}").parse::<Reference>().is_ok());
    assert!(format!("registry.example.com/{path}x").parse::<Reference>().is_err());
    assert!(path.parse::<Reference>().is_err(), "`library/` counts");
}
