//! The helper's program: a copy in memory that nobody can change.
//!
//! A command can reach the program that became it through `/proc/self/exe` of a process that is about to run it. What it
//! finds there is this copy, sealed against writing, and not the file that the host runs tomorrow (CVE-2019-5736).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;

/// A program that calls [`crate::init::main`]; made once per process and used for all its commands.
#[derive(Debug)]
pub struct Program {
    copy: OwnedFd,
}

impl Program {
    /// Copies the program at `path` into memory and seals the copy.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut source = File::open(path)?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let copy = match memfd_create("kiln-sandbox", flags | MemfdFlags::EXEC) {
            // Older than 6.3: always executable.
            Err(Errno::INVAL) => memfd_create("kiln-sandbox", flags)?,
            result => result?,
        };
        let mut target = File::from(copy);
        // Plain reads and writes: the pages that the kernel moves by itself count as in use for a while.
        let mut buffer = vec![0; 1 << 20];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => target.write_all(&buffer[..count])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let copy = OwnedFd::from(target);
        seal(&copy)?;
        Ok(Self { copy })
    }

    /// Returns a path under which a child of this process can run the copy. The child's own table has the descriptor until
    /// the moment of `execve`, which is all that is needed.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.copy.as_raw_fd()))
    }
}

/// Finds a program that the host has installed, or says which package of Debian's has it.
pub(crate) fn installed(name: &str, package: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/bin", "/bin", "/usr/local/bin"].map(PathBuf::from);
    let mut places = std::env::split_paths(&path).filter(|place| place.is_absolute()).chain(usual);
    places
        .find_map(|place| Some(place.join(name)).filter(|path| path.is_file()))
        .ok_or_else(|| format!("the program `{name}` is missing (Debian has it in the package {package})"))
}

/// Seals a file against every change. A page that the kernel still holds for a moment makes it say "busy".
fn seal(copy: &OwnedFd) -> io::Result<()> {
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    let mut tries = 0;
    loop {
        match fcntl_add_seals(copy, seals) {
            Err(Errno::BUSY) if tries < MAX_TRIES => tries += 1,
            result => return Ok(result?),
        }
        std::thread::sleep(PAUSE);
    }
}

/// How often and how far apart a busy copy is tried to be sealed: for two seconds.
const MAX_TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_cannot_be_written() {
        let program = Program::open(Path::new("/proc/self/exe")).expect("our own program can be read");
        let opened = std::fs::OpenOptions::new().write(true).open(program.path());
        let written = opened.and_then(|mut file| file.write_all(b"x"));
        assert_eq!(written.map_err(|error| error.kind()), Err(io::ErrorKind::PermissionDenied));
    }
}
