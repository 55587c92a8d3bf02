//! Contexts and archives that mean harm: nothing outside the context or the new root is read or written, nothing hangs, and
//! what cannot be is an error that says so.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kiln_oci::Digest;
use kiln_testkit::{Bed, Image, Kiln, Kind, Layer, Need, Outcome, Source, flatten, host};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};

use crate::fixture::{bed, build, dockerfile, unable};

fn exported(bed: &Bed) -> Kiln {
    build(bed, "context").args(["-o", "type=oci,dest=image.tar"])
}

fn files(bed: &Bed) -> Layer {
    exported(bed).run().success();
    flatten(&Image::fetch(&Source::OciArchive(bed.path("image.tar"))).layers())
}

/// Makes directories in each other, each with this name. Step by step, as the whole path may be longer than a system call
/// takes.
fn nest(start: &Path, name: &str, depth: usize) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut at = openat(CWD, start, flags, Mode::empty()).expect("a folder");
    for _ in 0..depth {
        mkdirat(&at, name, Mode::RWXU).expect("a folder");
        at = openat(&at, name, flags, Mode::empty()).expect("a folder");
    }
    openat(&at, "end", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).expect("a file");
}

/// One entry of an archive: its type, name and link target, without any check of what is sane.
fn entry(kind: u8, name: &str, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    let fields = header.as_old_mut();
    fields.name[..name.len()].copy_from_slice(name.as_bytes());
    fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    header.set_size(content.len() as u64);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn archive(bed: &Bed, entries: &[Vec<u8>]) {
    let mut bytes = entries.concat();
    bytes.resize(bytes.len() + 1024, 0);
    bed.write("context/x.tar", bytes);
}

#[test]
fn a_folder_that_becomes_a_link_while_it_is_walked() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM scratch\nCOPY . /\n");
    bed.write("outside/secret", "not yours");
    bed.write("context/turn/inside", "yours");
    let (folder, aside) = (bed.path("context/turn"), bed.path("aside"));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                fs::rename(&folder, &aside).expect("a move");
                symlink("../outside", &folder).expect("a link");
                fs::remove_file(&folder).expect("the link");
                fs::rename(&aside, &folder).expect("a move");
            }
        });
        for _ in 0..3 {
            // It may well fail: what it read kept changing.
            let outcome = exported(&bed).args(["--no-cache"]).run();
            if outcome.status.success() {
                let found = flatten(&Image::fetch(&Source::OciArchive(bed.path("image.tar"))).layers());
                assert!(!found.contains_key("turn/secret") && !found.contains_key("secret"), "{found:?}");
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    bed.assert_tidy();
}

/// Runs a build that is stopped when it has read from `file` twice, and calls `meanwhile` then. Later tries stop there as
/// well, and go on at once. Returns how it ended, and how often it stopped.
fn interrupted(bed: &Bed, file: &str, arguments: &[&str], meanwhile: impl FnOnce() + Send) -> (Outcome, usize) {
    let trace = bed.path("trace");
    let _ = fs::remove_file(&trace);
    let mut kiln = exported(bed).args(arguments);
    let words = ["-f", "-qq", "-e", "trace=read", "-e", "inject=read:signal=STOP:when=2", "-o", "trace", "-P"];
    kiln.run_by("strace", words.map(OsString::from).into_iter().chain([bed.path(file).into_os_string()]));
    let running = kiln.start();
    let children = format!("/proc/{0}/task/{0}/children", running.pid());
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut stops = 0;
            let mut meanwhile = Some(meanwhile);
            while !is_over.load(Ordering::Relaxed) {
                let text = fs::read_to_string(&trace).unwrap_or_default();
                let last = text.match_indices("--- SIGSTOP").nth(stops).map(|(place, _)| &text[place..]);
                if last.is_some_and(|rest| rest.contains("--- stopped by SIGSTOP")) {
                    stops += 1;
                    if let Some(meanwhile) = meanwhile.take() {
                        meanwhile();
                    }
                    let pids = fs::read_to_string(&children).unwrap_or_default();
                    let continued = Command::new("kill").arg("-CONT").args(pids.split_whitespace()).status();
                    assert!(continued.expect("kill").success());
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            stops
        });
        let outcome = running.wait();
        is_over.store(true, Ordering::Relaxed);
        (outcome, watcher.join().expect("the watcher"))
    })
}

