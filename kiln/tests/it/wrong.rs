//! Wrong input, as a new user makes it: a failure with the place, the cause and a hint;
//! nothing left behind; and the next build works.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use kiln_testkit::{Bed, DockerRegistry, Image, Kiln, Login, Outcome, Source, free_port};

use crate::fixture::{bed, build, dockerfile, unable};

/// The build fails and says all of `texts`; then the mended one works.
#[track_caller]
fn fails(bed: &Bed, kiln: Kiln, texts: &[&str]) -> Outcome {
    let outcome = kiln.run().failure().says(texts);
    bed.assert_tidy();
    dockerfile(bed, "after", "FROM busybox\nRUN echo the next build > /works\n");
    build(bed, "after").run().success();
    bed.assert_tidy();
    outcome
}

#[test]
fn a_mistyped_instruction() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM busybox\nRUNN echo hello\n");
    fails(&bed, build(&bed, "context"), &["Dockerfile:2", "RUNN echo hello", "RUN"]);
}

#[test]
fn a_mistyped_flag() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM busybox\nCOPY --chwn=1 a b\n");
    fails(&bed, build(&bed, "context"), &["Dockerfile:2", "--chwn", "chown"]);
}

#[test]
fn a_source_that_is_not_there() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM busybox\n\nCOPY config.yaml /etc/\n");
    bed.write("context/config.yml", "");
    fails(
        &bed,
        build(&bed, "context"),
        &["Dockerfile:3", "COPY config.yaml /etc/", "\"/config.yaml\": not found", "hint: "],
    );
}

#[test]
fn a_source_that_the_ignore_file_leaves_out() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM busybox\nCOPY dist/app.js /\n");
    bed.write("context/dist/app.js", "");
    bed.write("context/.dockerignore", "*.md\ndist\n");
    fails(&bed, build(&bed, "context"), &["Dockerfile:2", "dist/app.js", ".dockerignore", "dist"]);
}

#[test]
fn a_target_that_is_no_stage() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM busybox AS builder\nFROM busybox AS final\n");
    fails(&bed, build(&bed, "context").args(["--target", "biulder"]), &["biulder", "builder"]);
}

#[test]
fn a_command_that_fails() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM busybox\nRUN echo fine\nRUN echo the reason >&2; exit 7\nRUN echo never\n");
    let outcome = fails(&bed, build(&bed, "context"), &["Dockerfile:3", "the reason", "exit code: 7"]);
    assert!(!outcome.stderr.contains("#7 0"), "{outcome}");
    // What was finished is kept.
    let again = build(&bed, "context").run().failure();
    assert!(again.cached().iter().any(|step| step.ends_with("RUN echo fine")), "{again}");
}

#[test]
fn a_command_that_is_not_there() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM busybox\nRUN [\"/usr/bin/pyhton\", \"-V\"]\n");
    fails(&bed, build(&bed, "context"), &["Dockerfile:2", "/usr/bin/pyhton"]);
    dockerfile(&bed, "context", "FROM busybox\nRUN no-such-command\n");
    fails(&bed, build(&bed, "context"), &["Dockerfile:2", "no-such-command", "exit code: 127"]);
}

#[test]
fn a_command_ended_by_a_signal() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM busybox\nRUN sh -c 'kill -SEGV $$'; exit $?\n");
    fails(&bed, build(&bed, "context"), &["Dockerfile:2", "exit code: 139"]);
}

#[test]
fn a_failure_stops_what_cannot_succeed_any_more() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(
        &bed,
        "context",
        "FROM busybox AS slow\nRUN sleep 120\nFROM busybox\nRUN sleep 1; exit 3\nCOPY --from=slow /etc/passwd /x\n",
    );
    let outcome = fails(&bed, build(&bed, "context"), &["exit code: 3"]);
    assert!(outcome.took.as_secs() < 60, "{:?}", outcome.took);
}

#[test]
fn an_image_that_does_not_exist() {
    if unable() {
        return;
    }
    let registry = DockerRegistry::empty();
    let bed = bed();
    let name = registry.name("team/base:9");
    dockerfile(&bed, "context", &format!("FROM {name}\nRUN true\n"));
    fails(&bed, build(&bed, "context"), &["Dockerfile:1", &name, "not found"]);
}

