//! What failed commands left, kept for a look.
//!
//! ```text
//! failed/v1/<time>/upper       what the command had changed, as the overlay wrote it
//! failed/v1/<time>/step.json   what is needed to stand in its place, written by the engine
//! ```
//!
//! Whoever looks holds a shared lock on the directory. Only the newest few stay, and a prune takes them all.

use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::file::{At, FileError, list};
use crate::lock::{self, Kind};
use crate::remove::remove_tree;
use crate::{Store, StoreError};

/// So many are kept.
const MOST: usize = 5;

const UPPER: &str = "upper";
const DESCRIPTION: &str = "step.json";

/// What one failed command left. It stays as long as this value lives.
#[derive(Debug)]
pub struct Failed {
    path: PathBuf,
    _lock: File,
}

impl Failed {
    /// Returns the directory with what the command had changed.
    pub fn upper(&self) -> PathBuf {
        self.path.join(UPPER)
    }

    /// Returns what was noted of it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn description(&self) -> Result<Vec<u8>, StoreError> {
        let path = self.path.join(DESCRIPTION);
        Ok(std::fs::read(&path).at("read", path)?)
    }
}

impl Store {
    /// Keeps what a failed command has changed, with a description; the oldest of earlier ones goes. `upper` must be in the
    /// store, and is not there afterwards.
    ///
    /// # Errors
    /// When something cannot be written or moved.
    pub fn keep_failed(&self, upper: &Path, description: &[u8]) -> Result<(), StoreError> {
        let scratch = self.ingest_scratch("failed")?;
        std::fs::rename(upper, scratch.path().join(UPPER)).at("rename", upper)?;
        let path = scratch.path().join(DESCRIPTION);
        std::fs::write(&path, description).at("write", path)?;
        let directory = self.failed_directory();
        DirBuilder::new().recursive(true).mode(0o700).create(&directory).at("create", &directory)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // As names the times sort as they do as numbers.
        let path = directory.join(format!("{:020}", now.as_nanos()));
        std::fs::rename(scratch.path(), &path).at("create", path)?;
        for name in self.failed_names()?.into_iter().skip(MOST) {
            let path = directory.join(name);
            remove_free(&path).at("delete", path)?;
        }
        Ok(())
    }

    /// Returns what failed commands left, the newest first.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn failed(&self) -> Result<Vec<Failed>, StoreError> {
        let mut found = Vec::new();
        for name in self.failed_names()? {
            let path = self.failed_directory().join(name);
            // One that is being deleted, or was, is none.
            if let Ok(lock) = File::open(&path)
                && lock::try_file(&lock, Kind::Shared).at("lock", &path)?
                && lock::is_at(&lock, &path).at("open", &path)?
            {
                found.push(Failed { path, _lock: lock });
            }
        }
        Ok(found)
    }

    /// Deletes what failed commands left, but for what somebody looks at.
    pub(crate) fn remove_failed(&self) -> Result<(), FileError> {
        for name in self.failed_names()? {
            let path = self.failed_directory().join(name);
            remove_free(&path).at("delete", path)?;
        }
        Ok(())
    }

    fn failed_names(&self) -> Result<Vec<OsString>, FileError> {
        let mut names = list(&self.failed_directory())?;
        names.sort_by(|one, two| two.cmp(one));
        Ok(names)
    }

    pub(crate) fn failed_directory(&self) -> PathBuf {
        self.root().join("failed/v1")
    }
}

fn remove_free(path: &Path) -> io::Result<()> {
    let lock = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if lock::try_file(&lock, Kind::Exclusive)? { remove_tree(path) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay_and_those_that_are_looked_at() {
        let temporary = tempfile::tempdir().unwrap();
        let store = Store::open(&temporary.path().join("store")).unwrap();
        let keep = |number: usize| {
            let scratch = store.scratch("exec").unwrap();
            let upper = scratch.path().join("upper");
            std::fs::create_dir(&upper).unwrap();
            std::fs::write(upper.join("file"), number.to_string()).unwrap();
            store.keep_failed(&upper, number.to_string().as_bytes()).unwrap();
        };
        let kept = || -> Vec<String> {
            let failed = store.failed().unwrap();
            failed.iter().map(|failed| String::from_utf8(failed.description().unwrap()).unwrap()).collect()
        };
        assert_eq!(kept(), Vec::<String>::new());
        keep(0);
        let looked_at = store.failed().unwrap();
        (1..=6).for_each(keep);
        assert_eq!(kept(), ["6", "5", "4", "3", "2", "0"]);
        assert_eq!(std::fs::read_to_string(looked_at[0].upper().join("file")).unwrap(), "0");
        store.remove_failed().unwrap();
        assert_eq!(kept(), ["0"]);
        drop(looked_at);
        store.remove_failed().unwrap();
        assert_eq!(kept(), Vec::<String>::new());
    }
}
