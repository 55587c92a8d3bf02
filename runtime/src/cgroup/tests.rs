use std::fs;
use std::path::Path;

use super::files::{Controller, distributor, parent_path, settings};
use super::{Group, Host, Wish};
use crate::spec::Resources;

/// A directory that stands for a hierarchy of version 2: `/slice/scope` is ours.
fn unified(scope_limit: &str) -> (tempfile::TempDir, Host) {
    let dir = tempfile::tempdir().expect("a directory");
    for (group, control) in [("", "cpu memory pids"), ("slice", "memory pids"), ("slice/scope", "")] {
        let path = dir.path().join(group);
        fs::create_dir_all(&path).expect("a directory");
        fs::write(path.join("cgroup.subtree_control"), control).expect("a file");
    }
    fs::write(dir.path().join("slice/scope/memory.max"), scope_limit).expect("a file");
    // A group with processes refuses; a plain file that is a directory does so too.
    fs::remove_file(dir.path().join("slice/scope/cgroup.subtree_control")).expect("a file");
    fs::create_dir(dir.path().join("slice/scope/cgroup.subtree_control")).expect("a directory");
    let file_system = rustix::fs::statfs(dir.path()).expect("it is there").f_type;
    let membership = "0::/slice/scope\n".to_owned();
    let host = Host { root: dir.path().to_owned(), membership, is_unified: true, file_system };
    (dir, host)
}

fn lines(resources: &Resources, is_unified: bool) -> Vec<String> {
    let lines = settings(resources, is_unified);
    lines.iter().map(|line| format!("{} {} {}", line.file, line.value, line.is_asked_for)).collect()
}

fn everything() -> Resources {
    Resources {
        pids: Some(100),
        memory: Some(1000),
        memory_swap: Some(1500),
        cpu_shares: Some(1024),
        cpu_period: Some(50_000),
        cpu_quota: Some(25_000),
        cpuset_cpus: Some("0-1".to_owned()),
        cpuset_mems: Some("0".to_owned()),
    }
}

#[test]
fn limits_go_into_the_files_of_their_version() {
    assert_eq!(
        lines(&everything(), false),
        [
            "pids.max 100 true",
            "memory.limit_in_bytes 1000 true",
            "memory.memsw.limit_in_bytes 1500 true",
            "cpu.shares 1024 true",
            "cpu.cfs_period_us 50000 true",
            "cpu.cfs_quota_us 25000 true",
            "cpuset.cpus 0-1 true",
            "cpuset.mems 0 true",
        ]
    );
    assert_eq!(
        lines(&everything(), true),
        [
            "pids.max 100 true",
            "memory.max 1000 true",
            "memory.swap.max 500 true",
            "cpu.weight 39 true",
            "cpu.max 25000 50000 true",
            "cpuset.cpus 0-1 true",
            "cpuset.mems 0 true",
        ]
    );
}

#[test]
fn what_nobody_asked_for_is_not_missed() {
    assert_eq!(lines(&Resources::default(), true), ["pids.max 4096 false"]);
    let memory = Resources { pids: None, memory: Some(1000), ..Resources::default() };
    assert_eq!(lines(&memory, true), ["memory.max 1000 true", "memory.swap.max 1000 false"]);
    assert_eq!(lines(&memory, false), ["memory.limit_in_bytes 1000 true", "memory.memsw.limit_in_bytes 2000 false"]);
    let unlimited = Resources { memory_swap: Some(-1), ..memory };
    assert_eq!(lines(&unlimited, true)[1], "memory.swap.max max true");
}

#[test]
fn parents_are_paths_or_slices_and_lead_nowhere_else() {
    for (parent, path) in [
        ("/a/b", "a/b"),
        ("a", "a"),
        ("../../a/./b", "a/b"),
        ("system.slice", "system.slice"),
        ("a-b-c.slice", "a.slice/a-b.slice/a-b-c.slice"),
        ("system.slice:kiln:", "system.slice"),
    ] {
        assert_eq!(parent_path(parent), Path::new(path), "{parent:?}");
    }
}

#[test]
fn a_group_of_version_2_is_made_where_controllers_are_handed_on() {
    let (dir, host) = unified("max\n");
    let slice = dir.path().join("slice");
    let own = slice.join("scope");
    assert_eq!(distributor(&own, dir.path(), &[Controller::Memory, Controller::Pids]), slice);
    let resources = Resources { memory: Some(4096), ..Resources::default() };
    let mut warnings = Vec::new();
    let wish = Wish { resources: &resources, parent: "", confines_devices: false };
    let group = Group::make(&host, &wish, &mut |refused| warnings.push(refused.to_string()));
    let path = slice.join(format!("kiln-{}", std::process::id()));
    assert!(path.is_dir());
    // The directory has no `cgroup.controllers`, which the kernel would have made: so nothing could be set.
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("the host refused the limit `memory=4096`: no cgroup with the"), "{warnings:?}");
    drop(group);
    assert!(!path.exists());
}

#[test]
fn a_group_with_limits_is_not_left() {
    let (dir, _) = unified("1000000\n");
    let own = dir.path().join("slice/scope");
    assert_eq!(distributor(&own, dir.path(), &[Controller::Pids]), own);
}

#[test]
fn groups_of_helpers_that_are_gone_are_removed() {
    let (dir, _) = unified("max\n");
    for name in ["kiln-4194999", "kiln-1", "kiln-x", "other"] {
        fs::create_dir(dir.path().join(name)).expect("a directory");
    }
    super::sweep(dir.path());
    let left: Vec<bool> =
        ["kiln-4194999", "kiln-1", "kiln-x", "other"].iter().map(|name| dir.path().join(name).exists()).collect();
    assert_eq!(left, [false, true, true, true]);
}

#[test]
fn the_program_for_version_2_lets_ordinary_devices_through() {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("procfs");
    let unified = mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (place, kind) = (words.nth(1)?, words.next()?);
        (kind == "cgroup2").then(|| Path::new(place).join(format!("kiln-device-test-{}", std::process::id())))
    });
    let Some(group) = unified.filter(|group| fs::create_dir(group).is_ok()) else {
        // Where all tests have to run, none may pass by not running.
        assert!(std::env::var_os("CI").is_none(), "no cgroup of version 2 can be made here");
        return println!("skipped: no cgroup of version 2 can be made here");
    };
    let confined = super::device::confine(&group, true);
    let dir = tempfile::tempdir().expect("a directory");
    let script = format!(
        "cd {} && echo 0 > {}/cgroup.procs && mknod zero c 1 5 && mknod kmsg c 1 11 && mknod loop b 7 0 || exit 9
         head -c1 zero | wc -c; head -c0 /dev/ptmx && echo pty; head -c1 kmsg || echo no log; head -c1 loop || echo no disk",
        dir.path().display(),
        group.display()
    );
    let output = std::process::Command::new("sh").args(["-c", &script]).output();
    fs::remove_dir(&group).expect("it is empty again");
    confined.expect("the kernel takes the program");
    let output = output.expect("a shell");
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(said, "1\npty\nno log\nno disk\n", "{errors}");
    assert_eq!(errors.matches("Operation not permitted").count(), 2, "{errors}");
}
