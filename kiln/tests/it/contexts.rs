//! Contexts that are directories: what is in them, what is left out, and what is said about it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use kiln_testkit::{Bed, DockerRegistry, Image, Layer, Need, Source, flatten, host};

use crate::fixture::{bed, build, busybox, dockerfile, unable};

/// Builds the folder `context` and returns the files of the image.
fn files(bed: &Bed, arguments: &[&str]) -> Layer {
    build(bed, "context").args(arguments).args(["-o", "type=oci,dest=image.tar"]).run().success();
    flatten(&Image::fetch(&Source::OciArchive(bed.path("image.tar"))).layers())
}

#[test]
fn each_context_has_its_own_ignore_file() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM scratch\nCOPY . /main/\nCOPY --from=more . /more/\n");
    for context in ["context", "more"] {
        bed.write(format!("{context}/a.log"), "");
        bed.write(format!("{context}/b.txt"), "");
    }
    bed.write("context/.dockerignore", "*.log\n");
    bed.write("more/.dockerignore", "*.txt\n");
    let named = format!("more={}", bed.path("more").display());
    let found = files(&bed, &["--build-context", &named]);
    assert!(found.contains_key("main/b.txt") && !found.contains_key("main/a.log"));
    assert!(found.contains_key("more/a.log") && !found.contains_key("more/b.txt"));

    let other = bed.write("other.ignore", "b.*\n");
    let found = files(&bed, &["--build-context", &named, "--ignorefile", &other.display().to_string()]);
    assert!(!found.contains_key("main/b.txt") && found.contains_key("main/a.log"));
    assert!(found.contains_key("more/a.log") && !found.contains_key("more/b.txt"));
    build(&bed, "context").args(["--ignorefile", "nowhere"]).run().failure().says(&["nowhere"]);
}

#[test]
fn only_what_is_needed_is_looked_at() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM scratch\nCOPY src/main.c link/deep.c /out/\n");
    bed.write("context/src/main.c", "main");
    bed.write("context/real/deep.c", "deep");
    symlink("real", bed.path("context/link")).expect("a link");
    // A walk that went in here would fail: the names in it are longer together than a path may be.
    let mut deep = bed.path("context/other");
    for _ in 0..16 {
        deep.push("n".repeat(255));
        fs::create_dir_all(&deep).expect("a folder");
        if deep.as_os_str().len() > 3500 {
            break;
        }
    }
    bed.write("context/src/socket-like", "");
    let found = files(&bed, &[]);
    assert_eq!(found.keys().collect::<Vec<_>>(), ["out", "out/deep.c", "out/main.c"]);
}

