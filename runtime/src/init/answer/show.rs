//! Owners of files as they were noted, for whoever looks.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::caller::Caller;
use super::noted_owner;
use crate::OWNER_MARK;
use crate::seccomp::answers::Look;
use crate::sys::{self, Answer};

impl Caller<'_> {
    /// Does what the kernel does for a caller who looks at a file that belongs to somebody by a note. An error means that the
    /// kernel shall do it: it finds the same file or the same mistake, and nothing was noted, or nothing can be said.
    pub(super) fn show(&self, look: Look, arguments: &[u64; 6]) -> Result<Answer, Errno> {
        let [a, b, c, d, e, _] = *arguments;
        let here = libc::AT_FDCWD;
        let flags = |flags: u64| AtFlags::from_bits_retain(flags as u32);
        let (directory, path, flags, buffer) = match look {
            Look::Stat => (here, a, AtFlags::empty(), b),
            Look::Lstat => (here, a, AtFlags::SYMLINK_NOFOLLOW, b),
            Look::Fstat => return self.fill(&self.find(a as i32, c"", true)?, b, None),
            Look::List => return self.list(&self.find(here, &self.string(a)?, true)?, (b, c)),
            Look::Llist => return self.list(&self.find(here, &self.string(a)?, false)?, (b, c)),
            Look::Flist => return self.list(&self.find(a as i32, c"", true)?, (b, c)),
            Look::Fstatat => (a as i32, b, flags(d), c),
            Look::Statx => (a as i32, b, flags(c), e),
        };
        let path = self.string(path)?;
        if path.is_empty() && !flags.contains(AtFlags::EMPTY_PATH) {
            return Err(Errno::NOENT);
        }
        let found = self.find(directory, &path, !flags.contains(AtFlags::SYMLINK_NOFOLLOW))?;
        self.fill(&found, buffer, (look == Look::Statx).then_some((flags, d as u32)))
    }

    /// Lists the attributes of a file but for the one that notes its owner: who copies attributes must not copy that.
    fn list(&self, fd: &OwnedFd, (list, size): (u64, u64)) -> Result<Answer, Errno> {
        let mut names = vec![0; 64 << 10];
        let length = rustix::fs::listxattr(&*fd.as_raw_fd().to_string(), &mut names[..])?;
        let (mark, all) = (OWNER_MARK.as_bytes(), &names[..length]);
        let is_mark = |name: &[u8]| name.strip_suffix(b"\0") == Some(mark);
        if !all.split_inclusive(|byte| *byte == 0).any(is_mark) {
            return Err(Errno::NODATA);
        }
        let shown: Vec<&[u8]> = all.split_inclusive(|byte| *byte == 0).filter(|name| !is_mark(name)).collect();
        let shown = shown.concat();
        if size > 0 {
            if size < shown.len() as u64 {
                return Ok(Answer::Failed(libc::ERANGE));
            }
            self.write(list, &shown)?;
        }
        Ok(Answer::Value(shown.len() as i64))
    }

    /// Fills the caller's structure: that of `statx` with its flags and mask, or the one of all others.
    fn fill(&self, fd: &OwnedFd, buffer: u64, extended: Option<(AtFlags, u32)>) -> Result<Answer, Errno> {
        let owner = noted_owner(fd).filter(|owner| *owner != (0, 0)).ok_or(Errno::NODATA)?;
        let bytes = match extended {
            Some((flags, mask)) => sys::statx_bytes(fd, flags.bits(), mask, owner),
            None => sys::stat_bytes(fd, owner),
        };
        let bytes = bytes.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        self.write(buffer, &bytes)?;
        Ok(Answer::Done)
    }
}
