//! SOURCE_DATE_EPOCH that is more than a number.

use super::*;

fn resolve(text: &str, value: &str, context_time: ContextTime) -> Result<Option<i64>, String> {
    let build_args = BTreeMap::from([("SOURCE_DATE_EPOCH".to_owned(), value.to_owned())]);
    let request = Request { build_args, context_time, ..request() };
    lower_text(text, &request, &BTreeMap::new()).result.map(|plan| plan.epoch).map_err(|found| found.text())
}

#[test]
fn the_time_of_the_context_is_taken_where_it_has_one() {
    let take = |time| resolve("FROM scratch\n", "context", time);
    assert_eq!(take(ContextTime::None), Ok(None));
    assert_eq!(take(ContextTime::At(7)), Ok(Some(7)));
    assert_eq!(take(ContextTime::Unknown), Err("the time of the context is not known".to_owned()));
    assert_eq!(resolve("FROM scratch\n", "", ContextTime::At(7)), Ok(None));
}

#[test]
fn a_time_that_is_resolved_is_what_arguments_say() {
    let text = "ARG SOURCE_DATE_EPOCH=context\nFROM scratch\nARG SOURCE_DATE_EPOCH\nLABEL time=$SOURCE_DATE_EPOCH\n";
    let request = Request { context_time: ContextTime::At(7), ..request() };
    let plan = lower_text(text, &request, &BTreeMap::new()).result.unwrap();
    assert_eq!((plan.epoch, &*plan.config.config.labels["time"]), (Some(7), "7"));
}

#[test]
fn only_a_global_default_that_is_no_time_may_want_that_of_the_context() {
    for (text, expected) in [
        ("ARG SOURCE_DATE_EPOCH=context\nFROM scratch\n", true),
        ("ARG a=context\nARG b SOURCE_DATE_EPOCH=${a}\nFROM scratch\n", true),
        ("ARG SOURCE_DATE_EPOCH=7\nFROM scratch\n", false),
        ("ARG SOURCE_DATE_EPOCH\nFROM scratch\nARG SOURCE_DATE_EPOCH=context\n", false),
    ] {
        assert_eq!(may_want_context_time(text), expected, "{text}");
    }
}

#[test]
fn a_stage_has_a_time_only_if_it_is_a_source() {
    for (stage, expected) in [
        ("FROM busybox AS s", "SOURCE_DATE_EPOCH stage must use FROM scratch"),
        ("FROM scratch AS s", "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD"),
        ("FROM scratch AS s\nADD a /\nADD b /", "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD"),
        ("FROM scratch AS s\nARG x\nADD a /", "SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD"),
        (
            "FROM scratch AS s\nADD http://a/b /\nRUN x",
            "SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported RUN instruction",
        ),
        ("FROM scratch AS s\nADD http://a/b /", "cannot take SOURCE_DATE_EPOCH from stage s"),
        ("FROM scratch AS other", "invalid SOURCE_DATE_EPOCH: s"),
    ] {
        let found = resolve(&format!("{stage}\nFROM scratch\n"), "s", ContextTime::None);
        assert_eq!(found, Err(expected.to_owned()), "{stage}");
    }
}
