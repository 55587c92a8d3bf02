//! Which addresses a private network gets: two of a subnet of four that nothing on the host uses.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::link::Route;

/// The two kinds of addresses. The numbers are those of the kernel, for links and for packet rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Ipv4 = 2,
    Ipv6 = 10,
}

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
    pub fn free(taken: &[Self], routes: &[Route<Ipv4Addr>]) -> io::Result<Self> {
        Self::all()
            .find(|subnet| !taken.contains(subnet) && !routes.iter().any(|route| subnet.overlaps(route)))
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

    /// The prefix length of its IPv6 addresses.
    pub const PREFIX_V6: u8 = 126;

    /// Returns the IPv6 address of the host's end.
    pub fn host_v6(self) -> Ipv6Addr {
        embedded(self.host())
    }

    /// Returns the IPv6 address of the guest's end.
    pub fn guest_v6(self) -> Ipv6Addr {
        embedded(self.guest())
    }

    /// Says whether it has an address in common with a network that is not everything.
    fn overlaps(self, route: &Route<Ipv4Addr>) -> bool {
        let prefix = u32::from(route.prefix.min(Self::PREFIX));
        let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
        prefix > 0 && u32::from(self.0) & mask == u32::from(route.first) & mask
    }
}

/// Says why there can be no IPv6 in a private network, given the host's routes and whether it forwards; none where there can.
pub fn ipv6_refusal(routes: &[Route<Ipv6Addr>], is_forwarded: bool) -> Option<&'static str> {
    let is_wide = |route: &Route<Ipv6Addr>| {
        route.is_way
            && !route.first.is_unicast_link_local()
            && !route.first.is_multicast()
            && !route.first.is_loopback()
    };
    let (range, length) = RANGE_V6;
    // Those of other networks of kiln's are narrow, and their IPv4 addresses keep them apart.
    let is_ours = |route: &Route<Ipv6Addr>| {
        let mask = u128::MAX.checked_shl(128 - u32::from(route.prefix.min(length))).unwrap_or(0);
        let is_narrow = route.prefix >= Subnet::PREFIX_V6;
        route.prefix > 0 && !is_narrow && u128::from(route.first) & mask == u128::from(range) & mask
    };
    if !routes.iter().any(is_wide) {
        Some("the host has none")
    } else if !is_forwarded && routes.iter().any(|route| route.is_advertised && route.prefix == 0) {
        Some("the host would forget the routes that it has from a router's advertisements if it began to forward")
    } else if routes.iter().any(is_ours) {
        Some("the host uses the range that kiln takes from")
    } else {
        None
    }
}

/// The range of kiln's own that IPv6 addresses are of (RFC 4193), and its prefix length.
pub const RANGE_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd6b, 0x696c, 0x6e72, 0, 0, 0, 0, 0), 48);

/// Returns an address of that range with another in it.
fn embedded(address: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(RANGE_V6.0) | u128::from(u32::from(address)))
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;
    use std::str::FromStr;

    use super::*;

    fn net<A: FromStr<Err: Debug>>(text: &str) -> Route<A> {
        let (first, prefix) = text.split_once('/').expect("a prefix");
        let (first, prefix) = (first.parse().expect("an address"), prefix.parse().expect("a number"));
        Route { first, prefix, is_way: true, is_advertised: false }
    }

    fn first_free(taken: &[Route<Ipv4Addr>]) -> Option<String> {
        Subnet::free(&[], taken).ok().map(|subnet| subnet.host().to_string())
    }

    #[test]
    fn what_the_host_uses_is_not_taken() {
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
        assert_eq!(first_free(&[net("0.0.0.0/0")]).as_deref(), Some("10.143.0.1"));
        assert_eq!(first_free(&["10.0.0.0/8", "172.0.0.0/8", "192.0.0.0/8", "198.0.0.0/8"].map(net)), None);
    }

    #[test]
    fn ipv6_is_had_where_the_host_has_it_and_loses_nothing() {
        let local: Vec<Route<Ipv6Addr>> = ["fe80::/64", "ff00::/8", "::1/128"].map(net).into();
        let with = |text: &str| [&local[..], &[net(text)]].concat();
        let unreachable = [Route { is_way: false, ..net("::/0") }];
        let advertised = [Route { is_advertised: true, ..net("::/0") }];
        for (routes, is_forwarded, expected) in [
            (&local[..], false, Some("the host has none")),
            (&unreachable, false, Some("the host has none")),
            (&with("::/0"), false, None),
            (&with("2001:db8::/64"), false, None),
            (&with("fd6b:696c:6e72::a8f:0/126"), true, None),
            (&with("fd6b:696c:6e72::/48"), true, Some("the host uses the range")),
            (&with("fc00::/7"), true, Some("the host uses the range")),
            (&advertised, true, None),
            (&advertised, false, Some("the host would forget the routes")),
        ] {
            let found = ipv6_refusal(routes, is_forwarded);
            let is_expected = found.zip(expected).map_or(found == expected, |(found, start)| found.starts_with(start));
            assert!(is_expected, "{routes:?} {is_forwarded}: {found:?}");
        }
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
