//! What a command may use, and which devices it may open.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use kiln_runtime::{Outcome, Resources, Security};

use crate::bed::{Bed, skipped};

/// A command that has a cgroup of its own, in the words of `/proc/self/cgroup`.
fn has_controller(bed: &Bed, name: &str) -> bool {
    let groups = bed.ok("cat /proc/self/cgroup");
    let has = groups.lines().any(|line| line.contains(&format!(":{name}:")) && line.contains("/kiln-"));
    if !has && !groups.contains("0::/\n") {
        skipped(&format!("no cgroup with the controller {name} here: {groups}"));
    }
    has || groups.trim() == "0::/"
}

#[test]
fn ordinary_devices_open_wherever_their_nodes_are() {
    let Some(bed) = Bed::new() else { return };
    if !has_controller(&bed, "devices") {
        return;
    }
    for place in ["/x", "/dev/x", "/tmp/x"] {
        assert_eq!(bed.ok(&format!("mknod {place} c 1 5 && head -c 2 {place} | od -An -tx1")), " 00 00\n", "{place}");
    }
}

#[test]
fn other_devices_can_be_made_and_not_be_opened() {
    let Some(bed) = Bed::new() else { return };
    // The disks of this machine, the kernel's log and memory, a tunnel, a loop device.
    let disks = fs::read_dir("/dev").expect("devices").flatten().filter_map(|entry| {
        let metadata = entry.metadata().ok().filter(|metadata| metadata.file_type().is_block_device())?;
        Some(('b', rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev())))
    });
    let others = [('c', 1, 1), ('c', 1, 11), ('c', 10, 200), ('c', 10, 229), ('b', 7, 0), ('c', 5, 1)];
    for (kind, major, minor) in disks.chain(others) {
        for place in ["/x", "/dev/x", "/dev/shm/x"] {
            let script = format!(
                "mknod {place} {kind} {major} {minor} && echo made && head -c 1 {place}; dd if=/dev/zero of={place} bs=1 count=1"
            );
            let ran = bed.run(&bed.sh(&script));
            assert_eq!(ran.stdout, "made\n", "{kind} {major}:{minor} in {place}: {}", ran.stderr);
            let refused =
                ran.stderr.matches("Operation not permitted").count() + ran.stderr.matches("Permission denied").count();
            assert_eq!(refused, 2, "{kind} {major}:{minor} in {place}: {}", ran.stderr);
            let _ = fs::remove_file(bed.root.upper.join("x"));
        }
    }
}

#[test]
fn an_insecure_command_may_do_what_the_builder_may() {
    let Some(bed) = Bed::new() else { return };
    let mut spec = bed.sh(
        "grep -E 'CapEff|CapAmb|Seccomp:' /proc/self/status; mkdir -p /m && mount -t tmpfs none /m && echo mounted; \
         cat /proc/mounts | grep ' /sys sysfs '; mknod /k c 1 11 && (exec 3< /k) && echo opened",
    );
    spec.security = Security::Insecure;
    let out = bed.run(&spec).out();
    let ours = fs::read_to_string("/proc/self/status").expect("procfs");
    let ours = ours.lines().find_map(|line| line.strip_prefix("CapEff:\t")).expect("the line").to_owned();
    for expected in
        [&*format!("CapEff:\t{ours}"), &*format!("CapAmb:\t{ours}"), "Seccomp:\t0", "mounted", "sysfs rw,", "opened"]
    {
        assert!(out.contains(expected), "{expected} is not in {out}");
    }
}

#[test]
fn a_fork_bomb_ends_at_the_limit() {
    let Some(bed) = Bed::new() else { return };
    if !has_controller(&bed, "pids") {
        return;
    }
    let mut spec = bed.sh("for i in $(seq 40); do sleep 100 & done; echo all started");
    spec.resources = Resources { pids: Some(20), ..Resources::default() };
    let ran = bed.run(&spec);
    assert!(!ran.stdout.contains("all started") && ran.stderr.contains("can't fork"), "{} {}", ran.stdout, ran.stderr);
    // The host is not short of processes meanwhile: this one starts as before.
    assert_eq!(bed.ok("echo fine"), "fine\n");
}

#[test]
fn a_command_that_takes_too_much_memory_is_told_from_one_that_fails() {
    let Some(bed) = Bed::new() else { return };
    let mut spec = bed.sh("head -c 64m /dev/zero | tail; exit 3");
    spec.resources = Resources { memory: Some(32 << 20), memory_swap: Some(32 << 20), ..Resources::default() };
    let ran = bed.run(&spec);
    if ran.warnings.iter().any(|warning| warning.contains("`memory=")) {
        return skipped(&format!("{:?}", ran.warnings));
    }
    assert_eq!(ran.result.expect("it ran"), Outcome::OutOfMemory { code: 3 });
    let mut spec = bed.sh("head -c 1m /dev/zero | tail > /dev/null; exit 3");
    spec.resources = Resources { memory: Some(32 << 20), ..Resources::default() };
    assert_eq!(bed.run(&spec).result.expect("it ran"), Outcome::Exited(3));
}

#[test]
fn limits_are_set_and_refused_ones_are_named() {
    let Some(bed) = Bed::new() else { return };
    let groups = std::path::Path::new("/sys/fs/cgroup");
    let (script, expected) = if groups.join("cpu/cpu.shares").exists() {
        let script = "for f in cpu/cpu.shares cpu/cpu.cfs_quota_us cpuset/cpuset.cpus pids/pids.max; do \
            c=${f%%/*}; p=$(sed -n \"s,.*:$c:,,p\" /proc/self/cgroup); cat /sys/fs/cgroup/$c$p/${f#*/}; done";
        (script, "512\n50000\n0\n4096\n")
    } else if groups.join("cgroup.controllers").exists() {
        ("cd /sys/fs/cgroup; cat cpu.weight cpu.max cpuset.cpus pids.max", "20\n50000 100000\n0\n4096\n")
    } else {
        return skipped("no cgroups here");
    };
    let mut spec = bed.sh(script);
    spec.resources = Resources {
        cpu_shares: Some(512),
        cpu_quota: Some(50_000),
        cpuset_cpus: Some("0".to_owned()),
        ..Resources::default()
    };
    let ran = bed.run(&spec);
    assert_eq!(ran.warnings, Vec::<String>::new());
    assert_eq!(ran.out(), expected);
    spec.resources.cpuset_cpus = Some("4095".to_owned());
    let ran = bed.run(&spec);
    assert_eq!(ran.warnings.len(), 1);
    assert!(ran.warnings[0].starts_with("the host refused the limit `cpuset-cpus=4095`: "), "{:?}", ran.warnings);
}

#[test]
fn a_parent_group_is_made_and_goes_again() {
    let Some(bed) = Bed::new() else { return };
    let parent = format!("kiln-test-{}", std::process::id());
    let mut spec = bed.sh("cat /proc/self/cgroup");
    spec.cgroup_parent = format!("/{parent}/inner");
    let groups = bed.run(&spec).out();
    assert!(groups.contains(&format!("/{parent}/inner/kiln-")) || groups.trim() == "0::/", "{groups}");
    let left = fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten();
    assert!(left.into_iter().all(|entry| !entry.path().join(&parent).exists() && entry.file_name() != *parent));
}
