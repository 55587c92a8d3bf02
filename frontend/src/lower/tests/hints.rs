//! What errors suggest.

use super::*;

#[track_caller]
fn check(text: &str, hint: &str) {
    let (file, parsed) = crate::dockerfile::parse(text);
    let found = match first_error(&parsed) {
        Some(found) => found.clone(),
        None => {
            assert_eq!(file.instructions.len(), text.trim().lines().filter(|line| !line.starts_with('#')).count());
            lower_text(text, &request(), &BTreeMap::new()).result.expect_err("a mistake")
        }
    };
    assert_eq!(found.hint.as_deref(), Some(hint), "for {text:?}");
    assert_eq!(found.lines.len(), 1, "for {text:?}");
}

#[test]
fn a_name_that_no_stage_has_is_told_with_those_that_stages_have() {
    let one = "no stage is named `biulder`; the only stage with a name is `builder`; did you mean `builder`?";
    check("FROM scratch AS builder\nFROM scratch\nCOPY --from=biulder /x /x\n", one);
    check("FROM scratch AS builder\nFROM scratch\nRUN --mount=type=bind,from=biulder,target=/x true\n", one);
    check("FROM scratch AS builder\nFROM biulder\n", one);
    let two = "FROM scratch AS a1\nFROM scratch AS b1\nFROM scratch\n";
    check(
        &format!("{two}COPY --from=nothing / /\n"),
        "no stage is named `nothing`; the stages of this file are `a1`, `b1`",
    );
    check(
        &format!("{two}COPY --from=A2 / /\n"),
        "no stage is named `A2`; the stages of this file are `a1`, `b1`; did you mean `a1`?",
    );
    check(&format!("{two}COPY --from=3 / /\n"), "the stages of this file are numbered from 0 to 2");
    let many: String = (0..50).map(|number| format!("FROM scratch AS s{number}\n")).collect();
    let found = lower_text(&format!("{many}COPY --from=x / /\n"), &request(), &BTreeMap::new()).result.unwrap_err();
    assert!(found.hint.unwrap().contains("`s19`, …"), "not all of them");
}

#[test]
fn an_image_is_not_taken_for_a_stage() {
    for name in ["example.org/x", "debian:12", "nothing"] {
        let text = format!("FROM scratch AS builder\nFROM {name}\n");
        assert_eq!(lower_text(&text, &request(), &BTreeMap::new()).result.unwrap_err().hint, None);
    }
}

#[test]
fn values_have_neighbours_too() {
    check("FROM scratch\nRUN --network=hsot x\n", "use `default`, `none` or `host`");
    check("FROM scratch\nRUN --security=no x\n", "use `sandbox` or `insecure`");
    check("FROM scratch\nSTOPSIGNAL sigtrem\n", "did you mean SIGTERM?");
    check("FROM scratch\nSTOPSIGNAL x\n", "name a signal as `kill -l` does, or give its number");
    check("FROM scratch\nSTOPSIGNAL nothing\n", "name a signal as `kill -l` does, or give its number");
    check(
        "# check=skp=all\nFROM scratch\n",
        "the options are `skip=RULE,…`, `experimental=RULE,…` and `error=true`, with `;` between them",
    );
}
