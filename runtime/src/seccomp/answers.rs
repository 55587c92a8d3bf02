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
    /// One that shows owners.
    Look(Look),
    /// One by which a process becomes another.
    Become(Become),
    /// One that tells a process who it is.
    Who(Who),
    /// One that makes something, which then belongs to somebody.
    Make(Make),
    /// execve(path, …)
    Execve,
    /// execveat(fd, path, arguments, environment, flags)
    Execveat,
}

/// A call that shows, among other things, who a file belongs to, or by what that is noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// stat(path, buffer)
    Stat,
    /// lstat(path, buffer)
    Lstat,
    /// fstat(fd, buffer)
    Fstat,
    /// newfstatat(fd, path, buffer, flags)
    Fstatat,
    /// statx(fd, path, flags, mask, buffer)
    Statx,
    /// listxattr(path, list, size)
    List,
    /// llistxattr(path, list, size)
    Llist,
    /// flistxattr(fd, list, size)
    Flist,
}

/// A call by which a process becomes another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Become {
    /// setuid(id)
    Uid,
    /// setgid(id)
    Gid,
    /// setreuid(real, effective)
    ReUid,
    /// setregid(real, effective)
    ReGid,
    /// setresuid(real, effective, saved)
    ResUid,
    /// setresgid(real, effective, saved)
    ResGid,
    /// setgroups(count, list)
    Groups,
    /// prctl(PR_SET_KEEPCAPS, whether)
    Keeping,
}

/// A call that tells a process who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// getuid()
    Uid,
    /// geteuid()
    EffectiveUid,
    /// getgid()
    Gid,
    /// getegid()
    EffectiveGid,
    /// getresuid(real, effective, saved)
    ResUid,
    /// getresgid(real, effective, saved)
    ResGid,
    /// getgroups(size, list)
    Groups,
}

/// A call that makes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    /// open(path, flags, mode)
    Open,
    /// openat(fd, path, flags, mode)
    Openat,
    /// openat2(fd, path, how, size)
    Openat2,
    /// creat(path, mode)
    Creat,
    /// mkdir(path, mode)
    Mkdir,
    /// mkdirat(fd, path, mode)
    Mkdirat,
    /// symlink(target, path)
    Symlink,
    /// symlinkat(target, fd, path)
    Symlinkat,
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

/// Calls that are answered for programs of this machine's own kind, whose structures and flags are known.
const NATIVE: [(&str, Call, Action); 19] = [
    ("stat", Call::Look(Look::Stat), Action::Ask),
    ("lstat", Call::Look(Look::Lstat), Action::Ask),
    ("fstat", Call::Look(Look::Fstat), Action::Ask),
    ("newfstatat", Call::Look(Look::Fstatat), Action::Ask),
    ("statx", Call::Look(Look::Statx), Action::Ask),
    ("listxattr", Call::Look(Look::List), Action::Ask),
    ("llistxattr", Call::Look(Look::Llist), Action::Ask),
    ("flistxattr", Call::Look(Look::Flist), Action::Ask),
    ("open", Call::Make(Make::Open), Action::AskToMake(1)),
    ("openat", Call::Make(Make::Openat), Action::AskToMake(2)),
    ("openat2", Call::Make(Make::Openat2), Action::Ask),
    ("creat", Call::Make(Make::Creat), Action::Ask),
    ("mkdir", Call::Make(Make::Mkdir), Action::Ask),
    ("mkdirat", Call::Make(Make::Mkdirat), Action::Ask),
    ("symlink", Call::Make(Make::Symlink), Action::Ask),
    ("symlinkat", Call::Make(Make::Symlinkat), Action::Ask),
    ("prctl", Call::Become(Become::Keeping), Action::AskAbout(libc::PR_SET_KEEPCAPS.cast_unsigned())),
    ("execve", Call::Execve, Action::Ask),
    ("execveat", Call::Execveat, Action::Ask),
];

/// The calls about who a process is. Machines with 32 bits have another set, whose names end in `32`, and the old ones with
/// short ids beside it.
const IDENTITIES: [(&str, Call); 14] = [
    ("setuid", Call::Become(Become::Uid)),
    ("setgid", Call::Become(Become::Gid)),
    ("setreuid", Call::Become(Become::ReUid)),
    ("setregid", Call::Become(Become::ReGid)),
    ("setresuid", Call::Become(Become::ResUid)),
    ("setresgid", Call::Become(Become::ResGid)),
    ("setgroups", Call::Become(Become::Groups)),
    ("getuid", Call::Who(Who::Uid)),
    ("geteuid", Call::Who(Who::EffectiveUid)),
    ("getgid", Call::Who(Who::Gid)),
    ("getegid", Call::Who(Who::EffectiveGid)),
    ("getresuid", Call::Who(Who::ResUid)),
    ("getresgid", Call::Who(Who::ResGid)),
    ("getgroups", Call::Who(Who::Groups)),
];

