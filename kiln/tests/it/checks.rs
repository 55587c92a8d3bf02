//! Looking at a Dockerfile without building it: checks, outline, targets, its instructions.

use kiln_testkit::Outcome;
use kiln_testkit::registry::Registry;
use serde_json::Value;

use crate::fixture::{bed, build, busybox, dockerfile, unable};

const DOCKERFILE: &str = "FROM busybox as tools\nARG VERSION=1\nFROM tools AS app\nMAINTAINER somebody\nCMD echo hi\n";

#[test]
fn a_check_finds_what_is_probably_not_meant_and_builds_nothing() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", DOCKERFILE);
    let found = build(&bed, "context").arg("--check").run().failure();
    for text in ["FromAsCasing", "MaintainerDeprecated", "JSONArgsRecommended", ">>> MAINTAINER somebody"] {
        assert!(found.text().contains(text), "{text} in {}", found.text());
    }
    dockerfile(&bed, "clean", "FROM busybox\nCMD [\"echo\", \"hi\"]\n");
    let clean = build(&bed, "clean").arg("--check").run().success();
    assert!(clean.text().contains("no warnings found"), "{}", clean.text());
    assert_eq!(bed.kiln(["images", "-q"]).run().success().text(), "");
    bed.assert_tidy();
}

#[test]
fn a_build_tells_what_its_checks_found() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", DOCKERFILE);
    let told = build(&bed, "context").args(["--build-arg", "VERSOIN=2"]).run().success();
    told.says(&[
        "#1 WARN: FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)",
        "4 warnings found (use `--check` to see the lines):",
        " - MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 4)",
        " - undeclared-build-arg: build argument 'VERSOIN' is declared by no ARG (did you mean VERSION?)",
    ]);
    let raw = bed.kiln(["build", "--progress=rawjson", "--build-context", &busybox()]).arg(bed.path("context"));
    let raw = raw.run().success().stderr;
    let warnings: Vec<Value> =
        raw.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?.get("warnings").cloned()).collect();
    assert_eq!(warnings.len(), 3, "{raw}");
    assert_eq!(warnings[0][0]["range"][0]["start"]["line"], 1);
    bed.assert_tidy();
}

#[test]
fn checks_can_be_errors_or_be_skipped() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "strict", &format!("# check=error=true\n{DOCKERFILE}"));
    build(&bed, "strict").run().failure().says(&["lint violation found for rules"]);
    let skip = "# check=skip=FromAsCasing,MaintainerDeprecated,JSONArgsRecommended\n";
    dockerfile(&bed, "lenient", &format!("{skip}{DOCKERFILE}"));
    build(&bed, "lenient").arg("--check").run().success();
}

#[test]
fn a_check_answers_with_json_whatever_is_wrong() {
    if unable() {
        return;
    }
    let bed = bed();
    // What is wrong, the line that programs are told, and the one that people are shown.
    for (text, message, line, shown) in [
        (&b""[..], "the Dockerfile cannot be empty", None, None),
        (b"# nothing\n", "file with no instructions", Some(1), Some(1)),
        (b"FROM busybox\nRNU x\n", "dockerfile parse error on line 2: unknown instruction: RNU", Some(2), Some(2)),
        (b"# escape=x\nFROM busybox\n", "invalid escape token 'x' does not match ` or \\", None, Some(1)),
        (b"# check=a=b\n# check=a=b\nFROM busybox\n", "only one check parser directive can be used", Some(1), Some(2)),
        (b"# syntax=other/language\nx y\n", "the file is written for the frontend `other/language`", Some(1), Some(1)),
        (b"FROM busybox\nENV a=\xe9\n", "line 2 is not UTF-8 text", Some(2), Some(2)),
        (b"\xff\xfeF\0", "the file is UTF-16 text", None, None),
        (b"FROM busybox\nSTOPSIGNAL x\n", "invalid signal: x", Some(2), Some(2)),
    ] {
        bed.write("context/Dockerfile", text);
        let outcome = build(&bed, "context").arg("--call=check,format=json").run().failure();
        let told = outcome.text();
        let document: Value = serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error} in {told}"));
        let error = &document["buildError"];
        assert!(error["message"].as_str().is_some_and(|text| text.starts_with(message)), "{message} in {told}");
        let found = error["location"]["ranges"][0]["start"]["line"].as_u64();
        assert_eq!(found, line, "{message} in {told}");
        if let Some(line) = shown {
            outcome.says(&[&format!("Dockerfile:{line}\n")]);
        }
    }
    dockerfile(&bed, "context", "FROM busybox\n");
    bed.write("context/.dockerignore", "a[\n");
    let told = build(&bed, "context").arg("--call=check,format=json").run().failure().text();
    let document: Value = serde_json::from_str(&told).expect("JSON");
    assert!(document["buildError"]["message"].as_str().is_some_and(|text| text.contains(".dockerignore")), "{told}");
}

