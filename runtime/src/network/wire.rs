//! The way out that the kernel gives: a wire to the host, which forwards and masquerades.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use super::address::{Family, ipv6_refusal};
use super::lease::Lease;
use super::netlink::Socket;
use super::{legacy, link, nat};
use crate::error::{Doing, SetupError};

/// A wire with its rules, until dropped; the kernel takes the links down when the namespace goes.
pub struct Wire {
    _rules: nat::Rules,
    lease: Lease,
    has_ipv6: bool,
}

impl Wire {
    /// The name of this way.
    pub const NAME: &str = "nat";

    /// Connects a namespace, given a socket that was made in it.
    pub fn connect(namespace: BorrowedFd<'_>, inside: &Socket) -> Result<Self, SetupError> {
        let host = Socket::route().doing(|| "talk to the kernel about links".to_owned())?;
        let netfilter = Socket::netfilter().doing(|| "talk to the kernel about packet rules".to_owned())?;
        sweep_tables(&netfilter);
        let forbidding = nat::Forbidding::find(&netfilter).doing(|| "read packet rules".to_owned())?;
        may_forward(&forbidding, Family::Ipv4)?;
        let routes = link::routes(&host).doing(|| "read routes".to_owned())?;
        let lease = Lease::take(&routes).doing(|| "take a subnet".to_owned())?;
        let mut families = vec![(Family::Ipv4, lease.forward(Family::Ipv4).doing(|| "forward packets".to_owned())?)];
        match ipv6(&host, &lease, &forbidding) {
            Ok(guards_host) => families.push((Family::Ipv6, guards_host)),
            Err(error) => tracing::debug!(%error, "the network has no IPv6"),
        }
        let name = name();
        let index = link::make_pair(&host, &name, namespace).doing(|| "make a pair of links".to_owned())?;
        link::set_up_host(&host, &name, index, lease.subnet).doing(|| "set up the link".to_owned())?;
        let guest = link::set_up_guest(inside, lease.subnet).doing(|| "set up the link inside".to_owned())?;
        let wire = nat::Wire { table: &name, link: index, subnet: lease.subnet, families: &families };
        let rules = nat::Rules::install(netfilter, &wire).doing(|| "add packet rules".to_owned())?;
        let has_ipv6 = families.len() > 1
            && link::add_ipv6((&host, index), (inside, guest), lease.subnet)
                .inspect_err(|error| tracing::debug!(%error, "the network has no IPv6"))
                .is_ok();
        Ok(Self { _rules: rules, lease, has_ipv6 })
    }

    /// Returns the addresses of the host's end.
    pub fn host_addresses(&self) -> Vec<IpAddr> {
        let subnet = self.lease.subnet;
        let second = self.has_ipv6.then(|| subnet.host_v6().into());
        std::iter::once(subnet.host().into()).chain(second).collect()
    }
}

/// Has the host forward IPv6, where it has any and loses nothing by it. Returns whether it does so only because of us.
fn ipv6(host: &Socket, lease: &Lease, forbidding: &nat::Forbidding) -> Result<bool, SetupError> {
    const DOING: &str = "have IPv6";
    let is_forwarded = Family::Ipv6.is_forwarded().doing(|| DOING.to_owned())?;
    let routes = link::routes_v6(host).doing(|| "read routes".to_owned())?;
    if let Some(reason) = ipv6_refusal(&routes, is_forwarded) {
        return Err(SetupError::System { what: DOING.to_owned(), reason: reason.to_owned(), errno: 0 });
    }
    may_forward(forbidding, Family::Ipv6)?;
    lease.forward(Family::Ipv6).doing(|| "forward packets".to_owned())
}

/// Fails where rules of somebody else's drop what is forwarded. Those stay as they are: they are somebody's will.
fn may_forward(forbidding: &nat::Forbidding, family: Family) -> Result<(), SetupError> {
    let chain = match forbidding.of(family) {
        Some(chain) => chain,
        None => match legacy::forbidding_chain(family).doing(|| "read packet rules".to_owned())? {
            Some(chain) => chain,
            None => return Ok(()),
        },
    };
    let reason = format!("the host's packet rules (chain {chain}) drop what is forwarded");
    Err(SetupError::System { what: "forward packets".to_owned(), reason, errno: 0 })
}

/// Returns a name that no other network has: link names have at most 15 characters.
fn name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{}{}n{}", nat::PREFIX, std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed) % 1000)
}

/// Removes tables of processes that are gone. Only old kernels leave any.
fn sweep_tables(socket: &Socket) {
    for (family, table) in nat::tables(socket).unwrap_or_default() {
        let owner = table.strip_prefix(nat::PREFIX).and_then(|rest| rest.split('n').next()?.parse::<u32>().ok());
        if owner.is_some_and(|owner| !Path::new(&format!("/proc/{owner}")).exists()) {
            let _ = nat::remove(socket, family, &table);
        }
    }
}
