//! The traits between the engine and its client.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use kiln_frontend::dockerignore::Patterns;

/// Where context files come from.
pub trait Contexts: Send + Sync {
    /// Opens a context: `context` is the main one, others are the `local:NAME` of named contexts.
    ///
    /// # Errors
    /// When there is none of that name, or it cannot be opened.
    fn open(&self, name: &str) -> io::Result<ContextRoot>;
}

/// An opened context.
pub struct ContextRoot {
    /// The directory.
    pub directory: File,
    /// Its absolute path: names the memo of digests, and is shown in messages.
    pub path: PathBuf,
    /// What is left out: the name of the ignore file and its patterns.
    pub ignore: Option<(String, Patterns)>,
}

/// Where secrets and ssh agents come from.
pub trait Secrets: Send + Sync {
    /// Returns a secret, or `None` if the client has none of that name.
    ///
    /// # Errors
    /// When there is one and it cannot be read.
    fn secret(&self, id: &str) -> io::Result<Option<Vec<u8>>>;

    /// Returns the agent that the client forwards under a name, if any.
    fn agent(&self, id: &str) -> Option<Agent>;
}

/// An ssh agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Its socket.
    pub socket: PathBuf,
    /// Whether every byte is passed on, rather than requests to list keys and to sign alone.
    pub is_raw: bool,
}

/// Where results go.
pub trait Results: Send + Sync {
    /// Opens a stream that becomes visible when it is finished.
    ///
    /// # Errors
    /// When the destination cannot be written.
    fn stream(&self, destination: &crate::Destination) -> io::Result<Box<dyn ResultStream>>;

    /// Opens, and makes if absent, a directory for files.
    ///
    /// # Errors
    /// When it cannot be made or is not a directory.
    fn directory(&self, path: &Path) -> io::Result<File>;
}

/// A stream that is thrown away unless it is finished.
pub trait ResultStream: Write + Send {
    /// Writes up to `size` bytes of a file, and returns how many there were. A stream that is a
    /// file itself can have the kernel do it.
    ///
    /// # Errors
    /// When the file cannot be read or the stream not be written.
    fn copy_file(&mut self, file: &File, size: u64) -> io::Result<u64> {
        let mut buffer = vec![0; 1 << 20];
        let mut left = file.take(size);
        let mut copied = 0;
        loop {
            match left.read(&mut buffer) {
                Ok(0) => return Ok(copied),
                Ok(n) => {
                    self.write_all(&buffer[..n])?;
                    copied += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes what was written visible.
    ///
    /// # Errors
    /// When the last bytes or the rename fail.
    fn finish(self: Box<Self>) -> io::Result<()>;
}
