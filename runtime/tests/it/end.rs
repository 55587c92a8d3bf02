//! How commands end, by themselves and otherwise.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kiln_runtime::{Cancel, Event, Outcome, RunError};

use crate::bed::Bed;

/// Counts the processes of the machine with this text among their arguments.
fn count(text: &str) -> usize {
    let processes = fs::read_dir("/proc").expect("procfs").flatten();
    let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(text)).count()
}

#[test]
fn what_runs_in_the_background_ends_with_the_command() {
    let Some(bed) = Bed::new() else { return };
    let start = Instant::now();
    assert_eq!(bed.ok("setsid sleep 98761 & sleep 98761 & echo done"), "done\n");
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(count("98761"), 0);
}

#[test]
fn a_signal_is_told_apart_from_a_code() {
    let Some(bed) = Bed::new() else { return };
    let ran = bed.run(&bed.sh("trap - SEGV; sh -c 'kill -SEGV $$'; exit $?"));
    assert_eq!(ran.code(), 139);
    assert_eq!(Outcome::Killed { signal: 9 }.code(), 137);
}

#[test]
fn cancelling_ends_everything_soon() {
    let Some(bed) = Bed::new() else { return };
    // The polite way, the deaf way, and one that says goodbye.
    for (script, expected) in [
        ("echo up; sleep 98762", "up\n"),
        ("trap '' TERM; echo up; sleep 98762 & while :; do sleep 1; done", "up\n"),
        // Busy, because a shell may miss a signal that comes just before it waits.
        ("trap 'echo bye; exit' TERM; sleep 98762 & echo up; while :; do :; done", "up\nbye\n"),
    ] {
        let cancel = Cancel::new();
        let (started, wait) = std::sync::mpsc::channel();
        let other = cancel.clone();
        let thread = std::thread::spawn(move || {
            let _ = wait.recv_timeout(Duration::from_secs(20));
            other.cancel();
            Instant::now()
        });
        let mut text = Vec::new();
        let mut output = |event: Event<'_>| {
            if let Event::Output(_, bytes) = event {
                text.extend_from_slice(bytes);
                let _ = started.send(());
            }
        };
        let result = kiln_runtime::run(crate::bed::program(), &bed.sh(script), &mut output, &cancel);
        let end = Instant::now();
        let cancelled = thread.join().expect("it ends");
        assert!(matches!(result, Err(RunError::Cancelled)), "{result:?}");
        assert!(end.duration_since(cancelled) < Duration::from_secs(2), "{script}");
        assert_eq!(String::from_utf8_lossy(&text), expected, "{script}");
        assert_eq!(count("98762"), 0, "{script}");
    }
}

#[test]
fn a_token_that_is_cancelled_already_starts_nothing() {
    let Some(bed) = Bed::new() else { return };
    let cancel = Cancel::new();
    cancel.cancel();
    let ran = bed.run_until(&bed.sh("touch /x"), &cancel);
    assert!(matches!(ran.result, Err(RunError::Cancelled)));
    assert_eq!(bed.changes(), [""; 0]);
}

#[test]
fn a_killed_engine_leaves_no_process() {
    const MARK: &str = "KILN_TEST_VICTIM";
    let name = "end::a_killed_engine_leaves_no_process";
    let Some(bed) = Bed::new() else { return };
    if std::env::var_os(MARK).is_some() {
        // The engine of this test: runs until it is killed.
        let mut output = |event: Event<'_>| {
            if let Event::Output(_, bytes) = event {
                eprintln!("{}", String::from_utf8_lossy(bytes));
            }
        };
        let _ = kiln_runtime::run(
            crate::bed::program(),
            &bed.sh("trap '' TERM; echo victim is up; sleep 98763"),
            &mut output,
            &Cancel::new(),
        );
        return;
    }
    let mut engine = Command::new("/proc/self/exe")
        .args([name, "--exact", "--nocapture"])
        .env(MARK, "1")
        .env("TMPDIR", bed.make_dir("tmp"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(engine.stderr.take().expect("a pipe")));
    assert!(lines.any(|line| line.is_ok_and(|line| line.contains("victim is up"))));
    engine.kill().expect("it lives");
    engine.wait().expect("it is ours");
    let deadline = Instant::now() + Duration::from_secs(5);
    while count("98763") > 0 {
        assert!(Instant::now() < deadline, "the command is still there");
        std::thread::sleep(Duration::from_millis(5));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("procfs");
    assert!(!mounts.contains(bed.path("").to_str().expect("text")), "{mounts}");
}

#[test]
fn many_at_once_do_not_disturb_one_another() {
    let Some(bed) = Bed::new() else { return };
    std::thread::scope(|scope| {
        for i in 0..8 {
            let bed = &bed;
            scope.spawn(move || {
                for round in 0..5 {
                    let mut spec = bed.sh(&format!("echo {i} > /x; cat /x; exit {i}"));
                    spec.root.upper = bed.make_dir(&format!("u-{i}-{round}"));
                    spec.root.work = bed.make_dir(&format!("w-{i}-{round}"));
                    let mut out = Vec::new();
                    let mut output = |event: Event<'_>| {
                        if let Event::Output(_, bytes) = event {
                            out.extend_from_slice(bytes);
                        }
                    };
                    let result = kiln_runtime::run(crate::bed::program(), &spec, &mut output, &Cancel::new());
                    assert_eq!(result.map_err(|error| error.to_string()), Ok(Outcome::Exited(i)));
                    assert_eq!(String::from_utf8_lossy(&out), format!("{i}\n"));
                }
            });
        }
    });
}
