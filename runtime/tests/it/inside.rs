//! What a command sees and may do.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use kiln_runtime::{Limit, Network, Rlimit, RunError, Security, SetupError};

use crate::bed::Bed;

#[test]
fn output_comes_through_two_pipes_and_the_code_is_the_commands() {
    let Some(bed) = Bed::new() else { return };
    let ran = bed.run(&bed.sh("echo out; echo err >&2; exit 7"));
    assert_eq!((ran.code(), &*ran.stdout, &*ran.stderr), (7, "out\n", "err\n"));
    assert_eq!(bed.run(&bed.sh("kill -9 1; kill -TERM $$; echo alive")).stdout, "alive\n", "pid 1 ignores both");
    assert_eq!(bed.ok("cat | wc -c; readlink /proc/self/fd/0"), "0\n/dev/null\n");
    assert_eq!(bed.ok("echo $$"), "1\n");
    let flood = bed.ok("dd if=/dev/zero bs=1M count=8 2>/dev/null");
    assert_eq!(flood.len(), 8 << 20);
}

#[test]
fn the_environment_is_what_was_asked_for() {
    let Some(bed) = Bed::new() else { return };
    let mut spec = bed.sh("");
    spec.args = vec!["env".into()];
    spec.env = vec!["A=1".into(), "A=2".into()];
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(bed.run(&spec).out(), format!("A=2\nPATH={path}\nHOME=/root\n"));
    spec.user = "app".into();
    assert!(bed.run(&spec).out().contains("HOME=/home/app\n"));
    spec.env.push("HOME=/x".into());
    assert!(bed.run(&spec).out().contains("HOME=/x\n"));
}

#[test]
fn users_are_those_of_the_image() {
    let Some(bed) = Bed::new() else { return };
    for (user, expected) in [
        ("", "uid=0(root) gid=0(root) groups=0(root)\n"),
        ("app", "uid=1000(app) gid=1001(app) groups=10(wheel),1001(app)\n"),
        ("app:wheel", "uid=1000(app) gid=10(wheel) groups=10(wheel)\n"),
        ("77:88", "uid=77 gid=88 groups=88\n"),
        ("77", "uid=77 gid=0(root) groups=0(root)\n"),
    ] {
        let mut spec = bed.sh("id; echo x >/dev/stdout; cat /proc/self/status | grep CapEff >/dev/stderr");
        spec.user = user.into();
        let ran = bed.run(&spec);
        let caps = if user.is_empty() { "CapEff:\t00000000a80425fb\n" } else { "CapEff:\t0000000000000000\n" };
        assert_eq!(ran.stderr, caps, "{user:?}");
        let mut words: Vec<String> = ran.out().lines().next().unwrap_or("").split(',').map(str::to_owned).collect();
        let mut wanted: Vec<String> = expected.trim_end().split(',').map(str::to_owned).collect();
        words.sort();
        wanted.sort();
        // The order of groups is the kernel's: compare as sets.
        let set = |words: Vec<String>| -> std::collections::BTreeSet<String> {
            words.join(",").split([' ', ',', '=']).map(str::to_owned).collect()
        };
        assert_eq!(set(words), set(wanted), "{user:?}");
    }
    let mut spec = bed.sh("true");
    spec.user = "nobody".into();
    assert_eq!(bed.run(&spec).error(), "unable to find user nobody: no matching entries in passwd file");
}

