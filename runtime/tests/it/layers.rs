//! What ends up in the upper directory, and what it lies upon.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;

use kiln_runtime::{Mount, MountKind, Spec};

use crate::bed::Bed;

#[test]
fn a_command_that_changes_nothing_leaves_nothing() {
    let Some(bed) = Bed::new() else { return };
    bed.ok("true");
    assert_eq!(bed.changes(), [""; 0]);
    let mut spec = bed.sh("true");
    let target =
        |target: &str| Mount { target: target.into(), read_only: false, kind: MountKind::Tmpfs { size: None } };
    spec.mounts = vec![target("/run/a/b"), target("/root/.cache"), target("/new")];
    bed.run(&spec).out();
    assert_eq!(bed.changes(), [""; 0]);
}

#[test]
fn what_a_command_does_is_kept() {
    let Some(bed) = Bed::new() else { return };
    bed.ok("echo x > /run.txt; mkdir -p /run/a; rm /etc/group; touch /etc/new");
    assert_eq!(bed.changes(), ["etc", "etc/group", "etc/new", "run", "run.txt", "run/a"]);
    let whiteout = fs::symlink_metadata(bed.root.upper.join("etc/group")).expect("a whiteout");
    assert_eq!(whiteout.rdev(), 0);
}

#[test]
fn an_image_of_one_file_gets_the_kernels_directories_and_no_etc() {
    let Some(bed) = Bed::new() else { return };
    let lower = bed.make_dir("one");
    fs::copy("/bin/busybox", lower.join("busybox")).expect("busybox");
    let mut root = bed.root.clone();
    root.lowers = vec![lower];
    bed.run(&Spec::new(root, ["/busybox", "cat", "/etc/hosts"])).out();
    assert_eq!(bed.changes(), ["dev", "proc", "sys"]);
}

#[test]
fn an_empty_image_can_be_mounted() {
    let Some(bed) = Bed::new() else { return };
    let mut root = bed.root.clone();
    root.lowers.clear();
    assert!(bed.run(&Spec::new(root, ["/nothing"])).error().contains("no such file"));
}

#[test]
fn the_working_directory_is_made_for_the_user_and_kept() {
    let Some(bed) = Bed::new() else { return };
    let mut spec = bed.sh("pwd; stat -c '%a %u:%g' . ..");
    spec.cwd = "/srv/a/../b".into();
    spec.user = "app".into();
    assert_eq!(bed.run(&spec).out(), "/srv/b\n755 1000:1001\n755 1000:1001\n");
    assert!(bed.changes().contains(&"srv/b".to_owned()));
    spec.cwd = "/etc/passwd/x".into();
    assert!(bed.run(&spec).error().contains("/etc/passwd/x"), "a file on the way");
    // Entered as root: the user itself could not.
    fs::create_dir_all(bed.base("secret")).expect("a directory");
    fs::set_permissions(bed.base("secret"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("ours");
    let mut spec = bed.sh("id -u");
    (spec.cwd, spec.user) = ("/secret".into(), "app".into());
    assert_eq!(bed.run(&spec).out(), "1000\n");
}

#[test]
fn a_working_directory_below_a_mount_point_is_kept_without_the_mount_point() {
    let Some(bed) = Bed::new() else { return };
    let mut spec = bed.sh("true");
    spec.cwd = "/app".into();
    let kind = MountKind::Tmpfs { size: None };
    spec.mounts = vec![Mount { target: "/app/node/cache".into(), read_only: false, kind }];
    bed.run(&spec).out();
    assert_eq!(bed.changes(), ["app"]);
}

#[test]
fn many_layers_stack_and_repeat() {
    let Some(bed) = Bed::new() else { return };
    let mut lowers: Vec<PathBuf> = (0..130)
        .map(|i| {
            let layer = bed.make_dir(&format!("layer-{i}"));
            fs::write(layer.join(format!("file-{i}")), "").expect("a file");
            fs::write(layer.join("top"), i.to_string()).expect("a file");
            layer
        })
        .collect();
    lowers.push(bed.path("base"));
    lowers.extend(lowers.clone());
    let mut spec = bed.sh("ls / | grep -c file-; cat /top");
    spec.root.lowers = lowers;
    assert_eq!(bed.run(&spec).out(), "130\n0");
}

#[test]
fn mount_points_that_a_layer_hides_are_made_and_taken_away() {
    let Some(bed) = Bed::new() else { return };
    // A whiteout of resolv.conf, and a link to where nothing is.
    let top = bed.make_dir("top");
    fs::create_dir_all(top.join("etc")).expect("a directory");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        top.join("etc/hosts"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::empty(),
        0,
    )
    .expect("a whiteout");
    symlink("../run/systemd/resolv.conf", top.join("etc/resolv.conf")).expect("a symlink");
    let mut spec = bed.sh("cat /etc/hosts /etc/resolv.conf | wc -l");
    spec.root.lowers.insert(0, top.clone());
    assert_ne!(bed.run(&spec).out(), "0\n");
    assert_eq!(bed.changes(), ["etc"], "of which only the attributes were copied");
    let time = |path: PathBuf| {
        let meta = fs::metadata(path).expect("it is there");
        (meta.mtime(), meta.mtime_nsec())
    };
    assert_eq!(time(bed.root.upper.join("etc")), time(top.join("etc")));
}
