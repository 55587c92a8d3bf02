//! Links, addresses and routes: the wire between the host and a private network.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::GUEST;
use super::address::Subnet;
use super::netlink::{CREATE, EXCLUSIVE, Message, Socket, attributes};

const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
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

const INET: u8 = 2;
const UP: u32 = 1;

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

fn index_of(socket: &Socket, name: &str) -> io::Result<u32> {
    let mut message = Message::new(GET_LINK, 0, &link(0, 0));
    message.text(LINK_NAME, name);
    let found = socket.ask(message)?;
    let index = found.first().and_then(|link| link.get(4..8)?.try_into().ok());
    index.map(u32::from_ne_bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Gives a link an address in the subnet.
pub fn add_address(socket: &Socket, index: u32, address: Ipv4Addr) -> io::Result<()> {
    let mut fixed = [INET, Subnet::PREFIX, 0, 0, 0, 0, 0, 0];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut message = Message::new(NEW_ADDRESS, CREATE | EXCLUSIVE, &fixed);
    message.attribute(ADDRESS_LOCAL, &address.octets()).attribute(ADDRESS, &address.octets());
    socket.request([message])
}

/// Sets up the guest's end, from inside: its address, and the way out.
pub fn set_up_guest(socket: &Socket, subnet: Subnet) -> io::Result<()> {
    let index = index_of(socket, GUEST)?;
    socket.request([Message::new(NEW_LINK, 0, &link(index, UP))])?;
    add_address(socket, index, subnet.guest())?;
    const MAIN: u8 = 254;
    const BY_BOOT: u8 = 3;
    const UNICAST: u8 = 1;
    let mut message =
        Message::new(NEW_ROUTE, CREATE | EXCLUSIVE, &[INET, 0, 0, 0, MAIN, BY_BOOT, 0, UNICAST, 0, 0, 0, 0]);
    message.attribute(ROUTE_GATEWAY, &subnet.host().octets()).attribute(ROUTE_OUT, &index.to_ne_bytes());
    socket.request([message])
}

/// Returns all networks that this namespace has a route to, except that to everywhere: first address and prefix length.
pub fn routes(socket: &Socket) -> io::Result<Vec<(Ipv4Addr, u8)>> {
    const FIXED: usize = 12;
    let mut request = [0; FIXED];
    request[0] = INET;
    let found = socket.dump(GET_ROUTE, &request)?;
    Ok(found
        .iter()
        .filter_map(|route| {
            let prefix = *route.get(1)?;
            let (_, address) = attributes(route.get(FIXED..)?).find(|(kind, _)| *kind == ROUTE_DESTINATION)?;
            Some((Ipv4Addr::from(<[u8; 4]>::try_from(address).ok()?), prefix))
        })
        .filter(|(_, prefix)| *prefix > 0)
        .collect())
}
