//! A command at the user's terminal, with a terminal of its own in between.
//!
//! The command never has the user's terminal itself: into that it could type what is read when it has ended (CVE-2017-5226).
//! What is typed goes to the one in between as it comes, which makes signals of Ctrl-C and Ctrl-Z for the inside alone.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::termios::{OptionalActions, Termios, Winsize, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

/// The terminal in between, which the sandbox makes. While it lives the user's, which is standard input, passes on every key.
pub struct Terminal {
    /// Our side, once there is one.
    ours: Option<OwnedFd>,
    before: Termios,
    size: Option<Winsize>,
    /// What was typed and not taken yet.
    typed: Vec<u8>,
    is_open: bool,
}

impl Terminal {
    /// Takes the user's terminal.
    ///
    /// # Errors
    /// When standard input is no terminal.
    pub fn take() -> io::Result<Self> {
        let user = rustix::stdio::stdin();
        let before = tcgetattr(user)?;
        let mut raw = before.clone();
        raw.make_raw();
        let terminal = Self { ours: None, before, size: None, typed: Vec::new(), is_open: true };
        // What has been typed ahead is kept.
        tcsetattr(user, OptionalActions::Now, &raw)?;
        Ok(terminal)
    }

    /// Says whether it is still to come.
    pub(crate) fn is_awaited(&self) -> bool {
        self.ours.is_none()
    }

    /// Receives our side from the sandbox, and returns what reads what the command writes; none where the sandbox is gone.
    pub(crate) fn receive(&mut self, door: impl AsFd) -> io::Result<Option<OwnedFd>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        rustix::net::recvmsg(door, &mut [IoSliceMut::new(&mut [0])], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        let fds = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let Some(ours) = fds.flatten().next() else { return Ok(None) };
        // What nobody takes must not hold up what the command writes.
        fcntl_setfl(&ours, fcntl_getfl(&ours)? | OFlags::NONBLOCK)?;
        let output = ours.try_clone()?;
        self.ours = Some(ours);
        self.follow_size();
        Ok(Some(output))
    }

    /// Returns what to wait for: that something is typed, where there is room for it.
    pub(crate) fn input(&self) -> Option<BorrowedFd<'static>> {
        (self.is_open && self.typed.is_empty() && !self.is_awaited()).then(rustix::stdio::stdin)
    }

    /// Reads what was typed.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) {
        match rustix::io::read(rustix::stdio::stdin(), &mut *buffer) {
            Ok(0) => self.is_open = false,
            Ok(count) => self.typed.extend_from_slice(&buffer[..count]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            // It hung up.
            Err(_) => self.is_open = false,
        }
    }

    /// Passes on what was typed, as far as there is room, and a new size of the window.
    pub(crate) fn pass_on(&mut self) {
        self.follow_size();
        let Some(ours) = &self.ours else { return };
        match rustix::io::write(ours, &self.typed) {
            Ok(count) => drop(self.typed.drain(..count)),
            Err(Errno::INTR | Errno::AGAIN) => {}
            // Nobody is there to read it.
            Err(_) => self.typed.clear(),
        }
    }

    fn follow_size(&mut self) {
        let (Some(ours), Ok(size)) = (&self.ours, tcgetwinsize(rustix::stdio::stdin())) else { return };
        let is_known = |known: Winsize| (known.ws_row, known.ws_col) == (size.ws_row, size.ws_col);
        if !self.size.is_some_and(is_known) && tcsetwinsize(ours, size).is_ok() {
            self.size = Some(size);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A terminal that has hung up needs nothing.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.before);
    }
}
