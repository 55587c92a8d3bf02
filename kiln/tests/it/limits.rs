//! What commands may use, and what they find.

use std::path::Path;

use kiln_testkit::Outcome;

use crate::fixture::{bed, build, dockerfile, unable};

fn run(text: &str, flags: &[&str]) -> Outcome {
    let bed = bed();
    dockerfile(&bed, "context", text);
    let outcome = build(&bed, "context").args(flags).run();
    bed.assert_tidy();
    outcome
}

/// Says whether the limits of this controller can be set, as root with cgroups of version 1 or 2.
fn has(controller: &str) -> bool {
    let has =
        Path::new("/sys/fs/cgroup").join(controller).exists() || Path::new("/sys/fs/cgroup/cgroup.procs").exists();
    if !has {
        // Where all tests have to run, none may pass by not running.
        assert!(std::env::var_os("CI").is_none(), "no cgroups with {controller} here");
        println!("skipped: no cgroups with {controller} here");
    }
    has
}

#[test]
fn limits_of_processes_and_of_shared_memory_hold() {
    if unable() {
        return;
    }
    let text = "FROM busybox\nRUN ulimit -Sn; ulimit -Hn; ulimit -c; df -k /dev/shm | tail -1; head -c 9m /dev/zero > /dev/shm/x || echo full\n";
    let outcome = run(text, &["--ulimit=nofile=64:128", "--ulimit=core=0", "--shm-size=8m"]).success();
    outcome.says(&[" 64\n", " 128\n", " 0\n", " 8192 ", " full\n"]);
}

#[test]
fn a_limit_above_the_hosts_is_lowered_and_named() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM busybox\nRUN ulimit -Sn; ulimit -Hn\n");
    let mut kiln = build(&bed, "context").arg("--ulimit=nofile=64:5000");
    kiln.run_by("prlimit", ["--nofile=1000:2000".into()]);
    kiln.run().success().says(&["the limit `nofile` is above the host's", " 64\n", " 2000\n"]);
}

/// Builds where a script has mounted what it likes.
fn run_among(mounts: &str, text: &str, flags: &[&str]) -> Outcome {
    let bed = bed();
    dockerfile(&bed, "context", text);
    let mut kiln = build(&bed, "context").args(flags);
    kiln.among_mounts(&format!("{mounts}; exec \"$@\""), []);
    kiln.run()
}

#[test]
fn without_cgroups_limits_are_named_and_the_build_goes_on() {
    if unable() {
        return;
    }
    let text = "FROM busybox\nRUN echo ran; mknod /z c 1 5; head -c 1 /z || echo shut\n";
    let outcome = run_among("mount -t tmpfs none /sys/fs/cgroup", text, &["--resource=memory=1g"]).success();
    outcome.says(&[
        "the host refused the limit `memory=1073741824`: no cgroup with the controller",
        " ran\n",
        " shut\n",
    ]);
}

#[test]
fn cgroups_of_version_2_confine_devices_and_are_gone_afterwards() {
    if unable() {
        return;
    }
    let text = "FROM busybox\nRUN grep ^0::/ /proc/self/cgroup; mknod /k c 1 11; head -c 1 /k || echo shut; \
                mknod /z c 1 5; head -c 1 /z | wc -c\n";
    let mounts = "mount -t cgroup2 none /sys/fs/cgroup";
    run_among(mounts, text, &["--network=none"]).success().says(&[" 0::/", " shut\n", " 1\n"]);
}

#[test]
fn a_command_that_needs_too_much_memory_is_named_with_its_limit() {
    if unable() || !has("memory") {
        return;
    }
    let text = "FROM busybox\nRUN head -c 200m /dev/zero | tail\n";
    let outcome = run(text, &["-m", "32m", "--memory-swap=32m"]).failure();
    outcome.says(&["cannot allocate memory", "killed: 32 MiB limit reached"]);
}

#[test]
fn a_fork_bomb_fails_and_the_host_goes_on() {
    if unable() || !has("pids") {
        return;
    }
    // Each copy starts two more.
    let text = "FROM busybox\nRUN echo 'sh /bomb & sh /bomb' > /bomb; sh /bomb 2>&1 | head -1\n";
    let outcome = run(text, &["--pids-limit=50"]);
    let outcome = outcome.says(&["can't fork"]);
    assert!(outcome.took.as_secs() < 60, "{outcome}");
    run("FROM busybox\nRUN echo fine\n", &[]).success().says(&[" fine\n"]);
}

#[test]
fn what_the_host_refuses_is_named_and_old_flags_are_taken() {
    if unable() || !has("cpuset") {
        return;
    }
    let text = "FROM busybox\nRUN echo ran\n";
    let outcome = run(text, &["--resource=cpuset-cpus=4095", "--squash", "--rm", "--security-opt=a=b"]).success();
    let outcome = outcome.says(&["the host refused the limit `cpuset-cpus=4095`", " ran\n"]);
    let outcome = outcome.says(&["note: `--squash` does nothing", "note: `--security-opt` does nothing"]);
    assert!(!outcome.stderr.contains("`--rm`"), "{outcome}");
    run(text, &["--resource=disk=1g"]).failure().says(&["unknown resource `disk`", "known: memory"]);
}
