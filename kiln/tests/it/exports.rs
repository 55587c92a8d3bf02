//! `-o`: every kind of result, read back by somebody else's reader.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use kiln_testkit::{Bed, Container, Image, Kind, Need, Source, flatten, host};

use crate::fixture::{bed, build, dockerfile, unable};

/// Files of every sort, made by a command and by a copy.
fn varied(bed: &Bed) {
    dockerfile(
        bed,
        "context",
        "FROM busybox\n\
         RUN mkdir -p /data/sub && echo made > /data/file && ln -s file /data/link && ln /data/file /data/hard \\\n\
         \u{20} && chmod 4755 /data/file && chown 33:44 /data/sub && mkfifo /data/pipe && rm /bin/yes\n\
         COPY --chmod=600 copied.txt /data/sub/\n\
         ENV COLOUR=blue\n\
         CMD [\"cat\", \"/data/link\", \"/data/sub/copied.txt\"]\n",
    );
    bed.write("context/copied.txt", "copied\n");
}

fn examine(image: &Image) {
    let tree = flatten(&image.layers());
    assert_eq!(tree["data/file"].mode, 0o4755);
    assert_eq!((tree["data/sub"].uid, tree["data/sub"].gid), (33, 44));
    assert_eq!(tree["data/sub/copied.txt"].mode, 0o600);
    assert_eq!(tree["data/link"].kind, Kind::Symlink("file".to_owned()));
    // One of the two names is the file, the other a link to it.
    let linked = ["data/file", "data/hard"].map(|path| matches!(tree[path].kind, Kind::HardLink(_)));
    assert!(linked[0] != linked[1], "{:?} {:?}", tree["data/file"], tree["data/hard"]);
    assert!(!tree.contains_key("bin/yes") && tree.contains_key("bin/sh"));
    assert!(image.config.config.env.contains(&"COLOUR=blue".to_owned()));
    assert_eq!(Container::of(image).output(), "made\ncopied\n");
}

#[test]
fn an_oci_archive_in_a_file_and_on_stdout() {
    if unable() {
        return;
    }
    let bed = bed();
    varied(&bed);
    build(&bed, "context").args(["-o", "type=oci,dest=image.tar"]).run().success();
    let image = Image::fetch(&Source::OciArchive(bed.path("image.tar")));
    examine(&image);

    let streamed = build(&bed, "context").args(["-o", "type=oci,dest=-"]).run().success();
    bed.write("streamed.tar", &streamed.stdout);
    let other = Image::fetch(&Source::OciArchive(bed.path("streamed.tar")));
    assert_eq!(image.manifest, other.manifest);
    bed.assert_tidy();
}

#[test]
fn an_oci_layout_in_a_folder() {
    if unable() {
        return;
    }
    let bed = bed();
    varied(&bed);
    build(&bed, "context").args(["-t", "varied:1", "-o", "type=oci,dest=layout,tar=false"]).run().success();
    let marker = fs::read_to_string(bed.path("layout/oci-layout")).expect("a layout");
    assert!(marker.contains("1.0.0"), "{marker}");
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(bed.path("layout/index.json")).expect("a layout")).expect("JSON");
    let name = index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap_or_default();
    examine(&Image::fetch(&Source::Layout(bed.path("layout"), name.to_owned())));
}

#[test]
fn a_docker_archive() {
    if unable() {
        return;
    }
    let bed = bed();
    varied(&bed);
    build(&bed, "context").args(["-t", "varied:1", "-o", "type=docker,dest=image.tar"]).run().success();
    examine(&Image::fetch(&Source::DockerArchive(bed.path("image.tar"))));
    let listing =
        Command::new("tar").arg("-xOf").arg(bed.path("image.tar")).arg("manifest.json").output().expect("tar");
    let manifest: serde_json::Value = serde_json::from_slice(&listing.stdout).expect("manifest.json");
    assert_eq!(manifest[0]["RepoTags"][0], "varied:1");

    let streamed = build(&bed, "context").args(["-t", "varied:1", "-o", "type=docker"]).run().success();
    bed.write("streamed.tar", &streamed.stdout);
    examine(&Image::fetch(&Source::DockerArchive(bed.path("streamed.tar"))));
}

