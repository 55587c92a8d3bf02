//! The private network.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use kiln_runtime::PrivateNetwork;

use crate::bed::{Bed, program, skipped};

/// Opens a network, or says why there can be none here.
fn open() -> Option<PrivateNetwork> {
    match PrivateNetwork::open(&|| Ok(program())) {
        Ok(network) => Some(network),
        Err(error) => {
            skipped(&error.to_string());
            None
        }
    }
}

/// The addresses of the two ends of a network's wire: the host's, and the command's.
fn ends(network: &PrivateNetwork) -> (Ipv4Addr, Ipv4Addr) {
    let [IpAddr::V4(host), ..] = network.host_addresses()[..] else { panic!("{network:?} has no gateway") };
    (host, Ipv4Addr::from(u32::from(host) + 1))
}

/// What of the host a network changes: its links, and whether it forwards.
fn traces() -> (Vec<String>, String) {
    let ours = format!("kiln{}n", std::process::id());
    let links = fs::read_dir("/sys/class/net").expect("sysfs").flatten();
    let links =
        links.map(|link| link.file_name().to_string_lossy().into_owned()).filter(|name| name.starts_with(&ours));
    (links.collect(), fs::read_to_string("/proc/sys/net/ipv4/ip_forward").expect("procfs"))
}

#[test]
fn the_host_is_reached_and_its_loopback_device_is_not() {
    let Some(bed) = Bed::new() else { return };
    let Some(network) = open() else { return };
    let listener = TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut client, peer) = listener.accept().expect("a connection");
            client.write_all(format!("hello {}\n", peer.ip()).as_bytes()).expect("written");
        });
        let mut spec = bed.sh(&format!(
            "nc -w 2 127.0.0.1 {port} < /dev/null || echo none; ip -o -4 addr | sed 's/.*inet //; s/ .*//'; ip route | head -1; \
             nc -w 2 {} {port} < /dev/null; ping -c 1 127.0.0.1 > /dev/null && echo loopback",
            ends(&network).0
        ));
        spec.network = network.network();
        let out = bed.run(&spec).out();
        let (host, guest) = ends(&network);
        let expected =
            format!("none\n127.0.0.1/8\n{guest}/30\ndefault via {host} dev eth0 \nhello {guest}\nloopback\n");
        assert_eq!(out, expected);
    });
}

#[test]
fn networks_have_addresses_of_their_own_and_cannot_reach_each_other() {
    let Some(bed) = Bed::new() else { return };
    let (Some(one), Some(two)) = (open(), open()) else { return };
    let ((host, _), (_, guest)) = (ends(&one), ends(&two));
    assert_ne!(one.host_addresses(), two.host_addresses());
    let mut spec = bed.sh(&format!(
        "ping -c 1 -W 1 {guest} > /dev/null || echo unreachable; ping -c 1 {host} > /dev/null && echo host"
    ));
    spec.network = one.network();
    assert_eq!(bed.run(&spec).out(), "unreachable\nhost\n");
}

#[test]
fn nothing_of_a_network_is_left() {
    if Bed::new().is_none() {
        return;
    }
    let Some(network) = open() else { return };
    let (links, forwarding) = traces();
    // Other tests of this process may have some, too.
    assert!(!links.is_empty() && forwarding == "1\n", "{links:?} {forwarding}");
    drop(network);
    // The kernel takes the wire away when it has the time.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !traces().0.is_empty() {
        assert!(Instant::now() < deadline, "left: {:?}", traces());
        std::thread::yield_now();
    }
}