#[test]
fn a_file_that_changes_while_it_is_read_is_read_again() {
    if unable() || host().lacks(&[Need::Tool("strace")]) {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM scratch\nCOPY f /f\n");
    let content = |letter: &str| letter.repeat(4 << 20);
    let path = bed.write("context/f", content("a"));
    // In place, of the same size, and every byte another.
    let write = |letter: &str| {
        let mut file = fs::File::options().write(true).open(&path).expect("the file");
        file.write_all(content(letter).as_bytes()).expect("room");
    };
    let is = |letter: &str, outcome: &Outcome| {
        let found = flatten(&Image::fetch(&Source::OciArchive(bed.path("image.tar"))).layers());
        let size = 4 << 20;
        assert_eq!(found["f"].kind, Kind::File { size, digest: Digest::of(content(letter)) }, "{letter}: {outcome}");
    };
    // Read into the layer.
    let (outcome, stops) = interrupted(&bed, "context/f", &[], || write("b"));
    let outcome = outcome.success();
    assert!(stops >= 2, "{stops}: {outcome}");
    is("b", &outcome);
    // Read for its digest, for there is a layer of this step already.
    write("c");
    let (outcome, stops) = interrupted(&bed, "context/f", &[], || write("d"));
    let outcome = outcome.success();
    assert!(stops >= 2, "{stops}: {outcome}");
    is("d", &outcome);
    let (outcome, stops) = interrupted(&bed, "context/f", &["--no-cache"], || {
        fs::remove_file(&path).expect("the file");
        fs::write(&path, content("e")).expect("a file");
    });
    // Another file of that name: what was open is still whole.
    let outcome = outcome.success();
    assert!(stops >= 1, "{stops}: {outcome}");
    is("d", &outcome);
    exported(&bed).run().success();
    is("e", &outcome);
    bed.assert_tidy();
}

#[test]
fn a_file_that_never_keeps_still_is_reported() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM scratch\nCOPY f /f\n");
    let path = bed.write("context/f", "x".repeat(16 << 20));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = fs::File::options().write(true).open(&path).expect("the file");
            let mut byte = 0u8;
            while !is_over.load(Ordering::Relaxed) {
                byte = byte.wrapping_add(1);
                file.write_all_at(&[byte], 0).expect("room");
            }
        });
        let outcome = exported(&bed).run();
        is_over.store(true, Ordering::Relaxed);
        let outcome =
            outcome.failure().says(&["changed while", "Dockerfile:2", "hint: build again when nothing writes"]);
        assert_eq!(outcome.status.code(), Some(1), "{outcome}");
    });
    exported(&bed).run().success();
    bed.assert_tidy();
}

#[test]
fn links_are_copied_and_never_followed_out() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM scratch\nCOPY d /d/\nCOPY --from=more d /more/\n");
    for context in ["context/d", "more/d"] {
        fs::create_dir_all(bed.path(context)).expect("a folder");
        for (name, target) in
            [("abs", "/etc"), ("up", "../../../../../etc"), ("round", "round"), ("proc", "/proc/self")]
        {
            symlink(target, bed.path(context).join(name)).expect("a link");
        }
    }
    let more = format!("more={}", bed.path("more").display());
    exported(&bed).args(["--build-context", &more]).run().success();
    let found = flatten(&Image::fetch(&Source::OciArchive(bed.path("image.tar"))).layers());
    assert_eq!(found["d/abs"].kind, Kind::Symlink("/etc".to_owned()));
    assert_eq!(found["more/up"].kind, Kind::Symlink("../../../../../etc".to_owned()));
    assert_eq!(found.len(), 10);
    for source in ["d/abs/hostname", "d/up/hostname", "d/round", "d/proc/environ", "../../../../etc/hostname"] {
        dockerfile(&bed, "context", &format!("FROM scratch\nCOPY {source} /x\n"));
        build(&bed, "context").run().failure().says(&["Dockerfile:2"]);
    }
}

