//! Caches that travel in images: what one machine built, another finds.

use std::fs;
use std::process::Command;

use kiln_testkit::registry::{Fault, Registry};
use kiln_testkit::{Bed, DockerRegistry, Image, Kiln, Outcome, Source};
use serde_json::Value;

use crate::fixture::{bed, build, dockerfile, unable};

/// Where other builders and kiln keep a cache in an image's config.
const MEMBER: &str = "moby.buildkit.cache.v0";

/// A registry and two machines, which know the same contexts and have nothing else in common.
struct World {
    registry: DockerRegistry,
    one: Bed,
    other: Bed,
}

impl World {
    /// Both have this Dockerfile, and two files for it.
    fn new(text: &str) -> Self {
        let world = Self { registry: DockerRegistry::with_bases(), one: bed(), other: bed() };
        world.dockerfile(text);
        for bed in [&world.one, &world.other] {
            bed.write("context/a", "a\n");
            bed.write("context/b", "b\n");
        }
        world
    }

    fn dockerfile(&self, text: &str) {
        let text = text.replace("BUSYBOX", &self.registry.name("busybox:latest"));
        for bed in [&self.one, &self.other] {
            dockerfile(bed, "context", &text);
        }
    }

    fn name(&self) -> String {
        self.registry.name("app:1")
    }

    /// Builds on the first machine, and pushes with the cache.
    fn publish(&self) -> Outcome {
        push(&self.one, &self.name()).run().success()
    }

    /// Prepares a build on the second.
    fn reuse(&self) -> Kiln {
        build(&self.other, "context").args(["--cache-from", &self.name()])
    }
}

fn push(bed: &Bed, name: &str) -> Kiln {
    build(bed, "context").args(["--cache-to", "type=inline", "--push", "-t", name])
}

/// The steps that ran, without those that bring a base.
fn ran(outcome: &Outcome) -> Vec<String> {
    let steps = outcome.ran().into_iter().filter(|step| !step.contains("FROM"));
    steps.map(|step| step.split_once("] ").map_or(step.clone(), |(_, text)| text.to_owned())).collect()
}

/// The layers of an image as a manifest names them.
fn blobs(name: &str) -> Vec<String> {
    let image = Image::fetch(&Source::Registry(name.to_owned()));
    image.manifest.layers.iter().map(|layer| layer.digest.to_string()).collect()
}

