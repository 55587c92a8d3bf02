//! Builds that want out: each test tries an attack, and looks at the host afterwards. Those that need no whole build are in
//! `runtime/tests/it/hostile.rs`.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_testkit::{Bed, Need, Outcome, host};

use crate::fixture::{bed, build, busybox, dockerfile, unable};

fn run(bed: &Bed, text: &str, flags: &[&str]) -> Outcome {
    dockerfile(bed, "context", text);
    let outcome = build(bed, "context").args(flags).run();
    bed.assert_tidy();
    outcome
}

/// A directory of the host with one file in it that must stay as it is.
fn canary(bed: &Bed) -> PathBuf {
    bed.write("outside/canary", "alive");
    bed.path("outside")
}

#[track_caller]
fn assert_untouched(outside: &Path) {
    let names: Vec<_> = fs::read_dir(outside).expect("it is there").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["canary"]);
    assert_eq!(fs::read_to_string(outside.join("canary")).expect("it is there"), "alive");
}

#[test]
fn links_that_a_command_planted_lead_later_steps_nowhere_else() {
    if unable() {
        return;
    }
    let bed = bed();
    let outside = canary(&bed);
    bed.write("context/file", "copied");
    let text = format!(
        "FROM busybox AS base\n\
         RUN ln -s {0} /out && ln -s ../../../../../../../..{0} /up && ln -s / /top && ln -s /proc/1/root{0} /proc-link\n\
         COPY file /out/\n\
         COPY file /up/copied\n\
         COPY file /top{0}/third\n\
         WORKDIR /up/work\n\
         RUN --mount=type=tmpfs,target=/out/mnt --mount=type=cache,target=/up/cache echo x > /up/cache/y; echo z > /out/written\n\
         FROM busybox\n\
         RUN --mount=type=bind,from=base,source=/out,target=/m,rw ls /m > /seen; echo w > /m/w; ! grep canary /seen\n\
         COPY --from=base /up/ /taken/\n\
         RUN ! ls -R /taken | grep canary\n",
        outside.display()
    );
    run(&bed, &text, &[]).success();
    assert_untouched(&outside);
    // A link into the host's processes is none of the image's.
    let text = format!("FROM busybox\nRUN ln -s /proc/1/root{} /p\nCOPY file /p/x\n", outside.display());
    run(&bed, &text, &[]);
    assert_untouched(&outside);
}

#[test]
fn links_in_a_cache_mount_lead_its_next_user_nowhere_else() {
    if unable() {
        return;
    }
    let bed = bed();
    let outside = canary(&bed);
    let text = format!(
        "FROM busybox\n\
         RUN --mount=type=cache,id=c,target=/c mkdir /c/kept && ln -s {0} /c/a && ln -s ../../../../../../../../../..{0} /c/b\n\
         RUN --mount=type=cache,id=c,source=/a,target=/m ls /m; touch /m/x\n",
        outside.display()
    );
    let outcome = run(&bed, &text, &[]);
    assert!(!outcome.stderr.contains("canary"), "{outcome}");
    let outcome = run(&bed, &text.replace("source=/a", "source=/b"), &[]);
    assert!(!outcome.stderr.contains("canary"), "{outcome}");
    assert_untouched(&outside);
}

#[test]
fn nothing_of_the_kernels_can_be_changed() {
    if unable() {
        return;
    }
    let pattern = fs::read("/proc/sys/kernel/core_pattern").expect("procfs");
    let bed = bed();
    // Each line must fail, and says so when it does not.
    let attacks = [
        "echo '|/x' > /proc/sys/kernel/core_pattern",
        "echo b > /proc/sysrq-trigger",
        "echo 0 > /proc/self/oom_score_adj && echo -1000 > /proc/self/oom_score_adj",
        "for f in /sys/fs/cgroup/*/release_agent /sys/fs/cgroup/*/notify_on_release; do echo 1 > $f && exit 0; done; false",
        "echo max > /sys/fs/cgroup/pids.max || mkdir /sys/fs/cgroup/x /sys/fs/cgroup/pids/x",
        "for f in /sys/kernel/uevent_helper /sys/kernel/mm/ksm/run /sys/power/state; do echo 1 > $f && exit 0; done; false",
        "mount -o remount,rw /sys",
        "mkdir /g && mount -t cgroup -o memory none /g",
        "umount /proc/kcore || umount /proc/sys || umount /sys/firmware",
        "test -s /proc/keys || test -s /proc/kcore",
        "mount -t proc none /mnt || mount --bind / /mnt",
        "unshare -m true || unshare -U true",
        "chroot /proc/1/root/.. test -e /boot/vmlinuz",
        "dmesg -c",
        "hostname other",
        "ip link add x type dummy",
    ];
    let lines: String = attacks
        .iter()
        .map(|attack| format!("( {attack} ) > /dev/null 2>&1 && echo wor''ked: '{}'\n", attack.replace('\'', "")))
        .collect();
    let outcome = run(&bed, &format!("FROM busybox\nRUN <<EOF\n{lines}echo over\nEOF\n"), &[]).success();
    assert!(!outcome.stderr.contains(" worked: "), "{outcome}");
    outcome.says(&[" over\n"]);
    assert_eq!(fs::read("/proc/sys/kernel/core_pattern").expect("procfs"), pattern);
}