#[test]
fn a_registry_that_is_down() {
    if unable() {
        return;
    }
    let bed = bed();
    let name = format!("127.0.0.1:{}/base:1", free_port());
    dockerfile(&bed, "context", &format!("FROM {name}\nRUN true\n"));
    fails(&bed, build(&bed, "context"), &["Dockerfile:1", &name, "refused", "hint"]);
    dockerfile(&bed, "local", "FROM busybox\n");
    fails(&bed, build(&bed, "local").args(["--push", "-t", &name]), &[&name, "refused"]);
}

#[test]
fn a_registry_that_demands_a_login() {
    if unable() {
        return;
    }
    let registry = DockerRegistry::behind_login();
    let bed = bed();
    let base = registry.name("busybox:latest");
    let result = registry.name("team/app:1");
    dockerfile(&bed, "context", &format!("FROM {base}\nRUN true\n"));
    fails(&bed, build(&bed, "context"), &["Dockerfile:1", &base, "login"]);
    dockerfile(&bed, "local", "FROM busybox\n");
    fails(&bed, build(&bed, "local").args(["--push", "-t", &result]), &[&result, "login"]);

    // base64 of `tester:correct horse`, as `docker login` leaves it.
    let credentials = |token: &str| format!("{{\"auths\":{{\"{}\":{{\"auth\":\"{token}\"}}}}}}", registry.address());
    fs::create_dir(bed.home().join(".docker")).expect("a folder");
    fs::write(bed.home().join(".docker/config.json"), credentials("dGVzdGVyOndyb25n")).expect("a file");
    let outcome = fails(&bed, build(&bed, "context"), &["Dockerfile:1", &base]);
    assert!(
        !outcome.stderr.contains("wrong") && !outcome.stderr.contains("dGVzdGVy"),
        "a password is shown: {outcome}"
    );
    fs::write(bed.home().join(".docker/config.json"), credentials("dGVzdGVyOmNvcnJlY3QgaG9yc2U=")).expect("a file");
    let outcome = build(&bed, "context").args(["--push", "-t", &result]).run().success();
    assert!(!outcome.stderr.contains(Login::PASSWORD), "a password is shown: {outcome}");
}

#[test]
fn a_context_without_a_dockerfile() {
    if unable() {
        return;
    }
    let bed = bed();
    bed.write("context/main.py", "");
    fails(&bed, build(&bed, "context"), &["failed to read dockerfile", "hint: ", "`Dockerfile`"]);
    bed.write("context/dockerfile.txt", "FROM busybox\n");
    fails(&bed, build(&bed, "context").args(["-f", "Dockerfile.prod"]), &["Dockerfile.prod"]);
    fails(&bed, build(&bed, "nowhere"), &["nowhere"]);
    dockerfile(&bed, "empty", "# nothing yet\n");
    fails(&bed, build(&bed, "empty"), &["Dockerfile:1", "file with no instructions"]);
}

#[test]
fn dockerfiles_of_bytes_and_of_nonsense_fail_with_a_message() {
    if unable() {
        return;
    }
    let bed = bed();
    let cases: [&[u8]; 8] = [
        b"\xff\xfe\x00F\x00R\x00O\x00M",
        b"FROM",
        b"RUN echo hello\n",
        b"FROM busybox\nCOPY\n",
        b"FROM busybox\nRUN <<EOF\necho never closed\n",
        b"FROM busybox\nENV =x\n",
        b"FROM busybox AS 1\n",
        b"FROM ${NOTHING}\n",
    ];
    for case in cases {
        bed.write("context/Dockerfile", case);
        let outcome = build(&bed, "context").run().failure();
        assert!(outcome.stderr.contains("Dockerfile"), "{outcome}");
    }
    fails(&bed, build(&bed, "context"), &["Dockerfile:1"]);
}

