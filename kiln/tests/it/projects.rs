//! The projects of `testdata/projects`: built, pushed, pulled by another tool, started, asked;
//! then one file is edited, and the rebuild is compared with a clean build.

use std::fs;
use std::path::Path;

use kiln_testkit::{Bed, Container, DockerRegistry, Image, Outcome, Source, differences, flatten};

use crate::fixture::{bed, unable};

/// One project and what is known about it.
struct Project {
    name: &'static str,
    /// The name in `FROM` and the image that stands for it.
    base: Option<(&'static str, &'static str)>,
    /// The edit: a file and the replacement in it.
    edit: (&'static str, &'static str, &'static str),
    /// Looks at the running result, before and after the edit.
    check: fn(&mut Container, bool),
    /// Ends of the names of steps that the edit must leave alone …
    cached: &'static [&'static str],
    /// … and of those that it must run again.
    ran: &'static [&'static str],
}

/// What the context holds besides the project, and what must not arrive.
const JUNK: [&str; 5] =
    [".git/config", ".env", "node_modules/left/index.js", "stale.pyc", "__pycache__/app.cpython-311.pyc"];

fn prove(project: &Project) {
    if unable() {
        return;
    }
    let registry = DockerRegistry::with_bases();
    let bed = bed();
    let context =
        bed.copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/projects").join(project.name), "context");
    for name in JUNK {
        bed.write(Path::new("context").join(name), "SECRET=do-not-ship\n");
    }

    let first = build(&bed, project, &registry, "first");
    let image = Image::fetch(&Source::Registry(registry.name("app:first")));
    check(project, &image, false);
    // Stages that begin alike share their first steps; nothing else can be cached yet.
    let cached: Vec<_> = first.cached().into_iter().filter(|step| !step.contains("WORKDIR")).collect();
    assert!(cached.is_empty(), "{cached:?} cannot be cached yet: {first}");

    // Nothing changed: nothing runs.
    let again = build(&bed, project, &registry, "again");
    assert!(again.ran().iter().all(|step| step.contains("FROM")), "ran {:?}: {again}", again.ran());
    let same = Image::fetch(&Source::Registry(registry.name("app:again")));
    assert_eq!(same.manifest, image.manifest);

    let (file, old, new) = project.edit;
    let text = fs::read_to_string(context.join(file)).expect("a file of the project");
    assert!(text.contains(old), "{file} of the project has changed");
    fs::write(context.join(file), text.replace(old, new)).expect("a file");
    let edited = build(&bed, project, &registry, "edited");
    for step in project.cached {
        assert!(edited.cached().iter().any(|name| name.ends_with(step)), "{step:?} should be cached: {edited}");
    }
    for step in project.ran {
        assert!(edited.ran().iter().any(|name| name.ends_with(step)), "{step:?} should run: {edited}");
    }
    let image = Image::fetch(&Source::Registry(registry.name("app:edited")));
    check(project, &image, true);

    bed.forget();
    build(&bed, project, &registry, "clean");
    let clean = Image::fetch(&Source::Registry(registry.name("app:clean")));
    assert_equal(&image, &clean);
}

fn build(bed: &Bed, project: &Project, registry: &DockerRegistry, tag: &str) -> Outcome {
    let mut kiln = bed.kiln(["build", "--progress=plain", "--push", "-t", &registry.name(&format!("app:{tag}"))]);
    if let Some((name, stand_in)) = project.base {
        kiln = kiln.arg("--build-context").arg(format!("{name}=docker-image://{}", registry.name(stand_in)));
    } else {
        kiln = kiln.arg("--build-arg").arg(format!("REGISTRY={}", registry.address()));
    }
    let outcome = kiln.arg(bed.path("context")).run().success();
    bed.assert_tidy();
    outcome
}

fn check(project: &Project, image: &Image, edited: bool) {
    let tree = flatten(&image.layers());
    for name in JUNK {
        let arrived: Vec<_> = tree.keys().filter(|path| path.ends_with(&format!("/{name}")) || *path == name).collect();
        assert!(arrived.is_empty(), "`.dockerignore` names {name}, and it arrived: {arrived:?}");
    }
    (project.check)(&mut Container::of(image), edited);
}

