//! SIGINT, SIGTERM and SIGHUP as a callback: the signals are blocked and read from a descriptor, so no code runs inside a
//! signal handler.

use std::io;

use crate::sys;

/// Calls `react` in a thread of its own for each SIGINT, SIGTERM or SIGHUP. Must be called before other threads are
/// started: those inherit that the signals are blocked, and child processes start with a clean mask.
///
/// Where the kernel gives no descriptor the signals keep their usual effect.
pub fn on_interrupt(react: impl Fn() + Send + 'static) {
    let watch = || -> io::Result<()> {
        let signals = sys::interrupt_fd()?;
        std::thread::Builder::new().name("interrupt".to_owned()).stack_size(128 << 10).spawn(move || {
            // `struct signalfd_siginfo` is 128 bytes; which of the signals it was makes no difference.
            let mut info = [0; 128];
            while let Ok(1..) | Err(rustix::io::Errno::INTR) = rustix::io::read(&signals, &mut info) {
                react();
            }
        })?;
        Ok(())
    };
    if let Err(error) = watch() {
        tracing::warn!(%error, "Ctrl-C will end kiln without cleaning up");
    }
}
