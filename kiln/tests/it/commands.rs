//! What can be done with images after they are built.

use kiln_testkit::registry::Registry;
use kiln_testkit::{Bed, Container, DockerRegistry, Image, Source};

use crate::fixture::{bed, build, dockerfile, unable};

fn greeting(bed: &Bed) {
    dockerfile(
        bed,
        "context",
        "FROM busybox\nLABEL purpose=greeting\nRUN echo hello > /greeting\nCMD [\"cat\", \"/greeting\"]\n",
    );
}

#[test]
fn an_image_is_listed_named_and_forgotten() {
    if unable() {
        return;
    }
    let bed = bed();
    greeting(&bed);
    build(&bed, "context").args(["-t", "greeting:1"]).run().success();
    let listed = bed.kiln(["images"]).run().success().text();
    assert!(listed.lines().any(|line| line.contains("greeting") && line.contains('1')), "{listed}");

    bed.kiln(["tag", "greeting:1", "salute:2"]).run().success();
    let listed = bed.kiln(["images"]).run().success().text();
    assert!(listed.contains("salute"), "{listed}");

    bed.kiln(["rmi", "greeting:1"]).run().success();
    let listed = bed.kiln(["images"]).run().success().text();
    assert!(listed.contains("salute") && !listed.contains("greeting"), "{listed}");
    bed.kiln(["inspect", "salute:2"]).run().success();
    bed.kiln(["inspect", "greeting:1"]).run().failure().says(&["greeting:1"]);
    bed.kiln(["rmi", "greeting:1"]).run().failure().says(&["greeting:1"]);
    bed.kiln(["tag", "greeting:1", "x"]).run().failure().says(&["greeting:1"]);
}

#[test]
fn an_image_without_a_name_gets_one_by_what_the_build_suggests() {
    if unable() {
        return;
    }
    let bed = bed();
    greeting(&bed);
    let built = build(&bed, "context").args(["--iidfile", "id"]).run().success();
    let id = std::fs::read_to_string(bed.path("id")).expect("an id");
    let short = &id["sha256:".len()..][..12];
    built.says(&[&format!("`kiln tag {short} NAME`")]);
    assert!(bed.kiln(["inspect", &id]).run().success().text().contains("/greeting"));
    bed.kiln(["rmi", short]).run().failure().says(&["has no name", "kiln prune"]);
    bed.kiln(["tag", short, "greeting:2"]).run().success();
    let listed = bed.kiln(["images"]).run().success().text();
    assert!(listed.contains("greeting") && listed.contains(short), "{listed}");
    bed.kiln(["tag", "0123456789ab", "x"]).run().failure().says(&["no such image"]);
}

#[test]
fn an_image_says_what_it_is_and_how_it_came_about() {
    if unable() {
        return;
    }
    let bed = bed();
    greeting(&bed);
    build(&bed, "context").args(["-t", "greeting"]).run().success();
    let inspected = bed.kiln(["inspect", "greeting"]).run().success().text();
    let document: serde_json::Value = serde_json::from_str(&inspected).expect("JSON");
    let text = document.to_string();
    assert!(text.contains("\"purpose\":\"greeting\"") && text.contains("/greeting"), "{text}");
    let history = bed.kiln(["history", "greeting"]).run().success().text();
    for step in ["RUN", "echo hello > /greeting", "CMD [\"cat\" \"/greeting\"]", "LABEL purpose=greeting"] {
        assert!(history.contains(step), "{step} is missing in\n{history}");
    }
}

#[test]
fn an_image_goes_to_a_registry_and_comes_back() {
    if unable() {
        return;
    }
    let registry = DockerRegistry::empty();
    let name = registry.name("team/greeting:1");
    let bed = bed();
    greeting(&bed);
    build(&bed, "context").args(["-t", "greeting"]).run().success();
    bed.kiln(["tag", "greeting", &name]).run().success();
    bed.kiln(["push", &name]).run().success();
    let image = Image::fetch(&Source::Registry(name.clone()));
    assert_eq!(Container::of(&image).output(), "hello\n");

    bed.forget();
    bed.kiln(["pull", &name]).run().success();
    let listed = bed.kiln(["images"]).run().success().text();
    assert!(listed.contains("team/greeting"), "{listed}");
    let again = registry.name("team/again:1");
    bed.kiln(["tag", &name, &again]).run().success();
    bed.kiln(["push", &again]).run().success();
    assert_eq!(Image::fetch(&Source::Registry(again)).manifest, image.manifest);

    // The pulled image is a base like any other.
    dockerfile(&bed, "next", &format!("FROM {name}\nRUN cat /greeting /greeting > /twice\n"));
    build(&bed, "next").run().success();
    bed.kiln(["pull", &registry.name("team/nothing:1")]).run().failure().says(&["team/nothing:1"]);
    bed.kiln(["push", "not-built:1"]).run().failure().says(&["not-built:1"]);
    bed.assert_tidy();
}

