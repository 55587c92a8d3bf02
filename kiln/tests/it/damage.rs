//! Bytes that are not what they should be: in a registry, in a layout, in kiln's own store.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_testkit::{Bed, Container, DockerRegistry, Image, Source, bases};

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