#[test]
fn processes_of_the_host_are_out_of_reach() {
    if unable() {
        return;
    }
    let mut victim = Command::new("sleep").arg("605").spawn().expect("sleep");
    let bed = bed();
    let text = format!(
        "FROM busybox\n\
         RUN ! kill -0 {0} && ! ls /proc/{0} && ! cat /proc/{0}/environ && ls /proc/1/root/boot/vmlinuz* || echo hidden\n\
         RUN kill -9 -1; echo alone\n\
         RUN for fd in $(seq 3 30); do if [ -L /proc/1/fd/$fd ]; then echo lea''ked $fd; fi; done; echo looked\n",
        victim.id()
    );
    let outcome = run(&bed, &text, &[]).success().says(&[" hidden\n", " alone\n", " looked\n"]);
    // The shell is the first process, and has ended its command substitution before it looks.
    assert!(!outcome.stderr.contains(" leaked "), "{outcome}");
    assert!(matches!(victim.try_wait(), Ok(None)), "it lives");
    victim.kill().expect("our child");
    victim.wait().expect("our child");
}

#[test]
fn programs_with_rights_of_their_own_are_out_of_others_reach() {
    if unable() || host().lacks(&[Need::Tool("setpriv")]) {
        return;
    }
    let bed = bed();
    // A user who lets everybody in: the bed's directory, and the store in it.
    for path in [bed.path(".."), bed.root()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("ours");
    }
    let text = "FROM busybox\n\
                RUN --mount=type=cache,id=c,target=/c cp /bin/busybox /c/su && chmod 4755 /c/su && mknod -m 666 /c/disk b 7 0\n\
                RUN cp /bin/busybox /su && chmod 4755 /su && mknod -m 666 /disk b 7 0\n";
    run(&bed, text, &[]).success();
    let seen = |as_root: bool| {
        let mut find = Command::new(if as_root { "find" } else { "setpriv" });
        if !as_root {
            find.args(["--reuid=65534", "--regid=65534", "--clear-groups", "find"]);
        }
        find.arg(bed.root()).args(["(", "-perm", "-4000", "-o", "-type", "b", ")"]);
        String::from_utf8_lossy(&find.output().expect("find").stdout).lines().count()
    };
    assert!(seen(true) >= 4, "they are there");
    assert_eq!(seen(false), 0);
}

/// Builds with the arguments after the log's name, and prints the most memory that kiln used, in KiB.
const WATCHED: &str = r#"
log=$1; shift
"$@" 2> "$log" & kiln=$!
while line=$(grep VmHWM /proc/$kiln/status 2>/dev/null) && test -n "$line"; do most=$line; sleep 0.05; done
wait $kiln || exit 1
echo "$most" | tr -dc 0-9
"#;

