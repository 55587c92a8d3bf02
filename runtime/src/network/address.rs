//! Which addresses a private network gets: two of a subnet of four that nothing on the host uses.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Four addresses: the network, the host's end, the guest's end, broadcast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet(Ipv4Addr);

/// Where subnets are taken from: private ranges that few others use, and prefix lengths. The last is for machines on which
/// all of the others are taken.
const POOLS: [(Ipv4Addr, u8); 4] = [
    (Ipv4Addr::new(10, 143, 0, 0), 16),
    (Ipv4Addr::new(172, 30, 0, 0), 16),
    (Ipv4Addr::new(192, 168, 224, 0), 19),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
];

impl Subnet {
    /// The prefix length.
    pub const PREFIX: u8 = 30;

    /// Returns all subnets, in the order in which they are tried.
    pub fn all() -> impl Iterator<Item = Self> {
        POOLS.iter().flat_map(|(first, prefix)| {
            let first = u32::from(*first);
            let count = 1u32 << (Self::PREFIX - prefix);
            (0..count).map(move |number| Self(Ipv4Addr::from(first + 4 * number)))
        })
    }

    /// Returns the first that is not taken, and has no address in common with a network of the host's.
    ///
    /// # Errors
    /// When there is none.
    pub fn free(taken: &[Self], routes: &[(Ipv4Addr, u8)]) -> io::Result<Self> {
        Self::all()
            .find(|subnet| !taken.contains(subnet) && !routes.iter().any(|route| subnet.overlaps(*route)))
            .ok_or_else(|| io::Error::other("all of the address ranges that kiln takes from are in use"))
    }

    /// Returns the subnet that begins with this address, if it is one of ours.
    pub fn parse(text: &str) -> Option<Self> {
        let first: Ipv4Addr = text.trim().parse().ok()?;
        Self::all().find(|subnet| subnet.0 == first)
    }

    /// Returns its first address.
    pub fn first(self) -> Ipv4Addr {
        self.0
    }

    /// Returns the address of the host's end.
    pub fn host(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.0) + 1)
    }

    /// Returns the address of the guest's end.
    pub fn guest(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.0) + 2)
    }

    /// Returns the IPv6 address of the host's end.
    pub fn host_v6(self) -> Ipv6Addr {
        embedded(self.host())
    }

    /// Returns the IPv6 address of the guest's end.
    pub fn guest_v6(self) -> Ipv6Addr {
        embedded(self.guest())
    }

    /// Says whether it has an address in common with a network.
    pub fn overlaps(self, (first, prefix): (Ipv4Addr, u8)) -> bool {
        let prefix = u32::from(prefix.min(Self::PREFIX));
        let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
        u32::from(self.0) & mask == u32::from(first) & mask
    }
}

/// Returns an address of a range of kiln's own (RFC 4193) with another in it.
fn embedded(address: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = address.octets();
    let [high, low] = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
    Ipv6Addr::new(0xfd6b, 0x696c, 0x6e72, 0, 0, 0, high, low)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_free(taken: &[(Ipv4Addr, u8)]) -> Option<String> {
        Subnet::free(&[], taken).ok().map(|subnet| subnet.host().to_string())
    }

    #[test]
    fn what_the_host_uses_is_not_taken() {
        let net = |text: &str| {
            let (first, prefix) = text.split_once('/').expect("a prefix");
            (first.parse().expect("an address"), prefix.parse().expect("a number"))
        };
        for (taken, expected) in [
            (vec![], "10.143.0.1"),
            (vec!["10.143.0.0/30"], "10.143.0.5"),
            (vec!["10.143.0.2/32", "10.143.0.7/32"], "10.143.0.9"),
            (vec!["10.0.0.0/8"], "172.30.0.1"),
            (vec!["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"], "198.18.0.1"),
        ] {
            let taken: Vec<_> = taken.into_iter().map(net).collect();
            assert_eq!(first_free(&taken).as_deref(), Some(expected), "{taken:?}");
        }
        assert_eq!(first_free(&[net("0.0.0.0/0")]), None);
    }

    #[test]
    fn subnets_are_named_by_their_first_address() {
        let subnet = Subnet::all().nth(3).expect("there are thousands");
        assert_eq!(Subnet::parse(&format!("{}\n", subnet.first())), Some(subnet));
        assert_eq!(subnet.guest_v6().to_string(), "fd6b:696c:6e72::a8f:e");
        assert_eq!((subnet.first(), subnet.guest()), (Ipv4Addr::new(10, 143, 0, 12), Ipv4Addr::new(10, 143, 0, 14)));
        for wrong in ["", "10.143.0.1", "8.8.8.8", "x"] {
            assert_eq!(Subnet::parse(wrong), None);
        }
    }
}
