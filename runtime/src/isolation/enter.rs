//! Moving into a user namespace.
//!
//! This process leaves its namespace by itself; a child that was forked before stays outside and gives it the ids, since
//! only programs outside have the right to hand out more than one.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, getpid, waitpid};
use rustix::thread::{CapabilitySet, UnshareFlags};

use super::subordinate::{self, Range};
use crate::error::reason;
use crate::program::installed;
use crate::sys;

/// Returns the ids of the namespace that this process is in; empty where the kernel does not say.
pub fn map() -> Vec<Range> {
    read_map("/proc/self/uid_map")
}

fn read_map(path: &str) -> Vec<Range> {
    let line = |line: &str| {
        let mut numbers = line.split_ascii_whitespace().map(|number| number.parse().ok());
        Some(Range { inside: numbers.next()??, outside: numbers.next()??, count: numbers.next()?? })
    };
    fs::read_to_string(path).unwrap_or_default().lines().filter_map(line).collect()
}

/// The user and group of this process, as they were before it moved.
pub type Own = (u32, u32);

/// What both maps of a new namespace are to be.
struct Maps {
    uids: Vec<Range>,
    gids: Vec<Range>,
    /// The two programs that may hand out ranges; none where this process may itself.
    programs: Option<[PathBuf; 2]>,
}

/// Moves into a namespace with ranges of ids: all that there are for root, else those set aside for the user.
pub fn with_ranges(own: Own) -> Result<(), String> {
    let maps = maps(own)?;
    rehearse()?;
    let (wait, go) = pipe_with(PipeFlags::CLOEXEC).map_err(said)?;
    let (answer, say) = pipe_with(PipeFlags::CLOEXEC).map_err(said)?;
    let this = getpid();
    let Some(child) = sys::fork().map_err(|error| reason(&error))? else {
        drop((go, answer));
        hand_out(this, &maps, wait, say);
    };
    drop((wait, say));
    let moved = sys::unshare(UnshareFlags::NEWUSER).map_err(|error| reason(&error));
    let mut told = String::new();
    if moved.is_ok() {
        // A child that is gone says nothing, and that is noticed below.
        let _ = fs::File::from(go).write_all(b"!");
        let _ = fs::File::from(answer).read_to_string(&mut told);
    } else {
        drop(go);
    }
    reap(child);
    moved?;
    match told.as_str() {
        "done" => Ok(()),
        "" => Err("the process that hands out ids broke off".to_owned()),
        told => Err(told.to_owned()),
    }
}

/// Moves into a namespace whose only id is that of the user. This needs nobody's help.
pub fn with_one_id((uid, gid): Own) -> Result<(), String> {
    // A try to get ranges may have left this process in a namespace without ids.
    if !map().is_empty() {
        rehearse()?;
        sys::unshare(UnshareFlags::NEWUSER).map_err(|error| reason(&error))?;
    }
    let write = |name: &str, text: String| {
        fs::write(format!("/proc/self/{name}"), text)
            .map_err(|error| format!("cannot write /proc/self/{name}: {}", reason(&error)))
    };
    // Before the groups: the kernel wants it, lest somebody drop a group that is there to keep them out.
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("0 {uid} 1"))?;
    write("gid_map", format!("0 {gid} 1"))
}

fn said(error: Errno) -> String {
    reason(&error.into())
}