#[test]
fn a_flood_of_output_is_kept_whole_and_costs_no_memory() {
    if unable() {
        return;
    }
    const LINES: usize = 65_536;
    let bed = Bed::new("sh");
    dockerfile(
        &bed,
        "context",
        &format!("FROM busybox\nRUN yes $(head -c 1023 /dev/zero | tr '\\0' x) | head -n {LINES}; echo that was all\n"),
    );
    let log = bed.path("log");
    let outcome = bed
        .kiln(["-c", WATCHED, "sh"])
        .arg(&log)
        .args([env!("CARGO_BIN_EXE_kiln"), "build", "--progress=plain", "--build-context", &busybox()])
        .arg(bed.path("context"))
        .run()
        .success();
    let most: u64 = String::from_utf8_lossy(&outcome.stdout).parse().expect("a number");
    println!("{most} KiB");
    assert!(most < 50 << 10, "{most} KiB");
    let line = "x".repeat(1023);
    let log = fs::read_to_string(log).expect("the log");
    assert_eq!(log.lines().filter(|text| text.ends_with(&line)).count(), LINES);
    assert!(log.contains(" that was all\n"));
}

#[test]
fn a_secret_is_nowhere_but_in_the_command() {
    if unable() || host().lacks(&[Need::Tool("ssh-keygen")]) {
        return;
    }
    const SECRET: &str = "correct-horse-battery-staple-7191";
    let bed = bed();
    bed.write("secret", SECRET);
    let key = bed.path("key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
    assert!(made.expect("ssh-keygen").success());
    let key = fs::read_to_string(key).expect("a key").lines().nth(1).expect("its first line").to_owned();
    let steps = "FROM busybox\n\
        RUN --mount=type=secret,id=s wc -c /run/secrets/s\n\
        RUN --mount=type=secret,id=s,target=/deep/er/file,mode=0444,uid=7 test -s /deep/er/file\n\
        RUN --mount=type=secret,id=s,env=TOKEN test -n \"$TOKEN\"\n\
        RUN --mount=type=secret,id=e,env=E --mount=type=cache,target=/c echo ${#E} > /c/length\n\
        RUN --mount=type=secret,id=s,env=BOTH,target=/both,required=true test \"$BOTH\" = \"$(cat /both)\"\n\
        RUN --mount=type=ssh,required=true test -S $SSH_AUTH_SOCK\n\
        USER 7\n\
        RUN --mount=type=secret,id=s,uid=7 cat /run/secrets/s > /dev/null && true < /run/secrets/s\n";
    let flags = [
        "--secret=id=s,src=secret",
        "--secret=id=e,env=FROM_HOST",
        "--ssh=default=key",
        "--on-fail=keep",
        "-o",
        "type=oci,tar=false,dest=layout",
    ];
    dockerfile(&bed, "context", steps);
    let built = build(&bed, "context").args(flags).env("FROM_HOST", SECRET).run().success();
    let last = "RUN --mount=type=secret,id=s,env=TOKEN,target=/file --mount=type=ssh,uid=7 false\n";
    dockerfile(&bed, "context", &format!("{steps}{last}"));
    let failed = build(&bed, "context").args(flags).env("FROM_HOST", SECRET).run().failure();
    let raw = bed.kiln(["build", "--progress=rawjson", "--no-cache", "--build-context", &busybox()]);
    let raw = raw.arg(bed.path("context")).args(flags).env("FROM_HOST", SECRET).run().failure();
    for outcome in [&built, &failed, &raw] {
        assert!(!outcome.stderr.contains(SECRET) && !outcome.stderr.contains(&key), "it is in the log");
    }
    let kept = fs::read_dir(bed.root().join("failed/v1")).expect("they are kept").count();
    assert_eq!(kept, 2, "{raw}");
    let mut searched = 0;
    for top in [bed.root(), bed.path("layout"), bed.path("context")] {
        search(&top, &[SECRET, &key], &mut searched);
    }
    assert!(searched > 10, "{searched} files are too few");
    bed.assert_tidy();
}

/// Searches every file below, and what is compressed in it.
fn search(directory: &Path, secrets: &[&str], searched: &mut usize) {
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        let path = entry.path();
        let kind = entry.file_type().expect("a type");
        if kind.is_dir() {
            search(&path, secrets, searched);
        } else if kind.is_file() {
            let bytes = fs::read(&path).expect("a file");
            let mut plain = Vec::new();
            if bytes.starts_with(&[0x1f, 0x8b]) {
                flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut plain).expect("gzip");
            }
            for (found, secret) in
                [&bytes, &plain].into_iter().flat_map(|found| secrets.iter().map(move |it| (found, it)))
            {
                let is_there = found.windows(secret.len()).any(|window| window == secret.as_bytes());
                assert!(!is_there, "it is in {}", path.display());
            }
            *searched += 1;
        }
    }
}
