//! The weakest sandbox: root without CAP_SYS_ADMIN, to whom the kernel grants neither mounts nor namespaces.

use kiln_testkit::{Bed, Image, Kiln, Need, Ordinary, Source, host};

use crate::fixture::{bed, build, dockerfile, unable};

fn is_unable() -> bool {
    unable() || host().lacks(&[Need::Tool("setpriv")])
}

/// Runs the program as root of a locked-down container.
pub fn locked_down(mut kiln: Kiln) -> Kiln {
    kiln.run_by("setpriv", ["--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"].map(Into::into));
    kiln
}

/// Changes of all kinds, but for devices and another change of the root, which this sandbox takes from commands; and mounts of
/// all kinds, but for secrets and sockets.
const CHANGES: &str = "\
FROM busybox
RUN mkdir -p /d/sub && echo one > /d/sub/file && ln -s file /d/sub/link && ln /d/sub/file /d/hard \\
 && chown 1000:33 /d/sub/file && chown -h 5:6 /d/sub/link && chown -R 7:8 /d/sub && chmod 4755 /d/hard && mkfifo -m 600 /d/pipe \\
 && echo x > /dev/null && echo x > /dev/shm/x && find /d -exec touch -h -d @1000000000 {} +
RUN rm -r /d/sub && mkdir /d/sub && echo two > /d/sub/new && rm /d/pipe /bin/arch && echo x:x:70:70::/:/bin/sh >> /etc/passwd \\
 && mkdir -p /home/x && chown x /home/x && touch -d @1000000001 /d/sub/new /d/sub /d /bin /etc/passwd /etc /home/x /home
USER x
RUN echo mine > /home/x/file && chmod 640 /home/x/file && touch -d @1000000002 /home/x/file /home/x
USER root
RUN --mount=from=busybox,source=bin,target=/m/bin --mount=type=tmpfs,target=/d/sub --mount=type=cache,target=/home/x \\
 test -e /m/bin/sh && test ! -e /d/sub/new && touch /d/sub/gone /home/x/gone && touch /d/hard -d @1000000003 && grep localhost /etc/hosts
";

#[test]
fn it_makes_the_layers_that_root_makes() {
    if is_unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", CHANGES);
    let layers = |flag: &str, wrap: fn(Kiln) -> Kiln| {
        let kiln = build(&bed, "context").args(["--no-cache", "-o", "type=oci,dest=image.tar", flag]);
        let outcome = wrap(kiln.env("SOURCE_DATE_EPOCH", "1")).run().success();
        (Image::fetch(&Source::OciArchive(bed.path("image.tar"))).config.rootfs.diff_ids.clone(), outcome)
    };
    let (expected, _) = layers("--isolation=root", |kiln| kiln);
    let (found, outcome) = layers("--isolation=chroot", locked_down);
    assert_eq!(found, expected);
    outcome.says(&["sandbox: chroot, without namespaces", "/proc and /sys are empty", "tmpfs mounts are directories"]);
    bed.assert_tidy();
}

#[test]
fn cache_mounts_are_kept_and_those_of_a_killed_command_restored() {
    if is_unable() {
        return;
    }
    let bed = bed();
    let run = |command: &str| {
        dockerfile(&bed, "context", &format!("FROM busybox\nRUN --mount=type=cache,target=/c {command}\n"));
        locked_down(build(&bed, "context").arg("--isolation=chroot")).run()
    };
    run("echo one > /c/one").success();
    run("test -e /c/one && echo two > /c/two && exit 3").failure();
    run("rm -r /c/* && kill -9 $$").failure();
    // What the command put in its place leads nowhere.
    run("rm -r /c && ln -s /etc /c").success();
    run("cat /c/one /c/two && ls /c | wc -l").success().says(&["one", "two", " 2"]);
}

/// Returns the processes of which a word of the command line is `word`.
fn processes(word: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").expect("processes").flatten();
    let line = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("cmdline")).ok();
    entries.filter_map(line).filter(|line| line.split('\0').any(|part| part == word)).collect()
}

#[test]
fn no_process_outlives_the_command() {
    if is_unable() {
        return;
    }
    let bed = bed();
    // Numbers that no other test sleeps for: processes are looked for by them.
    let seconds = format!("98{}", std::process::id());
    let text = format!("FROM busybox\nRUN (setsid sleep {seconds} &) ; (sleep {seconds} & sleep {seconds} &) ; true\n");
    dockerfile(&bed, "context", &text);
    locked_down(build(&bed, "context").arg("--isolation=chroot")).run().success();
    assert_eq!(processes(&seconds), [""; 0]);

    dockerfile(&bed, "context", &format!("FROM busybox\nRUN (setsid sleep {seconds} &) ; echo up; sleep {seconds}\n"));
    let mut running = locked_down(build(&bed, "context").args(["--isolation=chroot", "--no-cache"])).start();
    running.wait_for(" up");
    running.interrupt();
    running.wait().failure();
    assert_eq!(processes(&seconds), [""; 0]);
}

