//! The content of `/etc/resolv.conf`.
//!
//! With the host's network it is the host's file as it is. Elsewhere resolvers on the host's loopback cannot be reached and
//! are left out, or replaced by a bridge to them, and the lines come in a fixed order: nameservers, search, options, the rest.

use std::fs;
use std::net::IpAddr;

use crate::spec::Network;

/// The resolvers used where nothing else is left.
const FALLBACK: [&str; 4] = ["8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844"];

/// Where systemd keeps the resolvers behind its stub.
const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";

/// Returns the file for a sandbox with this network, from the host's.
pub fn load(network: &Network) -> String {
    match network {
        Network::Host => host(read("/etc/resolv.conf")),
        Network::None => private(&behind_stub(), None),
        Network::Private { resolver, .. } => private(&behind_stub(), *resolver),
    }
}

/// Returns the resolvers of the host that a private network cannot reach, where it has no others.
pub fn loopback_servers() -> Vec<IpAddr> {
    let source = behind_stub();
    let servers: Vec<IpAddr> = nameservers(&source).filter_map(|server| server.parse().ok()).collect();
    if servers.iter().all(IpAddr::is_loopback) { servers } else { Vec::new() }
}

/// The host's file, or what systemd's stub in it stands for.
fn behind_stub() -> String {
    let source = read("/etc/resolv.conf");
    if !nameservers(&source).eq(["127.0.0.53"]) {
        return source;
    }
    let real = read(BEHIND_STUB);
    if nameservers(&real).next().is_some() { real } else { source }
}

// A host without the file is as good as one with an empty file; a broken encoding is kept as far as it can be read.
fn read(path: &str) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// The addresses in the lines that name a resolver; what is none is left out. One may have a zone: `fe80::1%eth0`.
fn nameservers(source: &str) -> impl Iterator<Item = &str> {
    source.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = (words.next() == Some("nameserver")).then(|| words.next()).flatten()?;
        address.split('%').next()?.parse::<IpAddr>().is_ok().then_some(address)
    })
}

fn host(source: String) -> String {
    if nameservers(&source).next().is_some() { source } else { private(&source, None) }
}

fn private(source: &str, resolver: Option<IpAddr>) -> String {
    let is_loopback = |server: &&str| server.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let mut servers: Vec<String> =
        nameservers(source).filter(|server| !is_loopback(server)).map(str::to_owned).collect();
    if servers.is_empty() {
        match resolver {
            Some(address) => servers.push(address.to_string()),
            None => servers.extend(FALLBACK.map(str::to_owned)),
        }
    }
    let mut search = None;
    let mut options = Vec::new();
    let mut rest = Vec::new();
    for line in source.lines().map(str::trim) {
        match line.split_whitespace().next() {
            None | Some("nameserver") => {}
            Some(word) if word.starts_with(['#', ';']) => {}
            Some("search" | "domain") => {
                search = Some(line).filter(|line| line.contains(char::is_whitespace)).or(search)
            }
            Some("options") => options.extend(line.split_whitespace().skip(1)),
            Some(_) => rest.push(line),
        }
    }
    let mut lines: Vec<String> = servers.iter().map(|server| format!("nameserver {server}")).collect();
    if let Some(line) = search {
        let names: Vec<&str> = line.split_whitespace().skip(1).collect();
        lines.push(format!("search {}", names.join(" ")));
    }
    if !options.is_empty() {
        lines.push(format!("options {}", options.join(" ")));
    }
    lines.extend(rest.into_iter().map(str::to_owned));
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_network_gets_no_loopback_resolvers_and_a_fixed_order() {
        let source = "# c\nsortlist 1.2.3.4\noptions a\nsearch x\nnameserver 127.0.0.1\nnameserver ::1\nnameserver 9.9.9.9\n\
                      domain  y z\noptions b\n";
        assert_eq!(private(source, None), "nameserver 9.9.9.9\nsearch y z\noptions a b\nsortlist 1.2.3.4\n");
    }

    #[test]
    fn lines_are_read_as_the_c_library_reads_them() {
        const NONE: &str = "";
        for (source, expected) in [
            ("nameserver\t9.9.9.9\n", "nameserver 9.9.9.9\n"),
            ("  nameserver 9.9.9.9  \r\n", "nameserver 9.9.9.9\n"),
            ("nameserver 9.9.9.9 # mine\n", "nameserver 9.9.9.9\n"),
            ("nameserver 9.9.9.9 8.8.8.8\n", "nameserver 9.9.9.9\n"),
            ("nameserver 9.9.9.9", "nameserver 9.9.9.9\n"),
            ("nameserver 2620:fe::fe\nnameserver 9.9.9.9\n", "nameserver 2620:fe::fe\nnameserver 9.9.9.9\n"),
            ("nameserver fe80::1%eth0\n", "nameserver fe80::1%eth0\n"),
            ("nameserver 127.1.2.3\nnameserver ::1\nnameserver 9.9.9.9\n", "nameserver 9.9.9.9\n"),
            ("nameserver 9.9.9.9\nnameserver 9.9.9.9\n", "nameserver 9.9.9.9\nnameserver 9.9.9.9\n"),
            ("", NONE),
            ("nameserver\n", NONE),
            ("nameserver resolver.example\n", NONE),
            ("nameserver 300.1.1.1\nnameserver 1.1.1\n", NONE),
            ("#nameserver 9.9.9.9\n;nameserver 9.9.9.9\n", NONE),
            ("nameserver 127.0.0.53\n", NONE),
            ("nameserver 9.9.9.9\nsearch a b\nsearch c\n", "nameserver 9.9.9.9\nsearch c\n"),
            ("nameserver 9.9.9.9\nsearch a\ndomain b\n", "nameserver 9.9.9.9\nsearch b\n"),
            ("nameserver 9.9.9.9\nsearch a\nsearch\n", "nameserver 9.9.9.9\nsearch a\n"),
            ("nameserver 9.9.9.9\nsearch  a\t b \n", "nameserver 9.9.9.9\nsearch a b\n"),
            ("options a b\nnameserver 9.9.9.9\noptions c:1\n", "nameserver 9.9.9.9\noptions a b c:1\n"),
            ("options\nnameserver 9.9.9.9\n", "nameserver 9.9.9.9\n"),
            ("sortlist 1.2.3.4/8\nnameserver 9.9.9.9\nother x\n", "nameserver 9.9.9.9\nsortlist 1.2.3.4/8\nother x\n"),
        ] {
            let expected = if expected == NONE { private(NONE, None) } else { expected.to_owned() };
            assert_eq!(private(source, None), expected, "{source:?}");
        }
    }

    #[test]
    fn without_a_resolver_there_are_known_ones() {
        assert_eq!(private("nameserver 127.0.0.1", None).lines().count(), 4);
        let bridge = IpAddr::from([127, 0, 0, 11]);
        assert_eq!(private("nameserver 127.0.0.1\nsearch a", Some(bridge)), "nameserver 127.0.0.11\nsearch a\n");
        assert_eq!(private("nameserver 9.9.9.9", Some(bridge)), "nameserver 9.9.9.9\n");
        assert_eq!(host("search a\n".to_owned()).lines().count(), 5);
    }

    #[test]
    fn the_hosts_network_gets_the_hosts_file() {
        let source = "search a\nnameserver 127.0.0.53\n# mine\n";
        assert_eq!(host(source.to_owned()), source);
    }
}
