//! What engine and helper say to each other over their socket: frames of a length and JSON.
//!
//! The engine sends one [`Plan`] and later perhaps [`CANCEL`]. The helper and the process it forks send [`Message`]s; the
//! end of the stream means that both are gone.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::cover::Cover;
use crate::error::SetupError;
use crate::spec::Spec;

/// The byte after the plan that asks the helper to end the command.
pub const CANCEL: u8 = b'C';

/// The largest frame that is believed: secrets are at most 500 KiB each, four characters per byte.
const LIMIT: u32 = 256 << 20;

/// Everything the helper needs: the spec and what the engine worked out from the host.
#[derive(Serialize, Deserialize)]
pub struct Plan {
    /// What was asked for.
    pub spec: Spec,
    /// The content of `/etc/hosts`.
    pub hosts: String,
    /// The content of `/etc/resolv.conf`.
    pub resolv: String,
    /// The compiled seccomp filter; none in insecure mode.
    pub filter: Option<Vec<u64>>,
    /// The compiled filter of calls that the helper answers, in a user namespace.
    pub answers: Option<Vec<u64>>,
    /// Whether the command is to have a terminal, the other side of which goes out by the outputs.
    pub at_terminal: bool,
}

/// What the helper says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Message {
    /// A mount point was made in the upper directory and must go at the end.
    Stub(Stub),
    /// Something of the builder's is in the copy that the command changes.
    Cover(Cover),
    /// Something in the upper directory is to be something else in the layer.
    Note(Note),
    /// The user and group that the command runs as.
    Identity(u32, u32),
    /// A limit that the host refused.
    Warning(String),
    /// The command was not started.
    Failed(SetupError),
    /// The command, or the process that was to become it, has ended.
    Ended {
        /// The wait status: an exit code, or a signal.
        code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
        /// Whether the kernel's out-of-memory killer struck in our cgroup meanwhile.
        oom: bool,
    },
}

/// What a file of the upper directory is to be in the layer, where the kernel would not have it so: the owner of what cannot
/// have attributes, or a device in place of an empty file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The number of the file, and when it was made (seconds, nanoseconds): numbers are given again.
    pub inode: u64,
    /// See `inode`; none where the file system does not know.
    pub born: Option<(i64, u32)>,
    /// User and group.
    pub owner: Option<(u32, u32)>,
    /// A device: whether it is one of blocks, major and minor number.
    pub device: Option<(bool, u32, u32)>,
}

/// A mount point made in the upper directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stub {
    /// The directory it is in, below the root, no symlinks.
    pub parent: String,
    /// Its name.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// The modification time of the parent before and after: seconds, nanoseconds.
    pub before: (i64, i64),
    /// See `before`.
    pub after: (i64, i64),
}

/// Sends one value.
pub fn send(mut socket: impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, value)?;
    let length = u32::try_from(frame.len() - 4).map_err(io::Error::other)?;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    socket.write_all(&frame)
}

/// Receives one value, waiting for it.
pub fn receive<T: DeserializeOwned>(mut socket: impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > LIMIT {
        return Err(io::Error::other("a frame is too long"));
    }
    let mut bytes = Vec::new();
    socket.take(length.into()).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// Collects bytes as they come and hands out whole messages.
#[derive(Default)]
pub struct Inbox(Vec<u8>);

impl Inbox {
    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Takes the next whole message, if there is one; a broken frame is an error.
    pub fn next(&mut self) -> io::Result<Option<Message>> {
        let Some(length) = self.0.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length);
        if length > LIMIT {
            return Err(io::Error::other("a frame is too long"));
        }
        let end = 4 + length as usize;
        if self.0.len() < end {
            return Ok(None);
        }
        let message = serde_json::from_slice(&self.0[4..end])?;
        self.0.drain(..end);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_whole_from_any_pieces() {
        let mut stream = Vec::new();
        send(&mut stream, &Message::Warning("a".into())).expect("a vector takes it");
        send(&mut stream, &Message::Ended { code: Some(3), signal: None, oom: false }).expect("a vector takes it");
        for size in 1..stream.len() {
            let mut inbox = Inbox::default();
            let mut seen = 0;
            for piece in stream.chunks(size) {
                inbox.push(piece);
                while inbox.next().expect("well formed").is_some() {
                    seen += 1;
                }
            }
            assert_eq!(seen, 2, "in pieces of {size}");
        }
    }

    #[test]
    fn a_monstrous_frame_is_refused() {
        let mut inbox = Inbox::default();
        inbox.push(&[0xff; 8]);
        assert!(inbox.next().is_err());
        assert!(receive::<Message>(&[0xff; 8][..]).is_err());
    }
}
