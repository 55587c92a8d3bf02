//! Build arguments, and variables in what instructions take.

use kiln_testkit::{Bed, Image, Kind, Source};

use crate::fixture::{bed, build, busybox, dockerfile, unable};

fn image(bed: &Bed, flags: &[&str]) -> Image {
    build(bed, "context").args(flags).args(["-o", "type=oci,dest=image.tar"]).run().success();
    Image::fetch(&Source::OciArchive(bed.path("image.tar")))
}

#[test]
fn values_of_flags_have_variables_in_them() {
    if unable() {
        return;
    }
    let bed = bed();
    bed.write("context/file", "x");
    let text = "ARG WHERE=linux/amd64\n\
                FROM --platform=${WHERE} busybox\n\
                ARG OWNER=7 MODE=640 PLACE=/place NAME=variable-cache TYPE=cache\n\
                COPY --chown=$OWNER:${GROUP:-8} --chmod=$MODE file /copied\n\
                RUN --mount=type=$TYPE,id=$NAME,target=$PLACE/cache touch $PLACE/cache/kept && echo here > /seen\n\
                RUN --mount=type=bind,source=fi${LE-le},target=$PLACE/bound cat $PLACE/bound > /bound\n";
    dockerfile(&bed, "context", text);
    let image = image(&bed, &[]);
    let layers = image.layers();
    let last = |path: &str| layers.iter().rev().find_map(|layer| layer.get(path)).expect("a file").clone();
    let copied = last("copied");
    assert_eq!((copied.uid, copied.gid, copied.mode), (7, 8, 0o640));
    assert!(matches!(last("bound").kind, Kind::File { .. }));
    let caches = bed.kiln(["cache", "ls"]).run().success().text();
    assert!(caches.contains("variable-cache"), "{caches}");
    assert!(layers.iter().all(|layer| !layer.contains_key("place/cache/kept")));
    // The names of stages and images are looked up before there are variables.
    for (line, error) in [
        ("COPY --from=$S /a /b", "variable expansion is not supported for --from"),
        ("RUN --mount=from=$S,target=/x true", "'from' doesn't support variable expansion"),
        ("ADD --checksum=$S http://127.0.0.1:9/x /", "invalid checksum digest format"),
        ("COPY --chmod=$S file /", "invalid chmod parameter"),
    ] {
        dockerfile(&bed, "context", &format!("ARG S=9\nFROM busybox AS s\nARG S=9\n{line}\n"));
        build(&bed, "context").run().failure().says(&["Dockerfile:4", error]);
    }
    bed.assert_tidy();
}

#[test]
fn an_argument_reaches_the_steps_that_see_it_and_no_config() {
    if unable() {
        return;
    }
    let bed = bed();
    let text =
        "FROM busybox\nRUN echo before > /before\nARG WHO=nobody\nRUN echo $WHO > /who\nARG UNUSED\nCMD [\"sh\"]\n";
    dockerfile(&bed, "context", text);
    let first = image(&bed, &[]);
    assert!(first.config.config.env.iter().all(|variable| !variable.starts_with("WHO=")), "{:?}", first.config.config);
    let steps = |flags: &[&str]| {
        let built = build(&bed, "context").args(flags).run().success();
        let cached = |text: &str| built.cached().iter().any(|step| step.contains(text));
        (cached("RUN echo before"), cached("/who"))
    };
    assert_eq!(steps(&[]), (true, true));
    assert_eq!(steps(&["--build-arg", "UNUSED=1"]), (true, true));
    assert_eq!(steps(&["--build-arg", "WHO=somebody"]), (true, false));
    // Those of proxies are in no key and in no history.
    for address in ["http://127.0.0.1:1", "http://127.0.0.1:2"] {
        assert_eq!(steps(&["--build-arg", &format!("HTTP_PROXY={address}")]), (true, true));
    }
    let proxied = image(&bed, &["--build-arg", "HTTP_PROXY=http://127.0.0.1:3"]);
    assert_eq!(proxied.config.history, first.config.history);
}

