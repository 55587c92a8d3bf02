//! Cache mounts: directories that RUN steps share from build to build.
//!
//! ```text
//! mounts/v1/<identity>/name          the id, for people
//! mounts/v1/<identity>/<number>/data the directory itself
//! mounts/v1/<identity>/<number>/lock held by whoever has it mounted
//! ```
//! The identity is made of the id and of what the directory was first filled from. Number 0 is
//! the one that shared and locked mounts use; private ones take any that is free.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_oci::{Digest, Hasher};

use crate::file::{At, list, publish, read};
use crate::layer::Ownership;
use crate::lock::{self, Kind};
use crate::remove::remove_tree;
use crate::{FileError, Store};

/// How several users of one cache mount get along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// All at once in one directory.
    Shared,
    /// Each in a directory of its own, that another user may have had before.
    Private,
    /// One after the other.
    Locked,
}

/// A cache mount that somebody wants.
#[derive(Debug, Clone)]
pub struct MountRequest<'a> {
    /// Its id.
    pub id: &'a str,
    /// The digest of what it is first filled from, and of the directory's owner and mode where
    /// these are given.
    pub base: Option<Digest>,
    /// How it is shared.
    pub sharing: Sharing,
}

/// A cache mount that is held until dropped.
#[derive(Debug)]
pub struct CacheMount {
    path: PathBuf,
    _lock: File,
}

/// Why a cache mount could not be had.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// Somebody asked to stop while it was waited for.
    #[error("cancelled while waiting for the cache mount `{0}`")]
    Cancelled(String),
    /// The first content could not be put into it.
    #[error("cannot fill the cache mount `{id}`")]
    Fill {
        /// The id.
        id: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

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
}

