//! What the kernel would grant a process and the sandbox does not: calls, keys, devices.

use std::process::Command;

use kiln_testkit::{Need, bases, host};

use crate::fixture::{bed, build, dockerfile};
use crate::rungs::{RUNGS, lacks_users};

/// Calls of x86_64 that no command may make, with arguments with which the kernel would have something else to say than EPERM; and
/// what is answered instead.
const CALLS: &str = r#"
use POSIX;
my @calls = (
    add_key => [248, "user", "mine", "x", 1, -3], request_key => [249, "user", "kiln-canary", 0, 0],
    keyctl_read => [250, 11, -4, 0, 0], keyctl_join => [250, 1, 0], keyctl_search => [250, 10, -5, "user", "kiln-canary", 0],
    unshare_user => [272, 0x10000000], unshare_mounts => [272, 0x20000], setns => [308, 0, 0], clone => [56, 0x10000000, 0, 0, 0, 0],
    mount => [165, "none", "/mnt", "tmpfs", 0, 0], umount => [166, "/proc", 2], pivot_root => [155, ".", "."],
    fsopen => [430, "tmpfs", 0], open_tree => [428, -100, "/", 1], move_mount => [429, -1, "", -1, "", 4], mount_setattr => [442, -1, "", 0, "x" x 32, 32],
    bpf => [321, 5, "x" x 64, 64], perf_event_open => [298, "x" x 64, 0, -1, -1, 0], userfaultfd => [323, 0],
    io_uring_setup => [425, 1, "\0" x 128], open_by_handle_at => [304, 0, "x" x 64, 0], kcmp => [312, 1, 1, 0, 0, 0],
    reboot => [169, 0xfee1dead, 672274793, 0, 0], kexec_load => [246, 0, 0, 0, 0], init_module => [175, "x", 1, ""], delete_module => [176, "x", 0],
    swapon => [167, "/x", 0], swapoff => [168, "/x"], quotactl => [179, 0x80000100, 0, 0, 0], acct => [163, "/x"], syslog => [103, 3, "x" x 9, 9],
    settimeofday => [164, "\0" x 16, 0], clock_settime => [227, 0, "\0" x 16], iopl => [172, 3], ioperm => [173, 0, 1, 1],
    sethostname => [170, "x", 1], setdomainname => [171, "x", 1], fanotify_init => [300, 0, 0], lookup_dcookie => [212, 0, "", 0],
    vhangup => [153], personality => [135, 0x40000], move_pages => [279, 0, 0, 0, 0, 0, 0], mbind => [237, 0, 0, 0, 0, 0, 0],
    af_alg => [41, 38, 5, 0], af_vsock => [41, 40, 1, 0], clone3 => [435, "\0" x 88, 88], nfsservctl => [180, 0, 0, 0],
);
while (my ($name, $call) = splice @calls, 0, 2) {
    $! = 0;
    my $result = syscall $call->[0], @$call[1..$#$call];
    my $wanted = $name eq "clone3" ? POSIX::ENOSYS : POSIX::EPERM;
    print "NOT REFUSED: $name $result $!\n" if $result != -1 || $! != $wanted;
}
print "all were tried\n";
"#;

#[test]
#[cfg(target_arch = "x86_64")]
fn calls_that_lead_out_are_refused_and_keys_are_out_of_reach() {
    if lacks_users() || host().lacks(&[Need::Tool("perl")]) {
        return;
    }
    // A key of the user's, as programs of the desktop and of file systems keep them.
    let add = r#"my @key = ("user", "kiln-canary", "secret", 6, -4); syscall(248, @key) > 0 or die "no key: $!""#;
    let added = Command::new("perl").args(["-e", add]).status().expect("perl");
    assert!(added.success());
    for rung in RUNGS.iter().filter(|rung| rung.user.is_some() || rung.flags.is_empty()) {
        let bed = bed();
        bed.write("context/try.pl", CALLS);
        let text = "FROM debian\nCOPY try.pl /\nRUN perl /try.pl; cat /proc/keys /proc/key-users | grep -c canary\n\
                    USER 33\nRUN perl /try.pl\n";
        dockerfile(&bed, "context", text);
        let debian = format!("debian=oci-layout://{}:debian", bases().layout.display());
        let kiln = build(&bed, "context").args(["--network=none", "--build-context", &debian]).args(rung.flags);
        let outcome = rung.prepare(&bed, kiln).run().says(&[" all were tried\n", " 0\n"]);
        assert!(!outcome.stderr.contains("REFUSED"), "{outcome}");
    }
}

#[test]
fn devices_that_a_command_makes_do_not_open() {
    if lacks_users() {
        return;
    }
    let nodes =
        "for node in 'disk b 7 0' 'mem c 1 1' 'port c 1 4' 'log c 1 11' 'tun c 10 200'; do mknod -m 666 $D/$node; done";
    let look = "for node in /d/* /c/*; do n=$(head -c 1 $node 2> /dev/null | wc -c); test $n = 0 || echo O''PEN $node; done; \
                test $(ls /d /c | wc -l) = 13 && echo lo''oked";
    let text = format!(
        "FROM busybox\nRUN mkdir /d && D=/d && {nodes}\nRUN --mount=type=cache,target=/c D=/c && {nodes} && {look}\n\
         RUN --mount=type=cache,target=/c {look}\n"
    );
    for rung in &RUNGS {
        let bed = bed();
        dockerfile(&bed, "context", &text);
        let kiln = build(&bed, "context").arg("--network=none").args(rung.flags);
        let outcome = rung.prepare(&bed, kiln).run().success().says(&[" looked\n"]);
        assert!(!outcome.stderr.contains(" OPEN "), "{outcome}");
        bed.assert_tidy();
    }
}

#[test]
fn a_part_of_a_cache_mount_that_becomes_a_link_meanwhile_leads_nowhere_else() {
    if lacks_users() {
        return;
    }
    let bed = bed();
    bed.write("outside/canary", "alive");
    let outside = bed.path("outside");
    let outside = outside.display();
    dockerfile(&bed, "first", "FROM busybox\nRUN --mount=type=cache,id=c,target=/c mkdir /c/a\n");
    build(&bed, "first").run().success();
    let turns = format!(
        "FROM busybox\n\
         RUN --mount=type=cache,id=c,target=/c echo tu''rning; until test -e /c/over; do mv -T /c/a /c/b; ln -s {outside} /c/a; rm /c/a; \
         ln -s ../../../../../../..{outside} /c/a; rm /c/a; mv -T /c/b /c/a; done\n"
    );
    dockerfile(&bed, "turns", &turns);
    let mut turning = build(&bed, "turns").start();
    turning.wait_for(" turning\n");
    let mut visits = 0;
    for number in 0..20 {
        // A visit may well find nothing there.
        let text = format!(
            "FROM busybox\nRUN --mount=type=cache,id=c,target=/m,source=/a ls /m | grep canary && echo se''en {number}; touch /m/x; \
             echo vi''sited\n"
        );
        dockerfile(&bed, "visit", &text);
        let outcome = build(&bed, "visit").run();
        assert!(!outcome.stderr.contains(" seen "), "{outcome}");
        visits += usize::from(outcome.stderr.contains(" visited\n"));
    }
    println!("{visits} visits");
    dockerfile(&bed, "over", "FROM busybox\nRUN --mount=type=cache,id=c,target=/c touch /c/over\n");
    build(&bed, "over").run().success();
    turning.wait().success();
    let names: Vec<_> =
        std::fs::read_dir(bed.path("outside")).expect("it is there").flatten().map(|it| it.file_name()).collect();
    assert_eq!(names, ["canary"]);
    bed.assert_tidy();
}