#[test]
fn what_is_known_of_platforms_and_target_can_be_asked_for_and_replaced() {
    if unable() {
        return;
    }
    let bed = bed();
    let names = [
        "TARGETPLATFORM",
        "TARGETOS",
        "TARGETARCH",
        "TARGETVARIANT",
        "TARGETOSVERSION",
        "BUILDPLATFORM",
        "BUILDOS",
        "BUILDARCH",
        "BUILDVARIANT",
        "BUILDOSVERSION",
        "TARGETSTAGE",
    ];
    let label: String = names.iter().map(|name| format!("{name}=${{{name}-unset}} ")).collect();
    let text = format!("FROM scratch AS First\nARG {}\nLABEL {label}\nFROM first\n", names.join(" "));
    dockerfile(&bed, "context", &text);
    let values = |flags: &[&str]| -> Vec<String> {
        let labels = image(&bed, flags).config.config.labels;
        names.iter().map(|name| labels[*name].clone()).collect()
    };
    let host = own_platform();
    let [own, os, architecture] = [&*host, "linux", host.trim_start_matches("linux/")];
    assert_eq!(values(&[]), [own, os, architecture, "", "", own, os, architecture, "", "", "default"]);
    assert_eq!(
        values(&["--platform=linux/arm/v7", "--target=FIRST"]),
        ["linux/arm/v7", "linux", "arm", "v7", "", own, os, architecture, "", "", "FIRST"]
    );
    assert_eq!(
        values(&["--platform=linux/arm64", "--build-arg=TARGETARCH=mine", "--build-arg=TARGETSTAGE=s"]),
        ["linux/arm64", "linux", "mine", "", "", own, os, architecture, "", "", "s"]
    );
}

/// This machine's platform, as images call it.
fn own_platform() -> String {
    match std::env::consts::ARCH {
        "x86_64" => "linux/amd64".to_owned(),
        "aarch64" => "linux/arm64".to_owned(),
        other => format!("linux/{other}"),
    }
}

#[test]
fn arguments_of_the_builder_choose_language_and_checks() {
    if unable() {
        return;
    }
    let bed = bed();
    let run = |text: &str, flags: &[&str]| {
        dockerfile(&bed, "context", text);
        build(&bed, "context").args(flags).run()
    };
    let foreign = "# syntax=example.org/other:1\nFROM busybox\n";
    run(foreign, &[]).failure().says(&["Dockerfile:1", "example.org/other:1", "BUILDKIT_SYNTAX"]);
    run(foreign, &["--build-arg=BUILDKIT_SYNTAX=docker/dockerfile:1.9-labs"]).success();
    run("FROM busybox\n", &["--build-arg=BUILDKIT_SYNTAX=example.org/other:1"])
        .failure()
        .says(&["example.org/other:1"]);
    for own in ["docker/dockerfile:1", "docker.io/docker/dockerfile-upstream:master", "dockerfile.v0"] {
        run(&format!("# syntax={own}\nFROM busybox\n"), &[]).success();
    }

    let strict = "# check=error=true\nFROM busybox\nMAINTAINER me\nCMD x\n";
    run(strict, &[]).failure().says(&["lint violation found for rules: JSONArgsRecommended, MaintainerDeprecated"]);
    run(strict, &["--build-arg=BUILDKIT_DOCKERFILE_CHECK=skip=all"]).success();
    // It replaces what the file says, also when it is empty.
    let told = run(strict, &["--build-arg=BUILDKIT_DOCKERFILE_CHECK="]).success();
    told.says(&["2 warnings found", "MaintainerDeprecated"]);
    let one = run(strict, &["--build-arg=BUILDKIT_DOCKERFILE_CHECK=skip=MaintainerDeprecated;error=true"]).failure();
    one.says(&["lint violation found for rules: JSONArgsRecommended"]);
    run(strict, &["--build-arg=BUILDKIT_DOCKERFILE_CHECK=skpi=all"])
        .failure()
        .says(&["failed to parse build-arg:BUILDKIT_DOCKERFILE_CHECK: invalid check option \"skpi\"", "hint: "]);
    bed.assert_tidy();
}

#[test]
fn a_declared_argument_is_taken_from_flag_file_or_environment() {
    if unable() {
        return;
    }
    let bed = bed();
    bed.write("args", "A=file\nB=file\n");
    dockerfile(&bed, "context", "FROM scratch\nARG A B C=default D\nLABEL all=$A,$B,$C,${D-unset}\n");
    let label = |flags: &[&str]| {
        let kiln = bed.kiln(["build", "--build-context", &busybox(), "-o", "type=oci,dest=image.tar"]);
        kiln.args(flags).arg(bed.path("context")).env("C", "environment").run().success();
        Image::fetch(&Source::OciArchive(bed.path("image.tar"))).config.config.labels["all"].clone()
    };
    assert_eq!(label(&[]), ",,default,unset");
    let flags = ["--build-arg-file=args", "--build-arg=B=flag", "--build-arg=C", "--build-arg=D"];
    assert_eq!(label(&flags), "file,flag,environment,unset");
}
