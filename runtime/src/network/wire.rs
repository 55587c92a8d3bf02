//! The way out that the kernel gives: a wire to the host, which forwards and masquerades.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use super::lease::Lease;
use super::netlink::Socket;
use super::{link, nat};
use crate::error::{Doing, SetupError};

/// A wire with its rules, until dropped; the kernel takes the links down when the namespace goes.
pub struct Wire {
    _rules: nat::Rules,
    lease: Lease,
}

impl Wire {
    /// The name of this way.
    pub const NAME: &str = "nat";

    /// Connects a namespace, given a socket that was made in it.
    pub fn connect(namespace: BorrowedFd<'_>, inside: &Socket) -> Result<Self, SetupError> {
        let host = Socket::route().doing(|| "talk to the kernel about links".to_owned())?;
        let netfilter = Socket::netfilter().doing(|| "talk to the kernel about packet rules".to_owned())?;
        sweep_tables(&netfilter);
        let forbidding = nat::forbidding_chain(&netfilter).doing(|| "read packet rules".to_owned())?;
        if let Some(chain) = forbidding {
            let what = "forward packets".to_owned();
            let reason = format!("the host's packet rules (chain {chain}) drop what is forwarded");
            return Err(SetupError::System { what, reason, errno: 0 });
        }
        let routes = link::routes(&host).doing(|| "read routes".to_owned())?;
        let lease = Lease::take(&routes).doing(|| "take a subnet and forward packets".to_owned())?;
        let name = name();
        let index = link::make_pair(&host, &name, namespace).doing(|| "make a pair of links".to_owned())?;
        link::add_address(&host, index, lease.subnet.host()).doing(|| "add an address".to_owned())?;
        link::set_up_guest(inside, lease.subnet).doing(|| "set up the link inside".to_owned())?;
        let wire = nat::Wire { table: &name, link: index, subnet: lease.subnet, guards_host: lease.guards_host };
        let rules = nat::Rules::install(&wire).doing(|| "add packet rules".to_owned())?;
        Ok(Self { _rules: rules, lease })
    }

    /// Returns the addresses of the host's end.
    pub fn host_addresses(&self) -> Vec<IpAddr> {
        vec![self.lease.subnet.host().into()]
    }
}

/// Returns a name that no other network has: link names have at most 15 characters.
fn name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{}{}n{}", nat::PREFIX, std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed) % 1000)
}

/// Removes tables of processes that are gone. Only old kernels leave any.
fn sweep_tables(socket: &Socket) {
    for table in nat::tables(socket).unwrap_or_default() {
        let owner = table.strip_prefix(nat::PREFIX).and_then(|rest| rest.split('n').next()?.parse::<u32>().ok());
        if owner.is_some_and(|owner| !Path::new(&format!("/proc/{owner}")).exists()) {
            let _ = nat::remove(socket, &table);
        }
    }
}