fn maps((uid, gid): Own) -> Result<Maps, String> {
    let capabilities = rustix::thread::capabilities(None).map_err(said)?.effective;
    if uid == 0 && capabilities.contains(CapabilitySet::SETUID | CapabilitySet::SETGID) {
        let same = |range: Range| Range { outside: range.inside, ..range };
        let all = |path| read_map(path).into_iter().map(same).collect();
        return Ok(Maps { uids: all("/proc/self/uid_map"), gids: all("/proc/self/gid_map"), programs: None });
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = subordinate::name_of(&passwd, uid);
    let ranges = |path: &str| {
        let found = subordinate::ranges(&fs::read_to_string(path).unwrap_or_default(), uid, name);
        if found.is_empty() {
            let user = name.map_or_else(|| uid.to_string(), str::to_owned);
            return Err(format!(
                "{path} sets no ids aside for the user {user} (`usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}` does)"
            ));
        }
        Ok(found)
    };
    let (uids, gids) = (ranges("/etc/subuid")?, ranges("/etc/subgid")?);
    let programs = Some([installed("newuidmap", "uidmap")?, installed("newgidmap", "uidmap")?]);
    Ok(Maps { uids: subordinate::layout(uid, &uids), gids: subordinate::layout(gid, &gids), programs })
}

/// Lets a child try what this process could not take back.
fn rehearse() -> Result<(), String> {
    if fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() > 1) {
        return Err("this process has threads already".to_owned());
    }
    let Some(child) = sys::fork().map_err(|error| reason(&error))? else {
        // With a mount namespace, as some systems grant the one and then no right in it.
        let tried = sys::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS);
        sys::exit_now(tried.map_or_else(|error| error.raw_os_error().unwrap_or(255), |()| 0));
    };
    match reap(child) {
        Some(0) => Ok(()),
        code => Err(explain(code.unwrap_or(255))),
    }
}

/// Says why the kernel refuses a user namespace.
fn explain(errno: i32) -> String {
    let is = |path: &str, value: &str| fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
    let words = reason(&io::Error::from_raw_os_error(errno));
    let hint = if is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        "; AppArmor keeps them from ordinary users (`sysctl kernel.apparmor_restrict_unprivileged_userns=0` allows them)"
    } else if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        "; ordinary users may not make them (`sysctl kernel.unprivileged_userns_clone=1` allows them)"
    } else if is("/proc/sys/user/max_user_namespaces", "0") || errno == libc::ENOSPC {
        "; the limit is reached (`sysctl user.max_user_namespaces` shows it)"
    } else if errno == libc::EPERM {
        "; in a container its seccomp profile may forbid it"
    } else {
        ""
    };
    format!("the kernel refuses user namespaces: {words}{hint}")
}

/// The child's part: waits until the parent has moved, gives it its ids, and says how that went.
fn hand_out(parent: Pid, maps: &Maps, wait: OwnedFd, say: OwnedFd) -> ! {
    let mut word = [0];
    if matches!(fs::File::from(wait).read(&mut word), Ok(1)) {
        let given = give(parent, "uid", &maps.uids, maps.programs.as_ref().map(|[first, _]| &**first))
            .and_then(|()| give(parent, "gid", &maps.gids, maps.programs.as_ref().map(|[_, second]| &**second)));
        let told = given.err().unwrap_or_else(|| "done".to_owned());
        let _ = fs::File::from(say).write_all(told.as_bytes());
    }
    sys::exit_now(0)
}

fn give(parent: Pid, kind: &str, map: &[Range], program: Option<&Path>) -> Result<(), String> {
    let parent = parent.as_raw_nonzero();
    let Some(program) = program else {
        let lines: String =
            map.iter().map(|range| format!("{} {} {}\n", range.inside, range.outside, range.count)).collect();
        let path = format!("/proc/{parent}/{kind}_map");
        return fs::write(&path, lines).map_err(|error| format!("cannot write {path}: {}", reason(&error)));
    };
    let numbers = map.iter().flat_map(|range| [range.inside, range.outside, range.count]);
    let output = Command::new(program)
        .arg(parent.to_string())
        .args(numbers.map(|number| number.to_string()))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run {}: {}", program.display(), reason(&error)))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(format!("{} failed: {}", program.display(), words.trim().lines().next_back().unwrap_or("it said nothing")))
}

fn reap(child: Pid) -> Option<i32> {
    loop {
        match waitpid(Some(child), WaitOptions::empty()) {
            Err(Errno::INTR) => {}
            Ok(Some((_, status))) => return status.exit_status(),
            _ => return None,
        }
    }
}
