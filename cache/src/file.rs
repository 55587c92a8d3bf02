//! Files: errors that name them, and publishing by rename.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// An operation on a file that the system refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}", path.display())]
pub struct FileError {
    /// What was tried: `read`, `create`, …
    pub doing: &'static str,
    /// On what.
    pub path: PathBuf,
    /// What the system answered.
    #[source]
    pub source: io::Error,
}

impl FileError {
    /// What is tried when a file is given to somebody; refused as invalid where a user namespace has no such id.
    pub const GIVING: &str = "change the owner of";
}

/// Adds what was tried, and on what, to an error of the system.
pub(crate) trait At<T> {
    fn at(self, doing: &'static str, path: impl Into<PathBuf>) -> Result<T, FileError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, doing: &'static str, path: impl Into<PathBuf>) -> Result<T, FileError> {
        self.map_err(|source| FileError { doing, path: path.into(), source: source.into() })
    }
}

/// Puts `bytes` at `target`, complete or not at all. The file is written in `ingest`, which must
/// be on the same file system; missing parents of `target` are created.
pub(crate) fn publish(ingest: &Path, target: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut file = tempfile::Builder::new().prefix("file-").tempfile_in(ingest).at("create a file in", ingest)?;
    // A sweep of another process may take any file that nobody has locked.
    file.as_file().lock().at("lock", file.path())?;
    file.write_all(bytes).at("write", file.path())?;
    let file = match file.persist(target) {
        Ok(_) => return Ok(()),
        Err(error) if error.error.kind() == io::ErrorKind::NotFound => error.file,
        Err(error) => return Err(error.error).at("create", target),
    };
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent).at("create", parent)?;
    }
    if !file.path().exists() {
        return publish(ingest, target, bytes);
    }
    file.persist(target).map(drop).map_err(|error| error.error).at("create", target)
}

/// Reads a whole file; `None` when there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error).at("read", path),
    }
}

/// Lists the names in a directory; none when there is no such directory.
pub(crate) fn list(path: &Path) -> Result<Vec<std::ffi::OsString>, FileError> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).at("list", path),
    };
    entries.map(|entry| Ok(entry.at("list", path)?.file_name())).collect()
}
