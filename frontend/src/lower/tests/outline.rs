//! What a target can be given.

use super::*;

fn outline(text: &str, request: &Request) -> Outline {
    lower_text(text, request, &BTreeMap::new()).result.expect("the file is well formed").outline
}

/// Arguments as `name=value@line`.
fn arguments(outline: &Outline) -> Vec<String> {
    let show = |found: &OutlineArgument| {
        format!("{}={}@{}", found.name, found.value.as_deref().unwrap_or("-"), found.lines.first)
    };
    outline.arguments.iter().map(show).collect()
}

const TEXT: &str = "# VER tool release to fetch
ARG VER=3
ARG BASE=scratch
ARG UNUSED=1
ARG FULL=${BASE}
FROM ${FULL} AS fetch
ARG VER
RUN --mount=type=secret,id=api,required=true --mount=type=ssh true
FROM scratch AS other
ARG OTHER=1
# pack final stage
FROM scratch AS Pack
ARG TARGETPLATFORM
ARG OWN=$VER
ARG FREE
RUN --mount=type=secret,id=opt --mount=type=secret,id=api --mount=type=ssh,id=work true
COPY --from=fetch /x /y
";

#[test]
fn an_outline_has_what_the_target_and_the_stages_below_it_use() {
    let outline = outline(TEXT, &request());
    assert_eq!((outline.name.as_deref(), outline.description.as_deref()), (Some("pack"), None));
    assert_eq!(arguments(&outline), ["VER=3@2", "BASE=scratch@3", "FULL=scratch@5", "OWN=@14", "FREE=-@15"]);
    assert_eq!(outline.arguments[0].description.as_deref(), Some("tool release to fetch"));
    let secrets: Vec<_> = outline.secrets.iter().map(|found| (&*found.id, found.required, found.lines.first)).collect();
    assert_eq!(secrets, [("api", true, 8), ("opt", false, 16)]);
    let agents: Vec<_> = outline.ssh.iter().map(|found| &*found.id).collect();
    assert_eq!(agents, ["default", "work"]);
}

#[test]
fn an_outline_follows_the_target_and_the_arguments_given() {
    let other = Request { target: Some("other".to_owned()), ..request() };
    assert_eq!(arguments(&outline(TEXT, &other)), ["OTHER=1@10"]);
    let build_args = BTreeMap::from([("VER".to_owned(), "4".to_owned()), ("FREE".to_owned(), "f".to_owned())]);
    let given = Request { build_args, ..request() };
    let found = arguments(&outline(TEXT, &given));
    assert!(found.contains(&"FREE=f@15".to_owned()) && found.contains(&"VER=4@7".to_owned()), "{found:?}");
}