/// Returns the processes whose parent this is.
fn children(parent: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("processes").flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
    let is_child = |process: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        status.lines().any(|line| line == format!("PPid:\t{parent}"))
    };
    numbers.filter(is_child).collect()
}

#[test]
fn no_process_outlives_kiln_and_the_process_beside_the_command() {
    if is_unable() {
        return;
    }
    let bed = bed();
    let seconds = format!("97{}", std::process::id());
    dockerfile(
        &bed,
        "context",
        &format!("FROM busybox\nRUN (setsid sleep {seconds} &) ; echo u''p; sleep {seconds}\n"),
    );
    let mut running = locked_down(build(&bed, "context").arg("--isolation=chroot")).start();
    running.wait_for(" up\n");
    assert!(!processes(&seconds).is_empty());
    let [guard] = children(running.pid())[..] else { panic!("kiln has one child") };
    let [beside] = children(guard)[..] else { panic!("the guard has one child") };
    for process in [beside, running.pid()] {
        let process = rustix::process::Pid::from_raw(process.cast_signed()).expect("a number");
        rustix::process::kill_process(process, rustix::process::Signal::KILL).expect("it is there");
    }
    running.wait();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !processes(&seconds).is_empty() {
        assert!(std::time::Instant::now() < end, "{:?}", processes(&seconds));
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

fn refused(bed: &Bed, text: &str, flags: &[&str], says: &[&str]) {
    dockerfile(bed, "context", text);
    locked_down(build(bed, "context").args(["--isolation=chroot"]).args(flags)).run().failure().says(says);
}

#[test]
fn what_cannot_be_done_well_is_refused() {
    if is_unable() {
        return;
    }
    let bed = bed();
    let secret = bed.write("secret", "hunter2");
    let flag = format!("--secret=id=s,src={}", secret.display());
    refused(
        &bed,
        "FROM busybox\nRUN --mount=type=secret,id=s true\n",
        &[&flag],
        &["/run/secrets/s", "written to a disk"],
    );
    // In memory it may be a file.
    let memory = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let text = "FROM busybox\nRUN --mount=type=secret,id=s,mode=0440,gid=5 test $(cat /run/secrets/s) = hunter2 && stat -c %a:%g /run/secrets/s\n";
    dockerfile(&bed, "context", text);
    let kiln = build(&bed, "context").args(["--isolation=chroot", &flag, "-o", "type=oci,dest=image.tar"]);
    locked_down(kiln.env("KILN_ROOT", memory.path())).run().success().says(&[" 440:5\n"]);
    assert!(Image::fetch(&Source::OciArchive(bed.path("image.tar"))).layers()[1].is_empty());
    refused(&bed, "FROM busybox\nRUN --network=none true\n", &[], &["cut the command off the network"]);
    let inner = "FROM busybox\nRUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/c/t true\n";
    refused(&bed, inner, &[], &["put a mount at /c/t", "cache mount at /c"]);
    // A command has no right that leads out of its root.
    refused(&bed, "FROM busybox\nRUN mkdir /x && chroot /x /bin/sh\n", &[], &["can't change root directory"]);
    dockerfile(&bed, "context", "FROM busybox\nRUN --mount=type=secret,id=s,env=S test $S = hunter2\n");
    locked_down(build(&bed, "context").args(["--isolation=chroot", &flag])).run().success();
}

#[test]
fn it_is_never_chosen_and_an_ordinary_user_cannot_have_it() {
    if is_unable() || host().lacks(&[Need::Tool("newuidmap"), Need::Tool("unshare")]) {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM busybox\nRUN true\n");
    let found = locked_down(bed.kiln(["info", "--format=json"])).run().success().text();
    let facts: serde_json::Value = serde_json::from_str(&found).expect("JSON");
    assert_ne!(facts["isolation"], "chroot", "{found}");
    let kiln = build(&bed, "context").arg("--isolation=chroot").ordinary(&bed, Ordinary::WithoutRanges);
    kiln.run().failure().says(&["isolation `chroot` cannot be had: only root may change the root directory"]);
}

#[test]
fn the_network_is_the_hosts() {
    if is_unable() {
        return;
    }
    let bed = bed();
    dockerfile(
        &bed,
        "context",
        "FROM busybox\nRUN grep '^127.0.0.1.gate.way$' /etc/hosts && ! ip -o route | grep '^default via 10.143.0'\n",
    );
    let outcome =
        build(&bed, "context").args(["--isolation=chroot", "--add-host=gate.way:host-gateway"]).run().success();
    assert!(!outcome.stderr.contains("network:"), "{outcome}");
}
