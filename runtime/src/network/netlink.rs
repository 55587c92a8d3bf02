//! Netlink: how the kernel is told about links, addresses, routes and packet rules. Messages, and a socket that sends them.
//!
//! A message is a header, a fixed part that depends on its kind, and attributes: length, kind, value, padded to four bytes.
//! All numbers are in the machine's order, unless the subsystem says otherwise.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

const HEADER: usize = 16;
/// The most the kernel puts into one part of an answer.
const BUFFER: usize = 64 << 10;

const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Ask for it.
const REQUEST: u16 = 0x1;
/// Say when it is done.
const ACK: u16 = 0x4;
/// All there are.
const DUMP: u16 = 0x300;
/// Make what is not there.
pub const CREATE: u16 = 0x400;
/// Fail if it is there.
pub const EXCLUSIVE: u16 = 0x200;
/// Put it at the end.
pub const APPEND: u16 = 0x800;

/// Attributes with attributes in them are marked.
const NESTED: u16 = 0x8000;

/// A message being written.
pub struct Message(Vec<u8>);

impl Message {
    /// Begins one of this kind with its fixed part; the kernel is to answer.
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        Self::with_flags(kind, flags | REQUEST | ACK, fixed)
    }

    /// Begins one that nobody answers.
    pub fn silent(kind: u16, fixed: &[u8]) -> Self {
        Self::with_flags(kind, REQUEST, fixed)
    }

    fn with_flags(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(fixed);
        let mut message = Self(bytes);
        message.pad();
        message
    }

    /// Adds an attribute.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.nest_with(kind, |message| message.0.extend_from_slice(value))
    }

    /// Adds a text with the NUL that ends it.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        self.nest_with(kind, |message| {
            message.0.extend_from_slice(value.as_bytes());
            message.0.push(0);
        })
    }

    /// Adds an attribute that holds attributes.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.nest_with(kind | NESTED, fill)
    }

    /// Adds an attribute that holds the fixed part of another message, and attributes.
    pub fn nest_message(&mut self, kind: u16, fixed: &[u8], fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.nest_with(kind | NESTED, |message| {
            message.0.extend_from_slice(fixed);
            fill(message);
        })
    }

    fn nest_with(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        fill(self);
        // What is sent here is a few hundred bytes.
        let length = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        self.pad();
        self
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[0..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }

    fn wants_answer(&self) -> bool {
        u16::from_ne_bytes([self.0[6], self.0[7]]) & ACK != 0
    }
}

/// A socket to one subsystem of the kernel, in the network namespace of the thread that opened it.
pub struct Socket(OwnedFd);

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Socket {
    /// Opens one for links, addresses and routes.
    pub fn route() -> io::Result<Self> {
        Self::open(None)
    }

    /// Opens one for packet rules.
    pub fn netfilter() -> io::Result<Self> {
        Self::open(Some(rustix::net::netlink::NETFILTER))
    }

    fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        Ok(Self(socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?))
    }

    /// Sends messages at once, and waits until the kernel has done what they say.
    pub fn request(&self, messages: impl IntoIterator<Item = Message>) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut answers = 0;
        for (sequence, message) in (1..).zip(messages) {
            answers += usize::from(message.wants_answer());
            bytes.extend(message.finish(sequence));
        }
        send(&self.0, &bytes, SendFlags::empty())?;
        let mut buffer = vec![0; BUFFER];
        while answers > 0 {
            let length = self.receive(&mut buffer)?;
            for (kind, body) in parts(&buffer[..length]) {
                if kind == ERROR {
                    refused(body)?;
                    answers = answers.saturating_sub(1);
                }
            }
        }
        Ok(())
    }

    /// Asks for all there are of something; returns the messages without header.
    pub fn dump(&self, kind: u16, fixed: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.ask(Message::with_flags(kind, REQUEST | DUMP, fixed))
    }

    /// Sends one message and returns what the kernel has to say, without headers.
    pub fn ask(&self, message: Message) -> io::Result<Vec<Vec<u8>>> {
        send(&self.0, &message.finish(1), SendFlags::empty())?;
        let mut found = Vec::new();
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = self.receive(&mut buffer)?;
            for (kind, body) in parts(&buffer[..length]) {
                match kind {
                    DONE => return Ok(found),
                    ERROR => return refused(body).map(|()| found),
                    _ => found.push(body.to_vec()),
                }
            }
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match recv(&self.0, &mut *buffer, RecvFlags::empty()) {
                Ok((_, length)) => return Ok(length),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Splits what was received into messages: kind, and everything after the header.
fn parts(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes([*bytes.get(4)?, *bytes.get(5)?]);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

fn refused(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Splits attributes: kind without its marks, and value.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const KIND: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let length = u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]) as usize;
        let kind = u16::from_ne_bytes([*bytes.get(2)?, *bytes.get(3)?]);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & KIND, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_read_back_with_their_padding() {
        let mut message = Message::new(1, 0, &[7; 3]);
        message.text(2, "abc").nest(3, |inner| {
            inner.attribute(4, &[1, 2, 3, 4, 5]);
        });
        let bytes = message.finish(9);
        let (kind, body) = parts(&bytes).next().expect("a message");
        assert_eq!((kind, &body[..4]), (1, &[7, 7, 7, 0][..]));
        let found: Vec<(u16, &[u8])> = attributes(&body[4..]).collect();
        assert_eq!(found[0], (2, &b"abc\0"[..]));
        assert_eq!(found[1].0, 3);
        assert_eq!(attributes(found[1].1).next(), Some((4, &[1, 2, 3, 4, 5][..])));
    }

    #[test]
    fn broken_answers_end_where_they_break() {
        for bytes in [&[][..], &[1, 0, 0], &[200, 0, 0, 0, 2, 0, 0, 0], &[0; 16], &[4, 0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(parts(bytes).count().min(1), usize::from(bytes.len() >= HEADER && bytes[0] as usize >= HEADER));
            assert!(attributes(bytes).count() <= bytes.len());
        }
    }

    #[test]
    fn the_kernel_answers() {
        let socket = Socket::route().expect("a socket");
        // RTM_GETLINK with an empty `ifinfomsg`: at least the loopback device.
        assert!(!socket.dump(18, &[0; 16]).expect("links").is_empty());
        assert!(socket.request([Message::new(16, 0, &[0; 16])]).is_err(), "a link without a name cannot be changed");
    }
}