/// A small file system of its own; it is unmounted with this value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(bed: &Bed, size: &str) -> Self {
        let path = bed.path("disk");
        fs::create_dir(&path).expect("a folder");
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&path).status();
        assert!(status.expect("mount").success());
        Self(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk() {
    if unable() {
        return;
    }
    let bed = bed();
    let disk = SmallDisk::new(&bed, "32m");
    let root = disk.0.join("root");
    let noise = Command::new("head").args(["-c", "64000000", "/dev/urandom"]).output().expect("head").stdout;
    bed.write("copy/big", &noise);
    dockerfile(&bed, "copy", "FROM busybox\nCOPY big /\n");
    dockerfile(&bed, "run", "FROM busybox\nRUN echo early > /early\nRUN dd if=/dev/urandom of=/big bs=1M count=64\n");
    let on_disk = |context: &str| build(&bed, context).env("KILN_ROOT", &root);
    let tidy = || assert_eq!(kiln_testkit::leftovers(&root), Vec::<String>::new());

    let outcome = on_disk("copy").args(["-t", "big"]).run().failure();
    assert!(outcome.stderr.to_lowercase().contains("no space left"), "{outcome}");
    tidy();
    let outcome = on_disk("run").run().failure().says(&["Dockerfile:3"]);
    assert!(outcome.stderr.to_lowercase().contains("no space left"), "{outcome}");
    tidy();

    // There is room again for something small, and what was finished is still there.
    dockerfile(&bed, "run", "FROM busybox\nRUN echo early > /early\nRUN echo small > /small\n");
    let outcome = on_disk("run").args(["-t", "small"]).run().success();
    assert!(outcome.cached().iter().any(|step| step.ends_with("RUN echo early > /early")), "{outcome}");
    tidy();

    // An export that does not fit leaves no part of itself.
    let archive = disk.0.join("image.tar");
    bed.write("copy/Dockerfile", "FROM busybox\nCOPY big /\n");
    build(&bed, "copy").args(["-o", &format!("type=oci,dest={}", archive.display())]).run().failure();
    let left: Vec<_> =
        fs::read_dir(&disk.0).expect("the disk").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(left, ["root"]);
    bed.assert_tidy();
}

#[test]
fn a_read_only_state_directory() {
    if unable() {
        return;
    }
    let bed = bed();
    let disk = SmallDisk::new(&bed, "1m");
    let status = Command::new("mount").args(["-o", "remount,ro"]).arg(&disk.0).status();
    assert!(status.expect("mount").success());
    dockerfile(&bed, "context", "FROM busybox\nRUN true\n");
    let root = disk.0.join("root");
    build(&bed, "context").env("KILN_ROOT", &root).run().failure().says(&[&root.to_string_lossy()]);
}

#[test]
fn a_file_missing_in_an_earlier_stage() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM busybox AS build\nRUN touch /one\nFROM scratch\nCOPY --from=build /two /\n");
    fails(&bed, build(&bed, "context"), &["Dockerfile:4", "/two"]);
}

#[test]
fn a_source_outside_the_context() {
    if unable() {
        return;
    }
    let bed = bed();
    bed.write("secret", "not yours");
    dockerfile(&bed, "context", "FROM busybox\nCOPY ../secret /\n");
    let outcome = fails(&bed, build(&bed, "context"), &["Dockerfile:2", "secret"]);
    assert!(!outcome.stderr.contains("not yours"));

    // A link out of the context leads to its own root, never to the machine's.
    std::os::unix::fs::symlink("../secret", bed.path("context/link")).expect("a link");
    std::os::unix::fs::symlink("/etc", bed.path("context/etc")).expect("a link");
    dockerfile(&bed, "context", "FROM scratch\nCOPY etc/hostname /\n");
    fails(&bed, build(&bed, "context"), &["Dockerfile:2", "etc/hostname"]);
    dockerfile(&bed, "context", "FROM scratch\nCOPY link /\n");
    let archive = bed.path("image.tar");
    if build(&bed, "context").args(["-o", "type=oci,dest=image.tar"]).run().status.success() {
        for layer in Image::fetch(&Source::OciArchive(archive)).layers() {
            assert!(layer.values().all(|entry| !matches!(entry.kind, kiln_testkit::Kind::File { .. })), "{layer:?}");
        }
    }
}