/// How much of a path depends on the time or on chance whoever builds it: times in byte code
/// and logs, addresses in caches.
fn chance(path: &str) -> Option<bool> {
    let name = path.rsplit('/').next().unwrap_or(path);
    if path.starts_with("root/.npm/") || path.starts_with("tmp/") {
        return Some(true);
    }
    let varies = name.ends_with(".pyc")
        || path.starts_with("var/log/")
        || path.starts_with("var/cache/ldconfig/")
        || path.starts_with("var/cache/apt/")
        || name == ".package-lock.json";
    varies.then_some(false)
}

fn assert_equal(one: &Image, other: &Image) {
    let (left, right) = (one.layers(), other.layers());
    assert_eq!(left.len(), right.len(), "other layers");
    for (number, (left, right)) in left.iter().zip(&right).enumerate() {
        let found = differences(left, right, chance);
        assert!(found.is_empty(), "layer {number} differs:\n{}", found.join("\n"));
    }
    let without_times = |image: &Image| {
        let mut config = image.config.clone();
        config.created = None;
        config.rootfs.diff_ids.clear();
        for step in &mut config.history {
            step.created = None;
        }
        config
    };
    assert_eq!(without_times(one), without_times(other));
}

#[test]
fn a_python_web_app() {
    prove(&Project {
        name: "python-web",
        base: Some(("python:3.12-slim", "python:slim")),
        edit: ("greetings.py", "Hello, ", "Good evening, "),
        check: |container, edited| {
            let hello = if edited { "Good evening, Ada!\n" } else { "Hello, Ada!\n" };
            assert_eq!(container.answer("/?name=Ada"), hello);
            assert_eq!(container.answer("/whoami"), "appuser\n");
        },
        cached: &["WORKDIR /app", "COPY requirements.txt .", "RUN pip install --no-cache-dir -r requirements.txt"],
        ran: &["COPY . .", "RUN useradd -m appuser && chown -R appuser:appuser /app"],
    });
}

#[test]
fn the_config_of_a_web_app_says_how_to_run_and_watch_it() {
    if unable() {
        return;
    }
    let bed = bed();
    let context = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/projects/python-web");
    let text = fs::read_to_string(context.join("Dockerfile")).expect("the project's Dockerfile");
    // The config does not depend on what the commands do, so this test spares itself the installs.
    let text: String = text.lines().filter(|line| !line.starts_with("RUN ")).map(|line| format!("{line}\n")).collect();
    bed.copy(&context, "context");
    bed.write("context/Dockerfile", text.replace("python:3.12-slim", "busybox"));
    let archive = bed.path("image.tar");
    crate::fixture::build(&bed, "context")
        .arg("-o")
        .arg(format!("type=oci,dest={}", archive.display()))
        .run()
        .success();
    let config = Image::fetch(&Source::OciArchive(archive)).config.config;
    assert_eq!(config.user, "appuser");
    assert_eq!(config.working_dir, "/app");
    assert_eq!(config.cmd, ["python", "app.py"]);
    assert_eq!(config.exposed_ports.keys().collect::<Vec<_>>(), ["8000/tcp"]);
    assert!(config.env.contains(&"PORT=8000".to_owned()), "{:?}", config.env);
    let healthcheck = serde_json::to_value(config.healthcheck.expect("the Dockerfile has one")).expect("JSON");
    assert_eq!(healthcheck["Test"][0], "CMD-SHELL");
    assert_eq!(healthcheck["Interval"], 30_000_000_000_u64);
    assert_eq!(healthcheck["Retries"], 3);
}

#[test]
fn a_python_app_in_two_stages() {
    prove(&Project {
        name: "python-two-stage",
        base: Some(("python:3.12-slim", "python:slim")),
        edit: ("app.py", "from {", "in {"),
        check: |container, edited| {
            let word = if edited { "in" } else { "from" };
            let answer = container.answer("/");
            assert!(answer.starts_with(&format!("bottle 0.13.2 {word} /root/.local/lib/python")), "{answer}");
            assert!(container.answer("/path").starts_with("/root/.local/bin:/usr/local/sbin:"));
        },
        cached: &["COPY --from=builder /root/.local /root/.local"],
        ran: &["COPY . ."],
    });
}

