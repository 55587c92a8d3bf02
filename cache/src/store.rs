//! The store: its directory, its locks, and working directories in it.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_oci::{Digest, LayoutMarker};

use crate::file::{At, FileError, list, publish};
use crate::layer::{Layer, Ownership};
use crate::lock::{self, Kind};
use crate::remove::remove_tree;

/// Why the store could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another process uses the store.
    #[error("the store at {} is in use by a running build", .0.display())]
    InUse(PathBuf),
    /// A file of the store is not what it should be.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// A directory in which everything is kept; cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    root: Arc<Path>,
    ownership: Ownership,
}

/// A lock on the whole store, held until dropped or until the process ends.
#[derive(Debug)]
pub struct StoreLock(#[expect(dead_code, reason = "held for its lock")] File);

/// A working directory in the store, deleted when dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    _lock: File,
}

impl Store {
    /// Opens the store at `root`, and makes it when there is none. Of a store that is there,
    /// nothing is read or written.
    ///
    /// # Errors
    /// When a directory or file cannot be made.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let root = std::path::absolute(root).at("find", root)?;
        let store = Self { root: root.into(), ownership: Ownership::Real };
        // The marker is made last.
        if !(store.root.join("oci-layout").exists() && store.root.join("run").exists()) {
            store.create()?;
        }
        Ok(store)
    }

    /// Returns a handle that holds the owners of files in another way.
    #[must_use]
    pub fn holding(self, ownership: Ownership) -> Self {
        Self { ownership, ..self }
    }

    /// Returns how the owners of files are held.
    pub fn ownership(&self) -> Ownership {
        self.ownership
    }

    fn create(&self) -> Result<(), StoreError> {
        if let Some(parent) = self.root.parent() {
            std::fs::create_dir_all(parent).at("create", parent)?;
        }
        match DirBuilder::new().mode(0o700).create(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.at("create", &*self.root)?,
        }
        for name in ["ingest", "blobs/sha256", "layers/v1", "records/v1", "mounts/v1", "context/v1", "run"] {
            // Also where the user has made the directory, and lets others in: layers and mounts hold set-user-id programs and
            // device nodes that are nobody else's to use. Blobs are only bytes, and an image layout is for others to read.
            let mode = if name.starts_with("blobs") { 0o755 } else { 0o700 };
            let path = self.root.join(name);
            DirBuilder::new().recursive(true).mode(mode).create(&path).at("create", path)?;
        }
        let index = self.root.join("index.json");
        if !index.exists() {
            publish(&self.ingest_directory(), &index, &crate::image::empty_index())?;
        }
        let marker = serde_json::to_vec(&LayoutMarker::default()).expect("plain strings");
        Ok(publish(&self.ingest_directory(), &self.root.join("oci-layout"), &marker)?)
    }

    /// Returns the directory of the store.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn ingest_directory(&self) -> PathBuf {
        self.root.join("ingest")
    }

    pub(crate) fn run_directory(&self) -> PathBuf {
        self.root.join("run")
    }

    /// Returns a handle on a layer. Nothing is read: the layer need not be there.
    pub fn layer(&self, diff_id: &Digest) -> Layer {
        Layer::new(self.clone(), *diff_id)
    }

    /// Deletes what dead processes left: files being written, working directories, lock files.
    /// What is locked by a living one stays. Nothing is unmounted: a directory with a mount in
    /// it stays, too.
    ///
    /// # Errors
    /// When a directory cannot be listed.
    pub fn sweep(&self) -> Result<(), StoreError> {
        for directory in [self.ingest_directory(), self.run_directory()] {
            for name in list(&directory)? {
                if name == STORE_LOCK {
                    continue;
                }
                let path = directory.join(name);
                if let Err(error) = sweep_one(&path) {
                    tracing::debug!("cannot sweep {}: {error}", path.display());
                }
            }
        }
        if let Err(error) = self.sweep_mounts() {
            tracing::debug!("cannot sweep the cache mounts: {error}");
        }
        Ok(())
    }

    /// Takes the lock of a build: many may hold it, but not while a prune runs.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn lock_shared(&self) -> Result<StoreLock, StoreError> {
        let path = self.run_directory().join(STORE_LOCK);
        Ok(StoreLock(lock::wait(&path, Kind::Shared).at("lock", path)?))
    }

    /// Takes the lock of a prune, waiting until no build holds it.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn lock_exclusive(&self) -> Result<StoreLock, StoreError> {
        let path = self.run_directory().join(STORE_LOCK);
        Ok(StoreLock(lock::wait(&path, Kind::Exclusive).at("lock", path)?))
    }

    /// Takes the lock of a prune.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when a build holds it.
    pub fn try_lock_exclusive(&self) -> Result<StoreLock, StoreError> {
        let path = self.run_directory().join(STORE_LOCK);
        match lock::attempt(&path, Kind::Exclusive).at("lock", path)? {
            Some(file) => Ok(StoreLock(file)),
            None => Err(StoreError::InUse(self.root.to_path_buf())),
        }
    }

    /// Waits until nobody else, in this process or another, works on the thing called `name`.
    pub(crate) fn work_lock(&self, name: &str) -> Result<StoreLock, FileError> {
        let path = self.run_directory().join(format!("{name}.lock"));
        Ok(StoreLock(lock::wait(&path, Kind::Exclusive).at("lock", path)?))
    }

    /// Waits until nobody else, in this process or another, works on `key`, so that work with
    /// one key is done once. The lock ends with the value or the process.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn lock_key(&self, key: &Digest) -> Result<StoreLock, StoreError> {
        Ok(self.work_lock(&format!("key-{}", key.hex()))?)
    }

    /// Takes the lock of [`Store::lock_key`] when it is free.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn try_lock_key(&self, key: &Digest) -> Result<Option<StoreLock>, StoreError> {
        let path = self.run_directory().join(format!("key-{}.lock", key.hex()));
        Ok(lock::attempt(&path, Kind::Exclusive).at("lock", path)?.map(StoreLock))
    }

    /// Makes a fresh working directory in `run`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn scratch(&self, prefix: &str) -> Result<Scratch, StoreError> {
        Ok(Scratch::new(&self.run_directory(), prefix)?)
    }

    /// Makes a fresh directory in `ingest`, to be filled and published.
    pub(crate) fn ingest_scratch(&self, prefix: &str) -> Result<Scratch, FileError> {
        Scratch::new(&self.ingest_directory(), prefix)
    }
}

