//! The terminal of a command that the user talks to.
//!
//! It is one of the sandbox's own devices, so that programs find its name; the other side of it goes to the engine, over the
//! socket that stands in place of the outputs until then.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use crate::error::{Doing, SetupError};
use crate::init::walk::{Missing, walk};
use crate::sys;

/// A terminal that nobody uses yet.
pub struct Pty {
    ours: OwnedFd,
    theirs: OwnedFd,
}

impl Pty {
    /// Makes one of the terminals of `root`, where the kernel's are mounted.
    pub fn open(root: &OwnedFd) -> Result<Self, SetupError> {
        let doing = || "make a terminal".to_owned();
        let place = walk(root, "/dev/pts/ptmx", Missing::Fail).doing(doing)?;
        let (ours, theirs) = sys::open_terminal(&format!("/proc/self/fd/{}", place.as_raw_fd())).doing(doing)?;
        Ok(Self { ours, theirs })
    }

    /// Makes one of the host's terminals.
    pub fn of_the_host() -> Result<Self, SetupError> {
        let (ours, theirs) = sys::open_terminal("/dev/ptmx").doing(|| "make a terminal".to_owned())?;
        Ok(Self { ours, theirs })
    }

    /// Makes it the standard input and output of this process, and that which its session is at.
    pub fn take(self) -> Result<(), SetupError> {
        let doing = || "take the terminal".to_owned();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = [self.ours.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        let door = rustix::stdio::stdout();
        rustix::net::sendmsg(door, &[IoSlice::new(b"t")], &mut ancillary, SendFlags::NOSIGNAL).doing(doing)?;
        rustix::stdio::dup2_stdin(&self.theirs).doing(doing)?;
        rustix::stdio::dup2_stdout(&self.theirs).doing(doing)?;
        rustix::stdio::dup2_stderr(&self.theirs).doing(doing)?;
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin()).doing(doing)
    }
}
