//! A private network with a way out: what commands get where nobody says otherwise, and the builder may make one.
//!
//! ```text
//! private namespace                        host
//!   lo     127.0.0.1, ::1
//!   eth0   10.143.0.2/30  ── a wire ──  kiln<process>n<number>  10.143.0.1/30 ── forwarding, masquerade ──▶ outside
//! ```
//!
//! One network serves all commands of a build. Commands can reach what the host can, and the host itself under the address
//! of its end of the wire, but not what listens on its loopback device; nobody outside can begin a connection to them. There
//! is no IPv6 beyond the loopback device.
//!
//! The kernel takes it down with the builder, however that ends: the wire goes with the namespace, the rules with the socket
//! that made them. What it cannot know, forwarding and subnets, is in `lease`. Where the builder may not do that, a program
//! that stands between can be the way out instead: `slirp`.

mod address;
mod dns;
mod lease;
mod link;
mod nat;
mod netlink;
mod slirp;
mod wire;

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::thread::UnshareFlags;

use crate::error::{Doing, SetupError};
use crate::spec::Network;
use crate::{resolv, sys};
use netlink::Socket;
use slirp::Slirp;
use wire::Wire;

/// How long another program has to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A private network, up until dropped. That takes some milliseconds, in which the kernel waits for packets on their way.
pub struct PrivateNetwork {
    namespace: OwnedFd,
    has_bridge: bool,
    // Taken down in this order.
    _bridge: Option<dns::Bridge>,
    way: Way,
}

/// How packets get out.
enum Way {
    Wire(Wire),
    Slirp(#[expect(dead_code, reason = "it works until dropped")] Slirp),
}

impl PrivateNetwork {
    /// Makes one.
    ///
    /// # Errors
    /// Where the builder lacks the rights, the kernel the features, or the host forbids forwarding, and there is no program
    /// to help; says what is wrong with each way.
    pub fn open() -> Result<Self, SetupError> {
        let servers = resolv::loopback_servers();
        let inside = Inside::make(!servers.is_empty()).doing(|| "make a network namespace".to_owned())?;
        let way = match Wire::connect(inside.namespace.as_fd(), &inside.route) {
            Ok(wire) => Way::Wire(wire),
            Err(refusal) => match Slirp::connect(inside.namespace.as_fd()) {
                Ok(slirp) => Way::Slirp(slirp),
                Err(error) => {
                    let (what, reason) = ("make a private network".to_owned(), format!("{refusal}; {error}"));
                    return Err(SetupError::System { what, reason, errno: error.raw_os_error().unwrap_or(0) });
                }
            },
        };
        let bridge = match inside.ears {
            Some(ears) => {
                let servers = servers.into_iter().map(|server| SocketAddr::new(server, 53)).collect();
                Some(
                    dns::Bridge::start(ears, servers)
                        .doing(|| "start the bridge to the host's resolvers".to_owned())?,
                )
            }
            None => None,
        };
        Ok(Self { namespace: inside.namespace, has_bridge: bridge.is_some(), _bridge: bridge, way })
    }

    /// Returns what makes a command see this network. It must end before this does.
    pub fn network(&self) -> Network {
        let fd = self.namespace.as_raw_fd();
        Network::Private {
            namespace: PathBuf::from(format!("/proc/{}/fd/{fd}", std::process::id())),
            resolver: self.has_bridge.then_some(IpAddr::V4(dns::ADDRESS)),
        }
    }

    /// Returns the address under which commands reach the host; none where the host has none.
    pub fn gateway(&self) -> Option<IpAddr> {
        match &self.way {
            Way::Wire(wire) => Some(wire.gateway().into()),
            Way::Slirp(_) => slirp::host_address(),
        }
    }
}

impl std::fmt::Debug for PrivateNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PrivateNetwork").field("gateway", &self.gateway()).finish_non_exhaustive()
    }
}

/// Puts right what a killed builder left of the host's settings.
pub fn sweep() {
    if let Err(error) = lease::sweep() {
        tracing::debug!(%error, "cannot look for what a killed build left");
    }
}

/// What a thread made that was in the private network for a moment.
struct Inside {
    namespace: OwnedFd,
    route: Socket,
    ears: Option<dns::Ears>,
}

impl Inside {
    fn make(needs_bridge: bool) -> io::Result<Self> {
        let visit = move || {
            sys::unshare_thread(UnshareFlags::NEWNET)?;
            let namespace = OwnedFd::from(File::open("/proc/thread-self/ns/net")?);
            sys::loopback_up()?;
            let ears = needs_bridge.then(dns::Ears::open).transpose()?;
            Ok(Self { namespace, route: Socket::route()?, ears })
        };
        let thread = std::thread::Builder::new().name("network".to_owned()).spawn(visit)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread ended early")))
    }
}