/// The names of the rules that a check reports, each with its line.
fn found(outcome: &Outcome) -> Vec<(String, u64)> {
    let told = outcome.text();
    let document: Value = serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error} in {told}"));
    assert_eq!(document.get("buildError"), None, "{told}");
    let line = |warning: &Value| warning["location"]["ranges"][0]["start"]["line"].as_u64().unwrap_or_default();
    let warnings = document["warnings"].as_array().cloned().unwrap_or_default();
    warnings.iter().map(|it| (it["ruleName"].as_str().unwrap_or_default().to_owned(), line(it))).collect()
}

#[test]
fn all_stages_are_checked_or_those_of_the_target() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(
        &bed,
        "context",
        "FROM busybox AS base\nCMD a\nFROM busybox AS Other\nENV a b\nFROM base AS last\nMAINTAINER me\nRUN exit 1\n",
    );
    let check = |flags: &[&str]| {
        let outcome = build(&bed, "context").arg("--call=check,format=json,ignorestatus=true").args(flags).run();
        let mut found = found(&outcome.success());
        found.sort_by_key(|(_, line)| *line);
        found.into_iter().map(|(rule, line)| format!("{rule} {line}")).collect::<Vec<_>>().join(", ")
    };
    // What the text alone shows is found everywhere, the rest where the work would go.
    let (casing, maintainer) = ("StageNameCasing 3", "MaintainerDeprecated 6");
    let (command, legacy) = ("JSONArgsRecommended 2", "LegacyKeyValueFormat 4");
    assert_eq!(check(&[]), [command, casing, legacy, maintainer].join(", "));
    assert_eq!(check(&["--target=last"]), [command, casing, maintainer].join(", "));
    assert_eq!(check(&["--target=other"]), [casing, legacy, maintainer].join(", "));
}

#[test]
fn a_check_fetches_descriptions_of_images_and_no_layer() {
    if unable() {
        return;
    }
    let registry = Registry::start();
    let config = br#"{"architecture":"s390x","os":"linux","config":{"Shell":["/x"]},"rootfs":{"type":"layers","diff_ids":["sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"]}}"#;
    let config = registry.put_blob("base", "application/vnd.oci.image.config.v1+json", config);
    let layer = registry.put_blob("base", "application/vnd.oci.image.layer.v1.tar", &[0; 1024]);
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": [layer],
    });
    let manifest = serde_json::to_vec(&manifest).expect("JSON");
    registry.put_manifest("base", "1", "application/vnd.oci.image.manifest.v1+json", &manifest);
    let bed = bed();
    // The base has a shell, so that a command without one is meant.
    let name = format!("{}/base:1", registry.address());
    dockerfile(&bed, "context", &format!("FROM {name}\nCMD x\nRUN exit 1\nFROM scratch\n"));
    let call = "--call=check,format=json,ignorestatus=true";
    let outcome = build(&bed, "context").args([call, "--platform=linux/arm64"]).run().success();
    assert_eq!(found(&outcome), [("InvalidBaseImagePlatform".to_owned(), 1)]);
    let message = format!(
        "Base image {name} was pulled with platform \\\"linux/s390x\\\", expected \\\"linux/arm64\\\" for current build"
    );
    assert!(outcome.text().contains(&message), "{outcome}");
    let clean = build(&bed, "context").args([call, "--platform=linux/s390x"]).run().success();
    assert_eq!(found(&clean), []);
    let asked: Vec<String> = registry.exchanges().iter().map(|exchange| exchange.request.target.clone()).collect();
    assert!(asked.iter().any(|target| target.contains("/manifests/")), "{asked:?}");
    assert!(asked.iter().all(|target| !target.contains(&layer.digest.to_string())), "{asked:?}");
    assert_eq!(bed.kiln(["images", "-q"]).run().success().text(), "");
}

#[test]
fn outline_and_targets_are_told_as_json() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", DOCKERFILE);
    let json = |call: &str| -> Value {
        let told = build(&bed, "context").arg(call).run().success().text();
        serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error} in {told}"))
    };
    let targets = json("--call=targets,format=json");
    let names: Vec<&str> = targets["targets"].as_array().unwrap().iter().filter_map(|it| it["name"].as_str()).collect();
    assert_eq!(names, ["tools", "app"]);
    let outline = json("--call=outline,format=json");
    assert_eq!(outline["name"], "app");
    assert_eq!(outline["args"][0]["name"], "VERSION");
}

#[test]
fn the_instructions_are_told_with_their_places() {
    let bed = bed();
    let path = bed.write("Dockerfile", DOCKERFILE);
    let told = bed.kiln(["debug", "ast"]).arg(path).run().success().text();
    let ast: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(ast["instructions"].as_array().map(Vec::len), Some(5));
}
