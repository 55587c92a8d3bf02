//! Which devices a command may open: those that every program expects, and no others. Making nodes of any is allowed.
//!
//! Version 1 has files for it; version 2 takes a program that the kernel asks each time.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::sys;

/// Character devices: major and minor number; no minor is all of them.
const ALLOWED: [(u32, Option<u32>); 8] = [
    (1, Some(3)), // null
    (1, Some(5)), // zero
    (1, Some(7)), // full
    (1, Some(8)), // random
    (1, Some(9)), // urandom
    (5, Some(0)), // tty
    (5, Some(2)), // ptmx
    (136, None),  // pts
];

/// Confines the processes that will join the group.
pub fn confine(group: &Path, is_unified: bool) -> io::Result<()> {
    if is_unified {
        let group = openat(CWD, group, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let program = sys::load_device_program(&program())?;
        return sys::attach_device_program(group.as_fd(), program.as_fd());
    }
    fs::write(group.join("devices.deny"), "a")?;
    let nodes = ALLOWED.iter().map(|(major, minor)| {
        let minor = minor.map_or("*".to_owned(), |minor| minor.to_string());
        format!("c {major}:{minor} rwm")
    });
    for line in ["c *:* m", "b *:* m"].into_iter().map(str::to_owned).chain(nodes) {
        fs::write(group.join("devices.allow"), line)?;
    }
    Ok(())
}

// The machine's instructions, as in `linux/bpf.h`: operation, registers, jump, constant.
const LOAD_WORD: u8 = 0x61;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const MOVE: u8 = 0xb7;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_IF_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

/// What is asked for, in the upper half of the context's first word.
const MAKE_NODE: i32 = 1;
/// A character device, in the lower half.
const CHARACTER: i32 = 2;

fn instruction(operation: u8, to: u8, from: u8, jump: i16, constant: i32) -> u64 {
    let registers = from << 4 | to;
    let [jump_low, jump_high] = jump.to_ne_bytes();
    let [a, b, c, d] = constant.to_ne_bytes();
    u64::from_ne_bytes([operation, registers, jump_low, jump_high, a, b, c, d])
}

/// Assembles the program: register 1 points to (access and type, major, minor), register 0 is the answer.
fn program() -> Vec<u64> {
    let exit = instruction(EXIT, 0, 0, 0, 0);
    let answer = |yes: bool| [instruction(MOVE, 0, 0, 0, yes.into()), exit];
    let mut program = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(LOAD_WORD, 3, 1, 0, 0),
        instruction(SHIFT_RIGHT, 2, 0, 0, 16),
        instruction(AND, 3, 0, 0, 0xffff),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
        instruction(JUMP_IF_NOT_EQUAL, 2, 0, 2, MAKE_NODE),
    ];
    program.extend(answer(true));
    program.push(instruction(JUMP_IF_EQUAL, 3, 0, 2, CHARACTER));
    program.extend(answer(false));
    for (major, minor) in ALLOWED {
        match minor {
            Some(minor) => {
                program.push(instruction(JUMP_IF_NOT_EQUAL, 4, 0, 3, major as i32));
                program.push(instruction(JUMP_IF_NOT_EQUAL, 5, 0, 2, minor as i32));
            }
            None => program.push(instruction(JUMP_IF_NOT_EQUAL, 4, 0, 2, major as i32)),
        }
        program.extend(answer(true));
    }
    program.extend(answer(false));
    program
}