#[test]
fn podman_loads_an_archive_and_runs_the_image() {
    if unable() || host().lacks(&[Need::Tool("podman")]) {
        return;
    }
    let bed = bed();
    varied(&bed);
    build(&bed, "context").args(["-t", "localhost/varied:1", "-o", "type=oci,dest=image.tar"]).run().success();
    let podman = |arguments: &[&str]| {
        let output = Command::new("podman")
            .arg("--root")
            .arg(bed.path("podman/root"))
            .arg("--runroot")
            .arg(bed.path("podman/run"))
            .args(["--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=none"])
            .args(arguments)
            .output()
            .expect("podman");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let loaded = podman(&["load", "-i", &bed.path("image.tar").to_string_lossy()]);
    let name = loaded.trim().rsplit(' ').next().expect("a name").to_owned();
    // Podman asks for higher limits than a machine may allow.
    let limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"];
    assert_eq!(podman(&[&["run", "--rm", "--network=host"], &limits[..], &[&name]].concat()), "made\ncopied\n");
}

#[test]
fn a_tar_of_the_files() {
    if unable() {
        return;
    }
    let bed = bed();
    varied(&bed);
    build(&bed, "context").args(["-o", "type=tar,dest=files.tar"]).run().success();
    build(&bed, "context").args(["-o", "type=oci,dest=image.tar"]).run().success();
    let names = |bytes: &[u8]| -> Vec<String> {
        let mut archive = tar::Archive::new(bytes);
        let mut names: Vec<_> = archive
            .entries()
            .expect("a tar archive")
            .map(|entry| String::from_utf8_lossy(&entry.expect("an entry").path_bytes()).trim_matches('/').to_owned())
            .collect();
        names.sort();
        names
    };
    let files = fs::read(bed.path("files.tar")).expect("the result");
    let image = Image::fetch(&Source::OciArchive(bed.path("image.tar")));
    // The base's layers have an entry for the root itself; a tar of files has none.
    let expected: Vec<String> = flatten(&image.layers()).into_keys().filter(|path| path != ".").collect();
    assert_eq!(names(&files), expected);

    // `-` alone is a tar stream to stdout.
    let streamed = build(&bed, "context").args(["-o", "-"]).run().success();
    assert_eq!(names(&streamed.stdout), expected);
    fs::create_dir(bed.path("unpacked")).expect("a folder");
    let status =
        Command::new("tar").arg("-xpf").arg(bed.path("files.tar")).arg("-C").arg(bed.path("unpacked")).status();
    assert!(status.expect("tar").success());
    look_at(&bed.path("unpacked"));
    assert_eq!(fs::metadata(bed.path("unpacked/data/sub")).expect("a folder").uid(), 33);
}

#[test]
fn the_files_in_a_folder() {
    if unable() {
        return;
    }
    let bed = bed();
    varied(&bed);
    build(&bed, "context").args(["-o", "out"]).run().success();
    look_at(&bed.path("out"));
    // What is there already stays, unless the result has the same name.
    bed.write("out/mine", "mine");
    bed.write("out/data/file", "old");
    build(&bed, "context").args(["-o", "type=local,dest=out"]).run().success();
    look_at(&bed.path("out"));
    assert!(bed.path("out/mine").exists());
    bed.assert_tidy();
}

fn look_at(folder: &Path) {
    let read = |path: &str| fs::read_to_string(folder.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    assert_eq!(read("data/file"), "made\n");
    assert_eq!(read("data/sub/copied.txt"), "copied\n");
    assert_eq!(fs::read_link(folder.join("data/link")).expect("a link"), Path::new("file"));
    let inode = |path: &str| fs::metadata(folder.join(path)).expect("a file").ino();
    assert_eq!(inode("data/file"), inode("data/hard"));
    assert_eq!(fs::metadata(folder.join("data/sub/copied.txt")).expect("a file").permissions().mode() & 0o777, 0o600);
    assert!(!folder.join("bin/yes").exists() && folder.join("bin/busybox").exists());
}

#[test]
fn a_stage_of_files_alone_becomes_a_folder() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(
        &bed,
        "context",
        "FROM busybox AS make\nRUN echo 42 > /answer\nFROM scratch\nCOPY --from=make /answer /\n",
    );
    build(&bed, "context").args(["-o", "out"]).run().success();
    let names: Vec<_> =
        fs::read_dir(bed.path("out")).expect("the result").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(names, ["answer"]);
}

#[test]
fn a_destination_that_cannot_be_is_refused() {
    if unable() {
        return;
    }
    let bed = bed();
    varied(&bed);
    fs::create_dir(bed.path("folder")).expect("a folder");
    build(&bed, "context").args(["-o", "type=oci,dest=folder"]).run().failure().says(&["folder"]);
    bed.write("file", "");
    build(&bed, "context").args(["-o", "type=local,dest=file"]).run().failure().says(&["file"]);
    build(&bed, "context").args(["-o", "type=zip,dest=x"]).run().failure().says(&["zip", "oci"]);
    build(&bed, "context").args(["-o", "type=oci,dest=x,compresion=gzip"]).run().failure().says(&["compresion"]);
    build(&bed, "context").arg("--push").run().failure().says(&["-t"]);
    // What is written after the build is looked at before it.
    for flag in ["--iidfile=/proc/id", "--metadata-file=none/facts", "-otype=oci,dest=/proc/image.tar"] {
        let outcome = build(&bed, "context").arg(flag).run().failure().says(&["cannot write"]);
        assert!(outcome.ran().is_empty(), "{outcome}");
    }
}

#[test]
fn a_file_with_another_attribute_is_another_file() {
    let bed = bed();
    dockerfile(&bed, "context", "FROM scratch\nCOPY old /\nCOPY new /\n");
    for value in ["old", "new"] {
        let path = bed.write(format!("context/{value}/file"), "the same\n");
        File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_modified(SystemTime::UNIX_EPOCH))
            .expect("time");
        let flags = rustix::fs::XattrFlags::empty();
        if rustix::fs::setxattr(&path, "user.note", value.as_bytes(), flags).is_err() {
            eprintln!("skipped: the file system of {} has no attributes", path.display());
            return;
        }
    }
    let files = build(&bed, "context").args(["-o", "-"]).run().success().stdout;
    let text = String::from_utf8_lossy(&files);
    assert!(text.contains("SCHILY.xattr.user.note=new") && !text.contains("user.note=old"), "{text}");
}

