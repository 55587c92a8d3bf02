//! `kiln build --on-fail` and `kiln shell`, at a terminal that `script` makes.

use std::fs;

use kiln_testkit::{Bed, Kiln, Need, Outcome, host};

use crate::chroot::locked_down;
use crate::fixture::{NEEDS, bed, build, dockerfile};
use crate::rungs::{RUNGS, lacks_users};

fn unable() -> bool {
    host().lacks(&[NEEDS, &[Need::Tool("script")]].concat())
}

/// A build that fails in its last step.
const TEXT: &str = "FROM busybox\n\
    ENV NAME=value\n\
    RUN echo early > /early\n\
    WORKDIR /somewhere\n\
    USER 7:8\n\
    RUN --mount=type=cache,target=/cache,uid=7 --mount=type=tmpfs,target=/memory --mount=type=bind,target=/bound \
    --mount=type=secret,id=s,env=TOKEN --mount=type=secret,id=s,target=/secret,uid=7 --network=none \
    echo late | tee /tmp/file > /cache/file; ls /bound; test ${#TOKEN} = 6 && exit 9\n";

fn fail(bed: &Bed) -> Kiln {
    dockerfile(bed, "context", TEXT);
    bed.write("secret", "sesame");
    build(bed, "context").arg("--secret=id=s,src=secret")
}

/// What is typed must not look like what is waited for: it is echoed.
fn shell(bed: &Bed, arguments: &[&str], typed: &str) -> Outcome {
    let outcome =
        bed.kiln(["shell"]).args(arguments).env("NO_COLOR", "1").at_terminal().input(format!("{typed}\n")).run();
    bed.assert_tidy();
    outcome
}

#[track_caller]
fn assert_shows(outcome: &Outcome, lines: &[&str]) {
    let shown = String::from_utf8_lossy(&outcome.stdout).replace('\r', "");
    for line in lines {
        assert!(shown.lines().any(|shown| shown == *line), "no {line:?} in:\n{shown}");
    }
}

fn kept(bed: &Bed) -> usize {
    fs::read_dir(bed.root().join("failed/v1")).map_or(0, Iterator::count)
}

#[test]
fn a_shell_stands_where_the_command_failed() {
    if unable() {
        return;
    }
    let bed = bed();
    let failed = fail(&bed).arg("--on-fail=keep").run().failure();
    failed.says(&["exit code: 9", "`kiln shell`"]);
    bed.assert_tidy();
    let look = "pwd; id -u; id -g; echo $NAME; cat /tmp/file /cache/file; ls /bound; grep -c ' /memory ' /proc/mounts; \
                ls /sys/class/net; echo \"token:$TOKEN:\"; ls /secret; touch /tmp/mine; sleep 99 & jobs; kill %1; exit 5";
    let outcome = shell(&bed, &[], look);
    assert_eq!(outcome.status.code(), Some(5), "{outcome}");
    let expected = [
        "/somewhere",
        "7",
        "8",
        "value",
        "late",
        "Dockerfile",
        "1",
        "lo",
        "token::",
        "[1]+  Running                    sleep 99",
    ];
    assert_shows(&outcome, &expected);
    // What is done there is gone, as is what the command did in the shell before it; secrets come when they are given.
    let look = "ls /tmp/mine /tmp/file; cat /early; echo \"token:$TOKEN:\"; wc -c < /secret; exit";
    let outcome = shell(&bed, &["--before", "--secret=id=s,src=secret", "tee /tmp/file"], look);
    let gone = ["ls: /tmp/mine: No such file or directory", "ls: /tmp/file: No such file or directory"];
    assert_shows(&outcome, &[&gone[..], &["early", "token:sesame:", "6"]].concat());
    let outcome = shell(&bed, &["nonesuch"], "");
    assert_eq!(outcome.status.code(), Some(1), "{outcome}");
    assert_shows(&outcome, &["ERROR: no failed step that is kept is called `nonesuch`"]);
    bed.kiln(["shell"]).run().failure().says(&["a shell needs a terminal"]);
    bed.kiln(["prune", "--force"]).run().success();
    assert_eq!(kept(&bed), 0);
    assert_shows(&shell(&bed, &[], ""), &["ERROR: no failed step is kept"]);
}

#[test]
fn a_shell_stands_on_every_rung() {
    if unable() || lacks_users() {
        return;
    }
    let chroot = ["--isolation=chroot"];
    let ways = RUNGS.iter().map(|rung| (rung.user, rung.flags)).chain([(None, &chroot[..])]);
    for (user, flags) in ways {
        let bed = bed();
        let is_chroot = flags == chroot;
        let text = "FROM busybox\nWORKDIR /somewhere\nUSER 7:8\nRUN --mount=type=cache,target=/cache,uid=7 echo late | tee /tmp/file > /cache/file; exit 9\n";
        dockerfile(&bed, "context", text);
        let run = |kiln: Kiln| {
            let kiln = kiln.args(flags);
            let kiln = if is_chroot { locked_down(kiln) } else { kiln };
            user.map_or(kiln.clone(), |user| kiln.ordinary(&bed, user)).at_terminal().input(LOOK)
        };
        // Where there is no /proc nobody can say what the terminal is called.
        const LOOK: &str = "id -u; pwd; cat /tmp/file /cache/file; test -t 0 && echo at a terminal; tty || test ! -e /proc/self; \
                            stty size > /dev/null && echo it has a size; echo typed > /dev/tty; exit 5\n";
        let expected = ["7", "/somewhere", "late", "at a terminal", "it has a size", "typed"];
        let tty = if is_chroot { &[][..] } else { &["/dev/pts/0"] };
        let outcome = run(build(&bed, "context").arg("--on-fail=shell")).run();
        assert_eq!(outcome.status.code(), Some(1), "{user:?} {flags:?}: {outcome}");
        assert_shows(&outcome, &[&expected, tty].concat());
        let outcome = run(bed.kiln(["shell"]).env("NO_COLOR", "1")).run();
        assert_eq!(outcome.status.code(), Some(5), "{user:?} {flags:?}: {outcome}");
        assert_shows(&outcome, &[&expected, tty].concat());
        bed.assert_tidy();
    }
}

#[test]
fn a_failed_build_opens_a_shell_at_a_terminal_and_nowhere_else() {
    if unable() {
        return;
    }
    let bed = bed();
    fail(&bed).run().failure().says(&["`--on-fail=shell` opens a shell"]);
    assert_eq!(kept(&bed), 0);
    fail(&bed).arg("--on-fail=shell").run().failure().says(&["note: there is no terminal", "`kiln shell`"]);
    assert_eq!(kept(&bed), 1);
    let outcome = fail(&bed).arg("--on-fail=shell").at_terminal().input("cat /tmp/file; ls -d /proc/1; exit 5\n").run();
    assert_eq!(outcome.status.code(), Some(1), "the failure's, not the shell's: {outcome}");
    assert_shows(&outcome, &["late", "/proc/1"]);
    assert_eq!(kept(&bed), 2);
    bed.assert_tidy();
}

#[test]
fn a_shell_ends_with_kiln_and_its_terminal() {
    if unable() {
        return;
    }
    let bed = bed();
    fail(&bed).arg("--on-fail=keep").run().failure();
    let typed = "trap '' HUP TERM INT; sleep 606 & echo o''pen; sleep 607\n";
    let mut running = bed.kiln(["shell"]).at_terminal().input(typed).start();
    running.wait_for("\nopen");
    // So ends the window of a terminal: kiln hears of it from the kernel.
    running.kill();
    running.wait();
    bed.assert_idle();
}