#[test]
fn pipes_sockets_and_devices_do_not_hang() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM scratch\nCOPY . /\n");
    let _socket = std::os::unix::net::UnixListener::bind({
        fs::create_dir_all(bed.path("context")).expect("a folder");
        bed.path("context/socket")
    });
    for (name, arguments) in [("pipe", "p"), ("zero", "c 1 5")] {
        let mut mknod = Command::new("mknod");
        mknod.arg(bed.path("context").join(name)).args(arguments.split(' '));
        assert!(mknod.status().expect("mknod").success());
    }
    let found = files(&bed);
    assert_eq!(found["pipe"].kind, Kind::Special(b'6', 0, 0));
    assert_eq!(found["zero"].kind, Kind::Special(b'3', 1, 5));
    assert!(!found.contains_key("socket"));
}

#[test]
fn archives_keep_devices_and_holes() {
    if unable() {
        return;
    }
    let bed = bed();
    let shell = |script: &str| {
        let output = Command::new("sh").args(["-ec", script]).current_dir(bed.path("")).output().expect("a shell");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    shell(
        "mkdir -p context d; cd d; mkfifo pipe; mknod zero c 1 5; mknod disk b 7 1
         truncate -s 300000 holes; printf mid | dd of=holes bs=1 seek=150000 conv=notrunc status=none",
    );
    let holes = fs::read(bed.path("d/holes")).expect("the file");
    dockerfile(&bed, "context", "FROM scratch\nADD x.tar /\n");
    for format in ["gnu", "posix --sparse-version=0.0", "posix --sparse-version=0.1", "posix --sparse-version=1.0"] {
        shell(&format!("tar -C d --format={format} --sparse -cf context/x.tar ."));
        let found = files(&bed);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["disk", "holes", "pipe", "zero"], "{format}");
        assert_eq!(found["pipe"].kind, Kind::Special(b'6', 0, 0), "{format}");
        assert_eq!(found["zero"].kind, Kind::Special(b'3', 1, 5), "{format}");
        assert_eq!(found["disk"].kind, Kind::Special(b'4', 7, 1), "{format}");
        assert_eq!(found["holes"].kind, Kind::File { size: 300_000, digest: Digest::of(&holes) }, "{format}");
    }
}

#[test]
fn names_of_any_bytes_and_any_length() {
    if unable() {
        return;
    }
    let bed = bed();
    let long = "n".repeat(255);
    dockerfile(&bed, "context", "FROM scratch\nCOPY d /out/\n");
    bed.write(format!("context/d/{long}/{long}"), "long");
    let odd = bed.path("context/d").join(OsStr::from_bytes(b"\xff\xfe\n\x1b[31m"));
    fs::write(&odd, "odd").expect("a file");
    build(&bed, "context").args(["-o", "type=local,dest=tree"]).run().success();
    assert_eq!(fs::read(bed.path("tree/out").join(odd.file_name().expect("a name"))).expect("the file"), b"odd");
    assert_eq!(fs::read(bed.path(format!("tree/out/{long}/{long}"))).expect("the file"), b"long");
    dockerfile(&bed, "context", &format!("FROM scratch\nCOPY d/{long}/{long} /{long}n\n"));
    build(&bed, "context").run().failure().says(&["Dockerfile:2", "255"]);
}

#[test]
fn trees_that_are_too_deep() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM scratch\nCOPY deep /\n");
    fs::create_dir_all(bed.path("context/deep")).expect("a folder");
    nest(&bed.path("context/deep"), "d", 500);
    // Few files may be open: the walk does not keep its way back open.
    let limited = |bed: &Bed| {
        let program = format!("ulimit -n 128; exec {} \"$@\"", env!("CARGO_BIN_EXE_kiln"));
        let mut command = Command::new("sh");
        command.args(["-c", &program, "kiln", "build", "-o", "type=oci,dest=deep.tar", "context"]);
        command.env("KILN_ROOT", bed.root()).current_dir(bed.path("")).output().expect("kiln")
    };
    let output = limited(&bed);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Below another directory it is deeper than any layer.
    dockerfile(&bed, "context", "FROM scratch\nWORKDIR /1/2/3/4/5/6/7/8/9/10/11/12/13\nCOPY deep .\n");
    build(&bed, "context").run().failure().says(&["Dockerfile:3", "nested more than 512 deep"]);
    dockerfile(&bed, "context", "FROM scratch\nCOPY deep /\n");
    nest(&bed.path("context/deep"), "e", 520);
    build(&bed, "context").run().failure().says(&["nested more than 512 deep"]);
    fs::remove_dir_all(bed.path("context/deep")).expect("a folder");
    fs::create_dir_all(bed.path("context/deep")).expect("a folder");
    nest(&bed.path("context/deep"), &"n".repeat(250), 20);
    build(&bed, "context").run().failure().says(&["longer than 4095 bytes"]);
    bed.assert_tidy();
}

