//! Bytes that are not what they should be: in a registry, in a layout, in kiln's own store.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_testkit::context::{Compression, Entry, archive};
use kiln_testkit::git::{answer, git};
use kiln_testkit::{Bed, Container, DockerRegistry, Image, Kiln, Need, Response, Server, Source, bases, host};

use crate::fixture::{bed, build, dockerfile, unable};

/// Replaces the file by one of the same length that differs in the middle.
fn spoil(path: &Path) {
    let mut bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    // A new file: the old one may be shared by a hard link.
    fs::remove_file(path).expect("the file");
    fs::write(path, bytes).expect("a file");
}

#[test]
fn a_layer_that_is_spoiled_in_the_registry() {
    if unable() {
        return;
    }
    let registry = DockerRegistry::with_bases();
    let name = registry.name("busybox:latest");
    let layer = Image::fetch(&Source::Registry(name.clone())).manifest.layers[0].digest.to_string();
    let blob = registry.blob(&layer);
    let good = fs::read(&blob).expect("the layer");
    spoil(&blob);
    let bed = bed();
    dockerfile(&bed, "context", &format!("FROM {name}\nRUN echo x > /x\n"));
    build(&bed, "context").run().failure().says(&["Dockerfile:1", &layer]);
    bed.assert_tidy();
    fs::write(&blob, good).expect("the layer again");
    build(&bed, "context").run().success();
    bed.assert_tidy();
}

#[test]
fn a_layer_that_is_cut_off_in_the_registry() {
    if unable() {
        return;
    }
    let registry = DockerRegistry::with_bases();
    let name = registry.name("busybox:latest");
    let layer = Image::fetch(&Source::Registry(name.clone())).manifest.layers[0].digest.to_string();
    let blob = registry.blob(&layer);
    let good = fs::read(&blob).expect("the layer");
    fs::remove_file(&blob).expect("the layer");
    fs::write(&blob, &good[..good.len() / 3]).expect("a part of it");
    let bed = bed();
    dockerfile(&bed, "context", &format!("FROM {name}\nRUN echo x > /x\n"));
    build(&bed, "context").run().failure().says(&["Dockerfile:1", &layer]);
    bed.assert_tidy();
}

#[test]
fn a_layer_that_is_spoiled_in_a_layout() {
    if unable() {
        return;
    }
    let bed = bed();
    let layout = bed.path("layout");
    let copied = Command::new("skopeo")
        .args(["copy", "--quiet", "--insecure-policy"])
        .arg(format!("oci:{}:busybox", bases().layout.display()))
        .arg(format!("oci:{}:busybox", layout.display()))
        .status();
    assert!(copied.expect("skopeo").success());
    let layer =
        Image::fetch(&Source::Layout(layout.clone(), "busybox".to_owned())).manifest.layers[0].digest.to_string();
    spoil(&layout.join("blobs").join(layer.replace(':', "/")));
    dockerfile(&bed, "context", "FROM broken\nRUN echo x > /x\n");
    bed.kiln(["build", "--progress=plain", "--build-context"])
        .arg(format!("broken=oci-layout://{}:busybox", layout.display()))
        .arg(bed.path("context"))
        .run()
        .failure()
        .says(&[&layer]);
    bed.assert_tidy();
}

/// All files below `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files(&entry.path()));
        } else if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            found.push(entry.path());
        }
    }
    found
}

fn result(bed: &Bed, archive: &str) -> String {
    build(bed, "context").args(["-t", "app", "-o", &format!("type=oci,dest={archive}")]).run().success();
    Container::of(&Image::fetch(&Source::OciArchive(bed.path(archive)))).output()
}

/// Damage in the store costs time, never the build and never the right bytes.
fn survives(damage: impl Fn(&Path)) {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(
        &bed,
        "context",
        "FROM busybox\nCOPY file /file\nRUN cat /file /file > /twice\nCMD [\"cat\", \"/twice\"]\n",
    );
    bed.write("context/file", "content ");
    assert_eq!(result(&bed, "first.tar"), "content content ");
    damage(&bed.root());
    assert_eq!(result(&bed, "second.tar"), "content content ");
    bed.assert_tidy();
}

#[test]
fn spoiled_blobs_in_the_store_are_made_again() {
    survives(|root| {
        let blobs = files(&root.join("blobs"));
        assert!(!blobs.is_empty(), "the store keeps blobs");
        blobs.iter().for_each(|path| spoil(path));
    });
}

#[test]
fn what_has_gone_out_is_not_begun_again() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM scratch\nCOPY one /\nCOPY two /\n");
    for name in ["one", "two"] {
        bed.write(format!("context/{name}"), name.repeat(1 << 20));
    }
    let archive = || build(&bed, "context").args(["-o", "type=oci,dest=-"]).run();
    let whole = archive().success().stdout;
    let large =
        files(&bed.root().join("blobs")).into_iter().filter(|path| fs::metadata(path).expect("it").len() > 2000);
    spoil(&large.max().expect("a layer"));
    let outcome = archive().failure().says(&["damaged", "build again"]);
    assert_eq!(outcome.status.code(), Some(3), "{outcome}");
    assert_eq!(archive().success().stdout.len(), whole.len());
    bed.assert_tidy();
}

