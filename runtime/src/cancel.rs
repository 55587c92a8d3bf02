//! Cancellation: one token for the whole engine, which a `poll` can wait for.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// A wish to stop, shared by everything that can be stopped. Once cancelled it stays so.
#[derive(Clone)]
pub struct Cancel(Arc<Inner>);

struct Inner {
    cancelled: Arc<AtomicBool>,
    // Written once and never read, so that every waiter wakes. Absent where no descriptor could be had: waits then look
    // again every few milliseconds.
    event: Option<OwnedFd>,
}

/// How often a wait without a descriptor looks again.
const FALLBACK: Duration = Duration::from_millis(20);

impl Cancel {
    /// Makes a token that nobody has cancelled.
    pub fn new() -> Self {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok();
        Self(Arc::new(Inner { cancelled: Arc::default(), event }))
    }

    /// Cancels; all waits return at once.
    pub fn cancel(&self) {
        if self.0.cancelled.swap(true, Ordering::SeqCst) {
            return;
        }
        if let Some(event) = &self.0.event {
            // An event descriptor at zero always takes a one.
            let _ = rustix::io::write(event, &1u64.to_ne_bytes());
        }
    }

    /// Says whether someone has cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    /// Returns the flag itself, for code that only looks at it now and then.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0.cancelled)
    }

    /// Returns a descriptor that is readable once cancelled, for a `poll` together with others.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.event.as_ref().map(AsFd::as_fd)
    }

    /// Waits until this token or the other is cancelled.
    pub fn wait_or(&self, other: &Self) {
        while !self.is_cancelled() && !other.is_cancelled() {
            match (self.fd(), other.fd()) {
                (Some(one), Some(two)) => {
                    let mut fds = [one, two].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
                    let _ = poll(&mut fds, None);
                }
                _ => std::thread::sleep(FALLBACK),
            }
        }
    }

    /// Waits until cancelled or until the time is over; returns whether it was cancelled.
    pub fn wait(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        while !self.is_cancelled() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            match self.fd() {
                Some(fd) => {
                    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
                    let timeout = timespec(left);
                    let _ = poll(&mut fds, Some(&timeout));
                }
                None => std::thread::sleep(left.min(FALLBACK)),
            }
        }
        true
    }
}

/// Returns the duration as the kernel wants it.
pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: duration.subsec_nanos().into() }
}

impl Default for Cancel {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cancel").field(&self.is_cancelled()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_at_once_when_cancelled_elsewhere() {
        let cancel = Cancel::new();
        let other = cancel.clone();
        let start = Instant::now();
        let thread = std::thread::spawn(move || other.cancel());
        assert!(cancel.wait(Duration::from_secs(20)));
        assert!(start.elapsed() < Duration::from_secs(10));
        assert!(cancel.wait(Duration::ZERO), "it stays cancelled");
        thread.join().expect("the other thread ends");
    }

    #[test]
    fn a_wait_without_a_cancel_times_out() {
        assert!(!Cancel::new().wait(Duration::from_millis(5)));
    }
}