#[test]
fn capabilities_and_filter_are_dockers() {
    let Some(bed) = Bed::new() else { return };
    let mut spec = bed.sh("");
    spec.args = ["cat", "/proc/self/status"].map(str::to_owned).to_vec();
    let status = bed.run(&spec).out();
    let line = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).map_or_else(String::new, |rest| rest.trim().to_owned())
    };
    for (name, expected) in [
        ("CapInh:", "0000000000000000"),
        ("CapPrm:", "00000000a80425fb"),
        ("CapEff:", "00000000a80425fb"),
        ("CapBnd:", "00000000a80425fb"),
        ("CapAmb:", "0000000000000000"),
        ("NoNewPrivs:", "0"),
        ("Seccomp:", "2"),
        ("SigIgn:", "0000000000000000"),
        ("SigBlk:", "0000000000000000"),
        ("Umask:", "0022"),
    ] {
        assert_eq!(line(name), expected, "{name}");
    }
    for script in ["unshare -U true", "unshare -m true", "mount -t tmpfs x /tmp", "umount /proc"] {
        let ran = bed.run(&bed.sh(script));
        assert_ne!(ran.code(), 0, "{script}");
        assert!(
            ["Operation not permitted", "ermission denied"].iter().any(|text| ran.stderr.contains(text)),
            "{script}: {}",
            ran.stderr
        );
    }
}

#[test]
fn an_insecure_command_may_do_everything() {
    let Some(bed) = Bed::new() else { return };
    let mut spec = bed.sh("mount -t tmpfs x /tmp && grep -E 'CapEff|CapAmb|Seccomp:' /proc/self/status && id -u");
    spec.security = Security::Insecure;
    spec.user = "app".into();
    let out = bed.run(&spec).out();
    assert!(out.contains("Seccomp:\t0") && out.ends_with("1000\n"), "{out}");
    let all = fs::read_to_string("/proc/self/status").expect("procfs");
    let ours = all.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("a line").trim();
    assert_eq!(out.matches(ours).count(), 2, "{out}");
}

#[test]
fn kernel_files_are_masked_or_read_only() {
    let Some(bed) = Bed::new() else { return };
    for path in ["kcore", "keys", "timer_list"] {
        if fs::exists(format!("/proc/{path}")).unwrap_or(false) {
            assert_eq!(bed.ok(&format!("cat /proc/{path} | wc -c")), "0\n", "{path}");
        }
    }
    assert_eq!(bed.ok("ls /sys/firmware | wc -l"), "0\n");
    for path in ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/sys/x", "/sys/fs/cgroup/x", "/etc/hosts"] {
        if path.starts_with("/proc") && !fs::exists(path).unwrap_or(false) {
            continue;
        }
        let ran = bed.run(&bed.sh(&format!("echo x > {path}")));
        assert_ne!(ran.code(), 0, "{path}");
        assert!(ran.stderr.contains("ead-only") || ran.stderr.contains("ermission denied"), "{path}: {}", ran.stderr);
    }
    let mounts = bed.ok("cat /proc/self/mounts");
    let options = |target: &str| {
        mounts.lines().find(|line| line.split(' ').nth(1) == Some(target)).unwrap_or_default().to_owned()
    };
    for (target, expected) in [
        ("/", "overlay / overlay rw,"),
        ("/proc", "proc /proc proc rw,nosuid,nodev,noexec"),
        ("/dev", "tmpfs /dev tmpfs rw,nosuid,size=65536k,mode=755"),
        ("/dev/pts", "devpts rw,nosuid,noexec,relatime,gid=5,mode=620,ptmxmode=666"),
        ("/dev/shm", "tmpfs rw,nosuid,nodev,noexec,relatime,size=65536k"),
        ("/dev/mqueue", "mqueue rw,nosuid,nodev,noexec"),
        ("/sys", "sysfs ro,nosuid,nodev,noexec"),
        ("/etc/hosts", "tmpfs ro,nosuid,nodev,noexec"),
        ("/etc/resolv.conf", "tmpfs ro,nosuid,nodev,noexec"),
    ] {
        assert!(options(target).contains(expected), "{target}: {mounts}");
    }
}

#[test]
fn devices_are_the_six_and_no_others_open() {
    let Some(bed) = Bed::new() else { return };
    let names = bed.ok("ls /dev");
    let names: Vec<&str> = names.split_whitespace().collect();
    let expected = "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero";
    assert_eq!(names.join(" "), expected);
    let modes = bed.ok("stat -c '%a %t:%T %n' /dev/null /dev/tty; head -c 3 /dev/zero | wc -c; echo x > /dev/null");
    assert_eq!(modes, "666 1:3 /dev/null\n666 5:0 /dev/tty\n3\n");
}

