//! Whoever asks: its memory, and what its paths and descriptors mean.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, fstat, openat};
use rustix::io::Errno;

use super::{Desk, HANDLE};
use crate::sys::{self, Question};

/// The longest path that the kernel takes, with the NUL at its end.
const LONGEST: usize = 4096;

/// Whoever asks.
pub(super) struct Caller<'a> {
    pub(super) desk: &'a Desk<'a>,
    pub(super) question: &'a Question,
}

impl Caller<'_> {
    /// Opens something of the caller's below the host's `/proc`; it is sure to be the caller's.
    pub(super) fn open(&self, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = format!("{}/{name}", self.question.pid);
        let opened = openat(&self.desk.processes, path, flags | OFlags::CLOEXEC, Mode::empty());
        if sys::is_asking(&self.desk.listener, self.question) { opened } else { Err(Errno::SRCH) }
    }

    /// Reads so many bytes out of the caller's memory.
    pub(super) fn read(&self, address: u64, length: usize) -> Result<Vec<u8>, Errno> {
        let memory = self.open("mem", OFlags::RDONLY).map_err(|_| Errno::FAULT)?;
        let mut bytes = vec![0; length];
        match rustix::io::pread(&memory, &mut bytes[..], address) {
            Ok(found) if found == length => Ok(bytes),
            _ => Err(Errno::FAULT),
        }
    }

    /// Reads a string out of the caller's memory.
    pub(super) fn string(&self, address: u64) -> Result<CString, Errno> {
        let memory = self.open("mem", OFlags::RDONLY).map_err(|_| Errno::FAULT)?;
        let mut bytes = Vec::new();
        while bytes.len() < LONGEST {
            // Never across the end of a page: the next one may not be there.
            let at = address.checked_add(bytes.len() as u64).ok_or(Errno::FAULT)?;
            let mut piece = [0; 256];
            let room = (256 - at % 256) as usize;
            let length = rustix::io::pread(&memory, &mut piece[..room], at).map_err(|_| Errno::FAULT)?;
            if length == 0 {
                return Err(Errno::FAULT);
            }
            match piece[..length].iter().position(|byte| *byte == 0) {
                Some(end) => {
                    bytes.extend_from_slice(&piece[..end]);
                    return CString::new(bytes).map_err(|_| Errno::INVAL);
                }
                None => bytes.extend_from_slice(&piece[..length]),
            }
        }
        Err(Errno::NAMETOOLONG)
    }

    /// Writes into the caller's memory.
    pub(super) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        let memory = self.open("mem", OFlags::RDWR).map_err(|_| Errno::FAULT)?;
        match rustix::io::pwrite(&memory, bytes, address) {
            Ok(length) if length == bytes.len() => Ok(()),
            _ => Err(Errno::FAULT),
        }
    }

    /// Finds what the caller means; nothing is opened but a handle. An empty path means the descriptor itself.
    pub(super) fn find(&self, directory: i32, path: &CStr, follow: bool) -> Result<OwnedFd, Errno> {
        let base = || match directory {
            libc::AT_FDCWD => self.open("cwd", OFlags::PATH),
            fd => self.open(&format!("fd/{fd}"), OFlags::PATH).map_err(|_| Errno::BADF),
        };
        if path.is_empty() {
            return base();
        }
        let base = if path.to_bytes().starts_with(b"/") {
            self.desk.root.try_clone().map_err(|_| Errno::MFILE)?
        } else {
            base()?
        };
        let flags = if follow { HANDLE } else { HANDLE | OFlags::NOFOLLOW };
        self.in_its_root(|| openat(&base, path, flags, Mode::empty()))
    }

    /// Does something where the caller's `/` is ours, too: it may have changed its root.
    pub(super) fn in_its_root<T>(&self, work: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        let theirs = self.open("root", OFlags::PATH | OFlags::DIRECTORY)?;
        let (one, two) = (fstat(&theirs)?, fstat(&self.desk.root)?);
        if (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino) {
            return work();
        }
        let enter = |root: &OwnedFd| rustix::process::fchdir(root).and_then(|()| rustix::process::chroot("."));
        enter(&theirs)?;
        let result = work();
        enter(&self.desk.root)?;
        rustix::process::fchdir(&self.desk.own)?;
        result
    }
}

/// What counts of a caller when it makes a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) umask: u32,
    pub(super) owner: (u32, u32),
    pub(super) may_make_devices: bool,
}

impl Status {
    pub(super) fn read(file: OwnedFd) -> Self {
        let mut text = String::new();
        // What cannot be read grants nothing.
        let _ = io::Read::read_to_string(&mut std::fs::File::from(file), &mut text);
        Self::parse(&text)
    }

    fn parse(text: &str) -> Self {
        const MKNOD: u32 = 27;
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map_or("", str::trim);
        // Real, effective, saved, and that for files.
        let id = |name| field(name).split_ascii_whitespace().nth(3).and_then(|id| id.parse().ok()).unwrap_or(0);
        let capabilities = u64::from_str_radix(field("CapEff:"), 16).unwrap_or(0);
        Self {
            umask: u32::from_str_radix(field("Umask:"), 8).unwrap_or(0o22),
            owner: (id("Uid:"), id("Gid:")),
            may_make_devices: capabilities & (1 << MKNOD) != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_what_counts() {
        let text = "Name:\tx\nUmask:\t0027\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nCapEff:\t0000000008000000\n";
        assert_eq!(Status::parse(text), Status { umask: 0o27, owner: (4, 8), may_make_devices: true });
        assert_eq!(Status::parse(""), Status { umask: 0o22, owner: (0, 0), may_make_devices: false });
    }
}
