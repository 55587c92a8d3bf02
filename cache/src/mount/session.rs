//! The use of one cache mount: an overlay that gathers what commands write, until the last of them has ended.
//!
//! ```text
//! <number>/data             the directory itself
//! <number>/lock             held, shared or alone, by everybody who uses it
//! <number>/door             held for the moment in which somebody comes or goes
//! <number>/session/         while somebody uses it:
//!     upper/ work/            the overlay's directories; `data` is its lower one
//!     merged/                 where it is mounted, in a mount namespace of its user
//!     members/<pid>-<tid>     in whose mount namespace it stands
//!     shared                  there was more than one user
//! <number>/fold             an upper directory on its way into `data`
//! ```
//! The rename from `session/upper` to `fold` decides: before it, what was written is dropped if its user is gone; after
//! it, whoever comes next finishes the fold. A session that several had is never dropped: nobody could tell whose writes
//! are whose.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::file::{At, list};
use crate::lock::{self, Kind};
use crate::mount::fold::{self, fold};
use crate::{FileError, Store};

/// A thread that has the overlay of a session in its mount namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// The process.
    pub process: i32,
    /// The thread.
    pub thread: i32,
}

/// The directories of an overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// What is below.
    pub lower: PathBuf,
    /// What gathers the changes.
    pub upper: PathBuf,
    /// What the overlay needs beside that.
    pub work: PathBuf,
}

/// How a user gets at the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// By mounting a new overlay at [`Session::merged`].
    Make(Overlay),
    /// By taking over what one of these has there already.
    Join(Vec<Member>),
}

/// What became of what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It is kept, or will be when the last user ends.
    Kept,
    /// It is kept although the command was killed, since others wrote too.
    KeptAsShared,
    /// It is dropped: the directory is as it was before.
    Restored,
}

/// One user's part in a session.
#[derive(Debug)]
pub struct Session {
    instance: PathBuf,
    way: Way,
    /// Held until the overlay stands.
    door: Option<File>,
    member: Option<PathBuf>,
}

impl Session {
    /// Comes in; `None` when others use the directory itself. `lock` is held by this user as `kind`.
    pub(super) fn enter(instance: &Path, lock: &File, kind: Kind) -> Result<Option<Self>, FileError> {
        let path = instance.join("door");
        let door = lock::wait(&path, Kind::Exclusive).at("lock", path)?;
        let way = if is_alone(lock, instance)? {
            let overlay = make(instance)?;
            // Nobody can have taken it while the door is held.
            lock::try_file(lock, kind).at("lock", instance)?;
            Way::Make(overlay)
        } else {
            let members = list(&instance.join("session/members"))?;
            let members: Vec<Member> = members.iter().filter_map(|name| Member::read(name.to_str()?)).collect();
            if members.is_empty() {
                return Ok(None);
            }
            Way::Join(members)
        };
        Ok(Some(Self { instance: instance.to_owned(), way, door: Some(door), member: None }))
    }

    /// Returns how this user gets at the directory.
    pub fn way(&self) -> &Way {
        &self.way
    }

    /// Returns where the overlay is to be mounted.
    pub fn merged(&self) -> PathBuf {
        self.instance.join("session/merged")
    }

    /// Says that the overlay stands in the mount namespace of `member`: others may join.
    ///
    /// # Errors
    /// When the file that says so cannot be made.
    pub fn stands(&mut self, member: Member) -> Result<(), FileError> {
        if matches!(self.way, Way::Join(_)) {
            let path = self.instance.join("session/shared");
            File::create(&path).at("create", path)?;
        }
        let path = self.instance.join(format!("session/members/{}-{}", member.process, member.thread));
        File::create(&path).at("create", &path)?;
        self.member = Some(path);
        self.door = None;
        Ok(())
    }

    /// Goes. The overlay must not be mounted for this user any more.
    pub(super) fn leave(mut self, store: &Store, lock: &File, is_killed: bool) -> Result<Ending, FileError> {
        let path = self.instance.join("door");
        let _door = match self.door.take() {
            Some(door) => door,
            None => lock::wait(&path, Kind::Exclusive).at("lock", path)?,
        };
        if let Some(member) = &self.member {
            let _ = std::fs::remove_file(member);
        }
        let session = self.instance.join("session");
        let is_shared = session.join("shared").exists();
        let kept = if is_killed { Ending::KeptAsShared } else { Ending::Kept };
        if !is_alone(lock, &self.instance)? {
            return Ok(kept);
        }
        if is_killed && !is_shared {
            discard(store, &session)?;
            return Ok(Ending::Restored);
        }
        finish(store, &self.instance)?;
        Ok(kept)
    }
}

impl Member {
    fn read(name: &str) -> Option<Self> {
        let (process, thread) = name.split_once('-')?;
        Some(Self { process: process.parse().ok()?, thread: thread.parse().ok()? })
    }
}

/// Makes the directories of an overlay.
fn make(instance: &Path) -> Result<Overlay, FileError> {
    let session = instance.join("session");
    for name in ["upper", "work", "merged", "members"] {
        let path = session.join(name);
        std::fs::create_dir_all(&path).at("create", path)?;
    }
    let (lower, upper) = (instance.join("data"), session.join("upper"));
    // The root of the overlay is that of its upper directory.
    fold::alike(&lower, &upper).at("prepare", &upper)?;
    Ok(Overlay { lower, upper, work: session.join("work") })
}

/// Whether nobody else holds the lock. The caller holds it, and the door: so nobody can come in between.
pub(super) fn is_alone(lock: &File, instance: &Path) -> Result<bool, FileError> {
    let is_alone = lock::try_file(lock, Kind::Exclusive).at("lock", instance)?;
    if !is_alone {
        // Trying has given the lock up.
        lock::try_file(lock, Kind::Shared).at("lock", instance)?;
    }
    Ok(is_alone)
}

/// Does what users that were killed have left to do. The caller holds lock and door alone.
pub(super) fn recover(store: &Store, instance: &Path) -> Result<(), FileError> {
    let session = instance.join("session");
    if session.join("shared").exists() || instance.join("fold").exists() {
        finish(store, instance)?;
    }
    discard(store, &session)
}

/// Folds what was written into the directory.
fn finish(store: &Store, instance: &Path) -> Result<(), FileError> {
    let (session, folding, data) = (instance.join("session"), instance.join("fold"), instance.join("data"));
    for _ in 0..2 {
        if folding.exists()
            && let Err(error) = fold(&folding, &data)
        {
            // A cache may be lost, but it must not be half of one thing and half of another.
            tracing::warn!("a cache mount is emptied: {} cannot be kept: {error}", folding.display());
            discard(store, &data)?;
            discard(store, &folding)?;
        }
        match std::fs::rename(session.join("upper"), &folding) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            other => other.at("rename", session.join("upper"))?,
        }
    }
    discard(store, &session)
}

/// Deletes a directory, out of sight at once.
fn discard(store: &Store, path: &Path) -> Result<(), FileError> {
    let aside = store.ingest_scratch("discarded")?;
    match std::fs::rename(path, aside.path().join("session")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.at("rename", path),
    }
}
