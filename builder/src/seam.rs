//! The traits between the engine and its client.

use std::fs::File;
use std::io::{self, Write};
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

/// Where secrets come from.
pub trait Secrets: Send + Sync {
    /// Returns a secret, or `None` if the client has none of that name.
    ///
    /// # Errors
    /// When there is one and it cannot be read.
    fn secret(&self, id: &str) -> io::Result<Option<Vec<u8>>>;
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
    /// Makes what was written visible.
    ///
    /// # Errors
    /// When the last bytes or the rename fail.
    fn finish(self: Box<Self>) -> io::Result<()>;
}
