//! `platform-parse.json` and `platform-match.json`: platforms as containerd reads and picks them.

use kiln_oci::{Platform, PlatformMatcher};
use serde::Deserialize;
use serde_json::{Value, json};

fn fields(platform: &Platform) -> Value {
    let mut value = json!({
        "os": platform.os,
        "architecture": platform.architecture,
        "variant": platform.variant,
    });
    if !platform.os_version.is_empty() {
        value["os_version"] = json!(platform.os_version);
    }
    if !platform.os_features.is_empty() {
        value["os_features"] = json!(platform.os_features);
    }
    value
}

#[test]
fn platforms_read_as_containerd_reads_them() {
    // The cases were recorded on linux/amd64: a missing architecture is that of the host.
    let host = Platform::host().architecture;
    let mut failures = Vec::new();
    let cases = crate::vectors::<Value>("platform-parse.json");
    assert!(cases.len() >= 60);
    for case in cases {
        let input = case["input"].as_str().expect("an input");
        let seen = match input.parse::<Platform>() {
            Ok(mut platform) => {
                if platform.architecture == host && !input.contains('/') && input.parse::<Platform>().is_ok() {
                    let by_name = format!("linux/{input}").parse::<Platform>().is_ok_and(|p| p.architecture == host);
                    if !by_name {
                        "amd64".clone_into(&mut platform.architecture);
                    }
                }
                let normalized = platform.normalized();
                json!({
                    "input": input,
                    "parsed": fields(&platform),
                    "normalized": fields(&normalized),
                    "format": normalized.format_all(),
                })
            }
            Err(error) => json!({ "input": input, "error": error.to_string() }),
        };
        if seen != case {
            failures.push(format!("{input:?}:\n  expected {case}\n  seen     {seen}"));
        }
    }
    crate::report(&failures);
}

#[derive(Deserialize)]
struct Match {
    want: String,
    matcher: String,
    candidates: Vec<String>,
    matching_in_preference_order: Vec<String>,
}

#[test]
fn candidates_are_picked_in_containerds_order() {
    let mut failures = Vec::new();
    let cases = crate::vectors::<Match>("platform-match.json");
    assert!(cases.len() >= 20);
    for case in cases {
        let want: Platform = case.want.parse().expect("a platform");
        let matcher = match &*case.matcher {
            "only" => PlatformMatcher::only(&want),
            "strict" => PlatformMatcher::strict(&want),
            other => panic!("unknown matcher {other}"),
        };
        let candidates: Vec<Platform> = case.candidates.iter().map(|text| text.parse().expect("a platform")).collect();
        let seen: Vec<&str> = matcher.match_order(&candidates).into_iter().map(|i| &*case.candidates[i]).collect();
        if seen != case.matching_in_preference_order {
            failures.push(format!(
                "{} ({}):\n  expected {:?}\n  seen     {seen:?}",
                case.want, case.matcher, case.matching_in_preference_order
            ));
        }
    }
    crate::report(&failures);
}
