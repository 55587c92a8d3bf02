//! The cache mounts there are: listing them, and taking them away.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::file::{At, list, read};
use crate::lock::{self, Kind};
use crate::remove::remove_tree;
use crate::{FileError, Store};

/// A cache mount that the store has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownMount {
    /// Its id.
    pub id: String,
    /// Where it is.
    pub path: PathBuf,
    /// How many bytes it takes.
    pub size: u64,
    /// Whether somebody has it mounted.
    pub in_use: bool,
    /// When it was last taken.
    pub last_used: SystemTime,
}

impl Store {
    /// Returns the cache mounts there are.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn cache_mounts(&self) -> Result<Vec<KnownMount>, FileError> {
        let mut mounts = Vec::new();
        let directory = self.mounts_directory();
        for identity in homes(&directory)? {
            let home = directory.join(identity);
            let id = read(&home.join("name"))?.unwrap_or_default();
            for number in list(&home)? {
                let path = home.join(&number).join("data");
                if !path.is_dir() {
                    continue;
                }
                let instance = home.join(number);
                let last_used = instance.join("lock").metadata().and_then(|lock| lock.modified());
                mounts.push(KnownMount {
                    id: String::from_utf8_lossy(&id).into_owned(),
                    size: crate::gc::disk_usage(&path),
                    path,
                    in_use: is_in_use(&instance),
                    last_used: last_used.unwrap_or(SystemTime::UNIX_EPOCH),
                });
            }
        }
        mounts.sort_by(|one, two| (&one.id, &one.path).cmp(&(&two.id, &two.path)));
        Ok(mounts)
    }

    /// Empties cache mounts, whatever they were first filled from: the next to ask for one of these
    /// ids gets a new directory. Whoever has an old one mounted keeps it until the end.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn empty_cache_mounts(&self, ids: &BTreeSet<&str>) -> Result<(), FileError> {
        let directory = self.mounts_directory();
        for identity in homes(&directory)? {
            let home = directory.join(identity);
            let id = read(&home.join("name"))?.unwrap_or_default();
            if str::from_utf8(&id).is_ok_and(|id| ids.contains(id)) {
                self.set_aside(&home)?;
            }
        }
        self.sweep_mounts()
    }

    /// Takes a cache mount out of sight. It stays on disk while somebody has it mounted.
    fn set_aside(&self, home: &Path) -> Result<(), FileError> {
        let directory = self.mounts_directory();
        let aside = tempfile::Builder::new().prefix(REMOVED).tempdir_in(&directory);
        let aside = aside.at("create a directory in", directory)?.keep();
        match std::fs::rename(home, &aside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.at("rename", home),
        }
    }

    /// Deletes the cache mounts that were set aside and that nobody uses any more.
    pub(crate) fn sweep_mounts(&self) -> Result<(), FileError> {
        let directory = self.mounts_directory();
        for name in list(&directory)? {
            if name.to_string_lossy().starts_with(REMOVED) {
                let aside = directory.join(name);
                if !list(&aside)?.into_iter().any(|number| is_in_use(&aside.join(number))) {
                    remove_tree(&aside).at("delete", aside)?;
                }
            }
        }
        Ok(())
    }

    /// Deletes all cache mounts that nobody has mounted. Returns how many bytes that were.
    pub(crate) fn remove_free_mounts(&self, keep: impl Fn(&KnownMount) -> bool) -> Result<u64, FileError> {
        let mut freed = 0;
        for mount in self.cache_mounts()? {
            if mount.in_use || keep(&mount) {
                continue;
            }
            let Some(instance) = mount.path.parent() else { continue };
            let aside = self.ingest_scratch("removed")?;
            let target = aside.path().join("instance");
            std::fs::rename(instance, &target).at("rename", instance)?;
            freed += mount.size;
            if let Some(home) = instance.parent()
                && list(home)?.iter().all(|name| name == "name")
            {
                remove_tree(home).at("delete", home)?;
            }
        }
        Ok(freed)
    }
}

/// How the directories begin that were set aside.
const REMOVED: &str = "removed-";

/// Returns the names of the cache mounts in a directory.
fn homes(directory: &Path) -> Result<impl Iterator<Item = OsString>, FileError> {
    Ok(list(directory)?.into_iter().filter(|name| !name.to_string_lossy().starts_with(REMOVED)))
}

/// Whether somebody has the directory of `instance` mounted.
fn is_in_use(instance: &Path) -> bool {
    // Nobody may come or go while we try the lock: they would take us for a user.
    let Ok(door) = File::open(instance.join("door")) else { return false };
    if !lock::try_file(&door, Kind::Exclusive).unwrap_or_default() {
        return true;
    }
    File::open(instance.join("lock")).is_ok_and(|file| !lock::try_file(&file, Kind::Exclusive).unwrap_or_default())
}