#[test]
fn a_node_app() {
    prove(&Project {
        name: "node-app",
        base: Some(("node:20-slim", "node:slim")),
        edit: ("src/server.js", "two days are", "48 hours are"),
        check: |container, edited| {
            let words = if edited { "48 hours are" } else { "two days are" };
            assert_eq!(container.answer("/convert"), format!("{words} 172800000 ms\n"));
            assert_eq!(container.answer("/"), "uptime 1.0.0\n");
        },
        cached: &["COPY package*.json ./", "RUN npm install"],
        ran: &["COPY . .", "RUN npm run build"],
    });
}

#[test]
fn a_compiled_server_alone_in_scratch() {
    prove(&Project {
        name: "static-server",
        base: Some(("gcc:12", "gcc:12")),
        edit: ("src/message.h", "compiled and static", "compiled again"),
        check: |container, edited| {
            let message = if edited { "compiled again\n" } else { "compiled and static\n" };
            assert_eq!(container.answer("/"), message);
            let files: Vec<_> = fs::read_dir(container.rootfs())
                .expect("the unpacked image")
                .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
                .filter(|name| !["dev", "proc", "sys", "etc", "run"].contains(&name.as_str()))
                .collect();
            assert_eq!(files, ["server"]);
            let size = fs::metadata(container.rootfs().join("server")).expect("the program").len();
            assert!(size < 20_000_000, "{size} bytes");
        },
        cached: &["COPY Makefile ./"],
        ran: &["COPY src/ src/", "RUN make", "COPY --from=builder /app/server ."],
    });
}

#[test]
fn packages_of_a_distribution_and_whiteouts() {
    prove(&Project {
        name: "apt-base",
        base: Some(("debian:12-slim", "debian:12-slim")),
        edit: ("orders.json", "\"price\": 12", "\"price\": 15"),
        check: |container, edited| {
            let total = if edited { 45 } else { 42 };
            assert_eq!(container.output(), format!("{{\"names\":[\"kettle\",\"teapot\"],\"total\":{total}}}\n"));
            let inside = |path: &str| container.rootfs().join(path);
            assert!(!inside("usr/share/common-licenses").exists());
            let documentation: Vec<_> = fs::read_dir(inside("usr/share/doc"))
                .expect("the new folder")
                .map(|entry| entry.expect("an entry").file_name())
                .collect();
            assert_eq!(documentation, ["README"]);
            assert_eq!(fs::read_dir(inside("var/lib/apt/lists")).expect("the folder stays").count(), 0);
        },
        cached: &["&& rm -rf /var/lib/apt/lists/*", "> /usr/share/doc/README"],
        ran: &["COPY . /data/"],
    });
}

#[test]
fn copying_before_installing_installs_again() {
    prove(&Project {
        name: "bad-order",
        base: Some(("python:3.12-slim", "python:slim")),
        edit: ("main.py", "thing=\"image\"", "thing=\"kiln\""),
        check: rendered,
        cached: &["WORKDIR /app"],
        ran: &["COPY . .", "RUN pip install --no-cache-dir -r requirements.txt"],
    });
}

#[test]
fn copying_after_installing_installs_once() {
    prove(&Project {
        name: "good-order",
        base: Some(("python:3.12-slim", "python:slim")),
        edit: ("main.py", "thing=\"image\"", "thing=\"kiln\""),
        check: rendered,
        cached: &["COPY requirements.txt .", "RUN pip install --no-cache-dir -r requirements.txt"],
        ran: &["COPY . ."],
    });
}

fn rendered(container: &mut Container, edited: bool) {
    let thing = if edited { "kiln" } else { "image" };
    assert_eq!(container.output(), format!("the {thing} is ready\n"));
}

#[test]
fn a_base_named_with_its_registry() {
    prove(&Project {
        name: "registry-base",
        base: None,
        edit: ("names.txt", "Bo", "Cleo"),
        check: |container, edited| {
            let other = if edited { "Cleo" } else { "Bo" };
            assert_eq!(container.output(), format!("Good morning, Anna.\nGood morning, {other}.\n"));
        },
        cached: &["WORKDIR /srv"],
        ran: &["COPY greet.sh names.txt ./", "RUN chmod +x greet.sh && ./greet.sh names.txt > greetings.txt"],
    });
}
