//! A private network with a way out: what commands get where nobody says otherwise, and the builder may make one.
//!
//! ```text
//! private namespace                        host
//!   lo     127.0.0.1, ::1
//!   eth0   10.143.0.2/30  ── a wire ──  kiln<process>n<number>  10.143.0.1/30 ── forwarding, masquerade ──▶ outside
//!          fd6b:…:a8f:2/126                                     fd6b:…:a8f:1/126
//! ```
//!
//! One network serves all commands of a build. Commands can reach what the host can, and the host itself under the address
//! of its end of the wire, but not what listens on its loopback device; nobody outside can begin a connection to them. IPv6
//! there is where the host has it, and would lose nothing by forwarding it.
//!
//! The kernel takes it down with the builder, however that ends: the wire goes with the namespace, the rules with the socket
//! that made them. What it cannot know, forwarding and subnets, is in `lease`. Where the builder may not do that, a program
//! that stands between can be the way out instead: `go_between`.

mod address;
mod dns;
mod go_between;
mod lease;
mod legacy;
mod link;
mod nat;
mod netlink;
mod wire;

use std::fmt;
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::thread::UnshareFlags;

use crate::error::{Doing, SetupError};
use crate::program::Program;
use crate::spec::Network;
use crate::{resolv, sys};
use go_between::GoBetween;
use netlink::Socket;
use wire::Wire;

/// How long another program has to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The name of the link inside.
const GUEST: &str = "eth0";

/// A private network, up until dropped. That takes some milliseconds, in which the kernel waits for packets on their way.
pub struct PrivateNetwork {
    has_bridge: bool,
    refused: Vec<Refusal>,
    // Taken down in this order. The end of a namespace keeps the kernel's lock of all links for a while, for which what the
    // way out has to put back would wait.
    _bridge: Option<dns::Bridge>,
    way: Way,
    namespace: OwnedFd,
}

/// Returns the helper's program, for those who need it.
pub type Helper<'a> = &'a dyn Fn() -> io::Result<&'a Program>;

/// How packets get out.
enum Way {
    Wire(Wire),
    GoBetween(GoBetween),
}

/// A way out that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its name, as of [`PrivateNetwork::way`].
    pub way: &'static str,
    /// Why not, and where somebody can help it, what to do.
    pub reason: String,
}

/// Why there can be no private network: every way, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoNetwork(pub Vec<Refusal>);

impl std::error::Error for NoNetwork {}

impl fmt::Display for NoNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reasons: Vec<String> = self.0.iter().map(|Refusal { way, reason }| format!("{way}: {reason}")).collect();
        f.write_str(&reasons.join("; "))
    }
}

impl PrivateNetwork {
    /// Makes one, by the first way that can be had: the kernel's own, `pasta`, `slirp4netns` (sandbox.md §4). The second and
    /// third are programs of the host's, which the helper starts.
    ///
    /// # Errors
    /// Where the builder lacks the rights, the kernel the features, or the host forbids forwarding, and there is no program
    /// to help; says what is wrong with each way.
    pub fn open(helper: Helper<'_>) -> Result<Self, NoNetwork> {
        let failed = |error: SetupError| NoNetwork(vec![Refusal { way: "namespace", reason: error.to_string() }]);
        let servers = resolv::loopback_servers();
        let inside =
            Inside::make(!servers.is_empty()).doing(|| "make a network namespace".to_owned()).map_err(failed)?;
        let (way, refused) = inside.connect(helper)?;
        let bridge = match inside.ears {
            Some(ears) => {
                let servers = servers.into_iter().map(|server| SocketAddr::new(server, 53)).collect();
                let bridge = dns::Bridge::start(ears, servers);
                Some(bridge.doing(|| "start the bridge to the host's resolvers".to_owned()).map_err(failed)?)
            }
            None => None,
        };
        Ok(Self { namespace: inside.namespace, has_bridge: bridge.is_some(), refused, _bridge: bridge, way })
    }

    /// Returns what makes a command see this network. It must end before this does.
    pub fn network(&self) -> Network {
        let fd = self.namespace.as_raw_fd();
        Network::Private {
            namespace: PathBuf::from(format!("/proc/{}/fd/{fd}", std::process::id())),
            resolver: self.has_bridge.then_some(IpAddr::V4(dns::ADDRESS)),
        }
    }

    /// Returns the addresses under which commands reach the host, the one to try first in front; none where the host has none.
    pub fn host_addresses(&self) -> Vec<IpAddr> {
        match &self.way {
            Way::Wire(wire) => wire.host_addresses(),
            Way::GoBetween(program) => program.host_addresses(),
        }
    }

    /// Returns the name of the way out: `nat`, `pasta` or `slirp4netns`.
    pub fn way(&self) -> &'static str {
        match &self.way {
            Way::Wire(_) => Wire::NAME,
            Way::GoBetween(program) => program.kind.name(),
        }
    }

    /// Says whether it has IPv6.
    pub fn has_ipv6(&self) -> bool {
        self.host_addresses().iter().any(IpAddr::is_ipv6)
    }

    /// Returns the better ways that cannot be had here.
    pub fn refused(&self) -> &[Refusal] {
        &self.refused
    }
}

impl fmt::Debug for PrivateNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateNetwork").field("way", &self.way()).finish_non_exhaustive()
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

    /// Connects it by the first way that can be had.
    fn connect(&self, helper: Helper<'_>) -> Result<(Way, Vec<Refusal>), NoNetwork> {
        let mut refused = Vec::new();
        match Wire::connect(self.namespace.as_fd(), &self.route) {
            Ok(wire) => return Ok((Way::Wire(wire), refused)),
            Err(error) => refused.push(Refusal { way: Wire::NAME, reason: error.to_string() }),
        }
        for kind in go_between::Kind::ALL {
            match helper().and_then(|helper| GoBetween::start(helper, kind, self.namespace.as_fd())) {
                Ok(program) => return Ok((Way::GoBetween(program), refused)),
                Err(error) => refused.push(Refusal { way: kind.name(), reason: crate::error::reason(&error) }),
            }
        }
        Err(NoNetwork(refused))
    }
}