#[test]
fn only_three_descriptors_are_open() {
    let Some(bed) = Bed::new() else { return };
    let mut spec = bed.sh("");
    spec.args = ["ls", "/proc/self/fd"].map(str::to_owned).to_vec();
    assert_eq!(
        bed.run(&spec).out(),
        "0
1
2
3
",
        "the last one is that of `ls` itself"
    );
    assert_eq!(bed.ok("ls /proc | grep -E '^[0-9]+$' | head -1"), "1\n");
}

#[test]
fn the_network_none_has_a_loopback_that_is_up() {
    let Some(bed) = Bed::new() else { return };
    let mut spec = bed.sh("ls /sys/class/net; cat /sys/class/net/lo/flags; ping -c1 -W1 127.0.0.1 >&2");
    spec.network = Network::None;
    assert!(bed.run(&spec).out().ends_with("0x9\n"));
    spec.args = ["ip", "route"].map(str::to_owned).to_vec();
    assert_eq!(bed.run(&spec).out(), "");
}

#[test]
fn names_are_those_of_the_spec() {
    let Some(bed) = Bed::new() else { return };
    let mut spec = bed.sh("hostname; cat /etc/hosts");
    spec.hostname = "box".into();
    spec.extra_hosts = vec![("Db".into(), "10.1.2.3".into())];
    let out = bed.run(&spec).out();
    assert!(out.starts_with("box\n127.0.0.1\tlocalhost box\n") && out.ends_with("\n10.1.2.3\tdb\n"), "{out}");
    spec.hostname = "a\n6.6.6.6 evil".into();
    assert!(matches!(bed.run(&spec).result, Err(RunError::Invalid { what: "hostname", .. })));
}

#[test]
fn limits_and_shm_are_set() {
    let Some(bed) = Bed::new() else { return };
    let mut spec = bed.sh("ulimit -n; ulimit -Hn; grep shm /proc/mounts");
    spec.rlimits = vec![Rlimit { limit: Limit::Nofile, soft: Some(100), hard: Some(200) }];
    spec.shm_size = Some(1 << 20);
    let out = bed.run(&spec).out();
    assert!(out.starts_with("100\n200\n") && out.contains("size=1024k"), "{out}");
}

#[test]
fn a_command_that_cannot_start_says_why() {
    let Some(bed) = Bed::new() else { return };
    let error = |args: &[&str]| {
        let mut spec = bed.sh("");
        spec.args = args.iter().map(|arg| (*arg).to_owned()).collect();
        match bed.run(&spec).result {
            Err(RunError::Setup(error)) => {
                assert!(error.is_command(), "{error}");
                error
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(error(&["nope"]), SetupError::CommandNotFound { name: "nope".into() });
    assert_eq!(error(&["/nope"]), SetupError::FileNotFound { path: "/nope".into(), exists: false });
    for (name, content, mode) in
        [("script", "#!/none\n", 0o755), ("plain", "#!/bin/sh\n", 0o644), ("alien", "\x7fELF\x02\x01\x01", 0o755)]
    {
        fs::write(bed.base("bin").join(name), content).expect("a file");
        fs::set_permissions(bed.base("bin").join(name), fs::Permissions::from_mode(mode)).expect("ours");
    }
    assert_eq!(error(&["script"]), SetupError::FileNotFound { path: "/bin/script".into(), exists: true });
    assert_eq!(error(&["/bin/plain"]), SetupError::PermissionDenied { path: "/bin/plain".into() });
    assert_eq!(error(&["plain"]), SetupError::PermissionDenied { path: "/bin/plain".into() });
    assert_eq!(error(&["alien"]), SetupError::ExecFormat { path: "/bin/alien".into(), architecture: None });
}
