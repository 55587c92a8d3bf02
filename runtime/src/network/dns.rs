//! Names where the host's resolvers listen on its loopback device only: a bridge from an address inside a private network.
//!
//! Questions are passed on as they are, over UDP or TCP, and answers back. What asks is hostile: it can ask much, and is then
//! ignored.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use crate::cancel::Cancel;

/// Where the bridge listens: on the private network's loopback device, and not where a resolver of the image's would.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
const PORT: u16 = 53;

/// How many questions are answered at the same time.
const MOST: usize = 64;
/// How long a resolver has for its answer; programs ask again after five seconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest message.
const LARGEST: usize = 65_535;

/// The sockets of a bridge, made in the private network.
pub struct Ears {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Ears {
    /// Opens them; for a thread that is in the private network.
    pub fn open() -> io::Result<Self> {
        let (udp, tcp) = (UdpSocket::bind((ADDRESS, PORT))?, TcpListener::bind((ADDRESS, PORT))?);
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok(Self { udp, tcp })
    }
}

/// A bridge at work, until dropped.
pub struct Bridge {
    stop: Cancel,
    thread: Option<JoinHandle<()>>,
}

impl Bridge {
    /// Begins to pass questions on to `servers`, from the caller's network.
    pub fn start(ears: Ears, servers: Vec<SocketAddr>) -> io::Result<Self> {
        let stop = Cancel::new();
        let end = stop.clone();
        let thread = std::thread::Builder::new().name("dns".to_owned()).spawn(move || {
            if let Err(error) = listen(&ears, &Arc::new(servers), &end) {
                tracing::debug!(%error, "names are no longer resolved");
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(ears: &Ears, servers: &Arc<Vec<SocketAddr>>, stop: &Cancel) -> io::Result<()> {
    let busy = Arc::new(AtomicUsize::new(0));
    let mut buffer = vec![0; LARGEST];
    while !stop.is_cancelled() {
        let mut fds = vec![PollFd::new(&ears.udp, PollFlags::IN), PollFd::new(&ears.tcp, PollFlags::IN)];
        fds.extend(stop.fd().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        poll(&mut fds, Some(&crate::cancel::timespec(PATIENCE)))?;
        if let Ok((length, client)) = ears.udp.recv_from(&mut buffer) {
            let (question, udp) = (buffer[..length].to_vec(), ears.udp.try_clone()?);
            answer(&busy, servers, move |servers| {
                let reply = ask(servers, &question)?;
                udp.send_to(&reply, client).map(drop)
            });
        }
        if let Ok((stream, _)) = ears.tcp.accept() {
            answer(&busy, servers, move |servers| relay(stream, servers));
        }
    }
    Ok(())
}

/// Does one piece of work in a thread of its own, unless there are too many already.
fn answer(
    busy: &Arc<AtomicUsize>,
    servers: &Arc<Vec<SocketAddr>>,
    work: impl FnOnce(&[SocketAddr]) -> io::Result<()> + Send + 'static,
) {
    if busy.fetch_add(1, Ordering::Relaxed) >= MOST {
        busy.fetch_sub(1, Ordering::Relaxed);
        return;
    }
    let (slot, servers) = (Arc::clone(busy), Arc::clone(servers));
    let started = std::thread::Builder::new().name("dns".to_owned()).stack_size(256 << 10).spawn(move || {
        if let Err(error) = work(&servers) {
            tracing::debug!(%error, "a question about a name has no answer");
        }
        slot.fetch_sub(1, Ordering::Relaxed);
    });
    if started.is_err() {
        busy.fetch_sub(1, Ordering::Relaxed);
    }
}

fn ask(servers: &[SocketAddr], question: &[u8]) -> io::Result<Vec<u8>> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for server in servers {
        match ask_one(*server, question) {
            Ok(reply) => return Ok(reply),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn ask_one(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any = if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(question)?;
    let mut reply = vec![0; LARGEST];
    let length = socket.recv(&mut reply)?;
    reply.truncate(length);
    Ok(reply)
}

/// Passes the questions of a connection on, one after the other: each has its length in front.
fn relay(mut client: TcpStream, servers: &[SocketAddr]) -> io::Result<()> {
    client.set_nonblocking(false)?;
    let mut server = servers
        .iter()
        .find_map(|server| TcpStream::connect_timeout(server, PATIENCE).ok())
        .ok_or(io::ErrorKind::ConnectionRefused)?;
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
    }
    loop {
        pass_one(&mut client, &mut server)?;
        pass_one(&mut server, &mut client)?;
    }
}

fn pass_one(from: &mut TcpStream, to: &mut TcpStream) -> io::Result<()> {
    let mut length = [0; 2];
    from.read_exact(&mut length)?;
    let mut message = length.to_vec();
    from.take(u16::from_be_bytes(length).into()).read_to_end(&mut message)?;
    to.write_all(&message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_pass_over_both() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = server.local_addr().expect("bound");
        let stream = TcpListener::bind(address).expect("the same port");
        let ears = Ears {
            udp: UdpSocket::bind("127.0.0.1:0").expect("a port"),
            tcp: TcpListener::bind("127.0.0.1:0").expect("a port"),
        };
        ears.udp.set_nonblocking(true).expect("a socket");
        ears.tcp.set_nonblocking(true).expect("a socket");
        let (udp, tcp) = (ears.udp.local_addr().expect("bound"), ears.tcp.local_addr().expect("bound"));
        let bridge = Bridge::start(ears, vec![address]).expect("a thread");
        let resolver = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            let (length, client) = server.recv_from(&mut buffer).expect("a question");
            buffer[..length].reverse();
            server.send_to(&buffer[..length], client).expect("sent");
            let (mut client, _) = stream.accept().expect("a connection");
            let mut question = [0; 5];
            client.read_exact(&mut question).expect("a question");
            client.write_all(&question).expect("sent");
        });
        let client = UdpSocket::bind("127.0.0.1:0").expect("a port");
        client.send_to(b"abc", udp).expect("sent");
        let mut reply = [0; 8];
        let length = client.recv(&mut reply).expect("an answer");
        assert_eq!(&reply[..length], b"cba");
        let mut client = TcpStream::connect(tcp).expect("a connection");
        client.write_all(b"\0\x03xyz").expect("sent");
        let mut reply = [0; 5];
        client.read_exact(&mut reply).expect("an answer");
        assert_eq!(&reply, b"\0\x03xyz");
        resolver.join().expect("the resolver ends");
        drop(bridge);
    }
}