#[test]
fn what_a_registry_has_is_pushed_with_one_question() {
    let registry = Registry::start();
    let name = format!("{}/team/app", registry.address());
    let bed = bed();
    dockerfile(&bed, "context", "FROM scratch\nCOPY Dockerfile /one\nCOPY Dockerfile /two\n");
    let push = |tag: &str, more: &[&str]| {
        let before = registry.exchanges().len();
        let name = format!("{name}:{tag}");
        bed.kiln(["build", "--push", "-t", &name, "context"]).args(more).run().success();
        let exchanges = registry.exchanges().split_off(before);
        exchanges.iter().map(|it| format!("{} {}", it.request.method, it.request.path())).collect::<Vec<_>>()
    };
    let first = push("1", &[]);
    assert_eq!(first.iter().filter(|line| line.starts_with("PUT")).count(), 4, "{first:#?}");
    assert_eq!(push("1", &[]), ["HEAD /v2/team/app/manifests/1"]);
    // Another name is another question; what is there is not sent again.
    let second = push("2", &[]);
    let sent: Vec<_> = second.iter().filter(|line| !line.starts_with("HEAD")).collect();
    assert_eq!(sent, ["PUT /v2/team/app/manifests/2"], "{second:#?}");
    push("3", &["--platform=linux/amd64,linux/arm64"]);
    assert_eq!(push("3", &["--platform=linux/amd64,linux/arm64"]), ["HEAD /v2/team/app/manifests/3"]);
}

#[test]
fn a_build_uses_what_another_build_left_in_the_store() {
    if unable() {
        return;
    }
    let bed = bed();
    greeting(&bed);
    build(&bed, "context").args(["-t", "company/base:1"]).run().success();
    dockerfile(&bed, "next", "FROM company/base:1\nRUN test \"$(cat /greeting)\" = hello\n");
    build(&bed, "next").run().success();
}

#[test]
fn prune_gives_the_space_back_and_keeps_what_has_a_name() {
    if unable() {
        return;
    }
    let bed = bed();
    greeting(&bed);
    build(&bed, "context").args(["-t", "greeting"]).run().success();
    dockerfile(&bed, "other", "FROM busybox\nRUN dd if=/dev/urandom of=/big bs=1M count=8 2>/dev/null\n");
    build(&bed, "other").run().success();
    let size = |bed: &Bed| {
        let output = std::process::Command::new("du").args(["-sk"]).arg(bed.root()).output().expect("du");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).expect("a number")
    };
    let before = size(&bed);
    bed.kiln(["prune", "--all", "--force"]).run().success();
    let after = size(&bed);
    assert!(after + 8000 <= before, "{before} KiB before, {after} KiB after");
    bed.kiln(["inspect", "greeting"]).run().success();
    build(&bed, "context").args(["-o", "type=oci,dest=image.tar"]).run().success();
    assert_eq!(Container::of(&Image::fetch(&Source::OciArchive(bed.path("image.tar")))).output(), "hello\n");
    bed.assert_tidy();
}

#[test]
fn the_program_says_its_version_and_its_commands() {
    let bed = bed();
    let version = bed.kiln(["version"]).run().success().text();
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    let help = bed.kiln(["--help"]).run().success().text();
    for command in ["build", "images", "tag", "rmi", "push", "pull", "history", "inspect", "prune", "version"] {
        assert!(help.contains(command), "{command} is missing in\n{help}");
    }
    bed.kiln(["biuld"]).run().failure().says(&["biuld", "build"]);
}
