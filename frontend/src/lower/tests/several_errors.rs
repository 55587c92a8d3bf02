//! Several mistakes in one run.

use super::*;

fn errors(text: &str) -> Vec<(&'static str, usize)> {
    let (file, parsed) = crate::dockerfile::parse(text);
    let request = Request { parsed, ..request() };
    let found = lower(&file, &request, &Facts::default()).expect_err("there are mistakes");
    found.iter().filter(|found| found.is_error()).map(|found| (found.code, found.lines[0].first)).collect()
}

#[test]
fn mistakes_in_several_instructions_and_stages_are_all_reported() {
    let text = "FROM scratch\nSTOPSIGNAL NO\nEXPOSE x\nFROM scratch\nVOLUME $none\nCOPY --from=0 / /\n";
    assert_eq!(errors(text), [("invalid-signal", 2), ("invalid-port", 3), ("empty-volume", 5)]);
}

#[test]
fn what_may_only_follow_from_a_mistake_is_not() {
    assert_eq!(errors("FROM scratch\nENV a=${b:?}\nSTOPSIGNAL $a\n"), [("expansion", 2)]);
    let many = format!("FROM scratch\n{}", "STOPSIGNAL NO\n".repeat(1000));
    assert_eq!(errors(&many).len(), 50);
}

#[test]
fn warnings_end_where_the_mistakes_begin() {
    let outcome = lower_text("FROM scratch\nENV a b\nSTOPSIGNAL NO\nENV c d\n", &request(), &BTreeMap::new());
    assert_eq!(outcome.warnings.len(), 1);
}
