//! A command at the user's terminal, with a terminal of its own in between.
//!
//! The command never has the user's terminal itself: into that it could type what is read when it has ended (CVE-2017-5226).
//! What is typed goes to the one in between as it comes, which makes signals of Ctrl-C and Ctrl-Z for the inside alone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, Winsize, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use crate::sys;

/// The terminal in between. While it lives the user's, which is standard input, passes on every key.
pub struct Terminal {
    ours: OwnedFd,
    theirs: Option<OwnedFd>,
    before: Termios,
    size: Option<Winsize>,
    /// What was typed and not taken yet.
    typed: Vec<u8>,
    is_open: bool,
}

impl Terminal {
    /// Makes the terminal in between, and takes the user's.
    ///
    /// # Errors
    /// When standard input is no terminal, or the host has no more of them.
    pub fn take() -> io::Result<Self> {
        let user = rustix::stdio::stdin();
        let before = tcgetattr(user)?;
        let (ours, theirs) = sys::open_terminal()?;
        // What nobody takes must not hold up what the command writes.
        fcntl_setfl(&ours, fcntl_getfl(&ours)? | OFlags::NONBLOCK)?;
        let mut raw = before.clone();
        raw.make_raw();
        let mut terminal = Self { ours, theirs: Some(theirs), before, size: None, typed: Vec::new(), is_open: true };
        terminal.follow_size();
        // What has been typed ahead is kept.
        tcsetattr(user, OptionalActions::Now, &raw)?;
        Ok(terminal)
    }

    /// Hands out the command's side, once.
    pub(crate) fn hand_out(&mut self) -> io::Result<OwnedFd> {
        self.theirs.take().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Returns our side, which reads what the command writes.
    pub(crate) fn output(&self) -> io::Result<OwnedFd> {
        self.ours.try_clone()
    }

    /// Returns what to wait for: that something is typed, where there is room for it.
    pub(crate) fn input(&self) -> Option<BorrowedFd<'static>> {
        (self.is_open && self.typed.is_empty()).then(rustix::stdio::stdin)
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
        match rustix::io::write(&self.ours, &self.typed) {
            Ok(count) => drop(self.typed.drain(..count)),
            Err(Errno::INTR | Errno::AGAIN) => {}
            // Nobody is there to read it.
            Err(_) => self.typed.clear(),
        }
    }

    fn follow_size(&mut self) {
        let Ok(size) = tcgetwinsize(rustix::stdio::stdin()) else { return };
        let is_known = |known: Winsize| (known.ws_row, known.ws_col) == (size.ws_row, size.ws_col);
        if !self.size.is_some_and(is_known) && tcsetwinsize(self.ours.as_fd(), size).is_ok() {
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
