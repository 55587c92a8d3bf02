//! Links, addresses and routes: the wire between the host and a private network.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::net::netdevice::name_to_index;

use super::GUEST;
use super::address::{Family, Subnet};
use super::netlink::{CREATE, EXCLUSIVE, Message, Socket, attributes};

const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;

const LINK_NAME: u16 = 3;
const LINK_INFO: u16 = 18;
const LINK_NAMESPACE: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const PEER: u16 = 1;

const ADDRESS: u16 = 1;
const ADDRESS_LOCAL: u16 = 2;

const ROUTE_DESTINATION: u16 = 1;
const ROUTE_OUT: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;

const UP: u32 = 1;
const UNICAST: u8 = 1;

/// The fixed part of messages about links: family, type, index, flags, and which flags are meant.
fn link(index: u32, flags: u32) -> [u8; 16] {
    let mut fixed = [0; 16];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    fixed[12..16].copy_from_slice(&flags.to_ne_bytes());
    fixed
}

/// Makes a wire between this namespace and another; returns the number of our end, which is up.
pub fn make_pair(socket: &Socket, name: &str, guest: BorrowedFd<'_>) -> io::Result<u32> {
    let mut message = Message::new(NEW_LINK, CREATE | EXCLUSIVE, &link(0, UP));
    message.text(LINK_NAME, name).nest(LINK_INFO, |info| {
        info.text(INFO_KIND, "veth").nest(INFO_DATA, |data| {
            // The kernel does not take the flag here: the other end is not there yet.
            data.nest_message(PEER, &link(0, 0), |peer| {
                peer.text(LINK_NAME, GUEST).attribute(LINK_NAMESPACE, &guest.as_raw_fd().to_ne_bytes());
            });
        });
    });
    socket.request([message])?;
    index_of(socket, name)
}

/// Returns the number of a link of the socket's namespace. This way of asking does not wait for the lock of all links.
fn index_of(socket: &Socket, name: &str) -> io::Result<u32> {
    Ok(name_to_index(socket, name)?)
}

/// Brings a link up.
fn up(index: u32) -> Message {
    Message::new(NEW_LINK, 0, &link(index, UP))
}

/// Gives a link an address, that of one end of a subnet.
fn address(index: u32, address: IpAddr) -> Message {
    // Nobody else can have it, so the kernel need not ask around for a second.
    const NO_DETECTION: u8 = 2;
    let (family, prefix, flags) = match address {
        IpAddr::V4(_) => (Family::Ipv4, Subnet::PREFIX, 0),
        IpAddr::V6(_) => (Family::Ipv6, Subnet::PREFIX_V6, NO_DETECTION),
    };
    let mut fixed = [family as u8, prefix, flags, 0, 0, 0, 0, 0];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut message = Message::new(NEW_ADDRESS, CREATE | EXCLUSIVE, &fixed);
    message.attribute(ADDRESS_LOCAL, &octets(address)).attribute(ADDRESS, &octets(address));
    message
}

/// The way to everywhere through a gateway.
fn default_route(index: u32, gateway: IpAddr) -> Message {
    const MAIN: u8 = 254;
    const BY_BOOT: u8 = 3;
    let family = if gateway.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
    let fixed = [family as u8, 0, 0, 0, MAIN, BY_BOOT, 0, UNICAST, 0, 0, 0, 0];
    let mut message = Message::new(NEW_ROUTE, CREATE | EXCLUSIVE, &fixed);
    message.attribute(ROUTE_GATEWAY, &octets(gateway)).attribute(ROUTE_OUT, &index.to_ne_bytes());
    message
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Sets up the host's end: its addresses. What the other end says about routes is not believed (CVE-2020-13401).
pub fn set_up_host(socket: &Socket, name: &str, index: u32, subnet: Subnet) -> io::Result<()> {
    match fs::write(format!("/proc/sys/net/ipv6/conf/{name}/accept_ra"), "0") {
        // A kernel without IPv6.
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    socket.request([address(index, subnet.host().into())])
}

/// Sets up the guest's end, from inside: its address, and the way out. Returns its number.
pub fn set_up_guest(socket: &Socket, subnet: Subnet) -> io::Result<u32> {
    let index = index_of(socket, GUEST)?;
    let address = address(index, subnet.guest().into());
    socket.request([up(index), address, default_route(index, subnet.host().into())])?;
    Ok(index)
}

/// Gives both ends, whose sockets and numbers these are, IPv6 as well.
pub fn add_ipv6(host: (&Socket, u32), guest: (&Socket, u32), subnet: Subnet) -> io::Result<()> {
    host.0.request([address(host.1, subnet.host_v6().into())])?;
    let route = default_route(guest.1, subnet.host_v6().into());
    guest.0.request([address(guest.1, subnet.guest_v6().into()), route])
}

/// A network that there is a way to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route<A> {
    /// Its first address.
    pub first: A,
    /// Its prefix length; 0 where it is everything.
    pub prefix: u8,
    /// Whether it leads somewhere: it is neither an address of the host's nor a refusal.
    pub is_way: bool,
    /// Whether a router told of it, which the kernel forgets when it begins to forward.
    pub is_advertised: bool,
}

/// Returns the IPv4 routes of this namespace.
pub fn routes(socket: &Socket) -> io::Result<Vec<Route<Ipv4Addr>>> {
    routes_of(socket, Family::Ipv4, |bytes: [u8; 4]| bytes.into())
}

/// Returns the IPv6 routes of this namespace.
pub fn routes_v6(socket: &Socket) -> io::Result<Vec<Route<Ipv6Addr>>> {
    routes_of(socket, Family::Ipv6, |bytes: [u8; 16]| bytes.into())
}

fn routes_of<A, const N: usize>(socket: &Socket, family: Family, read: fn([u8; N]) -> A) -> io::Result<Vec<Route<A>>> {
    const FIXED: usize = 12;
    const BY_ADVERTISEMENT: u8 = 9;
    let mut request = [0; FIXED];
    request[0] = family as u8;
    let found = socket.dump(GET_ROUTE, &request)?;
    let route = |bytes: &Vec<u8>| {
        let [_, prefix, _, _, _, protocol, _, kind] = *bytes.first_chunk()?;
        let first = match attributes(bytes.get(FIXED..)?).find(|(kind, _)| *kind == ROUTE_DESTINATION) {
            Some((_, address)) => address.try_into().ok()?,
            None => [0; N],
        };
        Some(Route { first: read(first), prefix, is_way: kind == UNICAST, is_advertised: protocol == BY_ADVERTISEMENT })
    };
    Ok(found.iter().filter_map(route).collect())
}
