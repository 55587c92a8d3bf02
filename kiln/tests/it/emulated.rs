//! Commands for another processor, and commands that take too long.

use std::time::{Duration, Instant};

use kiln_testkit::{Bed, Need, host};

use crate::fixture::{NEEDS, bed, build, dockerfile, unable};
use crate::rungs::{RUNGS, lacks_users};

/// A kind of processor that this machine is not.
struct Processor {
    platform: &'static str,
    emulator: &'static str,
    /// What the kernel calls it.
    name: &'static str,
    /// What headers of its programs say: the number, the flags, whether there are 64 bits, and whether the first byte is the
    /// greatest.
    number: u64,
    flags: u64,
    is_wide: bool,
    is_big: bool,
    /// Instructions: ask the kernel for its names, write that of the machine, end.
    code: &'static [u8],
}

const ARM64: Processor = Processor {
    platform: "linux/arm64",
    emulator: "qemu-aarch64-static",
    name: "aarch64",
    number: 183,
    flags: 0,
    is_wide: true,
    is_big: false,
    code: b"\xff\x03\x08\xd1\xe0\x03\x00\x91\x08\x14\x80\xd2\x01\x00\x00\xd4\x20\x00\x80\xd2\xe1\x13\x04\x91\
            \xe2\x00\x80\xd2\x08\x08\x80\xd2\x01\x00\x00\xd4\x00\x00\x80\xd2\xa8\x0b\x80\xd2\x01\x00\x00\xd4",
};

const OTHERS: [Processor; 4] = [
    Processor {
        platform: "linux/arm/v7",
        emulator: "qemu-arm-static",
        name: "armv7l",
        number: 40,
        flags: 0x0500_0000,
        is_wide: false,
        is_big: false,
        code: b"\x19\xde\x4d\xe2\x0d\x00\xa0\xe1\x7a\x70\xa0\xe3\x00\x00\x00\xef\x01\x00\xa0\xe3\x41\x1f\x8d\xe2\
                \x07\x20\xa0\xe3\x04\x70\xa0\xe3\x00\x00\x00\xef\x00\x00\xa0\xe3\x01\x70\xa0\xe3\x00\x00\x00\xef",
    },
    Processor {
        platform: "linux/riscv64",
        emulator: "qemu-riscv64-static",
        name: "riscv64",
        number: 243,
        flags: 0,
        is_wide: true,
        is_big: false,
        code: b"\x13\x01\x01\xe7\x13\x05\x01\x00\x93\x08\x00\x0a\x73\x00\x00\x00\x13\x05\x10\x00\x93\x05\x41\x10\
                \x13\x06\x70\x00\x93\x08\x00\x04\x73\x00\x00\x00\x13\x05\x00\x00\x93\x08\xd0\x05\x73\x00\x00\x00",
    },
    Processor {
        platform: "linux/ppc64le",
        emulator: "qemu-ppc64le-static",
        name: "ppc64le",
        number: 21,
        flags: 2,
        is_wide: true,
        is_big: false,
        code: b"\x70\xfe\x21\x38\x78\x0b\x23\x7c\x7a\x00\x00\x38\x02\x00\x00\x44\x01\x00\x60\x38\x04\x01\x81\x38\
                \x07\x00\xa0\x38\x04\x00\x00\x38\x02\x00\x00\x44\x00\x00\x60\x38\x01\x00\x00\x38\x02\x00\x00\x44",
    },
    Processor {
        platform: "linux/s390x",
        emulator: "qemu-s390x-static",
        name: "s390x",
        number: 22,
        flags: 0,
        is_wide: true,
        is_big: true,
        code: b"\xa7\xfb\xfe\x70\xb9\x04\x00\x2f\x0a\x7a\xa7\x29\x00\x01\x41\x30\xf1\x04\xa7\x49\x00\x07\
                \x0a\x04\xa7\x29\x00\x00\x0a\x01",
    },
];

impl Processor {
    /// A program of nothing but these instructions.
    fn program(&self) -> Vec<u8> {
        const BASE: u64 = 0x40_0000;
        let (word, header, part) = if self.is_wide { (8, 64, 56) } else { (4, 52, 32) };
        let size = header + part + self.code.len() as u64;
        let kind = |is: bool| 1 + u8::from(is);
        let mut bytes = [b"\x7fELF", &[kind(self.is_wide), kind(self.is_big), 1][..]].concat();
        bytes.resize(16, 0);
        let mut put = |width: usize, values: &[u64]| {
            for value in values {
                let all = value.to_be_bytes();
                let mut these = all[8 - width..].to_vec();
                if !self.is_big {
                    these.reverse();
                }
                bytes.extend(these);
            }
        };
        put(2, &[2, self.number]);
        put(4, &[1]);
        put(word, &[BASE + header + part, header, 0]);
        put(4, &[self.flags]);
        put(2, &[header, part, 1, 0, 0, 0]);
        // One part: loaded from the start, readable and executable.
        if self.is_wide {
            put(4, &[1, 5]);
            put(8, &[0, BASE, BASE, size, size, 0x1000]);
        } else {
            put(4, &[1, 0, BASE, BASE, size, size, 5, 0x1000]);
        }
        bytes.extend(self.code);
        bytes
    }
}

fn context(bed: &Bed, processor: &Processor, base: &str) {
    bed.write("context/machine", processor.program());
    dockerfile(bed, "context", &format!("FROM {base}\nCOPY --chmod=755 machine /machine\nRUN [\"/machine\"]\n"));
}

#[test]
fn a_command_for_another_processor_runs_in_an_emulator() {
    if host().lacks(&[NEEDS, &[Need::Tool(ARM64.emulator)]].concat()) || cfg!(target_arch = "aarch64") {
        return;
    }
    let bed = bed();
    context(&bed, &ARM64, "scratch");
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
fn every_processor_has_its_emulator_on_every_rung() {
    let needs = OTHERS.each_ref().map(|processor| Need::Tool(processor.emulator));
    if lacks_users() || host().lacks(&needs) {
        return;
    }
    for rung in RUNGS.iter().filter(|rung| rung.user.is_some() || rung.flags.is_empty()) {
        let bed = bed();
        for processor in &OTHERS {
            context(&bed, processor, "scratch");
            let kiln =
                build(&bed, "context").args(["--network=none", "--platform", processor.platform]).args(rung.flags);
            let emulated = format!("emulated by {}", processor.emulator.trim_end_matches("-static"));
            rung.prepare(&bed, kiln).run().success().says(&[&format!(" {}", processor.name), &emulated]);
        }
        bed.assert_tidy();
    }
}

#[test]
fn a_program_of_another_processor_is_named_as_such() {
    if unable() || cfg!(target_arch = "aarch64") {
        return;
    }
    let bed = bed();
    context(&bed, &ARM64, "busybox");
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
