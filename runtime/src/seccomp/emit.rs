//! From rules to a classic BPF program: one search tree over the call numbers per architecture.

use std::collections::BTreeMap;

/// What is done with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Let it through.
    Allow,
    /// EPERM.
    Deny,
    /// ENOSYS.
    NoSuchCall,
    /// Through unless the family is AF_ALG (38) or AF_VSOCK (40).
    Socket,
    /// Through unless a namespace is asked for.
    Clone,
    /// The process that holds the filter's descriptor answers.
    Ask,
    /// As [`Ask`](Self::Ask) where the flags in the argument of this number let `open` make a file; else through.
    AskToMake(u8),
    /// As [`Ask`](Self::Ask) where the first argument is this; else through.
    AskAbout(u32),
    /// Nothing is done, and zero returned.
    Succeed,
    /// As [`Succeed`](Self::Succeed) where the argument of this number names the limit of file locks and the one behind it a
    /// new value; else through.
    SucceedForLocks(u8),
    /// Through for the personalities that are harmless.
    Personality,
}

/// The rules of one architecture.
pub struct Arch {
    /// The kernel's number for it.
    pub audit: u32,
    /// A bit that all its numbers carry; architectures with the same audit number follow each other, the one without first.
    pub marker: u32,
    /// Number (without the marker) to action.
    pub rules: BTreeMap<u32, Action>,
    /// Numbers above that are not in the rules do not exist.
    pub highest: u32,
    /// What is done with numbers up to that which are not in the rules.
    pub otherwise: Action,
}

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const EQUAL: u16 = 0x15;
const GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

const NUMBER: u32 = 0;
const ARCH: u32 = 4;
/// The low half of the first argument; all our architectures are little-endian.
const FIRST: u32 = 16;

const ALLOW: u32 = 0x7fff_0000;
const ASK: u32 = 0x7fc0_0000;
const ERRNO: u32 = 0x0005_0000;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// The flags of `clone` that make namespaces.
const NAMESPACES: u32 = 0x7e02_0000;
/// The flags of `open` that make a file: O_CREAT, and what O_TMPFILE has beside O_DIRECTORY.
const MAKES: u32 = 0x40 | 0x40_0000;

/// RLIMIT_LOCKS.
const LOCKS: u32 = 10;

const PERSONALITIES: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> u64 {
    let [c0, c1] = code.to_ne_bytes();
    let [k0, k1, k2, k3] = k.to_ne_bytes();
    u64::from_ne_bytes([c0, c1, jt, jf, k0, k1, k2, k3])
}

fn plain(code: u16, k: u32) -> u64 {
    instruction(code, 0, 0, k)
}

/// Returns the program for all architectures; calls of any other fail with EPERM.
pub fn program(arches: &[Arch]) -> Vec<u64> {
    let mut program = vec![plain(LOAD, ARCH)];
    for group in arches.chunk_by(|a, b| a.audit == b.audit) {
        let mut body = vec![plain(LOAD, NUMBER)];
        // The one with a marker first: what is below the marker falls through to the other.
        for arch in group.iter().rev() {
            let tree = tree(&ranges(arch));
            if arch.marker != 0 {
                when(&mut body, GREATER_OR_EQUAL, arch.marker, &tree);
            } else {
                body.extend(tree);
            }
        }
        when(&mut program, EQUAL, group[0].audit, &body);
    }
    program.push(plain(RETURN, ERRNO | EPERM));
    program
}

/// Appends `block`, which ends in returns, to be run when the comparison holds.
fn when(program: &mut Vec<u64>, comparison: u16, k: u32, block: &[u64]) {
    program.push(instruction(comparison, 1, 0, k));
    program.push(plain(JUMP, block.len() as u32));
    program.extend_from_slice(block);
}

/// Returns where each action begins, from zero on, neighbours merged.
fn ranges(arch: &Arch) -> Vec<(u32, Action)> {
    let mut starts: Vec<u32> = arch.rules.keys().flat_map(|&nr| [nr, nr + 1]).collect();
    starts.extend([0, arch.highest + 1]);
    starts.sort_unstable();
    starts.dedup();
    let mut ranges: Vec<(u32, Action)> = Vec::new();
    for start in starts {
        let action = match arch.rules.get(&start) {
            Some(action) => *action,
            None if start > arch.highest => Action::NoSuchCall,
            None => arch.otherwise,
        };
        if ranges.last().is_none_or(|last| last.1 != action) {
            ranges.push((start | arch.marker, action));
        }
    }
    ranges
}

