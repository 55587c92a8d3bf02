//! Digests of local files, remembered by what `stat` says of them, so that an unchanged context
//! is not read again.
//!
//! A digest counts as long as device, inode, length, change time and modification time are the
//! same. A file that was changed less than two seconds before it was hashed is not remembered:
//! another change could have left all of that as it is (git's racy rule). Deleting the memory
//! costs time, never correctness.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use kiln_oci::{Digest, Hasher};

use crate::file::{publish, read};
use crate::{FileError, Store};

/// What `stat` says of a file, as far as it tells whether the content may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stat {
    /// The device.
    pub dev: u64,
    /// The inode.
    pub ino: u64,
    /// The length.
    pub size: u64,
    /// When the content was last changed, in nanoseconds since 1970.
    pub mtime: i64,
    /// When anything was last changed, in nanoseconds since 1970.
    pub ctime: i64,
}

impl From<&std::fs::Metadata> for Stat {
    fn from(metadata: &std::fs::Metadata) -> Self {
        Self {
            dev: metadata.dev(),
            ino: metadata.ino(),
            size: metadata.size(),
            mtime: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            ctime: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

fn nanoseconds(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

/// How long before its hashing a file must have been left alone.
const RACY: i64 = 2_000_000_000;

/// The remembered digests of one context.
#[derive(Debug)]
pub struct Memo {
    path: PathBuf,
    ingest: PathBuf,
    /// Entries of [`ENTRY`] bytes each, sorted.
    stored: Vec<u8>,
    fresh: Mutex<HashMap<Stat, Option<Digest>>>,
    is_wrong: AtomicBool,
}

const MAGIC: &[u8; 8] = b"kilnctx1";
const STAT: usize = 40;
const ENTRY: usize = STAT + 32;

impl Memo {
    /// Opens the memory of the context at `root`; empty when there is none or it is damaged.
    pub fn open(store: &Store, root: &Path) -> Self {
        let mut name = Hasher::domain("kiln.context.v1");
        name.field(root.as_os_str().as_bytes());
        let path = store.root().join("context/v1").join(name.finish().hex());
        let stored = read(&path).ok().flatten().and_then(unseal).unwrap_or_default();
        Self {
            path,
            ingest: store.ingest_directory(),
            stored,
            fresh: Mutex::default(),
            is_wrong: AtomicBool::new(false),
        }
    }

    /// Returns the digest of a file whose content cannot have changed.
    pub fn get(&self, stat: &Stat) -> Option<Digest> {
        if let Some(digest) = self.fresh().get(stat) {
            return *digest;
        }
        let key = encode(stat);
        let found = self.entries().binary_search_by(|entry| entry[..STAT].cmp(&key)).ok()?;
        let digest = self.entries()[found][STAT..].try_into().ok()?;
        Some(Digest::from_bytes(digest))
    }

    /// Remembers the digest of a file. `stat` must be from before it was read, and the same
    /// after.
    pub fn insert(&self, stat: &Stat, digest: Digest) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as i64);
        self.insert_at(stat, digest, now);
    }

    fn insert_at(&self, stat: &Stat, digest: Digest, now: i64) {
        let settled = stat.mtime.max(stat.ctime) < now.saturating_sub(RACY);
        self.fresh().insert(*stat, settled.then_some(digest));
    }

    /// Forgets everything, for good: a file turned out to have another digest than was remembered. `stat` does not
    /// tell of every change: not where the clock was put back, nor at once of writes to a mapped file (mmap(2)).
    pub fn forget(&self) {
        self.is_wrong.store(true, Ordering::Relaxed);
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!("cannot delete {}: {error}", self.path.display());
        }
    }

    /// Keeps what was remembered for the next build. Nothing is written when nothing is new.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self) -> Result<(), FileError> {
        let fresh = self.fresh();
        let mut added: Vec<[u8; ENTRY]> = fresh
            .iter()
            .filter_map(|(stat, digest)| {
                let mut entry = [0; ENTRY];
                entry[..STAT].copy_from_slice(&encode(stat));
                entry[STAT..].copy_from_slice(digest.as_ref()?.as_bytes());
                Some(entry)
            })
            .collect();
        if added.is_empty() || self.is_wrong.load(Ordering::Relaxed) {
            return Ok(());
        }
        // A file with another time or length replaces what was remembered of its inode.
        let inodes: std::collections::HashSet<[u8; 16]> =
            fresh.keys().map(|stat| encode(stat)[..16].try_into().expect("16 bytes")).collect();
        let old = self.entries().iter().filter(|entry| !inodes.contains(&entry[..16]));
        added.extend(old);
        added.sort_unstable();
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(added.as_flattened());
        let checksum = Digest::of(&bytes);
        bytes.extend_from_slice(checksum.as_bytes());
        publish(&self.ingest, &self.path, &bytes)
    }