#[test]
fn layers_of_the_base_are_compressed_again_where_that_is_asked_for() {
    if unable() {
        return;
    }
    let bed = bed();
    varied(&bed);
    let types = |more: &str| -> Vec<String> {
        let output = format!("type=oci,dest=image.tar,compression=zstd{more}");
        build(&bed, "context").args(["-o", &output]).run().success();
        let image = Image::fetch(&Source::OciArchive(bed.path("image.tar")));
        image.manifest.layers.iter().map(|layer| layer.media_type.clone()).collect()
    };
    let kept = types("");
    assert!(kept[0].ends_with("gzip") && kept.last().is_some_and(|last| last.ends_with("zstd")), "{kept:?}");
    assert!(types(",force-compression=true").iter().all(|kind| kind.ends_with("zstd")));
}

#[test]
fn an_epoch_is_the_time_of_all_files() {
    if unable() {
        return;
    }
    let bed = bed();
    varied(&bed);
    let epoch = ["--build-arg", "SOURCE_DATE_EPOCH=1000000007"];
    let streamed = build(&bed, "context").args(epoch).args(["-o", "-"]).run().success();
    let mut archive = tar::Archive::new(&*streamed.stdout);
    for entry in archive.entries().expect("an archive") {
        assert_eq!(entry.expect("an entry").header().mtime().expect("a time"), 1_000_000_007);
    }
    build(&bed, "context").args(epoch).args(["-o", "out"]).run().success();
    assert_eq!(fs::metadata(bed.path("out/data/file")).expect("a file").mtime(), 1_000_000_007);
}