fn tree(ranges: &[(u32, Action)]) -> Vec<u64> {
    if let [(_, action)] = ranges {
        return leaf(*action);
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let (start, low, high) = (high[0].0, tree(low), tree(high));
    let mut program = match u8::try_from(low.len()) {
        Ok(distance) => vec![instruction(GREATER_OR_EQUAL, distance, 0, start)],
        Err(_) => vec![instruction(GREATER_OR_EQUAL, 0, 1, start), plain(JUMP, low.len() as u32)],
    };
    program.extend(low);
    program.extend(high);
    program
}

fn leaf(action: Action) -> Vec<u64> {
    let allow = plain(RETURN, ALLOW);
    let deny = plain(RETURN, ERRNO | EPERM);
    match action {
        Action::Allow => vec![allow],
        Action::Deny => vec![deny],
        Action::Ask => vec![plain(RETURN, ASK)],
        Action::AskToMake(argument) => vec![
            plain(LOAD, FIRST + 8 * u32::from(argument)),
            plain(AND, MAKES),
            instruction(EQUAL, 0, 1, 0),
            allow,
            plain(RETURN, ASK),
        ],
        Action::AskAbout(value) => {
            vec![plain(LOAD, FIRST), instruction(EQUAL, 1, 0, value), allow, plain(RETURN, ASK)]
        }
        Action::Succeed => vec![plain(RETURN, ERRNO)],
        Action::SucceedForLocks(argument) => {
            let limit = FIRST + 8 * u32::from(argument);
            vec![
                plain(LOAD, limit),
                instruction(EQUAL, 0, 4, LOCKS),
                plain(LOAD, limit + 8),
                instruction(EQUAL, 0, 3, 0),
                plain(LOAD, limit + 12),
                instruction(EQUAL, 0, 1, 0),
                allow,
                plain(RETURN, ERRNO),
            ]
        }
        Action::NoSuchCall => vec![plain(RETURN, ERRNO | ENOSYS)],
        Action::Socket => {
            vec![plain(LOAD, FIRST), instruction(EQUAL, 2, 0, 38), instruction(EQUAL, 1, 0, 40), allow, deny]
        }
        Action::Clone => {
            vec![plain(LOAD, FIRST), plain(AND, NAMESPACES), instruction(EQUAL, 0, 1, 0), allow, deny]
        }
        Action::Personality => {
            let mut program = vec![plain(LOAD, FIRST)];
            for (i, persona) in PERSONALITIES.iter().enumerate() {
                let distance = PERSONALITIES.len() - i;
                program.push(instruction(EQUAL, distance as u8, 0, *persona));
            }
            program.extend([deny, allow]);
            program
        }
    }
}

/// What the kernel shows a filter.
#[cfg(test)]
pub struct Data {
    pub nr: u32,
    pub arch: u32,
    pub args: [u64; 6],
}

/// Runs a program as the kernel would.
#[cfg(test)]
pub fn interpret(program: &[u64], data: &Data) -> u32 {
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let bytes = program[at].to_ne_bytes();
        let code = u16::from_ne_bytes([bytes[0], bytes[1]]);
        let (jt, jf) = (usize::from(bytes[2]), usize::from(bytes[3]));
        let k = u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        at += 1;
        match code {
            LOAD => {
                accumulator = match k {
                    NUMBER => data.nr,
                    ARCH => data.arch,
                    at => {
                        let argument = data.args[(at - FIRST) as usize / 8];
                        (argument >> (8 * ((at - FIRST) % 8))) as u32
                    }
                }
            }
            AND => accumulator &= k,
            JUMP => at += k as usize,
            EQUAL => at += if accumulator == k { jt } else { jf },
            GREATER_OR_EQUAL => at += if accumulator >= k { jt } else { jf },
            RETURN => return k,
            _ => panic!("no other instruction is made"),
        }
    }
}
