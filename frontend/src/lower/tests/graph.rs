//! What the graph looks like.

use super::*;
use crate::graph::{CopyFrom, FileAction, Op, Source, print};

fn images() -> BTreeMap<String, String> {
    let image = |config: &str| {
        format!(
            r#"{{"architecture":"amd64","os":"linux","config":{config},"rootfs":{{"type":"layers",
            "diff_ids":["sha256:1111111111111111111111111111111111111111111111111111111111111111"]}}}}"#
        )
    };
    BTreeMap::from([
        ("docker.io/library/alpine:latest".to_owned(), image(r#"{"Env":["PATH=/bin"]}"#)),
        ("docker.io/library/trigger:latest".to_owned(), image(r#"{"OnBuild":["COPY --from=tools /t /t","RUN $x"]}"#)),
        ("example.org/other:1".to_owned(), image("{}")),
    ])
}

#[track_caller]
fn plan(text: &str, request: &Request) -> Plan {
    let outcome = lower_text(text, request, &images());
    let plan = outcome.result.unwrap_or_else(|found| panic!("{}", found.full_text()));
    for (index, vertex) in plan.graph.vertices.iter().enumerate() {
        let before = |edge: &crate::graph::Edge| (edge.vertex.0 as usize) < index;
        assert!(vertex.inputs.iter().flatten().all(before), "inputs come first");
    }
    plan
}

/// Lowers a file and prints its graph, without the digests of images.
#[track_caller]
fn graph(text: &str, request: &Request) -> String {
    let plan = plan(text, request);
    let mut text = print::text(&plan.graph, plan.root);
    for config in images().values() {
        text = text.replace(&Digest::of(config).to_string(), "sha256:…");
    }
    text
}

#[track_caller]
fn error(text: &str, request: &Request) -> String {
    let outcome = lower_text(text, request, &images());
    let Err(found) = outcome.result else { panic!("no error in {text:?}") };
    let lines: Vec<String> = found.lines.iter().map(|lines| format!("{}-{}", lines.first, lines.last)).collect();
    format!("{} @{}", found.full_text(), lines.join(","))
}

#[test]
fn two_stages() {
    let text =
        "FROM alpine AS build\nWORKDIR /src\nCOPY go.mod ./\nRUN make\nFROM scratch\nCOPY --from=build /src/out /out\n";
    insta::assert_snapshot!(graph(text, &request()), @r#"
     0 [build 1/4] FROM docker.io/library/alpine:latest@sha256:…
         image docker.io/library/alpine:latest@sha256:… for linux/amd64
     1 [build 2/4] WORKDIR /src  <- 0
         mkdir /src mode 0755
     2 [internal] load build context
         local context: go.mod
     3 [build 3/4] COPY go.mod ./  <- 1, 2
         copy input 1 /go.mod to /src/
     4 [build 4/4] RUN make  <- 3
         exec ["/bin/sh", "-c", "make"] in /src for linux/amd64
         env PATH=/bin
    *5 [stage-1 1/1] COPY --from=build /src/out /out  <- empty, 4
         copy input 1 /src/out to /out
    "#);
}

#[test]
fn links_mounts_and_here_documents() {
    let text = "FROM alpine AS build\nUSER app\nWORKDIR w\nCOPY --link --chown=1:g a b* d/\n\
        RUN --mount=type=cache,target=/c --mount=type=bind,source=x,target=y --mount=type=secret,id=s,env=S \
        --network=none echo $S $HOME\nRUN <<EOF\n#!/bin/x\nl1\nEOF\nCOPY <<\"A\" <<B /e/\n$x\nA\nb\nB\n";
    insta::assert_snapshot!(graph(text, &request()), @r#"
     0 [1/6] FROM docker.io/library/alpine:latest@sha256:…
         image docker.io/library/alpine:latest@sha256:… for linux/amd64
     1 [2/6] WORKDIR w  <- 0
         mkdir /w mode 0755 owner app
     2 [internal] load build context
         local context: a, b*, x
     3 [3/6] COPY --link --chown=1:g a b* d/  <- empty, 2
         copy input 1 /a to /w/d/ owner 1:g
         copy input 1 /b* to /w/d/ owner 1:g
     4 LINK [3/6] COPY --link --chown=1:g a b* d/  <- 1, 3
         merge
     5 [4/6] RUN --mount=type=cache,target=/c --mount=type=bind,source=x,target=y --mount=type=secret,id=s,env=S --network=none echo **** $HOME  <- 4, 2
         exec ["/bin/sh", "-c", "echo $S $HOME"] in /w as app for linux/amd64
         env PATH=/bin
         mount cache //c shared at /c
         mount bind input 1 /x at /w/y read-only
         mount secret s at /run/secrets/s read-only
         network none
     6 [internal] preparing inline document  <- empty
         copy inline EOF (12 bytes) to /EOF mode 0755
     7 [5/6] RUN <<EOF (#!/bin/x...)  <- 5, 6
         exec ["/bin/sh", "-c", "/dev/pipes/EOF"] in /w as app for linux/amd64
         env PATH=/bin
         mount bind input 1 / at /dev/pipes read-only
    *8 [6/6] COPY <<"A" <<B /e/  <- 7
         copy inline A (3 bytes) to /e/
         copy inline B (2 bytes) to /e/
    "#);
}

#[test]
fn triggers_bring_images_and_steps() {
    let text = "FROM alpine AS tools\nFROM trigger\nRUN own\n";
    insta::assert_snapshot!(graph(text, &request()), @r#"
     0 [tools 1/1] FROM docker.io/library/alpine:latest@sha256:…
         image docker.io/library/alpine:latest@sha256:… for linux/amd64
     1 [stage-1 1/4] FROM docker.io/library/trigger:latest@sha256:…
         image docker.io/library/trigger:latest@sha256:… for linux/amd64
     2 [stage-1 2/4] ONBUILD COPY --from=tools /t /t  <- 1, 0
         copy input 1 /t to /t
     3 [stage-1 3/4] ONBUILD RUN $x  <- 2
         exec ["/bin/sh", "-c", "$x"] in / for linux/amd64
         env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    *4 [stage-1 4/4] RUN own  <- 3
         exec ["/bin/sh", "-c", "own"] in / for linux/amd64
         env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    "#);
}

#[test]
fn named_contexts_replace_stages_and_images() {
    let contexts = [("alpine", "docker-image://example.org/other:1"), ("src", "local:here"), ("base", "local:there")];
    let contexts = contexts.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    let request = Request { contexts, ..request() };
    let text = "FROM nowhere AS base\nRUN never\nFROM alpine\nCOPY --from=src /a/b /c\nCOPY --from=base x* /\nRUN --mount=from=src,source=d,target=/m true\n";
    insta::assert_snapshot!(graph(text, &request), @r#"
     0 [context alpine] example.org/other:1@sha256:…
         image example.org/other:1@sha256:… for linux/amd64
     1 [context src] load from client
         local here: a/b, d
     2 [stage-1 1/3] COPY --from=src /a/b /c  <- 0, 1
         copy input 1 /a/b to /c
     3 [context base] load from client
         local there: x*
     4 [stage-1 2/3] COPY --from=base x* /  <- 2, 3
         copy input 1 /x* to /
    *5 [stage-1 3/3] RUN --mount=from=src,source=d,target=/m true  <- 4, 1
         exec ["/bin/sh", "-c", "true"] in / for linux/amd64
         env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
         mount bind input 1 /d at /m read-only
    "#);
}

#[test]
fn the_whole_context_is_all_of_it() {
    let plan = plan("FROM scratch\nCOPY a b/ ../c /x/\nCOPY . /y/\n", &request());
    let Op::Source(Source::Local(local)) = &plan.graph.vertices[0].op else { panic!("not local") };
    assert_eq!((&*local.name, local.follow_paths.len()), ("context", 0));
    let plan = self::plan("FROM scratch\nCOPY b/ a ../c /a /x/\n", &request());
    let Op::Source(Source::Local(local)) = &plan.graph.vertices[0].op else { panic!("not local") };
    assert_eq!(local.follow_paths, ["a", "b", "c"]);
}

#[test]
fn parents_are_an_include_pattern() {
    let plan = plan("FROM scratch\nCOPY --parents w/./v/a.txt w/*/b /o\n", &request());
    let Op::File(file) = &plan.graph.vertices[1].op else { panic!("no file op") };
    let copies: Vec<_> = file
        .actions
        .iter()
        .map(|action| {
            let FileAction::Copy(copy) = action else { panic!("no copy") };
            assert_eq!((&copy.from, &*copy.destination), (&CopyFrom::Input(1), "/o/"));
            (&*copy.source, copy.include.clone().unwrap(), copy.required.clone())
        })
        .collect();
    let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    assert_eq!(copies, [("/w", texts(&["v/a.txt"]), texts(&["v/a.txt"])), ("/", texts(&["w/*/b"]), vec![])]);
}

#[test]
fn only_what_the_target_needs_is_made() {
    let text = "FROM missing AS a\nRUN x\nFROM alpine AS b\nRUN y\nFROM b AS c\nRUN z\n";
    let outcome = lower_text(text, &Request { target: Some("B".into()), ..request() }, &images());
    assert_eq!(outcome.resolved, ["docker.io/library/alpine:latest linux/amd64"]);
    assert_eq!(outcome.result.unwrap().graph.vertices.len(), 2);
}

#[test]
fn no_cache_is_for_commands_and_copies_of_the_named_stages() {
    let text = "FROM alpine AS a\nWORKDIR /w\nRUN x\nFROM a\nRUN y\n";
    let request = Request { no_cache_filter: vec!["A".to_owned()], ..request() };
    let plan = plan(text, &request);
    let ignored: Vec<bool> = plan.graph.vertices.iter().map(|vertex| vertex.ignore_cache).collect();
    assert_eq!(ignored, [false, false, true, false]);
}

#[test]
fn a_proxy_is_for_commands_only() {
    let build_args = BTreeMap::from([("http_proxy".to_owned(), "p".to_owned())]);
    let plan = plan("FROM scratch\nENV a=$http_proxy\nRUN x\n", &Request { build_args, ..request() });
    let Op::Exec(exec) = &plan.graph.vertices[0].op else { panic!("no exec") };
    assert_eq!(exec.proxy_env, ["HTTP_PROXY=p", "http_proxy=p"]);
    assert!(exec.env.iter().all(|entry| !entry.to_lowercase().contains("proxy")));
    assert!(!plan.config.history[1].created_by.contains("proxy"));
}

#[test]
fn messages_say_what_and_where() {
    let check = |text: &str, expected: &str| assert_eq!(error(text, &request()), expected, "in {text:?}");
    check("FROM scratch AS a\nCOPY --from=A /x /y\n", "circular dependency detected on stage: a @2-2");
    check(
        "FROM scratch AS a\nCOPY --from=b /x /y\nFROM scratch AS b\nCOPY --from=a /x /y\n",
        "circular dependency detected on stage: a @2-2,4-4",
    );
    check("FROM scratch\nCOPY --from=5 /x /y\n", "invalid stage index 5 @2-2");
    check(
        "FROM scratch AS a\nRUN --mount=from=b,target=/t x\nFROM a AS b\n",
        "cannot mount from stage \"b\" to \"/t\", stage needs to be defined before current command @2-2",
    );
    check("FROM alpin\n", "alpin: docker.io/library/alpin:latest: not found (did you mean alpine?) @1-1");
    check("FROM scratch\nCOPY https://h/x /y\n", "source can't be a URL for COPY @2-2");
    check("FROM scratch\nADD --checksum=sha256:0 x /y\n", "checksum requires HTTP(S) or Git sources @2-2");
    check("FROM scratch\nADD --checksum=md5:0 https://h/x /y\n", "unsupported digest algorithm @2-2");
    check("FROM scratch\nVOLUME \"\"\n", "VOLUME specified can not be an empty string @2-2");
    check("FROM scratch\nRUN []\n", "failed to marshal LLB definition: arguments are required @2-2");
    check("FROM scratch\nRUN --mount=type=ssh,source=x y\n", "ssh does not support source @2-2");
}

#[test]
fn a_stage_is_not_found_by_number() {
    let request = Request { target: Some("0".to_owned()), ..request() };
    assert_eq!(error("FROM scratch AS long\n", &request), "target stage \"0\" could not be found @");
}

#[test]
fn a_small_file_cannot_ask_for_any_amount_of_memory() {
    let mut text = String::from("FROM scratch\n");
    for number in 0..100 {
        text.push_str(&format!("ENV v{number}={}\n", "x".repeat(10_000)));
    }
    text.push_str(&"RUN x\n".repeat(1_000));
    assert!(error(&text, &request()).starts_with("the variables of all commands take more than"));
}

#[test]
fn many_stages_are_no_trouble() {
    let mut text = String::from("FROM scratch AS s0\n");
    for number in 1..2_000 {
        text.push_str(&format!("FROM scratch AS s{number}\nCOPY --from=s{} /x /x\n", number - 1));
    }
    assert_eq!(plan(&text, &request()).graph.vertices.len(), 1_999);
}

proptest::proptest! {
    #[test]
    fn nothing_panics(lines in proptest::collection::vec(line(), 0..12)) {
        let text = format!("FROM alpine AS a\n{}\n", lines.join("\n"));
        let outcome = lower_text(&text, &request(), &images());
        let again = lower_text(&text, &request(), &images());
        match (outcome.result, again.result) {
            (Ok(one), Ok(two)) => {
                proptest::prop_assert_eq!(&one.graph, &two.graph);
                let layers = one.config.history[one.base_history..].iter().filter(|entry| !entry.empty_layer);
                proptest::prop_assert_eq!(layers.count(), one.layer_edges.len());
                let digests = crate::graph::vertex_digests(&one.graph);
                proptest::prop_assert_eq!(digests, crate::graph::vertex_digests(&two.graph));
            }
            (one, two) => proptest::prop_assert_eq!(one.is_ok(), two.is_ok()),
        }
    }
}

fn line() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    let keyword = proptest::sample::select(vec![
        "FROM",
        "RUN",
        "COPY",
        "ADD",
        "WORKDIR",
        "ENV",
        "ARG",
        "EXPOSE",
        "USER",
        "VOLUME",
        "CMD",
        "ENTRYPOINT",
        "LABEL",
        "ONBUILD",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "SHELL",
    ]);
    let word = proptest::sample::select(vec![
        "a",
        "/b/../c",
        "--from=a",
        "--from=0",
        "--link",
        "--parents",
        "--chmod=7",
        "--mount=type=cache,target=/c",
        "--mount=from=a,target=/d",
        "$x",
        "${y:-z}",
        "k=v",
        "AS",
        "b",
        "alpine",
        "scratch",
        ".",
        "80/tcp",
        "[\"x\"]",
        "*",
        "--chown=u:g",
        "RUN",
        "https://h/f",
        "git@h:r.git",
        "NONE",
        "CMD",
    ]);
    (keyword, proptest::collection::vec(word, 0..5))
        .prop_map(|(keyword, words)| format!("{keyword} {}", words.join(" ")))
}

#[test]
fn here_documents_become_files_of_their_names() {
    let text = "FROM scratch\nARG n=zz\nCOPY <<$n /o/\n1\n$n\n";
    assert!(graph(text, &request()).contains("$n"), "a name is not expanded");
    let long = "n".repeat(256);
    for (name, expected) in [("a/b", "open /a/b: no such file or directory @2-4"), (&*long, "file name too long @2-4")]
    {
        let found = error(&format!("FROM scratch\nCOPY <<{name} /o/\nx\n{name}\n"), &request());
        assert!(found.ends_with(expected), "{found}");
    }
}

#[test]
fn no_file_has_a_name_that_cannot_be_unpacked() {
    let long = "n".repeat(256);
    for line in [format!("COPY a /{long}/b"), format!("ADD --link a {long}"), format!("WORKDIR /a/{long}")] {
        let found = error(&format!("FROM scratch\n{line}\n"), &request());
        assert!(found.ends_with("…: file name too long @2-2"), "{found}");
    }
}

#[test]
fn blanks_at_the_end_are_no_part_of_a_name() {
    let names = |text: &str| plan(text, &request()).graph.vertices.pop().unwrap().name;
    assert_eq!(names("FROM alpine\nRUN   echo a   \n"), "[2/2] RUN   echo a");
}

#[test]
fn a_namespace_parts_cache_mounts() {
    let text = "FROM alpine\nRUN --mount=type=cache,target=/c --mount=type=cache,id=x,target=/d make\n";
    let ids = |namespace: &str| -> Vec<String> {
        let build_args = BTreeMap::from([("BUILDKIT_CACHE_MOUNT_NS".to_owned(), namespace.to_owned())]);
        let plan = plan(text, &Request { build_args, ..request() });
        let Op::Exec(exec) = &plan.graph.vertices.last().unwrap().op else { panic!("no command") };
        exec.mounts
            .iter()
            .filter_map(|mount| match &mount.kind {
                crate::graph::MountKind::Cache { id, .. } => Some(id.clone()),
                _ => None,
            })
            .collect()
    };
    assert_eq!(ids("team"), ["team//c", "team/x"]);
    assert_eq!(ids(""), ["//c", "/x"]);
}