/// Those of them that succeed and do nothing where nobody answers.
const UNANSWERED: &str =
    "setuid setgid setreuid setregid setresuid setresgid setgroups setfsuid setfsuid32 setfsgid setfsgid32";

/// The calls that set limits. That of file locks, in which a process holds who it is, stays: the kernel has no use for it, and
/// `pam_limits` sets all there are.
const LIMITS: [(&str, Action); 2] =
    [("setrlimit", Action::SucceedForLocks(0)), ("prlimit64", Action::SucceedForLocks(1))];

/// What the names of calls about identities end in on an architecture.
fn suffix(audit: u32) -> &'static str {
    const IS_64_BIT: u32 = 0x8000_0000;
    if audit & IS_64_BIT == 0 { "32" } else { "" }
}

/// Returns the filter for this machine, in the form of [`default_filter`](super::default_filter). With `single`, for a
/// namespace that has one id; else only devices are a matter.
pub fn filter(single: bool) -> Option<Vec<u64>> {
    let arches: Vec<Arch> = architectures(std::env::consts::ARCH)?
        .iter()
        .enumerate()
        .map(|(index, &(audit, marker, column))| {
            let mut rules = BTreeMap::new();
            let mut set = |name: &str, action| rules.extend(number(name, column).map(|number| (number, action)));
            DEVICES.iter().for_each(|(name, _)| set(name, Action::Ask));
            if single {
                OWNERS.iter().for_each(|(name, _)| set(name, Action::Ask));
                LIMITS.iter().for_each(|(name, action)| set(name, *action));
                UNANSWERED.split_ascii_whitespace().for_each(|name| set(name, Action::Succeed));
                IDENTITIES.iter().for_each(|(name, _)| set(&format!("{name}{}", suffix(audit)), Action::Ask));
                if index == 0 && cfg!(target_pointer_width = "64") {
                    NATIVE.iter().for_each(|(name, _, action)| set(name, *action));
                }
            }
            Arch { audit, marker, rules, highest: (u32::MAX >> 2) - 1, otherwise: Action::Allow }
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
    let identities = IDENTITIES.iter().map(|(name, call)| (format!("{name}{}", suffix(audit)), *call));
    let plain = OWNERS.iter().chain(&DEVICES).copied().chain(NATIVE.map(|(name, call, _)| (name, call)));
    let mut all = identities.chain(plain.map(|(name, call)| (name.to_owned(), call)));
    all.find(|(name, _)| is(name)).map(|(_, call)| call)
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
            (0x4000_0003, [182, 213, 14, 3]),
        ] {
            let answers = |single| numbers.map(|number| answer(single, arch, number));
            assert_eq!(answers(true), [ASK, ASK, ASK, ALLOW], "{arch:x}");
            assert_eq!(answers(false), [ALLOW, ALLOW, ASK, ALLOW], "{arch:x}");
        }
        // The old setuid of x86.
        assert_eq!(answer(true, 0x4000_0003, 23), SUCCEED);
        // openat, to read and to make.
        for (flags, wanted) in [(0, ALLOW), (0x41, ASK), (0x41_0002, ASK)] {
            let data = Data { nr: 257, arch: 0xc000_003e, args: [0, 0, flags, 0, 0, 0] };
            assert_eq!(interpret(&filter(true).expect("a table"), &data), wanted, "{flags:x}");
        }
        // setrlimit and prlimit64, of file locks (10) and of files (7), to set and to look.
        let set = filter(true).expect("a table");
        for (nr, args, wanted) in [
            (160, [10, 0x7fff_0000_0000, 0, 0, 0, 0], SUCCEED),
            (160, [7, 0x7fff_0000_0000, 0, 0, 0, 0], ALLOW),
            (302, [0, 10, 0x7fff_0000_0000, 0, 0, 0], SUCCEED),
            (302, [0, 10, 0x1000, 0, 0, 0], SUCCEED),
            (302, [0, 10, 0, 0x1000, 0, 0], ALLOW),
            (302, [0, 7, 0x1000, 0, 0, 0], ALLOW),
        ] {
            assert_eq!(interpret(&set, &Data { nr, arch: 0xc000_003e, args }), wanted, "{nr} {args:x?}");
        }
        // stat, newfstatat and statx, of x86_64 alone.
        for number in [4, 262, 332] {
            assert_eq!((answer(true, 0xc000_003e, number), answer(false, 0xc000_003e, number)), (ASK, ALLOW));
            assert_eq!(answer(true, 0xc000_003e, number | X32), ALLOW);
        }
        assert_eq!(answer(true, 0x4000_0003, 106), ALLOW);
        assert_eq!(call(0xc000_003e, 332), Some(Call::Look(Look::Statx)));
        assert_eq!(call(0xc000_003e, 260), Some(Call::Fchownat));
        assert_eq!(call(0xc000_003e, 94 | X32), Some(Call::Lchown));
        assert_eq!(call(0xc000_003e, 0), None);
    }
}