#[test]
fn archives_stay_in_their_directory() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM scratch\nADD x.tar /o/\n");
    // As deep as a layer may be, and deeper.
    let long = |depth: usize, name: &str| {
        let path = [["d"; 1].repeat(depth).join("/").as_bytes(), b"/", name.as_bytes(), b"\0"].concat();
        archive(&bed, &[entry(b'L', "././@LongLink", "", &path), entry(b'0', "cut", "", b"deep")]);
    };
    long(510, "f");
    assert!(files(&bed).keys().any(|path| path.ends_with("d/d/d/f")));
    for depth in [511, 2000] {
        long(depth, "f");
        exported(&bed).run().failure().says(&["Dockerfile:2", "nested more than 512 deep"]);
    }
    long(2000, &"e".repeat(100));
    exported(&bed).run().failure().says(&["Dockerfile:2", "longer than 4096 bytes"]);
    // Such a name cannot be in a layer, where it would delete.
    archive(&bed, &[entry(b'0', "f", "", b""), entry(b'0', ".wh.f", "", b"")]);
    exported(&bed).run().failure().says(&[".wh."]);
    archive(
        &bed,
        &[
            entry(b'0', "../../../up", "", b"1"),
            entry(b'0', "/abs/f", "", b"2"),
            entry(b'2', "out", "/", b""),
            entry(b'0', "out/through", "", b"3"),
            entry(b'2', "etc", "/etc", b""),
            entry(b'5', "etc", "", b""),
            entry(b'0', "etc/passwd", "", b"4"),
            entry(b'1', "linked", "../../abs/f", b""),
            // A file whose blocks lie beside each other, as some wrote it in the seventies; and one without a type.
            entry(b'7', "contiguous", "", b"5"),
            entry(0, "untyped", "", b"6"),
        ],
    );
    let found = files(&bed);
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    let below = ["abs", "abs/f", "contiguous", "etc", "etc/passwd", "linked", "out", "through", "untyped", "up"];
    assert_eq!(names, [&["o".to_owned()][..], &below.map(|name| format!("o/{name}"))].concat());
    assert_eq!(found["o/contiguous"].kind, Kind::File { size: 1, digest: Digest::of("5") });
    for link in ["../../../../etc/passwd", "/etc/shadow", "nowhere"] {
        archive(&bed, &[entry(b'0', "f", "", b""), entry(b'1', "h", link, b"")]);
        exported(&bed).run().failure().says(&["Dockerfile:2", "\"h\"", "no such file"]);
    }
    bed.assert_tidy();
}

#[test]
fn archives_that_are_bombs_or_broken() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM scratch\nADD x.tar /o/\n");
    // A file of 4 GiB of zeros says its header; what is there is much less.
    let mut header = tar::Header::new_ustar();
    header.set_path("zeros").expect("a name");
    header.set_mode(0o644);
    header.set_size(4 << 30);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    let mut compressed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    compressed.write_all(header.as_bytes()).expect("a header");
    compressed.write_all(&[0; 4096]).expect("zeros");
    bed.write("context/x.tar", compressed.finish().expect("an archive"));
    build(&bed, "context").run().failure().says(&["Dockerfile:2", "expands to more than 1000 times its size"]);
    archive(&bed, &[entry(b'0', "f", "", b"whole"), entry(b'V', "label", "", b"")]);
    build(&bed, "context").run().failure().says(&["Dockerfile:2", "label", "unknown type"]);
    let whole = [entry(b'0', "f", "", b"whole"), entry(b'0', "g", "", &[1; 9000])].concat();
    bed.write("context/x.tar", &whole[..4096]);
    build(&bed, "context").run().failure().says(&["Dockerfile:2"]);
    bed.assert_tidy();
}