#[test]
fn spoiled_records_are_misses() {
    survives(|root| {
        let records = files(&root.join("records"));
        assert!(!records.is_empty(), "the store keeps records");
        records.iter().for_each(|path| spoil(path));
    });
}

#[test]
fn emptied_files_in_the_store_are_misses() {
    survives(|root| {
        for path in files(&root.join("records")).into_iter().chain(files(&root.join("blobs"))) {
            fs::remove_file(&path).expect("the file");
            fs::write(&path, "").expect("a file");
        }
    });
}

#[test]
fn vanished_layers_are_made_again() {
    survives(|root| fs::remove_dir_all(root.join("layers")).expect("the store keeps layers"));
}

#[test]
fn vanished_blobs_are_made_again() {
    survives(|root| fs::remove_dir_all(root.join("blobs")).expect("the store keeps blobs"));
}

#[test]
fn vanished_records_are_misses() {
    survives(|root| fs::remove_dir_all(root.join("records")).expect("the store keeps records"));
}

/// Something that happens to a store, and how it is called.
type Damage = (&'static str, fn(&Path));

/// What can happen to the layers of the store.
const LAYER_DAMAGE: [Damage; 4] = [
    ("spoiled", |root| {
        let layers = files(&root.join("layers"));
        assert!(!layers.is_empty(), "the store keeps layers");
        layers.iter().filter(|path| fs::metadata(path).is_ok_and(|found| found.len() > 0)).for_each(|path| spoil(path));
    }),
    ("other content", |root| {
        files(&root.join("layers")).iter().filter(|path| path.ends_with("f")).for_each(|path| spoil(path));
    }),
    ("lost files", |root| {
        let layers = files(&root.join("layers"));
        layers.iter().filter(|path| !path.ends_with("index")).for_each(|path| fs::remove_file(path).expect("a file"));
    }),
    ("lost indexes", |root| {
        let layers = files(&root.join("layers"));
        layers.iter().filter(|path| path.ends_with("index")).for_each(|path| fs::write(path, "").expect("a file"));
    }),
];

/// Builds from a context that is not a directory, damages what the store has of it, and builds on: the first build is of
/// `stage=one`, the others of what has not been built yet.
fn context_heals(build: impl Fn(&Bed, &str) -> Kiln) {
    for (what, damage) in LAYER_DAMAGE {
        let bed = bed();
        let run = |target: &str| {
            let _ = fs::remove_dir_all(bed.path("out"));
            let outcome = build(&bed, target).run().success();
            let found = fs::read_to_string(bed.path("out/f"));
            assert_eq!(found.expect("the file"), "content of the file", "{what}, {target}: {outcome}");
        };
        run("one");
        damage(&bed.root());
        run("two");
        damage(&bed.root());
        run("three");
        bed.assert_tidy();
    }
}

const STAGES: &str =
    "FROM scratch AS one\nCOPY f /f\nFROM scratch AS two\nCOPY --chmod=600 f /f\nFROM scratch AS three\nCOPY f d/ /\n";

fn stages(bed: &Bed, context: &str, target: &str) -> Kiln {
    bed.kiln(["build", "--progress=plain", "-o", "out", "--target", target, context])
}

fn stages_archive() -> Vec<u8> {
    let file = |path: &str, content: &str| Entry { path: path.into(), content: content.into(), ..Entry::default() };
    let entries = [file("Dockerfile", STAGES), file("f", "content of the file"), file("d/g", "more")];
    archive(&entries, Compression::Gzip).expect("an archive")
}

#[test]
fn a_downloaded_context_is_downloaded_again() {
    let bytes = stages_archive();
    let server = Server::start(move |request| match request.header("if-none-match") {
        Some("\"1\"") => Response::new(304).header("ETag", "\"1\""),
        _ => Response::new(200).header("ETag", "\"1\"").body(&bytes[..]),
    });
    context_heals(|bed, target| stages(bed, &format!("http://{}/context", server.address()), target));
}

#[test]
fn a_context_from_standard_input_is_unpacked_again() {
    context_heals(|bed, target| stages(bed, "-", target).input(stages_archive()));
}

#[test]
fn a_repository_is_checked_out_again() {
    if host().lacks(&[Need::Tool("git")]) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("r.git");
    fs::create_dir_all(source.join("d")).expect("a folder");
    for (name, content) in [("Dockerfile", STAGES), ("f", "content of the file"), ("d/g", "more")] {
        fs::write(source.join(name), content).expect("a file");
    }
    git(&source, &["init", "-q", "-b", "main"]);
    git(&source, &["add", "-A"]);
    git(&source, &["commit", "-qm", "one"]);
    let root = folder.path().to_owned();
    let server = Server::start(move |request| answer(request, &root));
    context_heals(|bed, target| stages(bed, &format!("http://{}/r.git", server.address()), target));
}

#[test]
fn a_build_file_and_an_archive_from_the_network_are_fetched_again() {
    let bytes = stages_archive();
    let server = Server::start(move |request| match (request.path(), request.header("if-none-match")) {
        (_, Some("\"1\"")) => Response::new(304).header("ETag", "\"1\""),
        ("/a.tgz", _) => Response::new(200).header("ETag", "\"1\"").body(&bytes[..]),
        _ => Response::new(200).header("ETag", "\"1\"").body(
            "FROM scratch AS one\nARG A\nADD --unpack $A /\nFROM scratch AS two\nARG A\nADD --unpack --chown=1 $A /\n\
             FROM scratch AS three\nARG A\nADD $A /kept\nADD --unpack $A /\n",
        ),
    });
    let url = |path: &str| format!("http://{}{path}", server.address());
    context_heals(|bed, target| {
        stages(bed, &url("/Dockerfile"), target).args(["--build-arg", &format!("A={}", url("/a.tgz"))])
    });
}

/// An output, and how the file in it is read.
type Exported = (&'static str, fn(&Bed) -> String);

#[test]
fn what_is_exported_is_what_was_made() {
    if unable() {
        return;
    }
    for (what, damage) in LAYER_DAMAGE {
        let bed = bed();
        bed.write("context/f", "content of the file");
        dockerfile(&bed, "context", "FROM scratch\nCOPY f /f\n");
        let outputs: [Exported; 2] = [
            ("out", |bed| fs::read_to_string(bed.path("out/f")).expect("the file")),
            ("type=tar,dest=out.tar", |bed| {
                let mut archive = tar::Archive::new(fs::File::open(bed.path("out.tar")).expect("an archive"));
                let mut entries = archive.entries().expect("entries");
                std::io::read_to_string(entries.next().expect("an entry").expect("an entry")).expect("the file")
            }),
        ];
        for (output, found) in outputs {
            build(&bed, "context").args(["-o", output]).run().success();
            damage(&bed.root());
            let outcome = build(&bed, "context").args(["-o", output]).run().success();
            assert_eq!(found(&bed), "content of the file", "{what}, {output}: {outcome}");
        }
        // What has gone out cannot be taken back; the next build can do without.
        let stream = || build(&bed, "context").args(["-o", "type=tar,dest=-"]).run();
        let whole = stream().success().stdout;
        damage(&bed.root());
        let outcome = stream();
        assert!(outcome.status.code() == Some(3) || outcome.stdout == whole, "{what}: {outcome}");
        assert_eq!(stream().success().stdout, whole, "{what}");
        bed.assert_tidy();
    }
}

#[test]
fn owners_come_from_the_users_that_the_image_has() {
    if unable() {
        return;
    }
    let bed = bed();
    bed.write("context/passwd", "alice:x:1234:1234::/:/bin/sh\n");
    bed.write("context/f", "content");
    for name in ["one", "two"] {
        let text = format!("FROM scratch\nCOPY passwd /etc/passwd\nCOPY --chown=alice f /{name}\n");
        dockerfile(&bed, "context", &text);
        build(&bed, "context").args(["-o", "type=tar,dest=out.tar"]).run().success();
        let mut archive = tar::Archive::new(fs::File::open(bed.path("out.tar")).expect("an archive"));
        let mut entries = archive.entries().expect("entries").map(|entry| entry.expect("an entry"));
        let found = entries.find(|entry| entry.path_bytes()[..] == *name.as_bytes()).expect("the file");
        assert_eq!(found.header().uid().expect("an owner"), 1234);
        let layers = files(&bed.root().join("layers"));
        let users: Vec<_> = layers.into_iter().filter(|path| path.ends_with("passwd")).collect();
        assert!(!users.is_empty() || name == "two");
        for path in users {
            fs::write(path, "alice:x:4321:4321::/:/bin/sh\n").expect("other users");
        }
    }
    bed.assert_tidy();
}

#[test]
fn what_a_stage_gives_is_what_it_made() {
    if unable() {
        return;
    }
    for (what, damage) in LAYER_DAMAGE {
        let bed = bed();
        bed.write("context/f", "content of the file");
        let text =
            |more: &str| format!("FROM scratch AS made\nCOPY f /f\nFROM scratch\nCOPY {more} --from=made /f /f\n");
        for more in ["--chmod=600", "--chmod=640", "--chmod=644"] {
            dockerfile(&bed, "context", &text(more));
            let _ = fs::remove_dir_all(bed.path("out"));
            let outcome = build(&bed, "context").args(["-o", "out"]).run().success();
            let found = fs::read_to_string(bed.path("out/f")).expect("the file");
            assert_eq!(found, "content of the file", "{what}, {more}: {outcome}");
            damage(&bed.root());
        }
        bed.assert_tidy();
    }
}