impl CacheMount {
    /// Returns the directory to mount.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Store {
    /// Takes a cache mount, waiting for it where it is locked. `fill` gets the directory when it
    /// is new: empty, mode 0755, not yet visible to anyone else.
    ///
    /// # Errors
    /// When `cancelled` says so, when `fill` fails, or when the system refuses.
    pub fn cache_mount(
        &self,
        request: &MountRequest<'_>,
        cancelled: &dyn Fn() -> bool,
        fill: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<CacheMount, MountError> {
        let home = self.mount_home(request.id, request.base.as_ref());
        let (kind, numbers) = match request.sharing {
            Sharing::Shared => (Kind::Shared, 0..1),
            Sharing::Locked => (Kind::Exclusive, 0..1),
            Sharing::Private => (Kind::Exclusive, 0..u32::MAX),
        };
        loop {
            for number in numbers.clone() {
                let instance = home.join(number.to_string());
                std::fs::create_dir_all(&instance).at("create", &instance)?;
                let name = home.join("name");
                if !name.exists() {
                    publish(&self.ingest_directory(), &name, request.id.as_bytes())?;
                }
                let path = instance.join("lock");
                let lock = match lock::attempt(&path, kind) {
                    // Removed in between: made again in the next round.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    other => other.at("lock", path)?,
                };
                let Some(lock) = lock else { continue };
                let data = instance.join("data");
                if !data.exists() {
                    self.make_mount(request.id, &data, fill)?;
                }
                return Ok(CacheMount { path: data, _lock: lock });
            }
            if cancelled() {
                return Err(MountError::Cancelled(request.id.to_owned()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn make_mount(&self, id: &str, data: &Path, fill: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), MountError> {
        use std::os::unix::fs::PermissionsExt;
        let scratch = self.ingest_scratch("mount")?;
        let fresh = scratch.path().join("data");
        std::fs::create_dir(&fresh).at("create", &fresh)?;
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755)).at("change the mode of", &fresh)?;
        fill(&fresh).map_err(|source| MountError::Fill { id: id.to_owned(), source })?;
        match std::fs::rename(&fresh, data) {
            // Another shared user was faster.
            Err(_) if data.exists() => Ok(()),
            other => Ok(other.at("create", data)?),
        }
    }

    fn mount_home(&self, id: &str, base: Option<&Digest>) -> PathBuf {
        let mut identity = Hasher::domain("kiln.mount.v1");
        identity.field(id);
        if let Some(base) = base {
            identity.digest(base);
        }
        // Files that belong to other ids than they should are of no use.
        if self.ownership() != Ownership::Real {
            identity.field(self.ownership().directory_name());
        }
        self.mounts_directory().join(identity.finish().hex())
    }

    fn mounts_directory(&self) -> PathBuf {
        self.root().join("mounts/v1")
    }

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
                let in_use = is_in_use(&home.join(number));
                let id = String::from_utf8_lossy(&id).into_owned();
                mounts.push(KnownMount { id, size: crate::gc::disk_usage(&path), path, in_use });
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
    File::open(instance.join("lock")).is_ok_and(|file| !lock::try_file(&file, Kind::Exclusive).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let temporary = tempfile::tempdir().unwrap();
        let store = Store::open(&temporary.path().join("store")).unwrap();
        (temporary, store)
    }

    fn take(store: &Store, id: &str, sharing: Sharing) -> Result<CacheMount, MountError> {
        store.cache_mount(&MountRequest { id, base: None, sharing }, &|| true, |_| Ok(()))
    }

    #[test]
    fn users_get_along_as_they_asked() {
        let (_temporary, store) = store();
        let one = take(&store, "/a", Sharing::Shared).unwrap();
        let two = take(&store, "/a", Sharing::Shared).unwrap();
        assert_eq!(one.path(), two.path());
        assert!(matches!(take(&store, "/a", Sharing::Locked), Err(MountError::Cancelled(_))));
        let private = take(&store, "/a", Sharing::Private).unwrap();
        let other = take(&store, "/a", Sharing::Private).unwrap();
        assert_ne!(private.path(), one.path());
        assert_ne!(private.path(), other.path());
        let again = private.path().to_owned();
        drop(private);
        assert_eq!(take(&store, "/a", Sharing::Private).unwrap().path(), again);
        drop((one, two));
        let locked = take(&store, "/a", Sharing::Locked).unwrap();
        assert!(matches!(take(&store, "/a", Sharing::Shared), Err(MountError::Cancelled(_))));
        drop(locked);
        take(&store, "/b", Sharing::Shared).unwrap();
    }

    #[test]
    fn it_is_filled_once_and_whole() {
        let (_temporary, store) = store();
        let request = MountRequest { id: "x", base: Some(Digest::of("base")), sharing: Sharing::Shared };
        let failed = store.cache_mount(&request, &|| false, |path| {
            std::fs::write(path.join("half"), "")?;
            Err(io::Error::other("no"))
        });
        assert!(matches!(failed, Err(MountError::Fill { .. })));
        let mount = store.cache_mount(&request, &|| false, |path| std::fs::write(path.join("whole"), "")).unwrap();
        assert_eq!(list(mount.path()).unwrap(), ["whole"]);
        let again = store.cache_mount(&request, &|| false, |_| Err(io::Error::other("again")));
        assert_eq!(again.unwrap().path(), mount.path());
    }

    #[test]
    fn an_emptied_mount_is_new_for_the_next() {
        let (_temporary, store) = store();
        let held = take(&store, "x", Sharing::Shared).unwrap();
        std::fs::write(held.path().join("file"), "").unwrap();
        store.empty_cache_mounts(&BTreeSet::from(["x"])).unwrap();
        store.sweep().unwrap();
        assert_eq!(list(&store.mounts_directory()).unwrap().len(), 1, "the old one stays while it is held");
        let fresh = take(&store, "x", Sharing::Locked).unwrap();
        assert!(list(fresh.path()).unwrap().is_empty());
        let known = store.cache_mounts().unwrap();
        assert_eq!(known.iter().map(|mount| (&*mount.id, mount.in_use)).collect::<Vec<_>>(), [("x", true)]);
        drop(fresh);
        store.remove_free_mounts(|_| false).unwrap();
        assert!(store.cache_mounts().unwrap().is_empty());
    }
}
