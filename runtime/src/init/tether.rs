//! Programs of the host's that work for the engine, and end with it, however it ends.
//!
//! The kernel kills them when the thread that started them is gone. That has to be asked for by the process itself, so it is
//! the helper that asks, and then becomes the program: the wish survives `execve`.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use super::ARGUMENT;
use crate::error::reason;
use crate::sys;

/// Returns the arguments that make the helper become `program`. The thread that starts it must live as long as it shall.
pub fn tether(program: PathBuf, arguments: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    let parent = std::process::id().to_string();
    [ARGUMENT.into(), parent.into(), program.into_os_string()].into_iter().chain(arguments)
}

/// Becomes the program; says on standard error why that cannot be.
pub fn become_program(parent: &OsStr, mut arguments: impl Iterator<Item = OsString>) -> ! {
    let program = arguments.next().unwrap_or_default();
    let asked = set_parent_process_death_signal(Some(Signal::KILL));
    // A parent that ended before that was asked for does not count.
    let has_parent = getppid().is_some_and(|number| parent == number.to_string().as_str());
    if has_parent {
        let error = match asked {
            Ok(()) => Command::new(&program).args(arguments).exec(),
            Err(error) => error.into(),
        };
        let _ = writeln!(io::stderr(), "{}: {}", program.display(), reason(&error));
    }
    sys::exit_now(1)
}