/// What a file of the image in the folder `out` holds.
fn content(bed: &Bed, path: &str) -> String {
    fs::read_to_string(bed.path("out").join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The config as skopeo shows it.
fn config(name: &str) -> Value {
    let output = Command::new("skopeo")
        .args(["inspect", "--raw", "--config", "--tls-verify=false", &format!("docker://{name}")])
        .output()
        .expect("skopeo");
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("a config")
}

fn digest(name: &str) -> String {
    let output = Command::new("skopeo")
        .args(["inspect", "--format={{.Digest}}", "--tls-verify=false", &format!("docker://{name}")])
        .output()
        .expect("skopeo");
    String::from_utf8(output.stdout).expect("a digest")
}

/// The records in an image's config.
fn records(name: &str) -> Vec<Value> {
    let text = config(name)[MEMBER].as_str().expect("a cache in the config").to_owned();
    let decoded = Command::new("sh").args(["-c", "printf %s \"$1\" | base64 -d", "-", &text]).output().expect("base64");
    serde_json::from_slice(&decoded.stdout).expect("records")
}

/// Copies and commands, an empty layer, and the same layer twice.
const PLAIN: &str = "FROM BUSYBOX\n\
    WORKDIR /w\n\
    COPY a /w/a\n\
    RUN cat a > b && cat /proc/sys/kernel/random/uuid > /id\n\
    RUN true\n\
    RUN true\n\
    COPY b /w/c\n\
    RUN cat /w/c > /last\n";

#[test]
fn another_machine_finds_every_step() {
    if unable() {
        return;
    }
    let world = World::new(PLAIN);
    world.publish();
    let layers = config(&world.name())["rootfs"]["diff_ids"].as_array().expect("layers").len();
    let records = records(&world.name());
    let tops: Vec<_> = records.iter().filter_map(|record| record["layers"][0]["layer"].as_u64()).collect();
    assert_eq!(tops.iter().max(), Some(&(layers as u64 - 1)), "{records:?}");

    let again = world.registry.name("again:1");
    let reused = world.reuse().args(["--cache-to", "type=inline", "--push", "-t", &again]).run().success();
    assert!(ran(&reused).is_empty(), "{reused}");
    assert_eq!(reused.cached().len(), 7, "{reused}");
    // Nothing was needed of the layers themselves.
    assert!(!reused.stderr.contains("[internal] pull"), "{reused}");
    assert_eq!(digest(&again), digest(&world.name()), "the same image, with the same cache");

    // Now it knows them by itself.
    let name = world.name();
    let third = world.registry.name("third:1");
    push(&world.other, &third).run().success();
    assert_eq!(digest(&third), digest(&name), "what came from a cache goes into the next one");
    drop(world.registry);
    let local = build(&world.other, "context").args(["--cache-from", &name, "-o", "type=cacheonly"]).run().success();
    assert_eq!(local.cached().len(), 7, "{local}");
    assert!(!local.stderr.contains("importing"), "{local}");
    world.one.assert_tidy();
    world.other.assert_tidy();
}

#[test]
fn only_what_comes_after_a_change_runs() {
    if unable() {
        return;
    }
    let world = World::new(PLAIN);
    world.publish();
    world.dockerfile(&PLAIN.replace("> /last", "/id > /last"));
    let changed = world.reuse().args(["-o", "out"]).run().success();
    assert_eq!(ran(&changed), ["RUN cat /w/c /id > /last"], "{changed}");
    assert!(changed.stderr.contains("[internal] pull"), "{changed}");
    let id = content(&world.other, "id");
    assert_eq!(content(&world.other, "last"), format!("b\n{id}"));

    // A file that changed, with the same Dockerfile: from its copy on.
    world.other.forget();
    world.dockerfile(PLAIN);
    world.other.write("context/b", "B\n");
    let changed = world.reuse().args(["-o", "out"]).run().success();
    assert_eq!(ran(&changed), ["COPY b /w/c", "RUN cat /w/c > /last"], "{changed}");
    assert_eq!(content(&world.other, "last"), "B\n");
    assert_eq!(content(&world.other, "id"), id);
    world.other.assert_tidy();
}

/// Two stages that are not in the image, one of which the other needs.
const STAGES: &str = "FROM BUSYBOX AS tools\n\
    RUN cat /proc/sys/kernel/random/uuid > /tool\n\
    FROM BUSYBOX AS build\n\
    RUN mkdir /src\n\
    COPY a /src/a\n\
    COPY --from=tools /tool /tool\n\
    RUN --mount=type=bind,from=tools,source=/tool,target=/t cat /src/a /t > /out\n\
    FROM BUSYBOX\n\
    COPY --from=build /out /out\n\
    COPY --link b /linked/\n\
    RUN cat /out /linked/b > /final\n";

#[test]
fn stages_that_are_not_in_the_image_are_not_needed() {
    if unable() {
        return;
    }
    let world = World::new(STAGES);
    world.publish();
    let records = records(&world.name());
    let with_layers = records.iter().filter(|record| record["layers"].is_array() || record["chains"].is_array());
    // The layers of the other stages are nowhere.
    assert_eq!(with_layers.count(), 3, "{records:?}");
    assert!(records.iter().any(|record| record["chains"].is_array()), "{records:?}");

    let again = world.registry.name("again:1");
    let reused = world.reuse().args(["--cache-to", "type=inline", "--push", "-t", &again]).run().success();
    assert!(ran(&reused).is_empty(), "{reused}");
    assert_eq!(reused.cached().len(), 8, "{reused}");
    assert_eq!(digest(&again), digest(&world.name()));

    // What is known by its key alone is known without the registry, too.
    let offline = build(&world.other, "context").args(["-o", "type=cacheonly"]).run().success();
    assert!(ran(&offline).is_empty() && offline.cached().len() == 8, "{offline}");

    // A third machine, and a change that needs nothing of the other stages.
    world.other.forget();
    let late = STAGES.replace("/linked/b >", "/linked/b /linked/b >");
    world.dockerfile(&late);
    let next = world.registry.name("next:1");
    let changed = build(&world.other, "context").args(["--cache-from", &again]);
    let changed = changed.args(["--cache-to", "type=inline", "--push", "-t", &next]).run().success();
    assert_eq!(ran(&changed), ["RUN cat /out /linked/b /linked/b > /final"], "{changed}");

    // One that needs them: they have to be made.
    world.other.forget();
    world.dockerfile(&late.replace("/out /out", "/out /tool /"));
    let changed = build(&world.other, "context").args(["--cache-from", &next, "-o", "out"]);
    let changed = changed.run().success();
    let mut steps = ran(&changed);
    steps.sort();
    let expected = [
        "COPY --from=build /out /tool /",
        "COPY --from=tools /tool /tool",
        "COPY a /src/a",
        "RUN --mount=type=bind,from=tools,source=/tool,target=/t cat /src/a /t > /out",
        "RUN cat /out /linked/b /linked/b > /final",
        "RUN cat /proc/sys/kernel/random/uuid > /tool",
        "RUN mkdir /src",
    ];
    assert_eq!(steps, expected, "{changed}");
    assert_eq!(changed.cached(), ["[stage-2 2/4] COPY --link b /linked/"], "{changed}");
    let tool = content(&world.other, "tool");
    assert_eq!(content(&world.other, "final"), format!("a\n{tool}b\nb\n"));
    world.one.assert_tidy();
    world.other.assert_tidy();
}

#[test]
fn what_is_equal_in_content_is_found_however_it_was_made() {
    if unable() {
        return;
    }
    let text = "FROM BUSYBOX AS build\nRUN echo same > /out\n\
        FROM BUSYBOX\nCOPY --from=build /out /\nRUN cat /proc/sys/kernel/random/uuid > /id\n";
    let world = World::new(text);
    world.publish();
    let other = text.replace("same >", "sa''me >");
    world.dockerfile(&other);
    let again = world.registry.name("again:1");
    let reused = world.reuse().args(["--cache-to", "type=inline", "--push", "-t", &again]).run().success();
    assert_eq!(ran(&reused), ["RUN echo sa''me > /out"], "{reused}");
    assert_eq!(blobs(&again), blobs(&world.name()));

    // And from there under both keys.
    for text in [&other, text] {
        world.other.forget();
        world.dockerfile(text);
        let reused = build(&world.other, "context").args(["--cache-from", &again, "-o", "type=cacheonly"]).run();
        let reused = reused.success();
        assert!(reused.cached().len() >= 2 && reused.cached().iter().any(|step| step.contains("uuid")), "{reused}");
    }
}

#[test]
fn every_platform_has_its_own() {
    if unable() {
        return;
    }
    let world = World::new("FROM scratch\nARG TARGETARCH\nCOPY a /\nCOPY b /$TARGETARCH\n");
    let platforms = ["--platform", "linux/amd64,linux/arm64"];
    push(&world.one, &world.name()).args(platforms).run().success();
    let again = world.registry.name("again:1");
    let reused = world.reuse().args(platforms).args(["--cache-to=type=inline", "--push", "-t", &again]).run().success();
    assert!(ran(&reused).is_empty(), "{reused}");
    assert_eq!(digest(&again), digest(&world.name()));
    for platform in ["linux/amd64", "linux/arm64"] {
        world.other.forget();
        let one = world.reuse().args(["--platform", platform, "-o", "type=cacheonly"]).run().success();
        assert!(ran(&one).is_empty(), "{one}");
    }
    world.other.assert_tidy();
}

#[test]
fn the_cache_is_in_the_image_only_where_it_was_asked_for() {
    if unable() {
        return;
    }
    let world = World::new("FROM BUSYBOX\nRUN echo x > /x\n");
    let plain = world.registry.name("plain:1");
    build(&world.one, "context").args(["--push", "-t", &plain]).run().success();
    assert_eq!(config(&plain).get(MEMBER), None);
    world.publish();
    let by_argument = world.registry.name("argument:1");
    for (value, same) in [("1", &world.name()), ("true", &world.name()), ("0", &plain), ("yes", &plain)] {
        let argument = format!("BUILDKIT_INLINE_CACHE={value}");
        let built = build(&world.one, "context").args(["--build-arg", &argument, "--push", "-t", &by_argument]).run();
        assert!(!built.success().stderr.contains("warning"));
        assert_eq!(digest(&by_argument), digest(same), "{value}");
    }
    assert_eq!(config(&plain)["history"], config(&world.name())["history"]);
    // What is built on top does not take it over: it is about other layers.
    world.dockerfile(&format!("FROM {}\nRUN echo y > /y\n", world.name()));
    build(&world.one, "context").args(["--push", "-t", &plain]).run().success();
    assert_eq!(config(&plain).get(MEMBER), None);
    // In archives it is, too.
    build(&world.one, "context").args(["--cache-to=type=inline", "-o", "type=oci,dest=image.tar"]).run().success();
    let archive = Image::fetch(&Source::OciArchive(world.one.path("image.tar")));
    assert!(serde_json::to_value(&archive.config).expect("JSON").get(MEMBER).is_some());
}

#[test]
fn what_was_forced_to_run_is_found_by_others() {
    if unable() {
        return;
    }
    let world = World::new(PLAIN);
    world.publish();
    push(&world.one, &world.name()).arg("--no-cache").run().success();
    let reused = world.reuse().args(["-o", "type=cacheonly"]).run().success();
    assert!(ran(&reused).is_empty(), "{reused}");
    // And who forces it finds nothing.
    world.other.forget();
    let forced = world.reuse().args(["--no-cache", "-o", "type=cacheonly"]).run().success();
    assert_eq!(forced.cached(), ["[2/8] WORKDIR /w"], "{forced}");
    assert_eq!(ran(&forced).len(), 6, "{forced}");
}

#[test]
fn times_that_were_clamped_are_so_again() {
    if unable() {
        return;
    }
    let world = World::new(PLAIN);
    let flags = ["--build-arg=SOURCE_DATE_EPOCH=1000000000", "--cache-to=type=inline"];
    let output = |name: &str| format!("type=registry,name={name},rewrite-timestamp=true");
    build(&world.one, "context").args(flags).args(["-o", &output(&world.name())]).run().success();
    let again = world.registry.name("again:1");
    let reused = world.reuse().args(flags).args(["-o", &output(&again)]).run().success();
    assert!(ran(&reused).is_empty(), "{reused}");
    assert_eq!(digest(&again), digest(&world.name()));
}

#[test]
fn what_was_made_here_comes_before_what_others_made() {
    if unable() {
        return;
    }
    // The same content everywhere, with another time each time that it is made.
    let text = "FROM BUSYBOX AS build\n\
        RUN echo same > /out && touch -d @$(od -An -N3 -tu4 /dev/urandom | tr -d ' ') /out\n\
        FROM BUSYBOX\nCOPY --from=build /out /\n";
    let other = text.replace("same >", "sa''me >");
    let world = World::new(text);
    world.publish();
    let mine = world.registry.name("mine:1");
    build(&world.other, "context").args(["--push", "-t", &mine]).run().success();
    assert_ne!(blobs(&mine), blobs(&world.name()));
    // The first machine gets there by another way, and says so.
    world.dockerfile(&other);
    world.publish();
    let again = world.registry.name("again:1");
    let reused = world.reuse().args(["--push", "-t", &again]).run().success();
    assert!(ran(&reused).is_empty() && reused.stderr.contains("importing"), "{reused}");
    assert_eq!(blobs(&again), blobs(&mine));
}

#[test]
fn several_caches_are_looked_in() {
    if unable() {
        return;
    }
    let world = World::new(
        "FROM BUSYBOX AS a\nRUN cat /proc/sys/kernel/random/uuid > /a\n\
        FROM BUSYBOX AS b\nCOPY b /b\nRUN cat /proc/sys/kernel/random/uuid >> /b\n",
    );
    let names = ["a", "b"].map(|stage| world.registry.name(stage));
    for (stage, name) in ["a", "b"].iter().zip(&names) {
        push(&world.one, name).args(["--target", stage]).run().success();
    }
    let text = fs::read_to_string(world.one.path("context/Dockerfile")).expect("the Dockerfile");
    world.dockerfile(&format!("{text}FROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n"));
    let list = format!("{},{}", world.registry.name("nothing"), names[0]);
    let flags = ["--cache-from", &list, &format!("--cache-from=type=registry,ref={}", names[1])];
    let built = build(&world.other, "context").args(flags).args(["-o", "out"]).run().success();
    assert_eq!(ran(&built), ["COPY --from=a /a /", "COPY --from=b /b /"], "{built}");
    for name in names.iter().chain([&world.registry.name("nothing")]) {
        assert!(built.stderr.contains(&format!("importing cache manifest from {name}:latest")), "{built}");
    }
    assert_eq!(built.stderr.matches(" - cache-import: ").count(), 1, "{built}");
    world.other.assert_tidy();
}

#[test]
fn what_is_not_meant_is_told_once_however_often_a_step_waits() {
    if unable() {
        return;
    }
    let world = World::new(
        "FROM BUSYBOX AS build\nRUN mkdir /src\nCOPY .env /src/\nRUN cp /src/.env /out\nFROM BUSYBOX\nCOPY --from=build /out /\n",
    );
    for (bed, value) in [(&world.one, "1"), (&world.other, "2")] {
        bed.write("context/.env", format!("A={value}\n"));
    }
    world.publish();
    // `mkdir` is known and has no layer; the copy needs it, as there is something else to copy.
    let built = world.reuse().args(["-o", "out"]).run().success();
    assert_eq!(ran(&built), ["RUN mkdir /src", "COPY .env /src/", "RUN cp /src/.env /out", "COPY --from=build /out /"]);
    assert_eq!(built.stderr.matches(" - copied-secrets").count(), 1, "{built}");
    assert_eq!(content(&world.other, "out"), "A=2\n");
}

/// The digest of the layer that the first step whose name has `text` in it made.
fn layer(name: &str, text: &str) -> String {
    let config = config(name);
    let history = config["history"].as_array().expect("a history").iter();
    let layers = history.filter(|entry| entry["empty_layer"] != true);
    let at = layers.clone().position(|entry| entry["created_by"].as_str().is_some_and(|by| by.contains(text)));
    blobs(name)[at.unwrap_or_else(|| panic!("{text}"))].clone()
}

#[test]
fn a_step_whose_layer_is_gone_runs() {
    if unable() {
        return;
    }
    let world = World::new(PLAIN);
    world.publish();
    let gone = layer(&world.name(), "uuid");
    fs::remove_file(world.registry.blob(&gone)).expect("the layer");
    let reused = world.reuse().args(["-o", "out"]).run().success();
    let reused = reused.says(&["cache-import: ", "has lost layers of its cache", &gone]);
    assert_eq!(ran(&reused)[0], "RUN cat a > b && cat /proc/sys/kernel/random/uuid > /id", "{reused}");
    assert!(!ran(&reused).iter().any(|step| step.starts_with("COPY a") || step.starts_with("WORKDIR")), "{reused}");
    assert_eq!(reused.stderr.matches(" - cache-import").count(), 1, "{reused}");
    assert_eq!(content(&world.other, "last"), "b\n");
    world.other.assert_tidy();
}

#[test]
fn a_step_whose_layer_is_spoiled_runs() {
    if unable() {
        return;
    }
    let world = World::new(PLAIN);
    world.publish();
    let path = world.registry.blob(&layer(&world.name(), "uuid"));
    let mut bytes = fs::read(&path).expect("the layer");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    fs::remove_file(&path).expect("the layer");
    fs::write(&path, bytes).expect("another one");
    let reused = world.reuse().args(["-o", "out"]).run().success();
    let reused = reused.says(&["cache-import: a step that was cached ran again: "]);
    assert!(ran(&reused).iter().any(|step| step.contains("uuid")), "{reused}");
    assert_eq!(reused.stderr.matches(" - cache-import").count(), 1, "{reused}");
    assert_eq!(content(&world.other, "last"), "b\n");
    // Now it has its own.
    let again = build(&world.other, "context").args(["-o", "out"]).run().success();
    assert!(ran(&again).is_empty() && !again.stderr.contains("cache-import"), "{again}");
    world.other.assert_tidy();
}

/// A machine that knows the steps of a cache, after the registry has lost a layer of one of them.
fn after_a_loss() -> World {
    let world = World::new(PLAIN);
    world.publish();
    world.reuse().args(["-o", "type=cacheonly"]).run().success();
    fs::remove_file(world.registry.blob(&layer(&world.name(), "uuid"))).expect("the layer");
    world
}

#[test]
fn a_layer_that_a_push_finds_gone_is_made_again() {
    if unable() {
        return;
    }
    let world = after_a_loss();
    let name = world.registry.name("else:1");
    let pushed = build(&world.other, "context").args(["--push", "-t", &name]).run().success();
    let pushed = pushed.says(&["a step that was cached ran again"]);
    assert!(ran(&pushed).iter().any(|step| step.contains("uuid")), "{pushed}");
    // Whoever reads the image reads all of it.
    Image::fetch(&Source::Registry(name));
    world.other.assert_tidy();
}

#[test]
fn a_layer_that_a_command_finds_gone_is_made_again() {
    if unable() {
        return;
    }
    let world = after_a_loss();
    world.dockerfile(&PLAIN.replace("> /last", "/id > /last"));
    let built = build(&world.other, "context").args(["-o", "out"]).run().success();
    let built = built.says(&["a step that was cached ran again"]);
    let id = content(&world.other, "id");
    assert_eq!(content(&world.other, "last"), format!("b\n{id}"), "{built}");
    world.other.assert_tidy();
}

#[test]
fn a_cache_that_cannot_be_had_costs_no_build() {
    if unable() {
        return;
    }
    let (bed, fake) = (bed(), Registry::start());
    dockerfile(&bed, "context", "FROM busybox\nRUN true\n");
    // One that is not there, one of nobody's, one that is locked, and several that are nonsense.
    let image = |name: &str, cache: Value| {
        let diff_id = format!("sha256:{}", "0".repeat(64));
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [diff_id]}, MEMBER: cache,
        });
        let config = fake.put_blob(name, "application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let layer = fake.put_blob(name, "application/vnd.oci.image.layer.v1.tar", b"nothing");
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer]});
        fake.put_manifest(name, "latest", kind, manifest.to_string().as_bytes());
    };
    // `[{"inputs":[[{"link":0}]]}]`, which is a circle, and `[{"digest":"sha256:00","layers":[{"layer":0}]}]`.
    image("circle", "W3siaW5wdXRzIjpbW3sibGluayI6MH1dXX1d".into());
    image("foreign", "W3siZGlnZXN0Ijoic2hhMjU2OjAwIiwibGF5ZXJzIjpbeyJsYXllciI6MH1dfV0=".into());
    image("noise", "***".into());
    image("locked", Value::Null);
    image("plain", Value::Null);
    fake.fault("GET", "/v2/locked/", u32::MAX, Fault::status(403));
    let closed = kiln_testkit::free_port();
    let check = |name: &str, expected: &[&str]| {
        bed.forget();
        let built = build(&bed, "context").args(["--cache-from", name]).run().success();
        assert_eq!(ran(&built), ["RUN true"], "{built}");
        let warnings = built.stderr.matches(" - cache-import: cannot import the cache of").count();
        assert_eq!(warnings, usize::from(!expected.is_empty()), "{built}");
        built.says(expected).says(&["importing cache manifest from"]);
    };
    let named = |name: &str| format!("{}/{name}", fake.address());
    check(&named("nothing"), &["not found"]);
    check(&format!("127.0.0.1:{closed}/app"), &["connection refused"]);
    check(&named("locked"), &["refuses access"]);
    check(&named("circle"), &["circle of records"]);
    check(&named("noise"), &["no base64"]);
    check(&named("foreign"), &[]);
    check(&named("plain"), &[]);
    let both = build(&bed, "context").args(["--cache-from", &named("noise"), "--no-cache-filter=0"]).run().success();
    assert!(!both.stderr.contains("importing"), "nobody asked: {both}");
    bed.assert_tidy();
}