#[test]
fn of_very_many_files_three_are_opened() {
    if unable() || host().lacks(&[Need::Tool("strace")]) {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM scratch\nCOPY */wanted /out/\nCOPY */*/wanted* /more/\n");
    for number in 0..20_000 {
        let folder = bed.path(format!("context/{}", number % 100));
        if number < 100 {
            fs::create_dir_all(&folder).expect("a folder");
        }
        fs::write(folder.join(format!("other{number}")), "x").expect("a file");
    }
    for number in 0..3 {
        bed.write(format!("context/{number}/wanted"), number.to_string());
    }
    let mut traced = build(&bed, "context").args(["-o", "type=oci,dest=image.tar"]);
    let words = ["-f", "--seccomp-bpf", "-qq", "-s", "4096", "-e", "trace=open,openat,openat2", "-o", "trace"];
    traced.run_by("strace", words.map(OsString::from));
    traced.run().success();
    let trace = fs::read_to_string(bed.path("trace")).expect("the trace");
    let opened = |name: &str| trace.lines().filter(|line| line.contains(name)).count();
    assert_eq!((opened("/wanted\""), opened("wanted\""), opened("other")), (3, 3, 0), "{trace}");
}

#[test]
fn a_file_that_may_not_be_read_matters_where_it_is_wanted() {
    if unable() {
        return;
    }
    let bed = bed();
    let text = |line: &str| dockerfile(&bed, "context", &format!("FROM busybox\n{line}\n"));
    // Root reads everything, but for who gave that right up.
    let lacking = ["--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"];
    let run = || {
        let mut kiln = build(&bed, "context").args(["-o", "type=oci,dest=image.tar"]);
        kiln.run_by("setpriv", lacking.map(OsString::from));
        kiln.run()
    };
    bed.write("context/open/f", "open");
    bed.write("context/shut/f", "shut");
    fs::create_dir(bed.path("context/locked")).expect("a folder");
    let lock = |mode| {
        for path in ["context/shut/f", "context/locked"] {
            fs::set_permissions(bed.path(path), fs::Permissions::from_mode(mode)).expect("ours");
        }
    };
    lock(0);
    text("COPY open /o/");
    run().success();
    // Read while it is packed, read for its digest, compared with what is below: it is always the same mistake.
    let says =
        ["cannot read `shut/f` in the build context: Permission denied", "hint: make it readable", "Dockerfile:2"];
    for line in ["COPY shut /o/", "COPY shut /o/\n", "COPY open shut /o/", "ADD shut/f /", "RUN --mount=target=/c true"]
    {
        text(line);
        let outcome = run().failure();
        assert_eq!(outcome.status.code(), Some(1), "{line}: {outcome}");
        if !line.starts_with("RUN") {
            outcome.says(&says);
        }
    }
    text("COPY locked /o/");
    let outcome = run().failure().says(&["cannot read locked in the build context", "hint: make it readable"]);
    assert_eq!(outcome.status.code(), Some(1), "{outcome}");
    lock(0o755);
    text("COPY shut /o/");
    run().success();
    bed.write("context/shut/f", "SHUT");
    lock(0);
    // The step is known by now, so the digest is asked for first.
    let outcome = run().failure().says(&["`shut/f`", "hint: make it readable", "Dockerfile:2"]);
    assert_eq!(outcome.status.code(), Some(1), "{outcome}");
    lock(0o755);
    bed.assert_tidy();
}

/// On a file system that can: builds, and tells which files of the store share their blocks with others.
const SHARED: &str = r#"
truncate -s 400M disk && mkfs.xfs -q disk && mkdir disk.d && mount -o loop disk disk.d || exit 9
cp -r context disk.d/
KILN_ROOT=$PWD/disk.d/root "$@" disk.d/context || exit 8
filefrag -v $(find disk.d/root/layers -type f -name 'big*') | grep -B 2 shared | grep -o 'big[a-z]*' | sort -u
"#;

#[test]
fn files_that_a_command_needs_share_blocks_with_the_context() {
    if unable() || host().lacks(&[Need::Tool("mkfs.xfs"), Need::Tool("filefrag"), Need::Tool("unshare")]) {
        return;
    }
    let bed = Bed::new("unshare");
    dockerfile(&bed, "context", "FROM busybox\nCOPY . /d/\nRUN sha256sum /d/big /d/small\n");
    bed.write("context/big", "big ".repeat(1 << 20));
    bed.write("context/small", "small");
    let outcome = bed
        .kiln(["-m", "sh", "-c", SHARED, "sh", env!("CARGO_BIN_EXE_kiln"), "build", "--progress=plain"])
        .args(["--build-context", &busybox()])
        .run()
        .success()
        .says(&["99075fbad574ef9472ded8405735d946f14b703d56532d43701e79cca5dc4472  /d/big"]);
    assert_eq!(String::from_utf8_lossy(&outcome.stdout), "big\n");
}

#[test]
fn missing_sources_are_explained() {
    if unable() {
        return;
    }
    let bed = bed();
    bed.write("context/src/app/main.c", "");
    bed.write("context/config.yml", "");
    bed.write("context/build/out.bin", "");
    bed.write("context/.dockerignore", "# made\nbuild\n");
    symlink("../../secret", bed.path("context/out")).expect("a link");
    symlink("/build/out.bin", bed.path("context/src/hidden")).expect("a link");
    let cases = [
        ("COPY out /", "`out` is a link to `../../secret`, which is not in the context"),
        ("COPY ou* /", "`out` is a link to `../../secret`, which is not in the context"),
        ("COPY src/hidden /", "`src/hidden` is a link to `/build/out.bin`, which .dockerignore:2 (`build`) leaves out"),
        ("COPY config.yaml /", "did you mean `config.yml`?"),
        ("COPY app /", "did you mean `src/app`?"),
        ("COPY src/ap/ /", "did you mean `src/app`?"),
        ("COPY build/out.bin /", ".dockerignore:2 (`build`)"),
        ("COPY build/*.bin /", ".dockerignore:2 (`build`)"),
        ("COPY zzzzzz /", "sources are looked up in the context"),
    ];
    for (line, hint) in cases {
        dockerfile(&bed, "context", &format!("FROM scratch\n{line}\n"));
        build(&bed, "context").run().failure().says(&["Dockerfile:2", hint]);
    }
    dockerfile(&bed, "context", "FROM scratch AS made\nCOPY src /usr/src\nFROM scratch\nCOPY --from=made /main.c /\n");
    build(&bed, "context").run().failure().says(&["\"/main.c\": not found", "did you mean `/usr/src/app/main.c`?"]);
}

#[test]
fn copies_that_cannot_be_are_explained() {
    if unable() {
        return;
    }
    let bed = bed();
    bed.write("context/f", "");
    bed.write("context/d/file", "");
    bed.write("context/e/file/x", "");
    symlink("loop", bed.path("context/loop")).expect("a link");
    let cases = [
        ("COPY f /a/b\nCOPY f /a/b/c", "mkdir /a/b: not a directory", "there is a file of that name in"),
        ("COPY f /a\nADD d /a", "cannot copy to non-directory: /a", "is a directory: take another place"),
        ("COPY e /a/\nCOPY d /a/", "cannot replace to directory /a/file with file", "is a file: take another place"),
        ("WORKDIR /w\nCOPY loop .", "too many links in /loop", "leads back to itself"),
        ("WORKDIR /w\nCOPY --link --chown=sam f .", "invalid user index: -1", "give numbers"),
    ];
    for (lines, says, hint) in cases {
        dockerfile(&bed, "context", &format!("FROM scratch\n{lines}\n"));
        build(&bed, "context").run().failure().says(&["Dockerfile:3", says, "hint: ", hint]);
    }
}

#[test]
fn copied_secrets_are_told_of() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM scratch\nCOPY . /app/\n");
    for name in [".env", "certs/server.key", "home/.aws/credentials", "id_rsa", "id_rsa.pub"] {
        bed.write(format!("context/{name}"), "");
    }
    // Nobody reads them for it.
    fs::set_permissions(bed.path("context/id_rsa"), fs::Permissions::from_mode(0o600)).expect("a mode");
    let told = ["line 2", "`.env`, `certs/server.key`, `home/.aws/credentials` and 1 more", "secrets", ".dockerignore"];
    let first = build(&bed, "context").run().success().says(&told[..3]);
    assert!(!first.text().contains("id_rsa.pub"), "{first}");
    // Also when nothing is done.
    let again = build(&bed, "context").run().success().says(&told[..3]);
    assert_eq!(again.ran(), Vec::<String>::new());
    bed.write("context/.dockerignore", "**/*.key\n**/.aws\nid_rsa\n");
    build(&bed, "context").run().success().says(&["`.env` will be in the layer, and looks like a secret"]);
    bed.write("context/.dockerignore", ".env\n**/*.key\n**/.aws\nid_rsa\n");
    let clean = build(&bed, "context").run().success();
    assert!(!clean.text().contains("secrets"), "{clean}");
}

#[test]
fn the_context_can_be_looked_at() {
    let bed = bed();
    bed.write("context/Dockerfile", "");
    bed.write("context/a.log", "noise");
    bed.write("context/src/main.c", "main");
    bed.write("context/.dockerignore", "*.log\n");
    bed.write("context/Dockerfile.dockerignore", "src\n");
    let context = |arguments: &[&str]| {
        let kiln = bed.kiln(["context"]).args(arguments).folder(bed.path("context"));
        String::from_utf8(kiln.run().success().stdout).expect("text")
    };
    assert_eq!(context(&["ls"]), ".dockerignore\nDockerfile\nDockerfile.dockerignore\na.log\n");
    assert!(context(&["ls", "-f", "other"]).ends_with("Dockerfile.dockerignore\nsrc/\nsrc/main.c\n"));
    assert!(context(&["why", "src/main.c"]).contains("is left out: Dockerfile.dockerignore:1 `src`"));
    assert!(
        context(&["why", "a.log", "--ignorefile", ".dockerignore"]).contains("is left out: .dockerignore:1 `*.log`")
    );
    assert!(context(&["du", "-f", "other"]).contains("src"));
    bed.kiln(["context", "ls", "nowhere"]).run().failure().says(&["nowhere"]);
    bed.kiln(["context", "ls", "https://example.com/r.git"]).run().failure().says(&["hint: only directories"]);
    bed.write("context/.dockerignore", "!\n");
    bed.kiln(["context", "ls", "context", "-f", "other"]).run().failure().says(&["line 1", "hint: a path goes behind"]);
}

#[test]
fn a_linked_copy_does_not_need_what_is_below_it() {
    if unable() {
        return;
    }
    let registry = DockerRegistry::with_bases();
    let bed = bed();
    bed.write("context/d/f", "linked");
    let app = registry.name("app:1");
    let push = |base: &str| {
        let base = registry.name(base);
        dockerfile(&bed, "context", &format!("FROM {base}\nCOPY --link --chown=3:4 d /opt/d\n"));
        let outcome = build(&bed, "context").args(["--push", "-t", &app]).run().success();
        let image = Image::fetch(&Source::Registry(app.clone()));
        let below = Image::fetch(&Source::Registry(base));
        // No layer of the base is here, packed or unpacked.
        for (layer, diff_id) in below.manifest.layers.iter().zip(&below.config.rootfs.diff_ids) {
            assert!(!bed.root().join("blobs/sha256").join(layer.digest.hex()).exists(), "{outcome}");
            assert!(!bed.root().join("layers/v1").join(diff_id.hex()).join("fs").exists(), "{outcome}");
        }
        assert_eq!(image.manifest.layers.len(), below.manifest.layers.len() + 1);
        (outcome, image.manifest.layers.last().expect("the copy").clone())
    };
    let (_, first) = push("busybox:latest");
    let (rebased, second) = push("debian:12-slim");
    assert_eq!(first, second);
    assert!(rebased.cached().iter().any(|step| step.contains("COPY --link")), "{rebased}");
}
