//! The end of a command's processes where no pid namespace ends them: whoever loses its parent becomes a child of the helper.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getpid, kill_process, set_child_subreaper};

use crate::init::reap;

/// How long processes may go on making others while they are killed.
const PATIENCE: Duration = Duration::from_millis(1200);

/// Where the kernel says which children there are.
pub const CHILDREN: &str = "/proc/thread-self/children";

/// Makes this process the parent of all below it that lose theirs.
pub fn adopt() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// Sends SIGTERM to all processes below this one.
pub fn terminate() {
    let mut next = children(getpid());
    while let Some(process) = next.pop() {
        next.extend(children(process));
        // One that is gone already needs no telling.
        let _ = kill_process(process, Signal::TERM);
    }
}

/// Kills all processes below this one, and waits for their end.
///
/// # Errors
/// When one may not be killed, or they make others faster than they are killed.
pub fn end() -> io::Result<()> {
    let begun = Instant::now();
    loop {
        let left = children(getpid());
        if left.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        for process in &left {
            kill_process(*process, Signal::KILL)?;
        }
        for process in left {
            reap(process)?;
        }
    }
}

fn children(process: Pid) -> Vec<Pid> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", process.as_raw_nonzero())) else { return Vec::new() };
    let listed = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let numbers: Vec<String> = listed.collect();
    numbers
        .iter()
        .flat_map(|text| text.split_ascii_whitespace())
        .filter_map(|text| Pid::from_raw(text.parse().ok()?))
        .collect()
}
