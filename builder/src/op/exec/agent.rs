//! Ssh agents: a socket for the command that leads to the user's agent.
//!
//! Unless the user asked for a raw socket, only two requests get through: to list the keys, and to sign. Whatever else a
//! command asks – to add, remove or lock keys – is answered with the protocol's failure.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::seam::Agent;

/// The longest message of the protocol that OpenSSH takes.
const LONGEST: u32 = 256 << 10;
/// At most so many connections at once: a command that opens more waits.
const CONNECTIONS: usize = 32;
/// SSH_AGENTC_REQUEST_IDENTITIES and SSH_AGENTC_SIGN_REQUEST.
const ALLOWED: [u8; 2] = [11, 13];
/// A whole SSH_AGENT_FAILURE: one byte, 5.
const FAILURE: [u8; 5] = [0, 0, 0, 1, 5];

/// A socket that leads to an agent for as long as this value lives.
pub(super) struct Forwarded {
    path: PathBuf,
    listener: Arc<UnixListener>,
    open: Arc<Open>,
    thread: Option<JoinHandle<()>>,
}

/// The connections that are open, to be shut at the end.
#[derive(Default)]
struct Open(Mutex<Vec<Arc<UnixStream>>>);

impl Forwarded {
    /// Listens at `name` in `directory`.
    ///
    /// # Errors
    /// When the socket or the thread cannot be made.
    pub(super) fn listen(agent: &Agent, directory: &Path, name: &str) -> io::Result<Self> {
        let path = directory.join(name);
        // The address of a socket is short; the path of a store need not be.
        let place = File::open(directory)?;
        let listener = Arc::new(UnixListener::bind(format!("/proc/self/fd/{}/{name}", place.as_raw_fd()))?);
        let open = Arc::new(Open::default());
        let thread = std::thread::Builder::new().name("ssh agent".to_owned()).stack_size(128 << 10).spawn({
            let (listener, open, agent) = (listener.clone(), open.clone(), agent.clone());
            move || serve(&listener, &open, &agent)
        })?;
        Ok(Self { path, listener, open, thread: Some(thread) })
    }

    /// Returns where the socket is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        // No connection is accepted any more, and those that are open end.
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
        self.open.shut();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Open {
    fn add(&self, stream: &Arc<UnixStream>) {
        self.0.lock().expect("no panic under the lock").push(stream.clone());
    }

    fn remove(&self, stream: &Arc<UnixStream>) {
        self.0.lock().expect("no panic under the lock").retain(|other| !Arc::ptr_eq(stream, other));
    }

    fn count(&self) -> usize {
        self.0.lock().expect("no panic under the lock").len()
    }

    fn shut(&self) {
        for stream in &*self.0.lock().expect("no panic under the lock") {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn serve(listener: &UnixListener, open: &Open, agent: &Agent) {
    std::thread::scope(|scope| {
        while let Ok((client, _)) = listener.accept() {
            if open.count() >= CONNECTIONS {
                continue;
            }
            let client = Arc::new(client);
            open.add(&client);
            let forward = move || {
                if let Err(error) = forward(&client, agent) {
                    tracing::debug!(%error, "a connection to {} ended", agent.socket.display());
                }
                open.remove(&client);
            };
            let builder = std::thread::Builder::new().stack_size(128 << 10);
            if builder.spawn_scoped(scope, forward).is_err() {
                break;
            }
        }
        // Those accepted after the last look.
        open.shut();
    });
}

fn forward(client: &UnixStream, agent: &Agent) -> io::Result<()> {
    let upstream = UnixStream::connect(&agent.socket)?;
    if agent.is_raw {
        return std::thread::scope(|scope| {
            let answers = scope.spawn(|| {
                let copied = io::copy(&mut &upstream, &mut &*client);
                let _ = client.shutdown(Shutdown::Both);
                copied
            });
            let asked = io::copy(&mut &*client, &mut &upstream);
            let _ = upstream.shutdown(Shutdown::Write);
            asked.and(answers.join().unwrap_or(Ok(0))).map(drop)
        });
    }
    while let Some(request) = message(client)? {
        if request.get(4).is_some_and(|kind| ALLOWED.contains(kind)) {
            (&upstream).write_all(&request)?;
            let answer = message(&upstream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            (&*client).write_all(&answer)?;
        } else {
            (&*client).write_all(&FAILURE)?;
        }
    }
    Ok(())
}

/// Reads one message with its length in front; `None` at the end of the stream.
fn message(mut stream: &UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let size = u32::from_be_bytes(length);
    if size > LONGEST {
        return Err(io::Error::other("a message is too long"));
    }
    let mut message = length.to_vec();
    stream.take(size.into()).read_to_end(&mut message)?;
    if message.len() - 4 < size as usize { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(Some(message)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An agent that answers every message with a 12, the number of the request, and nothing else.
    fn agent(directory: &Path) -> PathBuf {
        let path = directory.join("agent");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                while let Ok(Some(request)) = message(&stream) {
                    (&stream).write_all(&[0, 0, 0, 2, 12, request[4]]).unwrap();
                }
            }
        });
        path
    }

    fn ask(path: &Path, request: &[u8]) -> Vec<u8> {
        let stream = UnixStream::connect(path).unwrap();
        (&stream).write_all(&[&u32::try_from(request.len()).unwrap().to_be_bytes(), request].concat()).unwrap();
        message(&stream).unwrap().unwrap_or_default()
    }

    #[test]
    fn keys_are_listed_and_used_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let agent = Agent { socket: agent(directory.path()), is_raw: false };
        let forwarded = Forwarded::listen(&agent, directory.path(), "proxy").unwrap();
        assert_eq!(ask(forwarded.path(), &[11]), [0, 0, 0, 2, 12, 11]);
        assert_eq!(ask(forwarded.path(), &[13, 1, 2]), [0, 0, 0, 2, 12, 13]);
        for refused in [17, 18, 19, 22, 25] {
            assert_eq!(ask(forwarded.path(), &[refused]), FAILURE, "{refused}");
        }
        assert_eq!(ask(forwarded.path(), &[]), FAILURE);
        let raw = Forwarded::listen(&Agent { is_raw: true, ..agent }, directory.path(), "raw").unwrap();
        assert_eq!(ask(raw.path(), &[19]), [0, 0, 0, 2, 12, 19]);
    }

    #[test]
    fn its_end_ends_open_connections() {
        let directory = tempfile::tempdir().unwrap();
        let agent = Agent { socket: agent(directory.path()), is_raw: false };
        let forwarded = Forwarded::listen(&agent, directory.path(), "proxy").unwrap();
        let idle = UnixStream::connect(forwarded.path()).unwrap();
        let path = forwarded.path().to_owned();
        drop(forwarded);
        assert!(message(&idle).unwrap().is_none());
        assert!(UnixStream::connect(path).is_err());
    }
}
