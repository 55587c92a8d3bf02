//! Cache mounts: what is kept, what is dropped, and how several get along.

use kiln_testkit::Bed;

use crate::fixture::{bed, build, dockerfile, unable};

/// Builds one command with a cache mount of id `c` at `/c`; `options` go into its `--mount`.
fn run(bed: &Bed, options: &str, command: &str) -> kiln_testkit::Outcome {
    dockerfile(bed, "context", &step(options, command));
    build(bed, "context").run()
}

fn step(options: &str, command: &str) -> String {
    format!("FROM busybox\nRUN --mount=type=cache,id=c,target=/c{options} {command}\n")
}

/// Lists what the cache mount holds.
fn content(bed: &Bed, options: &str) -> Vec<String> {
    // The number makes the command one that has not run yet.
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let outcome = run(
        bed,
        options,
        &format!("cd /c; echo {number} > /n; for i in $(find . -type f | sort); do echo \"has $i\"; done"),
    );
    let outcome = outcome.success();
    let shown = outcome.stderr.lines().filter_map(|line| line.split_once(" has ./"));
    shown.map(|(_, name)| name.to_owned()).collect()
}

#[test]
fn an_error_keeps_what_was_written_and_a_signal_drops_it() {
    if unable() {
        return;
    }
    let bed = bed();
    for options in ["", ",sharing=locked", ",sharing=private"] {
        bed.forget();
        run(&bed, options, "mkdir -p /c/d; echo 1 > /c/d/old; echo 1 > /c/gone").success();
        run(&bed, options, "rm /c/gone; echo 2 > /c/d/kept; exit 3").failure();
        assert_eq!(content(&bed, options), ["d/kept", "d/old"], "{options}");
        run(&bed, options, "rm -r /c/d; echo 3 > /c/half; sh -c 'kill -9 $$'; exit 137")
            .failure()
            .says(&["the cache mount `/c` is again as it was before"]);
        assert_eq!(content(&bed, options), ["d/kept", "d/old"], "{options}");
    }
    // A program that is no shell means its exit code; a signal it cannot hide.
    let busybox = |script: &str| format!("[\"/bin/busybox\", \"sh\", \"-ce\", \"{script}\", \"name\"]");
    bed.forget();
    run(&bed, "", &busybox("echo 1 > /c/old; exit 137")).failure();
    assert_eq!(content(&bed, ""), ["old"]);
    let killed = run(&bed, "", &busybox("ulimit -t 1; echo 2 > /c/half; while :; do :; done")).failure();
    killed.says(&["signal 9 ended the command", "is again as it was before"]);
    assert_eq!(content(&bed, ""), ["old"]);
    bed.assert_tidy();
}

#[test]
fn a_killed_kiln_and_a_cancelled_one_leave_it_as_it_was() {
    if unable() {
        return;
    }
    let bed = bed();
    run(&bed, "", "echo 1 > /c/old").success();
    dockerfile(&bed, "context", &step("", "rm /c/old; echo 2 > /c/half; echo is writing; sleep 600"));
    let mut killed = build(&bed, "context").start();
    killed.wait_for(" is writing\n");
    killed.kill();
    killed.wait();
    bed.assert_idle();
    assert_eq!(content(&bed, ""), ["old"]);
    dockerfile(&bed, "context", &step("", "rm /c/old; echo 2 > /c/half; echo is writing; sleep 601"));
    let mut cancelled = build(&bed, "context").start();
    cancelled.wait_for(" is writing\n");
    cancelled.interrupt();
    cancelled.wait().failure();
    assert_eq!(content(&bed, ""), ["old"]);
    bed.assert_tidy();
}

#[test]
fn directories_that_a_cache_mount_already_had_can_be_renamed() {
    if unable() {
        return;
    }
    let bed = bed();
    let made = "mkdir -p /c/a/in/deep /c/b && echo 1 > /c/a/in/deep/f && echo 2 > /c/a/g && echo 3 > /c/b/h";
    // The program itself says when the kernel refuses; `mv` would copy.
    let rename = |from: &str, to: &str| format!("busybox mv -T /c/{from} /c/{to}");
    let script = [
        "inode=$(stat -c %i /c/a/in)".to_owned(),
        rename("a/in", "in"),
        rename("in/deep", "in/deeper"),
        rename("a", "z"),
        "mkdir -p /c/new /c/a && echo 4 > /c/a/i".to_owned(),
        rename("z", "new/z"),
        rename("b", "a/b"),
        "test $inode = $(stat -c %i /c/in)".to_owned(),
    ]
    .join(" && ");
    let wanted = ["a/b/h", "a/i", "in/deeper/f", "new/z/g"];
    run(&bed, "", made).success();
    run(&bed, "", &script).success();
    assert_eq!(content(&bed, ""), wanted);
    // Again, with what was folded; and not at all where the command was killed.
    run(&bed, "", "busybox mv /c/in /c/x && sh -c 'kill -9 $$'; exit 137").failure();
    assert_eq!(content(&bed, ""), wanted);
    run(&bed, "", "busybox mv /c/in /c/x && busybox mv /c/x/deeper /c/y").success();
    assert_eq!(content(&bed, ""), ["a/b/h", "a/i", "new/z/g", "y/f"]);
    bed.assert_tidy();
}

