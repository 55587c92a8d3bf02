//! Warnings about build arguments that nothing declares.

use super::*;

#[track_caller]
fn check(text: &str, given: &[&str], expected: &[&str]) {
    let build_args = given.iter().map(|name| ((*name).to_owned(), "1".to_owned())).collect();
    let trigger = r#"{"architecture":"amd64","os":"linux","config":{"OnBuild":["ARG TRIGGERED"]},
        "rootfs":{"type":"layers","diff_ids":[]}}"#;
    let images = BTreeMap::from([("docker.io/library/trigger:latest".to_owned(), trigger.to_owned())]);
    let outcome = lower_text(text, &Request { build_args, ..request() }, &images);
    let found: Vec<String> = outcome.result.unwrap().undeclared.iter().map(Diagnostic::text).collect();
    assert_eq!(found, expected, "in {text:?}");
}

#[test]
fn an_argument_that_no_arg_declares_is_reported() {
    let text = "ARG GLOBAL\nFROM scratch AS unused\nARG OTHER\nFROM scratch\nARG VERSION\n";
    check(text, &["GLOBAL", "OTHER", "VERSION"], &[]);
    check(
        text,
        &["NOTHING", "VERSOIN"],
        &[
            "build argument 'NOTHING' is declared by no ARG",
            "build argument 'VERSOIN' is declared by no ARG (did you mean VERSION?)",
        ],
    );
}

#[test]
fn what_triggers_declare_is_declared() {
    check("FROM trigger\n", &["TRIGGERED"], &[]);
    check("FROM scratch\nONBUILD ARG LATER\n", &["LATER"], &[]);
}

#[test]
fn what_the_builder_knows_needs_no_declaration() {
    check("FROM scratch\n", &["http_proxy", "No_Proxy", "TARGETARCH", "BUILDKIT_INLINE_CACHE"], &[]);
    check(
        "FROM scratch\n",
        &["BUILDKIT_INLINE_CAHCE"],
        &["build argument 'BUILDKIT_INLINE_CAHCE' is declared by no ARG (did you mean BUILDKIT_INLINE_CACHE?)"],
    );
}

#[test]
fn it_is_no_build_check() {
    check("# check=error=true\nFROM scratch\n", &["X"], &["build argument 'X' is declared by no ARG"]);
}
