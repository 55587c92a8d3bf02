//! The flags of `kiln build`.

use std::fs;

use kiln_testkit::{Bed, Container, Image, Source};

use crate::fixture::{bed, build, busybox, dockerfile, unable};

fn fetch(bed: &Bed) -> Image {
    Image::fetch(&Source::OciArchive(bed.path("image.tar")))
}

const ARCHIVE: [&str; 2] = ["-o", "type=oci,dest=image.tar"];

#[test]
fn arguments_labels_and_targets() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(
        &bed,
        "context",
        "FROM busybox AS base\nARG WHO=nobody\nRUN echo \"for $WHO\" > /who\nCMD [\"cat\", \"/who\"]\nFROM base AS broken\nRUN false\n",
    );
    build(&bed, "context")
        .args(["--target", "base", "--build-arg", "WHO=Grace", "--label", "team=a b", "--label=empty="])
        .args(ARCHIVE)
        .run()
        .success();
    let image = fetch(&bed);
    assert_eq!(Container::of(&image).output(), "for Grace\n");
    assert_eq!(image.config.config.labels["team"], "a b");
    assert_eq!(image.config.config.labels["empty"], "");

    // A file of arguments gives way to the flag.
    bed.write("args.conf", "# who it is for\nWHO=Barbara\n");
    let file = ["--target=base", "--build-arg-file=args.conf"];
    build(&bed, "context").args(file).args(ARCHIVE).run().success();
    assert_eq!(Container::of(&fetch(&bed)).output(), "for Barbara\n");
    build(&bed, "context").args(file).arg("--build-arg=WHO=Grace").args(ARCHIVE).run().success();
    assert_eq!(Container::of(&fetch(&bed)).output(), "for Grace\n");

    // Without a value the argument comes from the environment.
    build(&bed, "context").args(["--target=base", "--build-arg=WHO"]).args(ARCHIVE).env("WHO", "Alan").run().success();
    assert_eq!(Container::of(&fetch(&bed)).output(), "for Alan\n");
}

#[test]
fn a_dockerfile_from_elsewhere_and_from_stdin() {
    if unable() {
        return;
    }
    let bed = bed();
    bed.write("context/file", "x");
    bed.write("elsewhere/Build.file", "FROM busybox\nCOPY file /file\nCMD [\"cat\", \"/file\"]\n");
    build(&bed, "context").args(["-f", "elsewhere/Build.file"]).args(ARCHIVE).run().success();
    assert_eq!(Container::of(&fetch(&bed)).output(), "x");
    build(&bed, "context")
        .args(["-f", "-"])
        .args(ARCHIVE)
        .input("FROM busybox\nCOPY file /other\nCMD [\"cat\", \"/other\"]\n")
        .run()
        .success();
    assert_eq!(Container::of(&fetch(&bed)).output(), "x");
}

#[test]
fn quiet_prints_the_id_alone_and_iidfile_holds_it() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM busybox\nRUN echo loud\n");
    let outcome = bed
        .kiln(["build", "-q", "--iidfile", "id", "--build-context", &busybox()])
        .arg(bed.path("context"))
        .run()
        .success();
    let id = outcome.text();
    assert!(id.starts_with("sha256:") && id.len() == 72 && id.ends_with('\n'), "{id:?}");
    assert_eq!(outcome.stderr, "");
    assert_eq!(fs::read_to_string(bed.path("id")).expect("the file"), id.trim());
    // A failure is told in quiet mode too.
    dockerfile(&bed, "context", "FROM busybox\nRUN echo why && exit 9\n");
    bed.kiln(["build", "-q", "--build-context", &busybox()])
        .arg(bed.path("context"))
        .run()
        .failure()
        .says(&["why", "9"]);
}

#[test]
fn raw_progress_is_lines_of_json() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM busybox\nRUN echo spoken\n");
    let outcome = bed
        .kiln(["build", "--progress=rawjson", "--build-context", &busybox()])
        .arg(bed.path("context"))
        .run()
        .success();
    let lines: Vec<serde_json::Value> = outcome
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let text = serde_json::to_string(&lines).expect("JSON");
    assert!(text.contains("RUN echo spoken") && text.contains("vertexes"), "{text}");
}

#[test]
fn no_cache_runs_everything_again() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /moment\n");
    let built = build(&bed, "context").args(ARCHIVE).run().success();
    assert_eq!(built.cached().len(), 0, "{built}");
    let first = fetch(&bed).manifest;
    let built = build(&bed, "context").args(ARCHIVE).run().success();
    assert!(built.cached().iter().any(|step| step.contains("RUN cat")), "{built}");
    assert_eq!(fetch(&bed).manifest, first);
    let built = build(&bed, "context").arg("--no-cache").args(ARCHIVE).run().success();
    assert!(built.ran().iter().any(|step| step.contains("RUN cat")), "{built}");
    assert_ne!(fetch(&bed).manifest, first);
}

#[test]
fn pull_looks_for_a_newer_base_and_otherwise_nobody_does() {
    if unable() {
        return;
    }
    let registry = kiln_testkit::DockerRegistry::empty();
    let base = registry.name("base:1");
    let bed = bed();
    let publish = |content: &str| {
        dockerfile(&bed, "base", &format!("FROM busybox\nRUN echo {content} > /base\n"));
        build(&bed, "base").args(["--push", "-t", &registry.name("base:1")]).run().success();
    };
    let other = crate::fixture::bed();
    dockerfile(&other, "context", &format!("FROM {base}\nRUN cp /base /copy\nCMD [\"cat\", \"/copy\"]\n"));
    let result = |flags: &[&str]| {
        build(&other, "context").args(flags).args(ARCHIVE).run().success();
        Container::of(&fetch(&other)).output()
    };
    publish("old");
    assert_eq!(result(&[]), "old\n");
    publish("new");
    assert_eq!(result(&[]), "old\n");
    assert_eq!(result(&["--pull"]), "new\n");
    // A tag that is known is not asked for again, so the registry may be gone.
    drop(registry);
    assert_eq!(result(&[]), "new\n");
}

#[test]
fn the_graph_can_be_seen() {
    let bed = bed();
    dockerfile(&bed, "context", "FROM scratch\nCOPY . /\n");
    for form in ["graph", "dot", "json"] {
        let text = bed.kiln(["build", &format!("--print={form}")]).arg(bed.path("context")).run().success().text();
        assert!(text.contains("COPY") || text.contains("copy"), "{form}: {text}");
    }
}

#[test]
fn only_what_the_target_needs_is_built() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(
        &bed,
        "context",
        "FROM busybox AS unused\nRUN exit 1\nFROM 127.0.0.1:9/never:1 AS unreachable\nFROM busybox\nRUN true\n",
    );
    build(&bed, "context").run().success();
}

#[test]
fn independent_stages_run_at_the_same_time() {
    if unable() {
        return;
    }
    let bed = bed();
    let mut text = String::new();
    for stage in 0..6 {
        text += &format!("FROM busybox AS s{stage}\nRUN sleep 2 && echo {stage} > /f{stage}\n");
    }
    text += "FROM busybox\n";
    for stage in 0..6 {
        text += &format!("COPY --from=s{stage} /f{stage} /\n");
    }
    dockerfile(&bed, "context", &text);
    let outcome = build(&bed, "context").run().success();
    assert!(outcome.took.as_secs_f64() < 8.0, "six times two seconds took {:?}", outcome.took);
}
