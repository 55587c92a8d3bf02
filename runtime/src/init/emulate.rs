//! Handlers for programs of another processor, for this sandbox alone.

use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitOptions, getpid, waitpid};
use rustix::thread::UnshareFlags;

use crate::emulation::Emulator;
use crate::error::{Doing, SetupError};
use crate::init::mount::{Attributes, Refusal, Tree};
use crate::isolation::Isolation;
use crate::sys;

/// Where handlers are looked at and registered.
const PLACE: &str = "/proc/sys/fs/binfmt_misc";

/// Opens an emulator, while the host's files are there.
pub fn open(emulator: &Emulator) -> Result<Option<OwnedFd>, SetupError> {
    let Some(program) = &emulator.program else { return Ok(None) };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    openat(CWD, program, flags, Mode::empty()).map(Some).doing(|| format!("open {}", program.display()))
}

/// Registers an emulator. The process is in its root and has all its rights yet; as root of the host it moves into a user
/// namespace with the same ids, since only those have a table of their own.
pub fn register(emulator: &Emulator, program: &OwnedFd, isolation: Isolation) -> Result<(), SetupError> {
    if isolation == Isolation::Root {
        own_users().doing(|| "make a user namespace for the emulator".to_owned())?;
    }
    let failed = |refusal: Refusal| refusal.at(PLACE);
    let quiet = Attributes::MOUNT_ATTR_NOSUID | Attributes::MOUNT_ATTR_NODEV | Attributes::MOUNT_ATTR_NOEXEC;
    let table = Tree::fresh("binfmt_misc", &[], quiet).map_err(failed)?;
    let line = emulator.registration(&format!("/proc/self/fd/{}", program.as_raw_fd()));
    let register = openat(&table, "register", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    let written =
        register.map_err(std::io::Error::from).and_then(|file| std::fs::File::from(file).write_all(line.as_bytes()));
    match written {
        // A sandbox beside this one, in the same namespace, was faster.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        written => written.doing(|| format!("register {}", emulator.name))?,
    }
    // The table lasts as long as it is mounted somewhere.
    table.restrict(Attributes::MOUNT_ATTR_RDONLY).map_err(failed)?;
    let place = openat(CWD, PLACE, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    table.attach(place.doing(|| format!("open {PLACE}"))?).map_err(failed)
}

/// Moves into a user namespace in which every id is itself. A child that stays outside hands them out.
fn own_users() -> std::io::Result<()> {
    let ids = std::fs::read_to_string("/proc/self/uid_map")?;
    let count = |line: &str| {
        let mut numbers = line.split_ascii_whitespace();
        Some((numbers.next()?.to_owned(), numbers.nth(1)?.to_owned()))
    };
    let map: String =
        ids.lines().filter_map(count).map(|(first, count)| format!("{first} {first} {count}\n")).collect();
    let this = getpid();
    let (wait, go) = pipe_with(PipeFlags::CLOEXEC)?;
    let Some(child) = sys::fork()? else {
        drop(go);
        // The end of the pipe says that the namespace is there.
        let _ = rustix::io::read(&wait, &mut [0]);
        let of = |name: &str| format!("/proc/{}/{name}", this.as_raw_nonzero());
        let given = std::fs::write(of("uid_map"), &map).and_then(|()| std::fs::write(of("gid_map"), &map));
        sys::exit_now(i32::from(given.is_err()));
    };
    let moved = sys::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS);
    drop(go);
    let status = waitpid(Some(child), WaitOptions::empty())?;
    moved?;
    match status {
        Some((_, status)) if status.exit_status() == Some(0) => Ok(()),
        _ => Err(std::io::Error::other("its ids were refused")),
    }
}
