//! The filter of user namespaces: calls that the kernel would refuse there, and that kiln answers.
//!
//! It stands beside the default profile, and of two filters the stricter counts.

use std::collections::BTreeMap;

use super::emit::{self, Action, Arch};
use super::table::number;
use super::{X32, architectures};

/// A call that is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// chown(path, uid, gid)
    Chown,
    /// lchown(path, uid, gid)
    Lchown,
    /// fchown(fd, uid, gid)
    Fchown,
    /// fchownat(fd, path, uid, gid, flags)
    Fchownat,
    /// mknod(path, mode, device)
    Mknod,
    /// mknodat(fd, path, mode, device)
    Mknodat,
}

/// The calls that give files to others, by the names that architectures have for them.
const OWNERS: [(&str, Call); 7] = [
    ("chown", Call::Chown),
    ("chown32", Call::Chown),
    ("lchown", Call::Lchown),
    ("lchown32", Call::Lchown),
    ("fchown", Call::Fchown),
    ("fchown32", Call::Fchown),
    ("fchownat", Call::Fchownat),
];

/// The calls that make devices.
const DEVICES: [(&str, Call); 2] = [("mknod", Call::Mknod), ("mknodat", Call::Mknodat)];

/// The calls by which a process becomes another: where there is one id they succeed and do nothing.
const IDENTITIES: &str = "setuid setuid32 setgid setgid32 setreuid setreuid32 setregid setregid32 setresuid setresuid32 \
    setresgid setresgid32 setgroups setgroups32 setfsuid setfsuid32 setfsgid setfsgid32";

/// Returns the filter for this machine, in the form of [`default_filter`](super::default_filter). With `single`, for a
/// namespace that has one id; else only devices are a matter.
pub fn filter(single: bool) -> Option<Vec<u64>> {
    let arches: Vec<Arch> = architectures(std::env::consts::ARCH)?
        .iter()
        .map(|&(audit, marker, column)| {
            let mut rules = BTreeMap::new();
            let mut set = |name: &str, action| rules.extend(number(name, column).map(|number| (number, action)));
            DEVICES.iter().for_each(|(name, _)| set(name, Action::Ask));
            if single {
                OWNERS.iter().for_each(|(name, _)| set(name, Action::Ask));
                IDENTITIES.split_ascii_whitespace().for_each(|name| set(name, Action::Succeed));
            }
            Arch { audit, marker, rules, highest: u32::MAX >> 2, otherwise: Action::Allow }
        })
        .collect();
    Some(emit::program(&arches))
}

/// Returns what a call is that the kernel asks about.
pub fn call(audit: u32, number: u32) -> Option<Call> {
    let marker = number & X32;
    let (.., column) =
        architectures(std::env::consts::ARCH)?.iter().find(|(of, mark, _)| *of == audit && *mark == marker)?;
    let is = |name: &str| super::table::number(name, *column) == Some(number & !X32);
    OWNERS.iter().chain(&DEVICES).find(|(name, _)| is(name)).map(|(_, call)| *call)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::emit::{Data, interpret};

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn what_is_asked_and_what_simply_succeeds() {
        const ALLOW: u32 = 0x7fff_0000;
        const ASK: u32 = 0x7fc0_0000;
        const SUCCEED: u32 = 0x0005_0000;
        let answer = |single, arch, nr| {
            let filter = filter(single).expect("a table for this machine");
            interpret(&filter, &Data { nr, arch, args: [0; 6] })
        };
        // chown, setuid, mknod, read; the same of x32 and of x86.
        for (arch, numbers) in [
            (0xc000_003e, [92, 105, 133, 0]),
            (0xc000_003e, [92 | X32, 105 | X32, 133 | X32, X32]),
            (0x4000_0003, [182, 23, 14, 3]),
        ] {
            let answers = |single| numbers.map(|number| answer(single, arch, number));
            assert_eq!(answers(true), [ASK, SUCCEED, ASK, ALLOW], "{arch:x}");
            assert_eq!(answers(false), [ALLOW, ALLOW, ASK, ALLOW], "{arch:x}");
        }
        assert_eq!(call(0xc000_003e, 260), Some(Call::Fchownat));
        assert_eq!(call(0xc000_003e, 94 | X32), Some(Call::Lchown));
        assert_eq!(call(0xc000_003e, 0), None);
    }
}