    fn entries(&self) -> &[[u8; ENTRY]] {
        self.stored.as_chunks().0
    }

    fn fresh(&self) -> std::sync::MutexGuard<'_, HashMap<Stat, Option<Digest>>> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unseal(bytes: Vec<u8>) -> Option<Vec<u8>> {
    let (body, checksum) = bytes.split_last_chunk::<32>()?;
    let entries = body.strip_prefix(MAGIC)?;
    let right = entries.len() % ENTRY == 0 && Digest::of(body).as_bytes() == checksum;
    right.then(|| entries.to_vec())
}

/// Device and inode come first, and sort as bytes.
fn encode(stat: &Stat) -> [u8; STAT] {
    let mut bytes = [0; STAT];
    let numbers = [stat.dev, stat.ino, stat.size, stat.mtime.cast_unsigned(), stat.ctime.cast_unsigned()];
    for (field, number) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(numbers) {
        *field = number.to_be_bytes();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000_000_000;

    fn store() -> (tempfile::TempDir, Store) {
        let temporary = tempfile::tempdir().unwrap();
        let store = Store::open(&temporary.path().join("store")).unwrap();
        (temporary, store)
    }

    fn stat(ino: u64, ctime: i64) -> Stat {
        Stat { dev: 1, ino, size: 3, mtime: 5, ctime }
    }

    #[test]
    fn what_was_remembered_is_known_to_the_next_build() {
        let (_temporary, store) = store();
        let memo = Memo::open(&store, Path::new("/context"));
        for ino in 0..100 {
            memo.insert_at(&stat(ino, 7), Digest::of(ino.to_string()), NOW);
        }
        memo.save().unwrap();
        let memo = Memo::open(&store, Path::new("/context"));
        assert_eq!(memo.get(&stat(42, 7)), Some(Digest::of("42")));
        assert_eq!(memo.get(&stat(42, 8)), None);
        assert_eq!(Memo::open(&store, Path::new("/other")).get(&stat(42, 7)), None);
        memo.insert_at(&stat(42, 8), Digest::of("new"), NOW);
        memo.save().unwrap();
        let memo = Memo::open(&store, Path::new("/context"));
        assert_eq!(memo.get(&stat(42, 8)), Some(Digest::of("new")));
        assert_eq!(memo.get(&stat(42, 7)), None);
        assert_eq!(memo.get(&stat(41, 7)), Some(Digest::of("41")));
        assert_eq!(memo.entries().len(), 100);
    }

    #[test]
    fn what_was_wrong_is_forgotten_for_good() {
        let (_temporary, store) = store();
        let memo = Memo::open(&store, Path::new("/context"));
        memo.insert_at(&stat(1, 7), Digest::of("1"), NOW);
        memo.save().unwrap();
        let memo = Memo::open(&store, Path::new("/context"));
        memo.insert_at(&stat(2, 7), Digest::of("2"), NOW);
        memo.forget();
        memo.save().unwrap();
        let memo = Memo::open(&store, Path::new("/context"));
        assert_eq!((memo.get(&stat(1, 7)), memo.get(&stat(2, 7))), (None, None));
    }

    #[test]
    fn a_file_that_was_just_changed_is_not_trusted() {
        let (_temporary, store) = store();
        let memo = Memo::open(&store, Path::new("/context"));
        memo.insert_at(&stat(1, NOW - RACY), Digest::of("1"), NOW);
        memo.insert_at(&stat(2, NOW - RACY - 1), Digest::of("2"), NOW);
        assert_eq!(memo.get(&stat(1, NOW - RACY)), None);
        assert_eq!(memo.get(&stat(2, NOW - RACY - 1)), Some(Digest::of("2")));
    }

    #[test]
    fn nothing_new_is_not_written_and_damage_is_forgotten() {
        let (_temporary, store) = store();
        let memo = Memo::open(&store, Path::new("/context"));
        memo.save().unwrap();
        assert!(!memo.path.exists());
        memo.insert_at(&stat(1, 1), Digest::of("1"), NOW);
        memo.save().unwrap();
        let mut bytes = std::fs::read(&memo.path).unwrap();
        bytes[30] ^= 1;
        std::fs::write(&memo.path, bytes).unwrap();
        assert_eq!(Memo::open(&store, Path::new("/context")).get(&stat(1, 1)), None);
    }
}
