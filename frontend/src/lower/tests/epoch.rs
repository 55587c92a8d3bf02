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
        ("FROM scratch AS other", "invalid SOURCE_DATE_EPOCH: s"),
    ] {
        let found = resolve(&format!("{stage}\nFROM scratch\n"), "s", ContextTime::None);
        assert_eq!(found, Err(expected.to_owned()), "{stage}");
    }
}

/// What lowering asks for first.
fn asked(text: &str, value: &str, contexts: &[(&str, &str)]) -> Result<Vec<Source>, String> {
    let build_args = [("SOURCE_DATE_EPOCH", value), ("GIVEN", "given")];
    let owned = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
    let request = Request { build_args: owned(&build_args), contexts: owned(contexts), ..request() };
    let (file, parsed) = crate::dockerfile::parse(text);
    match lower(&file, &Request { parsed, ..request }, &Facts::default()) {
        Ok(Lowered::Needs(needs)) => Ok(needs.times),
        Ok(Lowered::Done(_)) => Ok(Vec::new()),
        Err(found) => Err(first_error(&found).unwrap().text()),
    }
}

#[test]
fn the_time_of_what_is_fetched_is_asked_for() {
    let stage =
        "ARG HOST=h\nFROM scratch AS s\nARG HOST GIVEN NAME=$HOST$GIVEN\nADD http://$HOST/$NAME /\nFROM scratch\n";
    let url = |source: &Source| match source {
        Source::Http { url, .. } => url.clone(),
        Source::Git { remote, commit_times, .. } => format!("{remote} {commit_times}"),
        other => format!("{other:?}"),
    };
    for (text, value, context, expected) in [
        (stage, "s", "local:x", "http://h/hgiven"),
        ("FROM scratch AS s\nADD https://h/r.git#main /\nFROM scratch\n", "s", "local:x", "https://h/r.git true"),
        ("FROM scratch\n", "c", "https://h/r.git", "https://h/r.git true"),
        ("FROM scratch\n", "c", "https://h/file", "https://h/file"),
    ] {
        let found = asked(text, value, &[("c", context)]).unwrap();
        assert_eq!(found.iter().map(url).collect::<Vec<_>>(), [expected], "{text}");
    }
    assert_eq!(asked("FROM scratch\n", "c", &[("c", "local:x")]), Ok(Vec::new()));
    let refused = asked("FROM scratch\n", "c", &[("c", "docker-image://busybox")]);
    assert_eq!(refused, Err("cannot take SOURCE_DATE_EPOCH from context c".to_owned()));
}
