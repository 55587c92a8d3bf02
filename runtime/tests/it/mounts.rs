//! Mounts of every kind.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use kiln_runtime::{Mount, MountKind, SecretBytes};

use crate::bed::Bed;

fn bind(bed: &Bed, layers: &[&str], path: &str) -> MountKind {
    let layers = layers.iter().map(|name| bed.path(name)).collect();
    MountKind::Bind { layers, path: path.into(), upper: None }
}

fn at(target: &str, read_only: bool, kind: MountKind) -> Mount {
    Mount { target: target.into(), read_only, kind }
}

#[test]
fn a_bind_shows_a_tree_or_a_part_of_it() {
    let Some(bed) = Bed::new() else { return };
    let source = bed.make_dir("src/sub");
    fs::write(source.join("file"), "hello").expect("a file");
    symlink("/sub/file", bed.path("src/link")).expect("a symlink");
    symlink("../../../../etc/hostname", bed.path("src/out")).expect("a symlink");
    let mut spec = bed.sh("cat /a/sub/file /b/file /c /d/e; echo x > /a/new");
    spec.mounts = vec![
        at("/d/e", true, bind(&bed, &["src"], "/sub/../sub/file")),
        at("/a", true, bind(&bed, &["src"], "/")),
        at("/b", true, bind(&bed, &["src"], "sub")),
        at("/c", true, bind(&bed, &["src"], "/link")),
    ];
    let ran = bed.run(&spec);
    assert_eq!(ran.stdout, "hello".repeat(4));
    assert!(ran.stderr.contains("Read-only"), "{}", ran.stderr);
    assert_eq!(bed.changes(), [""; 0]);
    for path in ["/nope", "/out"] {
        spec.mounts = vec![at("/a", true, bind(&bed, &["src"], path))];
        assert_eq!(bed.run(&spec).error(), format!("open {path}: no such file or directory"));
    }
}

#[test]
fn a_stack_is_merged_and_its_writes_can_be_discarded() {
    let Some(bed) = Bed::new() else { return };
    for (name, content) in [("one", "1"), ("two", "2")] {
        let layer = bed.make_dir(name);
        fs::write(layer.join("both"), content).expect("a file");
        fs::write(layer.join(name), content).expect("a file");
    }
    let mut spec = bed.sh("cat /m/both /m/one /m/two");
    spec.mounts = vec![at("/m", true, bind(&bed, &["one", "two"], "/"))];
    assert_eq!(bed.run(&spec).out(), "112");
    spec.args[2] = "echo new > /m/both; rm /m/two; ls /m".into();
    for layers in [&["one", "two"][..], &["one"], &[]] {
        let upper = Some((bed.make_dir("discard/upper"), bed.make_dir("discard/work")));
        let layers = layers.iter().map(|name| bed.path(name)).collect();
        spec.mounts = vec![at("/m", false, MountKind::Bind { layers, path: "/".into(), upper })];
        assert_ne!(bed.run(&spec).stdout, "");
        fs::remove_dir_all(bed.path("discard")).expect("nothing is mounted there");
    }
    assert_eq!(fs::read_to_string(bed.path("one/both")).expect("it is there"), "1");
    assert!(bed.path("two/two").exists());
}

#[test]
fn a_cache_keeps_what_is_written() {
    let Some(bed) = Bed::new() else { return };
    let path = bed.make_dir("cache");
    let mut spec = bed.sh("echo x >> /root/.cache/x; cat /root/.cache/x");
    spec.mounts = vec![at("/root/.cache", false, MountKind::Directory { path: path.clone() })];
    assert_eq!(bed.run(&spec).out(), "x\n");
    assert_eq!(bed.run(&spec).out(), "x\nx\n");
    assert!(path.join("x").exists());
    assert_eq!(bed.changes(), [""; 0]);
}

#[test]
fn a_tmpfs_has_its_size_and_the_last_of_equal_targets_wins() {
    let Some(bed) = Bed::new() else { return };
    let mut spec = bed.sh("grep ' /t ' /proc/mounts");
    spec.mounts = vec![
        at("/t", true, MountKind::Tmpfs { size: None }),
        at("/t/", false, MountKind::Tmpfs { size: Some(1 << 20) }),
    ];
    let out = bed.run(&spec).out();
    assert!(out.lines().count() == 1 && out.contains("rw,nosuid,relatime,size=1024k"), "{out}");
}

#[test]
fn a_secret_is_a_file_in_memory() {
    let Some(bed) = Bed::new() else { return };
    let secret = |mode| {
        let content = SecretBytes(b"hunter2".to_vec());
        at("/run/secrets/token", true, MountKind::Bytes { content, uid: 1000, gid: 5, mode })
    };
    let mut spec = bed.sh("cat /run/secrets/token; stat -c ' %a %u:%g' /run/secrets/token; grep token /proc/mounts");
    spec.mounts = vec![secret(0o400)];
    let out = bed.run(&spec).out();
    assert!(out.starts_with("hunter2 400 1000:5\n") && out.contains("tmpfs ro,nosuid,nodev,noexec"), "{out}");
    spec.mounts = vec![secret(0o500)];
    assert!(!bed.run(&spec).out().contains("noexec"));
    assert_eq!(bed.changes(), [""; 0]);
}

#[test]
fn a_socket_of_the_host_can_be_reached() {
    let Some(bed) = Bed::new() else { return };
    let path = bed.path("agent");
    let listener = UnixListener::bind(&path).expect("a socket");
    let mut spec = bed.sh("test -S /run/buildkit/ssh_agent.0 && stat -c \"%u:%g %a\" /run/buildkit/ssh_agent.0");
    spec.mounts = vec![at("/run/buildkit/ssh_agent.0", false, MountKind::Socket { path, uid: 7, gid: 8, mode: 0o640 })];
    assert_eq!(bed.run(&spec).out(), "7:8 640\n");
    drop(listener);
    assert_eq!(bed.changes(), [""; 0]);
}

#[test]
fn a_mount_on_a_file_of_the_wrong_kind_names_its_target() {
    let Some(bed) = Bed::new() else { return };
    let mut spec = bed.sh("true");
    spec.mounts = vec![at("/etc/passwd", false, MountKind::Tmpfs { size: None })];
    assert_eq!(bed.run(&spec).error(), "cannot mount /etc/passwd: not a directory");
}
