//! Commands for another processor, and commands that take too long.

use std::time::{Duration, Instant};

use kiln_testkit::{Bed, Need, host};

use crate::fixture::{NEEDS, bed, build, dockerfile, unable};

/// Instructions of a 64-bit Arm: ask the kernel for its names (call 160), write that of the machine (64), end (93).
const CODE: [u32; 12] = [
    0xd108_03ff,
    0x9100_03e0,
    0xd280_1408,
    0xd400_0001,
    0xd280_0020,
    0x9104_13e1,
    0xd280_00e2,
    0xd280_0808,
    0xd400_0001,
    0xd280_0000,
    0xd280_0ba8,
    0xd400_0001,
];

/// A program of nothing but these instructions.
fn program() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let size = HEADERS + 4 * CODE.len() as u64;
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    let halves =
        |bytes: &mut Vec<u8>, values: &[u16]| bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    let longs = |bytes: &mut Vec<u8>, values: &[u64]| bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    halves(&mut bytes, &[2, 183, 1, 0]);
    longs(&mut bytes, &[BASE + HEADERS, 64, 0]);
    halves(&mut bytes, &[0, 0, 64, 56, 1, 0, 0, 0]);
    // One part: loaded from the start, readable and executable.
    halves(&mut bytes, &[1, 0, 5, 0]);
    longs(&mut bytes, &[0, BASE, BASE, size, size, 0x1000]);
    bytes.extend(CODE.iter().flat_map(|code| code.to_le_bytes()));
    bytes
}

fn context(bed: &Bed, base: &str) {
    bed.write("context/machine", program());
    dockerfile(bed, "context", &format!("FROM {base}\nCOPY --chmod=755 machine /machine\nRUN [\"/machine\"]\n"));
}

#[test]
fn a_command_for_another_processor_runs_in_an_emulator() {
    if host().lacks(&[NEEDS, &[Need::Tool("qemu-aarch64-static")]].concat()) || cfg!(target_arch = "aarch64") {
        return;
    }
    let bed = bed();
    context(&bed, "scratch");
    let arm = || build(&bed, "context").args(["--platform=linux/arm64", "-o", "type=tar,dest=out.tar"]);
    arm().run().success().says(&[" aarch64", "emulated by qemu-aarch64"]);
    bed.assert_tidy();
    arm().arg("--no-cache").env("PATH", bed.path(".")).run().failure().says(&[
        "cannot run commands for linux/arm64",
        "qemu-user-static",
        ">>> RUN",
    ]);
}

#[test]
fn a_program_of_another_processor_is_named_as_such() {
    if unable() || cfg!(target_arch = "aarch64") {
        return;
    }
    let bed = bed();
    context(&bed, "busybox");
    build(&bed, "context").run().failure().says(&["exec format error", "it is a program for linux/arm64"]);
}

#[test]
fn a_step_that_takes_too_long_is_ended() {
    if unable() {
        return;
    }
    let bed = bed();
    dockerfile(&bed, "context", "FROM busybox\nRUN (trap '' TERM; sleep 604) & echo on; sleep 604\n");
    let begun = Instant::now();
    build(&bed, "context").arg("--step-timeout=1.5s").run().failure().says(&[
        "it took longer than 1s500ms",
        "hint: `--step-timeout`",
        ">>> RUN",
    ]);
    assert!(begun.elapsed() < Duration::from_secs(60));
    bed.assert_tidy();
    build(&bed, "context").arg("--step-timeout=0").run().failure().says(&["--step-timeout"]);
}
