//! The private network of builders that may not change the host's: a program of the host's is the way out.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use kiln_testkit::{Bed, Kiln, Need, Ordinary, Outcome, etc, host};

use crate::fixture::{bed, build, dockerfile, unable};

fn lacks_tools() -> bool {
    unable() || host().lacks(&["newuidmap", "unshare", "pasta", "slirp4netns"].map(Need::Tool))
}

/// Gives the run a device for tunnels with this mode; in most hosts everybody may open it. Hides programs.
fn on_a_host(kiln: &mut Kiln, bed: &Bed, mode: &str, hidden: &[&str]) {
    const SCRIPT: &str = r#"
        mount -t tmpfs -o mode=755 none "$1"; mknod -m "$2" "$1/tun" c 10 200; mount --bind "$1/tun" /dev/net/tun
        for program in $3; do mount --bind /dev/null "$program"; done
        shift 3; exec "$@"
    "#;
    let place = bed.path("host");
    fs::create_dir(&place).expect("a folder");
    let paths: Vec<_> =
        hidden.iter().map(|name| host().tool(name).expect("it is needed").display().to_string()).collect();
    kiln.among_mounts(SCRIPT, [place.into_os_string(), mode.into(), paths.join(" ").into()]);
}

/// A resolver that gives every name the same address, on an address of the loopback device that no other test has, and
/// on all addresses with a port of its own.
fn resolvers() -> (UdpSocket, UdpSocket) {
    let loopback = (1..=u8::MAX)
        .find_map(|last| UdpSocket::bind((Ipv4Addr::new(127, 77, 0, last), 53)).ok())
        .expect("a free address");
    let anywhere = UdpSocket::bind("0.0.0.0:0").expect("a port");
    for socket in [&loopback, &anywhere] {
        let socket = socket.try_clone().expect("a descriptor");
        std::thread::spawn(move || answer(&socket));
    }
    (loopback, anywhere)
}

/// Answers questions for as long as the test runs.
fn answer(socket: &UdpSocket) -> ! {
    loop {
        let mut message = vec![0; 512];
        let (length, client) = socket.recv_from(&mut message).expect("a question");
        message.truncate(length);
        let is_about_ipv4 = message[length - 4..] == [0, 1, 0, 1];
        // An answer, recursion available, no error; one record where IPv4 is asked for.
        message[2..4].copy_from_slice(&[0x81, 0x80]);
        message[7] = u8::from(is_about_ipv4);
        if is_about_ipv4 {
            // The name of the question, A, IN, a minute, four bytes.
            message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 77]);
        }
        socket.send_to(&message, client).expect("sent");
    }
}

/// Builds as an ordinary user: a connection to the host and not to its loopback device, and names from both its resolvers.
fn try_all(who: Ordinary, mode: &str, hidden: &[&str]) -> Outcome {
    let (local, remote) = resolvers();
    let listener = TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        while let Ok((mut client, _)) = listener.accept() {
            // Who asks may have gone.
            let _ = client.read(&mut [0; 1024]).and_then(|_| client.write_all(b"HTTP/1.0 200 OK\r\n\r\nhello\n"));
        }
    });
    let bed = bed();
    dockerfile(
        &bed,
        "context",
        &format!(
            "FROM busybox\n\
             RUN grep ^nameserver /etc/resolv.conf; ip -o link | grep -o 'eth0:'; \\\n\
              echo said $(wget -q -O - http://gate.way:{port}/); wget -q -O - http://127.0.0.1:{port}/ || echo shut; \\\n\
              nslookup near.example | grep 192.0.2.77; \\\n\
              nslookup far.example $(sed -n 's/\\tgate.way$//p' /etc/hosts | head -1):{} | grep -c 192.0.2.77\n",
            remote.local_addr().expect("bound").port()
        ),
    );
    let mut kiln = build(&bed, "context").arg("--add-host=gate.way:host-gateway").ordinary(&bed, who);
    let resolver = format!("nameserver {}\n", local.local_addr().expect("bound").ip());
    fs::write(etc(&bed).join("resolv.conf"), resolver).expect("a file");
    on_a_host(&mut kiln, &bed, mode, hidden);
    let outcome = kiln.limit(Duration::from_secs(60)).run();
    bed.assert_tidy();
    outcome
}

/// What commands see of a private network.
const PRIVATE: &[&str] =
    &[" nameserver 127.0.0.11\n", " eth0:\n", " said hello\n", " shut\n", " Address: 192.0.2.77\n", " 1\n"];

#[test]
fn pasta_is_the_way_out_of_ordinary_users() {
    if lacks_tools() {
        return;
    }
    for who in [Ordinary::WithRanges, Ordinary::WithoutRanges] {
        let outcome = try_all(who, "666", &["slirp4netns"]).success().says(PRIVATE);
        assert!(!outcome.stderr.contains("the host's network"), "{outcome}");
    }
}

#[test]
fn without_pasta_it_is_slirp4netns() {
    if lacks_tools() {
        return;
    }
    let outcome = try_all(Ordinary::WithRanges, "666", &["pasta"]).success().says(PRIVATE);
    assert!(!outcome.stderr.contains("the host's network"), "{outcome}");
}

#[test]
fn without_either_the_hosts_network_is_named_with_the_reasons() {
    if lacks_tools() {
        return;
    }
    try_all(Ordinary::WithRanges, "600", &["slirp4netns"]).success().says(&[
        "this RUN uses the host's network",
        "; pasta: cannot open /dev/net/tun: permission denied (`chmod 666 /dev/net/tun`",
        "; slirp4netns: the program `slirp4netns` is missing (Debian has it in the package slirp4netns)",
        " said hello\n",
    ]);
}

/// The processes that a process has started.
fn children(process: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("it runs").flatten();
    let lists = tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
    lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn the_program_ends_with_a_kiln_that_is_killed() {
    if lacks_tools() {
        return;
    }
    for (name, hidden) in [("pasta", "slirp4netns"), ("slirp4netns", "pasta")] {
        let bed = bed();
        dockerfile(&bed, "context", "FROM busybox\nRUN echo up; sleep 604\n");
        let mut kiln = build(&bed, "context").ordinary(&bed, Ordinary::WithRanges);
        on_a_host(&mut kiln, &bed, "666", &[hidden]);
        let mut running = kiln.start();
        running.wait_for(" up\n");
        // What has ended and is not yet reaped has no command line.
        let command = |process: &str| fs::read_to_string(format!("/proc/{process}/cmdline")).unwrap_or_default();
        let is_it = |process: &String| command(process).split('\0').next().is_some_and(|path| path.ends_with(name));
        let program = children(running.pid()).into_iter().find(is_it).expect("it has one");
        running.kill();
        running.wait();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !command(&program).is_empty() {
            assert!(Instant::now() < deadline, "{name} is left: {}", command(&program));
            std::thread::yield_now();
        }
    }
}
