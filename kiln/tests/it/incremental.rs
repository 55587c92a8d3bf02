//! Edits of every kind, each followed by a build with the cache and a clean one: both give the
//! same image (DESIGN: an incremental build equals a clean build).

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use kiln_testkit::{Bed, Image, Source, differences};

use crate::fixture::{bed, build, dockerfile, unable};

const DOCKERFILE: &str = "FROM busybox AS build\n\
    WORKDIR /src\n\
    COPY lib lib\n\
    RUN cat $(find lib -type f | sort) > all.txt\n\
    COPY app app\n\
    RUN cat all.txt $(find app -type f | sort) > /result.txt && rm -f lib/a.txt\n\
    FROM busybox\n\
    ARG EXTRA=none\n\
    COPY --from=build /result.txt /src/lib /out/\n\
    COPY --chown=33:33 *.conf /etc/app/\n\
    RUN echo $EXTRA > /extra && rm -rf /out/gone\n";

/// What is done to the context, by name.
type Edit = (&'static str, fn(&Path));

const EDITS: [Edit; 12] = [
    ("a file changes", |context| write(context, "lib/a.txt", "A2")),
    ("a file appears", |context| write(context, "app/new.txt", "new")),
    ("a file goes", |context| fs::remove_file(context.join("lib/b.txt")).expect("it was there")),
    ("a file moves", |context| {
        fs::rename(context.join("app/main.txt"), context.join("app/moved.txt")).expect("a move")
    }),
    ("a file becomes executable", |context| {
        fs::set_permissions(context.join("lib/a.txt"), fs::Permissions::from_mode(0o755)).expect("a mode");
    }),
    ("a file becomes a folder", |context| {
        fs::remove_file(context.join("app/new.txt")).expect("it was there");
        write(context, "app/new.txt/inside", "deep");
    }),
    ("a folder becomes a link", |context| {
        fs::remove_dir_all(context.join("app/new.txt")).expect("it was there");
        symlink("moved.txt", context.join("app/new.txt")).expect("a link");
    }),
    ("the link points elsewhere", |context| {
        fs::remove_file(context.join("app/new.txt")).expect("it was there");
        symlink("../lib/a.txt", context.join("app/new.txt")).expect("a link");
    }),
    ("a file of equal length changes", |context| write(context, "lib/a.txt", "A3")),
    ("what is ignored changes", |context| write(context, "lib/debug.log", "other noise")),
    ("the ignore file changes", |context| write(context, ".dockerignore", "*.txt~\n")),
    ("the Dockerfile changes", |context| write(context, "Dockerfile", &DOCKERFILE.replace("> /extra", "> /spare"))),
];

fn write(context: &Path, name: &str, content: &str) {
    let path = context.join(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, content).expect("a file");
}

fn image(bed: &Bed) -> Image {
    build(bed, "context").args(["-o", "type=oci,dest=image.tar"]).run().success();
    Image::fetch(&Source::OciArchive(bed.path("image.tar")))
}

#[test]
fn after_every_edit_the_rebuild_equals_a_clean_build() {
    if unable() {
        return;
    }
    let warm = bed();
    let context = warm.path("context");
    dockerfile(&warm, "context", DOCKERFILE);
    for (name, content) in [
        ("lib/a.txt", "A1"),
        ("lib/b.txt", "B"),
        ("lib/debug.log", "noise"),
        ("app/main.txt", "main"),
        ("one.conf", "1"),
        ("two.conf", "2"),
        (".dockerignore", "**/*.log\n"),
    ] {
        write(&context, name, content);
    }
    image(&warm);
    for (name, edit) in EDITS {
        edit(&context);
        let rebuilt = image(&warm);
        let cold = bed();
        let clean = {
            cold.kiln(["build", "--build-context", &crate::fixture::busybox(), "-o", "type=oci,dest=image.tar"])
                .arg(&context)
                .run()
                .success();
            Image::fetch(&Source::OciArchive(cold.path("image.tar")))
        };
        let (left, right) = (rebuilt.layers(), clean.layers());
        assert_eq!(left.len(), right.len(), "after `{name}`: other layers");
        for (number, (left, right)) in left.iter().zip(&right).enumerate() {
            let found = differences(left, right, |_| None);
            assert!(found.is_empty(), "after `{name}`: layer {number} differs:\n{}", found.join("\n"));
        }
        let settings = |image: &Image| serde_json::to_value(&image.config.config).expect("JSON");
        assert_eq!(settings(&rebuilt), settings(&clean), "after `{name}`");
    }
    warm.assert_tidy();
}

#[test]
fn a_touched_file_is_a_hit() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM busybox\nCOPY file /\nRUN cat /file\n");
    let file = bed.write("context/file", "x");
    let first = image(&bed);
    let file = fs::File::options().write(true).open(file).expect("the file");
    file.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(3600)).expect("a time");
    let outcome = build(&bed, "context").args(["-o", "type=oci,dest=image.tar"]).run().success();
    assert!(outcome.cached().iter().any(|step| step.ends_with("RUN cat /file")), "{outcome}");
    assert_eq!(Image::fetch(&Source::OciArchive(bed.path("image.tar"))).manifest, first.manifest);
}

#[test]
fn two_builds_of_the_same_thing_at_once_do_the_work_once() {
    if unable() {
        return;
    }
    let bed = bed();
    let log = bed.path("ran");
    dockerfile(
        &bed,
        "context",
        "FROM busybox\nRUN sleep 1 && cat /proc/sys/kernel/random/uuid > /id\nCMD [\"cat\", \"/id\"]\n",
    );
    fs::create_dir_all(&log).expect("a folder");
    let start = |name: &str| build(&bed, "context").args(["-o", &format!("type=oci,dest={name}")]).start();
    let (one, other) = (start("one.tar"), start("other.tar"));
    one.wait().success();
    other.wait().success();
    let config = |name: &str| Image::fetch(&Source::OciArchive(bed.path(name))).config.rootfs;
    assert_eq!(config("one.tar"), config("other.tar"));
    bed.assert_tidy();
}

/// Turns what kiln remembers of the files of contexts into something else that reads well.
fn remember_wrongly(bed: &Bed) {
    let memories: Vec<_> = fs::read_dir(bed.root().join("context/v1")).expect("a memory").flatten().collect();
    assert!(!memories.is_empty());
    for memory in memories {
        let mut bytes = fs::read(memory.path()).expect("a memory");
        // A magic number of 8 bytes, entries of 40 bytes and a digest each, the digest of all that.
        let body = bytes.len() - 32;
        for entry in bytes[8..body].chunks_exact_mut(72) {
            entry[71] ^= 1;
        }
        let checksum = kiln_oci::Digest::of(&bytes[..body]);
        bytes[body..].copy_from_slice(checksum.as_bytes());
        fs::remove_file(memory.path()).expect("a memory");
        fs::write(memory.path(), bytes).expect("a memory");
    }
}

#[test]
fn a_digest_that_is_remembered_wrongly_costs_a_second_try() {
    if unable() {
        return;
    }
    let bed = bed();
    let context = bed.path("context");
    dockerfile(&bed, "context", "FROM scratch\nCOPY files /\n");
    write(&context, "files/one", "1");
    write(&context, "files/two", "2");
    // Younger files are not remembered.
    std::thread::sleep(std::time::Duration::from_millis(2_200));
    image(&bed);
    remember_wrongly(&bed);
    write(&context, "files/two", "changed");
    let edited = image(&bed);
    let clean = crate::fixture::bed();
    fs::rename(&context, clean.path("context")).expect("the same context");
    assert_eq!(edited.manifest.layers, image(&clean).manifest.layers);
}
