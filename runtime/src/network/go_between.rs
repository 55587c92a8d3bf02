//! The way out for builders that may not change the host's network: a program that speaks for the commands as any program of
//! an ordinary user does.
//!
//! It gets the namespace as its standard input, says on its standard output when it is ready, and ends with this process,
//! however that ends (`init::tether`).

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, PipeReader, Read, pipe};
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::address::Subnet;
use super::netlink::Socket;
use super::{GUEST, PATIENCE, link};
use crate::error::reason;
use crate::init;
use crate::program::{Program, installed};
use crate::run::wait;

/// How much of what it says goes into a message.
const LONGEST: usize = 400;
/// What `pasta` says about itself where there is no system log.
const NO_LOG: &str = "Failed to send ";

/// Which program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Pasta,
    Slirp,
}

impl Kind {
    /// All, the better first.
    pub const ALL: [Self; 2] = [Self::Pasta, Self::Slirp];

    /// Returns the program's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pasta => "pasta",
            Self::Slirp => "slirp4netns",
        }
    }

    /// Returns where the program is, or says how to get it.
    fn find(self) -> io::Result<PathBuf> {
        let package = match self {
            Self::Pasta => "passt",
            Self::Slirp => "slirp4netns",
        };
        installed(self.name(), package).map_err(io::Error::other)
    }

    /// Returns what makes it connect the namespace that is its standard input. Nothing reaches what listens on the host's
    /// loopback device only, and nothing outside begins a connection.
    fn arguments(self, subnet: Subnet) -> Vec<String> {
        const NAMESPACE: &str = "/proc/self/fd/0";
        const READY: &str = "/proc/self/fd/1";
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        match self {
            // It writes its number into a file when it is ready. Addresses of its own, so that those of the host are elsewhere.
            Self::Pasta => words(&format!(
                "--quiet --foreground --config-net --no-map-gw -t none -u none -T none -U none --runas 0:0 --pid {READY} \
                 --ns-ifname {GUEST} --address {} --netmask {} --gateway {} --address {} --gateway {} \
                 --no-netns-quit --netns-only --netns {NAMESPACE}",
                subnet.guest(),
                Subnet::PREFIX,
                subnet.host(),
                subnet.guest_v6(),
                subnet.host_v6(),
            )),
            Self::Slirp => words(&format!(
                "--configure --mtu=65520 --disable-host-loopback --ready-fd=1 --netns-type=path {NAMESPACE} {GUEST}"
            )),
        }
    }
}

/// The program at work, until dropped.
pub struct GoBetween {
    pub kind: Kind,
    process: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl GoBetween {
    /// Connects a namespace in which this process has all rights.
    pub fn start(helper: &Program, kind: Kind, namespace: BorrowedFd<'_>) -> io::Result<Self> {
        let program = kind.find()?;
        may_make_tunnels()?;
        let arguments = kind.arguments(subnet()?);
        let mut command = Command::new(helper.path());
        command.args(init::tether(program, arguments.into_iter().map(OsString::from)));
        command.env_clear().stdin(namespace.try_clone_to_owned()?);
        let (tell, told) = channel();
        // The program ends when the thread that started it does, so this one stays.
        let thread = std::thread::Builder::new().name("network".to_owned()).spawn(move || {
            if let Err(error) = attend(command, &tell) {
                let _ = tell.send(Err(error));
            }
        })?;
        match told.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended early"))) {
            Ok(process) => Ok(Self { kind, process, thread: Some(thread) }),
            Err(error) => {
                let _ = thread.join();
                Err(error)
            }
        }
    }
}

impl GoBetween {
    /// Returns the addresses of the host that others see, which is how commands reach it.
    pub fn host_addresses(&self) -> Vec<IpAddr> {
        // Nothing is sent: the kernel only looks up the route to an address that is nobody's (RFC 5737, RFC 3849).
        const NOBODY: [(&str, &str); 2] = [("0.0.0.0:0", "203.0.113.1:9"), ("[::]:0", "[2001:db8::1]:9")];
        let families = match self.kind {
            Kind::Pasta => &NOBODY[..],
            // It has IPv4 alone.
            Kind::Slirp => &NOBODY[..1],
        };
        let address = |(any, nobody): &(&str, &str)| {
            let socket = UdpSocket::bind(any).ok()?;
            socket.connect(nobody).ok()?;
            Some(socket.local_addr().ok()?.ip())
        };
        families.iter().filter_map(address).collect()
    }
}

impl Drop for GoBetween {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Fails with what can be done about it where the device that both programs open is closed to this user.
fn may_make_tunnels() -> io::Result<()> {
    const DEVICE: &str = "/dev/net/tun";
    let advice = |error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                " (`chmod 666 /dev/net/tun` by root opens it for everybody, which is usual)"
            }
            _ => "",
        };
        io::Error::other(format!("cannot open {DEVICE}: {}{hint}", reason(&error)))
    };
    File::options().read(true).write(true).open(DEVICE).map(drop).map_err(advice)
}

/// Returns addresses that the host does not use. Others may: nobody but the program sees them.
fn subnet() -> io::Result<Subnet> {
    Subnet::free(&[], &link::routes(&Socket::route()?)?)
}

/// Starts the program, tells when it is ready or why not, and reads what it has to say until it ends: it must not wait for us.
fn attend(mut command: Command, tell: &Sender<io::Result<OwnedFd>>) -> io::Result<()> {
    let ((ready, ready_end), (errors, errors_end)) = (pipe()?, pipe()?);
    // A Ctrl-C at the terminal is for the engine alone.
    let mut child = command.process_group(0).stdout(ready_end).stderr(errors_end).spawn()?;
    // Our copies of its ends.
    drop(command);
    let result = watch(&child, ready, errors, tell);
    let _ = child.kill();
    child.wait()?;
    result
}

fn watch(child: &Child, ready: PipeReader, errors: PipeReader, tell: &Sender<io::Result<OwnedFd>>) -> io::Result<()> {
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let (mut ready, mut errors) = (Some(ready), Some(errors));
    let mut deadline = Some(Instant::now() + PATIENCE);
    let mut said = Vec::new();
    let mut words = [0; 4096];
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(failed(&said, "it did not get ready"));
        }
        let pipes = [errors.as_ref().map(AsFd::as_fd), ready.as_ref().map(AsFd::as_fd)];
        let [has_words, is_ready, has_ended] = wait([pipes[0], pipes[1], Some(process.as_fd())], left)?;
        if has_words && let Some(pipe) = &mut errors {
            let count = pipe.read(&mut words)?;
            said.extend_from_slice(&words[..count.min(LONGEST.saturating_sub(said.len()))]);
            if count == 0 {
                errors = None;
            }
        } else if is_ready && let Some(mut pipe) = ready.take() {
            if pipe.read(&mut words)? > 0 {
                deadline = None;
                // Nobody may be waiting any more.
                let _ = tell.send(Ok(process.try_clone()?));
            }
        } else if has_ended {
            return Err(failed(&said, "it ended"));
        }
    }
}

/// An error with what the program said, or with other words where it said nothing.
fn failed(said: &[u8], otherwise: &str) -> io::Error {
    let said = String::from_utf8_lossy(said);
    let lines: Vec<&str> =
        said.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(NO_LOG)).collect();
    io::Error::other(if lines.is_empty() { otherwise.to_owned() } else { lines.join("; ") })
}
