//! The helper's program: a copy in memory that nobody can change.
//!
//! A command can reach the program that became it through `/proc/self/exe` of a process that is about to run it. What it
//! finds there is this copy, sealed against writing, and not the file that the host runs tomorrow (CVE-2019-5736).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

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
        io::copy(&mut source, &mut target)?;
        let copy = OwnedFd::from(target);
        fcntl_add_seals(&copy, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
        Ok(Self { copy })
    }

    /// Returns a path under which a child of this process can run the copy. The child's own table has the descriptor until
    /// the moment of `execve`, which is all that is needed.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.copy.as_raw_fd()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_copy_cannot_be_written() {
        let program = Program::open(Path::new("/proc/self/exe")).expect("our own program can be read");
        let opened = std::fs::OpenOptions::new().write(true).open(program.path());
        let written = opened.and_then(|mut file| file.write_all(b"x"));
        assert_eq!(written.map_err(|error| error.kind()), Err(io::ErrorKind::PermissionDenied));
    }
}
