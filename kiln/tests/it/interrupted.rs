//! A build that is stopped in the middle: by Ctrl-C, by a kill that nothing can catch.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kiln_testkit::Bed;

use crate::fixture::{bed, build, dockerfile, unable};

/// A quick step, then one that would take ten minutes, does not mind being told to end, and has children that are told, too.
fn slow(bed: &Bed) {
    dockerfile(
        bed,
        "context",
        "FROM busybox\nRUN echo early > /early\nRUN (sleep 601 &) ; (trap '' INT TERM; sleep 602) & \
         (trap 'echo child told; exit' TERM; echo is running; while sleep 0.05; do :; done) & \
         trap '' INT TERM; sleep 600; sleep 603\n",
    );
}

/// The same with a quick end, to be built afterwards.
fn quick(bed: &Bed) {
    dockerfile(bed, "context", "FROM busybox\nRUN echo early > /early\nRUN echo quick > /late\n");
}

/// The cgroups of the commands of a kiln that runs: they have the names of its children.
fn groups(kiln: u32) -> Vec<PathBuf> {
    let threads = fs::read_dir(format!("/proc/{kiln}/task")).expect("it runs").flatten();
    let children = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let names: Vec<String> = children
        .flat_map(|pids| pids.split_whitespace().map(|pid| format!("kiln-{pid}")).collect::<Vec<_>>())
        .collect();
    let mut found = Vec::new();
    named(Path::new("/sys/fs/cgroup"), &names, &mut found);
    found
}

fn named(directory: &Path, names: &[String], found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            match entry.file_name().to_str() {
                Some(name) if names.iter().any(|known| known == name) => found.push(entry.path()),
                _ => named(&entry.path(), names, found),
            }
        }
    }
}

/// The kernel takes a moment to empty a group whose processes were killed.
#[track_caller]
fn assert_gone(groups: &[PathBuf]) {
    let end = Instant::now() + Duration::from_secs(5);
    while let Some(left) = groups.iter().find(|group| group.exists()) {
        assert!(Instant::now() < end, "left behind: {}", left.display());
        std::thread::yield_now();
    }
}

#[track_caller]
fn next_build_works(bed: &Bed) {
    quick(bed);
    let outcome = build(bed, "context").run().success();
    assert!(outcome.cached().iter().any(|step| step.ends_with("RUN echo early > /early")), "{outcome}");
    bed.assert_tidy();
}

#[test]
fn an_interrupt_in_a_command() {
    if unable() {
        return;
    }
    let bed = bed();
    slow(&bed);
    let mut running = build(&bed, "context").start();
    running.wait_for(" is running\n");
    let groups = groups(running.pid());
    let pressed = Instant::now();
    running.interrupt();
    let outcome = running.wait().failure();
    let taken = pressed.elapsed();
    println!("{taken:?}, and there were {groups:?}");
    assert!(taken < Duration::from_secs(2), "{taken:?}");
    assert!(outcome.stderr.to_lowercase().contains("cancel"), "{outcome}");
    outcome.says(&[" child told\n"]);
    assert_gone(&groups);
    bed.assert_tidy();
    next_build_works(&bed);
}

#[test]
fn a_termination_in_a_command() {
    if unable() {
        return;
    }
    let bed = bed();
    slow(&bed);
    let mut running = build(&bed, "context").start();
    running.wait_for(" is running\n");
    running.terminate();
    running.wait().failure();
    bed.assert_tidy();
    next_build_works(&bed);
}

#[test]
fn a_kill_in_a_command() {
    if unable() {
        return;
    }
    let bed = bed();
    slow(&bed);
    let mut running = build(&bed, "context").start();
    running.wait_for(" is running\n");
    let groups = groups(running.pid());
    running.kill();
    let outcome = running.wait();
    assert_eq!(outcome.status.signal(), Some(9));
    bed.assert_idle();
    assert_gone(&groups);
    next_build_works(&bed);
}

#[test]
fn kills_at_any_moment() {
    if unable() {
        return;
    }
    let bed = bed();
    quick(&bed);
    bed.write("context/data", vec![b'x'; 3 << 20]);
    dockerfile(
        &bed,
        "context",
        "FROM busybox AS a\nCOPY data /data\nRUN gzip -9 < /data > /data.gz\nFROM busybox\nRUN echo early > /early\nCOPY --from=a /data.gz /\nRUN gunzip -c /data.gz | wc -c > /count\n",
    );
    let started = Instant::now();
    let archive = ["-t", "app", "-o", "type=oci,dest=whole.tar"];
    build(&bed, "context").args(archive).run().success();
    let whole = started.elapsed();
    bed.forget();
    for part in 1..=12_u32 {
        let running = build(&bed, "context").args(archive).start();
        std::thread::sleep(whole * part / 12);
        running.kill_if_alive();
        running.wait();
        bed.assert_idle();
    }
    let outcome = build(&bed, "context").args(archive).run().success();
    let image = kiln_testkit::Image::fetch(&kiln_testkit::Source::OciArchive(bed.path("whole.tar")));
    let tree = kiln_testkit::flatten(&image.layers());
    let kiln_testkit::Kind::File { digest, .. } = &tree["count"].kind else { panic!("no count: {outcome}") };
    assert_eq!(*digest, kiln_oci::Digest::of("3145728\n"));
    bed.assert_tidy();
}

#[test]
fn an_interrupt_while_pulling_from_a_silent_registry() {
    if unable() {
        return;
    }
    // A listener that accepts and never answers.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let bed = bed();
    dockerfile(&bed, "context", &format!("FROM {address}/base:1\nRUN true\n"));
    let running = build(&bed, "context").start();
    let (_connection, _) = listener.accept().expect("kiln connects");
    running.interrupt();
    let asked = Instant::now();
    running.wait().failure();
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
    bed.assert_tidy();
}
