//! Cache mounts: directories that RUN steps share from build to build.
//!
//! ```text
//! mounts/v1/<identity>/name       the id, for people
//! mounts/v1/<identity>/<number>/  the directory itself, and who uses it: see `session`
//! ```
//! The identity is made of the id and of what the directory was first filled from. Number 0 is
//! the one that shared and locked mounts use; private ones take any that is free.

mod fold;
mod known;
mod moved;
mod session;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kiln_oci::{Digest, Hasher};

pub use self::known::KnownMount;
pub use self::session::{Ending, Member, Overlay, Session, Way};
use crate::file::{At, publish};
use crate::layer::Ownership;
use crate::lock::{self, Kind};
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

/// A cache mount that is held until dropped. Dropped with a session, it ends as if the command had been killed.
#[derive(Debug)]
pub struct CacheMount {
    store: Store,
    id: String,
    instance: PathBuf,
    path: PathBuf,
    lock: File,
    kind: Kind,
    session: Option<Session>,
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

impl CacheMount {
    /// Returns its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the directory to mount.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts an overlay between the directory and what is written, which the caller mounts; `None` where others use the
    /// directory itself. Until the overlay stands nobody else can come or go: the caller takes all its cache mounts
    /// first, then enters them in the order of their ids.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn enter(&mut self) -> Result<Option<&mut Session>, FileError> {
        self.session = Session::enter(&self.instance, &self.lock, self.kind)?;
        if let Some(session) = &self.session {
            self.path = session.merged();
        }
        Ok(self.session.as_mut())
    }

    /// Takes the overlay back, which could not be mounted.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn retreat(&mut self) -> Result<(), FileError> {
        self.end(true).map(drop)
    }

    /// Ends the use. Nothing of it may be mounted for this user any more. Without an overlay, what was written is kept.
    ///
    /// # Errors
    /// When the system refuses; the next to use it then does what is left.
    pub fn finish(mut self, is_killed: bool) -> Result<Ending, FileError> {
        self.end(is_killed)
    }

    fn end(&mut self, is_killed: bool) -> Result<Ending, FileError> {
        self.path = self.instance.join("data");
        match self.session.take() {
            // Emptied meanwhile: nobody will see it again.
            Some(_) if !lock::is_at(&self.lock, &self.instance.join("lock")).unwrap_or_default() => Ok(Ending::Kept),
            Some(session) => session.leave(&self.store, &self.lock, is_killed),
            None if is_killed => Ok(Ending::KeptAsShared),
            None => Ok(Ending::Kept),
        }
    }
}

