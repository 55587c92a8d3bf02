//! Cache mounts, for people who look after them.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::engine::Engine;
use crate::error::BuildError;
use crate::source::image::environment;

/// One directory of a cache mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheDirectory {
    /// The id of the cache mount, as `RUN --mount` gives it, behind the namespace where there is one.
    pub id: String,
    /// Where it is.
    pub path: PathBuf,
    /// Bytes on disk.
    pub size: u64,
    /// Whether a command has it mounted.
    pub in_use: bool,
    /// When a command last mounted it.
    pub last_used: SystemTime,
}

impl Engine {
    /// Returns the directories of all cache mounts, by id: one for each owner, first content and private use.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn cache_directories(&self) -> Result<Vec<CacheDirectory>, BuildError> {
        let known = self.store.cache_mounts().map_err(|error| environment(&error))?;
        let directory = |mount: kiln_cache::mount::KnownMount| CacheDirectory {
            id: shown(&mount.id).to_owned(),
            path: mount.path,
            size: mount.size,
            in_use: mount.in_use,
            last_used: mount.last_used,
        };
        Ok(known.into_iter().map(directory).collect())
    }

    /// Removes the cache mounts of these ids, all of their directories. Commands that use one keep it until they end.
    ///
    /// # Errors
    /// When there is none of an id, and then nothing is removed; or when the store refuses.
    pub fn remove_caches(&self, ids: &[String]) -> Result<(), BuildError> {
        let known = self.store.cache_mounts().map_err(|error| environment(&error))?;
        let mut found = BTreeSet::new();
        for id in ids {
            let stored: Vec<&str> = known.iter().map(|mount| &*mount.id).filter(|stored| shown(stored) == id).collect();
            if stored.is_empty() {
                return Err(BuildError::input(format!("there is no cache mount `{id}`"))
                    .hint("`kiln cache ls` lists those that there are"));
            }
            found.extend(stored);
        }
        self.store.empty_cache_mounts(&found).map_err(|error| environment(&error))
    }
}

/// Returns an id as people wrote it: without the slash behind a namespace that is empty.
fn shown(stored: &str) -> &str {
    stored.strip_prefix('/').unwrap_or(stored)
}
