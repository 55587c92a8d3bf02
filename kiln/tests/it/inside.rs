//! What a command finds around it, against the tables of the specification, on every rung and without a sandbox.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::chroot::locked_down;
use crate::fixture::{bed, build, dockerfile};
use crate::rungs::{RUNGS, Rung, lacks_users};

/// Writes down all that can be seen. Of the files that describe a process it takes those of the program that copies them.
const LOOK: &str = "\
FROM busybox
RUN --network=none mkdir /r && cd /r && umask > umask && env | sort > env && id > id && hostname > hostname && (cd / && pwd) > cwd \\
 && cat /proc/self/status > status && cat /proc/self/mountinfo > mounts && cat /proc/self/limits > limits && cat /proc/self/stat > stat \\
 && ls /proc/self/fd > fds && readlink /proc/self/fd/0 > stdin && cat /etc/hosts > hosts && cat /sys/class/net/*/operstate > net \\
 && for space in mnt pid ipc uts net user; do readlink /proc/self/ns/$space; done > spaces \\
 && for link in fd stdin stdout stderr ptmx; do readlink /dev/$link; done > links \\
 && find /dev ! -type d | sort > nodes && stat -c '%n %F %a %t:%T' $(find /dev -type c | sort) > devices \\
 && stat -c '%n %F %a' /dev /dev/pts /dev/shm /dev/mqueue > folders && for file in keys kcore timer_list sched_debug; do ! test -e /proc/$file || head -c 1 /proc/$file; done > hidden
";

/// What was written down.
struct Seen {
    folder: std::path::PathBuf,
    title: String,
}

impl Seen {
    #[track_caller]
    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(name)).unwrap_or_else(|error| panic!("{name}, {}: {error}", self.title))
    }

    /// A field of `/proc/self/status`.
    #[track_caller]
    fn status(&self, name: &str) -> String {
        field(&self.text("status"), name)
    }

    #[track_caller]
    fn assert(&self, name: &str, expected: &str) {
        assert_eq!(self.text(name).trim_end(), expected.trim_end(), "{name}, {}", self.title);
    }

    #[track_caller]
    fn assert_status(&self, name: &str, expected: &str) {
        assert_eq!(self.status(name), expected, "{name}, {}", self.title);
    }

    /// The mounts: target to type, options and the options of the file system.
    fn mounts(&self) -> BTreeMap<String, (String, String, String)> {
        let text = self.text("mounts");
        text.lines()
            .map(|line| {
                let (ours, theirs) = line.split_once(" - ").expect("two parts");
                let (ours, theirs): (Vec<_>, Vec<_>) = (ours.split(' ').collect(), theirs.split(' ').collect());
                (ours[4].to_owned(), (theirs[0].to_owned(), ours[5].to_owned(), theirs[2].to_owned()))
            })
            .collect()
    }
}

#[track_caller]
fn field(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

fn own_status(name: &str) -> String {
    field(&fs::read_to_string("/proc/self/status").expect("procfs"), name)
}

fn look(rung: &Rung, text: &str, flags: &[&str]) -> (kiln_testkit::Bed, Seen) {
    let bed = bed();
    dockerfile(&bed, "context", text);
    let kiln = build(&bed, "context").args(["-o", "type=local,dest=out"]).args(rung.flags).args(flags);
    rung.prepare(&bed, kiln).run().success();
    bed.assert_tidy();
    let seen = Seen { folder: bed.path("out/r"), title: format!("{:?} {:?} {flags:?}", rung.user, rung.flags) };
    (bed, seen)
}

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Names, and what the two numbers of each are.
const NODES: [(&str, &str); 6] =
    [("full", "1:7"), ("null", "1:3"), ("random", "1:8"), ("tty", "5:0"), ("urandom", "1:9"), ("zero", "1:5")];

/// The capabilities of Docker's default set.
const DEFAULT_CAPABILITIES: u64 = 0xa804_25fb;

/// The mounts of every command: target, type, options, and some of those of the file system.
const MOUNTS: [(&str, &str, &str, &[&str]); 9] = [
    ("/", "overlay", "rw,relatime", &["redirect_dir=nofollow"]),
    ("/proc", "proc", "rw,nosuid,nodev,noexec,relatime", &[]),
    ("/dev", "tmpfs", "rw,nosuid", &["size=65536k", "mode=755"]),
    ("/dev/pts", "devpts", "rw,nosuid,noexec,relatime", &["mode=620", "ptmxmode=666"]),
    ("/dev/shm", "tmpfs", "rw,nosuid,nodev,noexec,relatime", &["size=65536k"]),
    ("/dev/mqueue", "mqueue", "rw,nosuid,nodev,noexec,relatime", &[]),
    ("/sys", "sysfs", "ro,nosuid,nodev,noexec,relatime", &[]),
    ("/etc/hosts", "tmpfs", "ro,nosuid,nodev,noexec,relatime", &[]),
    ("/etc/resolv.conf", "tmpfs", "ro,nosuid,nodev,noexec,relatime", &[]),
];

const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

#[track_caller]
fn assert_mounts(seen: &Seen, rung: &Rung, is_insecure: bool) {
    let mut mounts = seen.mounts();
    let quiet = "nosuid,nodev,noexec,relatime";
    for (target, kind, options, more) in MOUNTS {
        let found = mounts.remove(target).unwrap_or_else(|| panic!("no mount at {target}, {}", seen.title));
        let options = if is_insecure && target == "/sys" { format!("rw,{quiet}") } else { options.to_owned() };
        assert_eq!((found.0.as_str(), &found.1), (kind, &options), "{target}, {}", seen.title);
        for option in more {
            assert!(found.2.split(',').any(|it| it == *option), "{target} {found:?}, {}", seen.title);
        }
        // The kernel shows the host's id of the group.
        let is_named = found.2.contains(if rung.user.is_none() && !rung.has_one_id() { "gid=5," } else { "gid=" });
        assert!(target != "/dev/pts" || is_named, "{found:?}, {}", seen.title);
    }
    for path in READ_ONLY.into_iter().filter(|path| !is_insecure && Path::new(path).exists()) {
        let found = mounts.remove(path).unwrap_or_else(|| panic!("{path} can be written, {}", seen.title));
        assert_eq!((found.0.as_str(), found.1), ("proc", format!("ro,{quiet}")), "{path}, {}", seen.title);
    }
    for path in MASKED.into_iter().filter(|path| !is_insecure && Path::new(path).exists()) {
        let found = mounts.remove(path).unwrap_or_else(|| panic!("{path} shows, {}", seen.title));
        assert!(found.0 == "tmpfs" || found.0 == "devtmpfs", "{path} {found:?}, {}", seen.title);
    }
    mounts.retain(|target, (kind, options, _)| match target.strip_prefix("/dev/") {
        // Where no nodes can be made there are those of the host.
        Some(name) => !(rung.is_confined() && NODES.iter().any(|(node, _)| *node == name)),
        None if target.starts_with("/sys/fs/cgroup") => {
            let mode = if is_insecure { "rw" } else { "ro" };
            assert_eq!(*options, format!("{mode},{quiet}"), "{target}, {}", seen.title);
            assert!(["cgroup", "cgroup2", "tmpfs"].contains(&kind.as_str()), "{target} {kind}");
            false
        }
        None => true,
    });
    assert!(mounts.is_empty(), "{mounts:?}, {}", seen.title);
}

#[track_caller]
fn assert_common(seen: &Seen) {
    seen.assert("umask", "0022");
    seen.assert("env", &format!("HOME=/root\nOLDPWD=/\n{PATH}\nPWD=/r\nSHLVL=1"));
    seen.assert("cwd", "/");
    seen.assert("hosts", "127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback");
    let devices: String =
        NODES.iter().map(|(name, node)| format!("/dev/{name} character special file 666 {node}\n")).collect();
    let found = seen.text("devices");
    let found: String =
        found.lines().filter(|line| !line.starts_with("/dev/pts/")).map(|line| format!("{line}\n")).collect();
    assert_eq!(found, devices, "{}", seen.title);
}

#[test]
fn a_command_finds_what_the_specification_says_on_every_rung() {
    if lacks_users() {
        return;
    }
    for rung in &RUNGS {
        let (_bed, seen) = look(rung, LOOK, &[]);
        assert_common(&seen);
        seen.assert("hostname", "buildkitsandbox");
        seen.assert("id", "uid=0(root) gid=0(root) groups=0(root),10(wheel)");
        let bounds = u64::from_str_radix(&own_status("CapBnd"), 16).expect("a number");
        let bounds = if rung.is_confined() { u64::MAX } else { bounds };
        let allowed = format!("{:016x}", DEFAULT_CAPABILITIES & bounds);
        let none = format!("{:016x}", 0);
        for (name, expected) in
            [("CapInh", &none), ("CapPrm", &allowed), ("CapEff", &allowed), ("CapBnd", &allowed), ("CapAmb", &none)]
        {
            seen.assert_status(name, expected);
        }
        seen.assert_status("NoNewPrivs", "0");
        seen.assert_status("Seccomp", "2");
        seen.assert_status("Umask", "0022");
        assert_mounts(&seen, rung, false);
        // The fourth is the folder that is being listed.
        seen.assert("fds", "0\n1\n2\n3");
        seen.assert("stdin", "/dev/null");
        seen.assert("links", "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx");
        seen.assert(
            "folders",
            "/dev directory 755\n/dev/pts directory 755\n/dev/shm directory 1777\n/dev/mqueue directory 1777",
        );
        let links = ["core", "fd", "ptmx", "pts/ptmx", "stderr", "stdin", "stdout"];
        let names: BTreeSet<String> =
            links.into_iter().chain(NODES.map(|(name, _)| name)).map(|name| format!("/dev/{name}")).collect();
        assert_eq!(seen.text("nodes").lines().map(str::to_owned).collect::<BTreeSet<_>>(), names, "{}", seen.title);
        // Limits are inherited, but for a number of open files that would make old programs slow.
        let limits =
            |text: String| text.lines().filter(|line| !line.contains("open files")).collect::<Vec<_>>().join("\n");
        let ours = limits(fs::read_to_string("/proc/self/limits").expect("procfs"));
        assert_eq!(limits(seen.text("limits")), ours, "{}", seen.title);
        // Only the loopback device, which is on and therefore of unknown state.
        seen.assert("net", "unknown");
        // A session of its own without a terminal.
        let stat = seen.text("stat");
        let fields: Vec<&str> = stat.rsplit_once(") ").expect("a name").1.split(' ').collect();
        assert_eq!(fields[3..5], ["1", "0"], "{stat}, {}", seen.title);
        seen.assert("hidden", "");
        let spaces = seen.text("spaces");
        for kind in ["mnt", "pid", "ipc", "uts", "net"] {
            let ours = fs::read_link(format!("/proc/self/ns/{kind}")).expect("procfs").to_string_lossy().into_owned();
            assert!(spaces.contains(&format!("{kind}:[")) && !spaces.contains(&ours), "{spaces}, {}", seen.title);
        }
        let user = fs::read_link("/proc/self/ns/user").expect("procfs").to_string_lossy().into_owned();
        assert_eq!(spaces.contains(&user), !rung.is_confined(), "{spaces}, {}", seen.title);
    }
}

#[test]
fn an_insecure_command_finds_everything_its_builder_has() {
    if lacks_users() {
        return;
    }
    for rung in &RUNGS {
        let text = LOOK.replace("--network=none", "--network=none --security=insecure");
        let (_bed, seen) = look(rung, &text, &["--allow=security.insecure"]);
        seen.assert("hostname", "buildkitsandbox");
        seen.assert("umask", "0022");
        // In a user namespace of one's own there is every capability that the kernel knows.
        let all = if rung.is_confined() {
            let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap").expect("procfs");
            format!("{:016x}", (1u64 << (last.trim().parse::<u32>().expect("a number") + 1)) - 1)
        } else {
            own_status("CapBnd")
        };
        for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            seen.assert_status(name, &all);
        }
        seen.assert_status("NoNewPrivs", "0");
        // Where kiln answers calls, one filter asks for them, and none forbids anything.
        seen.assert_status("Seccomp", if rung.is_confined() { "2" } else { "0" });
        seen.assert_status("Seccomp_filters", if rung.is_confined() { "1" } else { "0" });
        assert_mounts(&seen, rung, true);
        for name in ["fuse", "kmsg", "kvm", "loop0", "net/tun"] {
            let is_there = Path::new("/dev").join(name).exists() && !rung.is_confined();
            let names = seen.text("nodes");
            let found = names.lines().any(|line| line.strip_prefix("/dev/") == Some(name));
            assert_eq!(found, is_there, "{name}, {}", seen.title);
        }
    }
}

#[test]
fn without_namespaces_a_command_finds_what_can_be_had() {
    if lacks_users() {
        return;
    }
    let bed = bed();
    let text = "\
FROM busybox
RUN mkdir /r && cd /r && umask > umask && env | sort > env && id > id && (cd / && pwd) > cwd && cp /etc/hosts hosts \\
 && stat -c '%n %F %a %t:%T' $(find /dev -type c | sort) > devices && stat -c '%n %F %a' /dev /dev/shm > folders && ls /proc /sys > kernel
";
    dockerfile(&bed, "context", text);
    locked_down(build(&bed, "context").args(["--isolation=chroot", "-o", "type=local,dest=out"])).run().success();
    let seen = Seen { folder: bed.path("out/r"), title: "chroot".to_owned() };
    assert_common(&seen);
    seen.assert("id", "uid=0(root) gid=0(root) groups=0(root),10(wheel)");
    seen.assert("folders", "/dev directory 755\n/dev/shm directory 1777");
    seen.assert("kernel", "/proc:\n\n/sys:");
}
