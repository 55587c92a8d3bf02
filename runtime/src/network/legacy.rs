//! Packet rules of the kind before nftables, which `iptables-legacy` makes: whether they drop what is forwarded.
//!
//! The kernel gives a whole table at once: entries one after the other, each with a target at its end. The policy of a chain is
//! the verdict of its last entry, whose place the description of the table has.

use std::fs;
use std::io;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};

use super::address::Family;
use crate::sys;

const TABLE: &str = "filter";
const FORWARD: usize = 2;
/// Accept is one less.
const DROP: i32 = -1;

const GET_INFO: i32 = 64;
const GET_ENTRIES: i32 = 65;
/// Of the table's name in both questions.
const NAME: usize = 32;
/// The description: name, hooks, places of first entries, places of policies, count, size.
const POLICIES: usize = NAME + 4 + 5 * 4;
const SIZE: usize = POLICIES + 5 * 4 + 4;
const INFO: usize = SIZE + 4;
/// Where the entries begin in the answer.
const ENTRIES: usize = 40;
/// Where the verdict stands in a target.
const VERDICT: usize = 32;

/// Returns the name of the chain that drops what is forwarded, unless told otherwise; none where there is no such table, and a
/// question would make it.
pub fn forbidding_chain(family: Family) -> io::Result<Option<&'static str>> {
    // The list of tables, where questions go, and where an entry has the place of its target.
    let (names, kind, level, target, name) = match family {
        Family::Ipv4 => ("ip_tables_names", AddressFamily::INET, 0, 88, "filter FORWARD of iptables-legacy"),
        Family::Ipv6 => ("ip6_tables_names", AddressFamily::INET6, 41, 140, "filter FORWARD of ip6tables-legacy"),
    };
    // Nobody has any where the list is missing.
    let known = fs::read_to_string(format!("/proc/thread-self/net/{names}")).unwrap_or_default();
    if !known.lines().any(|table| table == TABLE) {
        return Ok(None);
    }
    let socket = socket_with(kind, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::RAW))?;
    let mut info = [0; INFO];
    info[..TABLE.len()].copy_from_slice(TABLE.as_bytes());
    sys::socket_option(&socket, level, GET_INFO, &mut info)?;
    let size = number(&info, SIZE)?;
    let mut table = vec![0; ENTRIES + size as usize];
    table[..TABLE.len()].copy_from_slice(TABLE.as_bytes());
    table[NAME..NAME + 4].copy_from_slice(&size.to_ne_bytes());
    sys::socket_option(&socket, level, GET_ENTRIES, &mut table)?;
    let entry = ENTRIES + number(&info, POLICIES + 4 * FORWARD)? as usize;
    let place = table.get(entry + target..).and_then(|rest| rest.first_chunk()).copied().map_or(0, u16::from_ne_bytes);
    let verdict = number(&table, entry + usize::from(place) + VERDICT)? as i32;
    Ok((verdict == DROP).then_some(name))
}

fn number(bytes: &[u8], place: usize) -> io::Result<u32> {
    let found = bytes.get(place..).and_then(|rest| rest.first_chunk());
    found.map(|bytes| u32::from_ne_bytes(*bytes)).ok_or_else(|| io::ErrorKind::InvalidData.into())
}