/// Writes its own name, and ends when it has seen the other's.
fn meet(mine: &str, other: &str) -> String {
    format!("echo x > /c/{mine}; until test -e /c/{other}; do sleep 0.01; done; echo {mine} met {other}")
}

#[test]
fn those_who_share_it_see_each_other_at_once() {
    if unable() {
        return;
    }
    let bed = bed();
    // Two steps of one build.
    dockerfile(
        &bed,
        "context",
        &format!(
            "FROM busybox AS one\nRUN --mount=type=cache,id=c,target=/c {}\n\
             FROM busybox\nRUN --mount=type=cache,id=c,target=/c {}\nCOPY --from=one /etc/passwd /p\n",
            meet("a", "b"),
            meet("b", "a")
        ),
    );
    build(&bed, "context").run().success();
    assert_eq!(content(&bed, ""), ["a", "b"]);

    // Two builds; the first is killed, and what it wrote stays, as the second was there too.
    dockerfile(&bed, "first", &step("", &format!("{}; sleep 600", meet("first", "second"))));
    dockerfile(&bed, "second", &step("", "echo x > /c/second; until test -e /c/over; do sleep 0.01; done"));
    dockerfile(&bed, "third", &step("", "test -e /c/first && echo x > /c/over"));
    let mut first = build(&bed, "first").start();
    let second = build(&bed, "second").start();
    first.wait_for(" first met second\n");
    first.kill();
    first.wait();
    build(&bed, "third").run().success();
    second.wait().success();
    assert_eq!(content(&bed, ""), ["a", "b", "first", "over", "second"]);
    bed.assert_tidy();
}

#[test]
fn steps_at_the_same_time_take_turns_or_have_their_own_where_they_ask_for_it() {
    if unable() {
        return;
    }
    let bed = bed();
    // Both are there at the same time, and neither finds what the other has written into its own.
    let own = |name: &str, other: &str| {
        format!(
            "RUN --mount=type=cache,id=meet,target=/meet --mount=type=cache,id=own,target=/own,sharing=private \
             touch /own/{name} /meet/{name}; until test -e /meet/{other}; do sleep 0.01; done; test ! -e /own/{other}"
        )
    };
    let both = |one: &str, two: &str| {
        format!("FROM busybox AS one\n{one}\nFROM busybox\n{two}\nCOPY --from=one /etc/passwd /p\n")
    };
    dockerfile(&bed, "context", &both(&own("a", "b"), &own("b", "a")));
    build(&bed, "context").run().success();
    // One after the other: nobody sees that another is in it.
    let turn = |name: &str| {
        format!(
            "RUN --mount=type=cache,id=turn,target=/turn,sharing=locked \
             test ! -e /turn/busy && touch /turn/busy && sleep 0.3 && rm /turn/busy && touch /turn/{name}"
        )
    };
    dockerfile(&bed, "context", &both(&turn("a"), &turn("b")));
    build(&bed, "context").run().success();
    let seen = "FROM busybox\nRUN --mount=type=cache,id=turn,target=/turn test -e /turn/a && test -e /turn/b\n";
    dockerfile(&bed, "context", seen);
    build(&bed, "context").run().success();
    bed.assert_tidy();
}

#[test]
fn one_that_is_mounted_twice_does_not_wait_for_itself() {
    if unable() {
        return;
    }
    let bed = bed();
    run(&bed, ",sharing=locked --mount=type=cache,id=c,target=/d,sharing=locked", "echo x > /c/f; test -e /d/f")
        .success();
    assert_eq!(content(&bed, ",sharing=locked"), ["f"]);
}

#[test]
fn cache_mounts_are_listed_and_removed_by_id() {
    if unable() {
        return;
    }
    let bed = bed();
    run(&bed, "", "dd if=/dev/zero of=/c/f bs=1k count=300 2>/dev/null").success();
    run(&bed, " --mount=type=cache,target=/root/.cache", "true").success();
    let listed = bed.kiln(["cache", "ls", "--format=json"]).run().success().text();
    assert!(listed.contains("\"ID\":\"c\"") && listed.contains("\"ID\":\"/root/.cache\""), "{listed}");
    let shown = bed.kiln(["cache", "show", "c"]).run().success().text();
    assert!(shown.contains("size:      3") && shown.contains("/mounts/v1/"), "{shown}");
    bed.kiln(["cache", "rm", "c", "nothing"]).run().failure().says(&["there is no cache mount `nothing`"]);
    bed.kiln(["cache", "rm", "c"]).run().success();
    assert_eq!(bed.kiln(["cache", "ls"]).run().success().text().lines().count(), 2);
    assert!(content(&bed, "").is_empty());
}