const STORE_LOCK: &str = "lock";

fn sweep_one(path: &Path) -> io::Result<()> {
    let kind = std::fs::symlink_metadata(path)?.file_type();
    if !(kind.is_file() || kind.is_dir()) {
        return remove_tree(path);
    }
    let file = File::open(path)?;
    if lock::try_file(&file, Kind::Exclusive)? && lock::is_at(&file, path)? {
        remove_tree(path)?;
    }
    Ok(())
}

impl Scratch {
    fn new(directory: &Path, prefix: &str) -> Result<Self, FileError> {
        loop {
            let path = tempfile::Builder::new()
                .prefix(&format!("{prefix}-"))
                .tempdir_in(directory)
                .at("create a directory in", directory)?
                .keep();
            let lock = match File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.at("open", &path)?,
            };
            lock.lock().at("lock", &path)?;
            // A sweep may have come between.
            if lock::is_at(&lock, &path).at("open", &path)? {
                return Ok(Self { path, _lock: lock });
            }
        }
    }

    /// Returns the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.path) {
            tracing::warn!("cannot delete {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let temporary = tempfile::tempdir().unwrap();
        let store = Store::open(&temporary.path().join("store")).unwrap();
        (temporary, store)
    }

    #[test]
    fn a_new_store_is_an_image_layout_that_others_may_not_enter() {
        let (_temporary, store) = store();
        assert_eq!(std::fs::metadata(store.root()).unwrap().permissions().mode() & 0o777, 0o700);
        let marker: LayoutMarker =
            serde_json::from_slice(&std::fs::read(store.root().join("oci-layout")).unwrap()).unwrap();
        assert_eq!(marker, LayoutMarker::default());
        assert!(store.images().unwrap().is_empty());
        assert!(list(&store.ingest_directory()).unwrap().is_empty());
    }

    #[test]
    fn a_sweep_takes_what_nobody_holds() {
        let (_temporary, store) = store();
        let scratch = store.scratch("sandbox").unwrap();
        std::fs::write(scratch.path().join("file"), "x").unwrap();
        std::fs::create_dir_all(store.root().join("run/dead/deep")).unwrap();
        std::fs::write(store.root().join("ingest/dead"), "half").unwrap();
        let ingest = store.ingest().unwrap();
        store.sweep().unwrap();
        assert!(scratch.path().join("file").exists());
        assert!(!store.root().join("run/dead").exists());
        assert_eq!(list(&store.ingest_directory()).unwrap().len(), 1);
        drop(ingest);
        let path = scratch.path().to_owned();
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn a_prune_waits_for_builds() {
        let (_temporary, store) = store();
        let build = store.lock_shared().unwrap();
        let _other = store.lock_shared().unwrap();
        assert!(matches!(store.try_lock_exclusive(), Err(StoreError::InUse(_))));
        drop(build);
        drop(_other);
        let prune = store.try_lock_exclusive().unwrap();
        drop(prune);
        store.lock_shared().unwrap();
    }
}
