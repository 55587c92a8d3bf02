//! Just enough HTTP/1.1 for a server in tests: requests in, responses out, and every way to
//! send a response badly.

use std::io::{self, BufRead, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// No request of a test is larger.
const LONGEST_BODY: u64 = 1 << 30;

/// What requests come through, plain or not.
pub(crate) trait Connection: Read + Write {
    /// The socket underneath.
    fn socket(&self) -> &TcpStream;
}

impl Connection for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Connection for rustls::StreamOwned<rustls::ServerConnection, TcpStream> {
    fn socket(&self) -> &TcpStream {
        &self.sock
    }
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET`, `PUT`, …
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// Returns a header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| &**value)
    }

    /// Returns the path without the query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// Returns the values of a query parameter, decoded.
    pub fn query(&self, name: &str) -> Vec<String> {
        parameters(self.target.split_once('?').map_or("", |(_, query)| query), name)
    }

    /// Returns a value of a form in the body, decoded.
    pub fn form(&self, name: &str) -> Option<String> {
        parameters(&String::from_utf8_lossy(&self.body), name).into_iter().next()
    }
}

fn parameters(text: &str, name: &str) -> Vec<String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(own, _)| *own == name).map(|(_, value)| decode(value)).collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escaped = tail.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (first, escaped) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
                continue;
            }
            (b'+', _) => bytes.push(b' '),
            (byte, _) => bytes.push(*byte),
        }
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads the next request of a connection; nothing when the other side is done, or speaks TLS.
pub(crate) fn read_request(input: &mut impl BufRead) -> io::Result<Option<Request>> {
    // A TLS handshake: closing at once is what tells the client.
    if input.fill_buf()?.first().is_none_or(|byte| *byte == 0x16) {
        return Ok(None);
    }
    let mut line = String::new();
    input.take(16 << 10).read_line(&mut line)?;
    let mut words = line.split_ascii_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(None) };
    let mut request = Request { method: method.into(), target: target.into(), headers: Vec::new(), body: Vec::new() };
    loop {
        let mut line = String::new();
        input.take(16 << 10).read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    if request.header("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
        loop {
            let mut line = String::new();
            input.take(1 << 10).read_line(&mut line)?;
            let size = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            let before = request.body.len() as u64;
            input.take(size.min(LONGEST_BODY)).read_to_end(&mut request.body)?;
            if request.body.len() as u64 - before != size {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            input.take(2).read_line(&mut String::new())?;
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = request.header("content-length") {
        let length: u64 = length.parse().map_err(io::Error::other)?;
        input.take(length.min(LONGEST_BODY)).read_to_end(&mut request.body)?;
        if request.body.len() as u64 != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Some(request))
}

/// What to answer.
#[derive(Debug, Clone, Default)]
pub struct Response {
    /// `200` and the like.
    pub status: u16,
    /// In this order. The length is added when it is not among them.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// How it is sent.
    pub manner: Manner,
}

/// How to send a body.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Manner {
    /// All at once, with its length.
    #[default]
    Whole,
    /// In chunks, without a length.
    Chunked,
    /// The connection ends after so many bytes.
    Cut(usize),
    /// Nothing comes after so many bytes, and the connection stays.
    Stall(usize),
    /// A little at a time, with a pause after each.
    Slow(usize, Duration),
    /// No answer at all.
    Hangup,
}

impl Response {
    /// A response without headers and body.
    pub fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends the response; says whether the connection can be used again.
    pub(crate) fn send(&self, stream: &mut dyn Connection, method: &str, stop: &dyn Fn() -> bool) -> io::Result<bool> {
        if self.manner == Manner::Hangup {
            return Ok(false);
        }
        let mut head = format!("HTTP/1.1 {} Status\r\n", self.status);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let has_length = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        if self.manner == Manner::Chunked && method != "HEAD" {
            head.push_str("transfer-encoding: chunked\r\n");
        } else if !has_length {
            head.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        if method == "HEAD" {
            return Ok(true);
        }
        let body = &self.body;
        match self.manner {
            Manner::Whole => stream.write_all(body)?,
            Manner::Chunked => {
                for chunk in body.chunks(1000) {
                    stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes())?;
                    stream.write_all(chunk)?;
                    stream.write_all(b"\r\n")?;
                }
                stream.write_all(b"0\r\n\r\n")?;
            }
            Manner::Cut(after) => {
                stream.write_all(&body[..after.min(body.len())])?;
                return Ok(false);
            }
            Manner::Stall(after) => {
                stream.write_all(&body[..after.min(body.len())])?;
                stream.socket().set_read_timeout(Some(Duration::from_millis(20)))?;
                // Until the client leaves or the registry is dropped.
                while !stop() {
                    match stream.read(&mut [0; 64]) {
                        Ok(0) => break,
                        Ok(_) => {}
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(_) => break,
                    }
                }
                return Ok(false);
            }
            Manner::Slow(piece, pause) => {
                for chunk in body.chunks(piece.max(1)) {
                    if stop() {
                        return Ok(false);
                    }
                    stream.write_all(chunk)?;
                    std::thread::sleep(pause);
                }
            }
            Manner::Hangup => return Ok(false),
        }
        Ok(true)
    }
}
