//! The way out for builders that may not change the host's network: `slirp4netns`, which speaks for the commands as an
//! ordinary program does.

use std::io::{self, Read};
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::process::{Child, ChildStdin, Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};

use super::PATIENCE;
use crate::cancel::timespec;

const PROGRAM: &str = "slirp4netns";
/// The name of the link inside.
const GUEST: &str = "eth0";
/// How much of what it says goes into a message.
const LONGEST: u64 = 400;

/// The program at work, until dropped. It ends with the builder, too: our end of its input is the sign.
pub struct Slirp {
    child: Child,
    _sign: Option<ChildStdin>,
}

impl Slirp {
    /// Connects a namespace that is in a user namespace in which the caller may do everything.
    pub fn connect(namespace: BorrowedFd<'_>) -> io::Result<Self> {
        let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
        let mut child = Command::new(PROGRAM)
            .args(["--configure", "--mtu=65520", "--disable-host-loopback", "--netns-type=path"])
            // Its standard output says when it is ready, its standard input when to end.
            .args(["--ready-fd=1", "--exit-fd=0", &path, GUEST])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{PROGRAM}: {}", crate::error::reason(&error))))?;
        let sign = child.stdin.take();
        let mut slirp = Self { child, _sign: sign };
        slirp.wait_until_ready().map(|()| slirp)
    }

    fn wait_until_ready(&mut self) -> io::Result<()> {
        let (Some(mut ready), Some(errors)) = (self.child.stdout.take(), self.child.stderr.take()) else {
            return Ok(());
        };
        let mut fds = [PollFd::new(&ready, PollFlags::IN)];
        poll(&mut fds, Some(&timespec(PATIENCE)))?;
        let is_ready = !fds[0].revents().is_empty() && ready.read(&mut [0])? > 0;
        if is_ready {
            return Ok(());
        }
        let _ = self.child.kill();
        let mut said = Vec::new();
        errors.take(LONGEST).read_to_end(&mut said)?;
        let said = String::from_utf8_lossy(&said);
        Err(io::Error::other(format!("{PROGRAM}: {}", said.trim().replace('\n', "; "))))
    }
}

impl Drop for Slirp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the address of the host that others see, which is how commands reach it.
pub fn host_address() -> Option<IpAddr> {
    // Nothing is sent: the kernel only looks up the route to an address that is nobody's (RFC 5737).
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("203.0.113.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip())
}
