//! Standard input, which may never end: waiting for it can be cancelled.

use std::io::{self, Read};

use kiln_runtime::Cancel;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// Standard input. When cancelled, reading fails.
#[derive(Debug)]
pub struct Stdin<'a> {
    cancel: &'a Cancel,
}

impl<'a> Stdin<'a> {
    /// Nothing is read yet.
    pub fn new(cancel: &'a Cancel) -> Self {
        Self { cancel }
    }
}

impl Read for Stdin<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let stdin = rustix::stdio::stdin();
        if let Some(cancel) = self.cancel.fd() {
            let mut both =
                [PollFd::from_borrowed_fd(stdin, PollFlags::IN), PollFd::from_borrowed_fd(cancel, PollFlags::IN)];
            // What cannot be polled, as a file of some file systems, does not let anybody wait.
            while poll(&mut both, None) == Err(Errno::INTR) {}
        }
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        Ok(rustix::io::read(stdin, buffer)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancelled_wait_ends() {
        let cancel = Cancel::new();
        cancel.cancel();
        assert!(Stdin::new(&cancel).read(&mut [0]).is_err());
    }
}