impl Drop for CacheMount {
    fn drop(&mut self) {
        if let Err(error) = self.end(true) {
            tracing::debug!(%error, "the next user of the cache mount `{}` tidies it up", self.id);
        }
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
            let mut is_moving = false;
            for number in numbers.clone() {
                let instance = home.join(number.to_string());
                std::fs::create_dir_all(&instance).at("create", &instance)?;
                let name = home.join("name");
                if !name.exists() {
                    publish(&self.ingest_directory(), &name, request.id.as_bytes())?;
                }
                let path = instance.join("door");
                let door = match lock::attempt(&path, Kind::Exclusive) {
                    // Removed in between: made again in the next round.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    other => other.at("lock", path)?,
                };
                is_moving |= door.is_none();
                let Some(_door) = door else { continue };
                let path = instance.join("lock");
                let Some(lock) = lock::attempt(&path, kind).at("lock", &path)? else { continue };
                if session::is_alone(&lock, &instance)? {
                    session::recover(self, &instance)?;
                }
                let data = instance.join("data");
                if !data.exists() {
                    self.make_mount(request.id, &data, fill)?;
                }
                lock::try_file(&lock, kind).at("lock", &path)?;
                // The time of its last use, for those who look at what is there.
                lock.set_modified(SystemTime::now()).at("touch", path)?;
                return Ok(CacheMount {
                    store: self.clone(),
                    id: request.id.to_owned(),
                    instance,
                    path: data,
                    lock,
                    kind,
                    session: None,
                });
            }
            if cancelled() {
                return Err(MountError::Cancelled(request.id.to_owned()));
            }
            std::thread::sleep(if is_moving { Duration::from_millis(1) } else { Duration::from_millis(20) });
        }
    }

    fn make_mount(&self, id: &str, data: &Path, fill: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), MountError> {
        use std::os::unix::fs::PermissionsExt;
        let scratch = self.ingest_scratch("mount")?;
        let fresh = scratch.path().join("data");
        std::fs::create_dir(&fresh).at("create", &fresh)?;
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755)).at("change the mode of", &fresh)?;
        fill(&fresh).map_err(|source| MountError::Fill { id: id.to_owned(), source })?;
        Ok(std::fs::rename(&fresh, data).at("create", data)?)
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
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::file::list;

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

    fn enter(mount: &mut CacheMount, thread: i32) -> PathBuf {
        let session = mount.enter().unwrap().expect("nobody uses the directory itself");
        session.stands(Member { process: 1, thread }).unwrap();
        match session.way() {
            Way::Make(overlay) => overlay.upper.clone(),
            Way::Join(_) => PathBuf::new(),
        }
    }

    fn content(store: &Store) -> Vec<String> {
        let mount = take(store, "x", Sharing::Locked).unwrap();
        let mut names: Vec<_> = list(mount.path()).unwrap();
        names.sort();
        names.into_iter().map(|name| name.into_string().unwrap()).collect()
    }

    #[test]
    fn what_a_killed_command_wrote_is_dropped_unless_others_wrote_too() {
        let (_temporary, store) = store();
        let run = |names: &[&str], is_killed: bool| {
            let mut mount = take(&store, "x", Sharing::Shared).unwrap();
            let upper = enter(&mut mount, 1);
            for name in names {
                std::fs::write(upper.join(name), "").unwrap();
            }
            mount.finish(is_killed).unwrap()
        };
        assert_eq!(run(&["one"], false), Ending::Kept);
        assert_eq!(run(&["two"], true), Ending::Restored);
        assert_eq!(content(&store), ["one"]);

        let mut first = take(&store, "x", Sharing::Shared).unwrap();
        let mut second = take(&store, "x", Sharing::Shared).unwrap();
        // Neither is alone, and no overlay stands: both use the directory itself.
        assert!(first.enter().unwrap().is_none() && second.enter().unwrap().is_none());
        drop(second);
        let upper = enter(&mut first, 1);
        let mut second = take(&store, "x", Sharing::Shared).unwrap();
        let session = second.enter().unwrap().unwrap();
        assert_eq!(*session.way(), Way::Join(vec![Member { process: 1, thread: 1 }]));
        session.stands(Member { process: 2, thread: 2 }).unwrap();
        std::fs::write(upper.join("three"), "").unwrap();
        assert_eq!(first.finish(true).unwrap(), Ending::KeptAsShared);
        assert!(upper.exists(), "the other one still writes there");
        assert_eq!(second.finish(false).unwrap(), Ending::Kept);
        assert_eq!(content(&store), ["one", "three"]);
    }

    #[test]
    fn what_a_killed_builder_leaves_is_decided_by_the_next() {
        let (_temporary, store) = store();
        for (is_decided, wanted) in [(false, &[][..]), (true, &["file"])] {
            let mut mount = take(&store, "x", Sharing::Locked).unwrap();
            let upper = enter(&mut mount, 1);
            std::fs::write(upper.join("file"), "").unwrap();
            if is_decided {
                std::fs::rename(&upper, mount.instance.join("fold")).unwrap();
            }
            // Killed: no destructor runs, but the lock goes.
            mount.lock.unlock().unwrap();
            mount.session = None;
            std::mem::forget(mount);
            assert_eq!(content(&store), wanted);
        }
    }
}
