//! Locks on files: they die with the process that holds them.
//!
//! A lock file may be deleted by whoever holds its lock alone (a sweep does). So after waiting
//! for a lock one must look whether the file is still the one of that name, and start again when
//! not; these functions do.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// How a lock is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Shared,
    Exclusive,
}

/// Takes the lock at `path`, waiting for it; the file is created when missing.
pub(crate) fn wait(path: &Path, kind: Kind) -> io::Result<File> {
    loop {
        let file = open(path)?;
        match kind {
            Kind::Shared => file.lock_shared()?,
            Kind::Exclusive => file.lock()?,
        }
        if is_at(&file, path)? {
            return Ok(file);
        }
    }
}

/// Takes the lock at `path` when it is free; `None` when it is not.
pub(crate) fn attempt(path: &Path, kind: Kind) -> io::Result<Option<File>> {
    loop {
        let file = open(path)?;
        if !try_file(&file, kind)? {
            return Ok(None);
        }
        if is_at(&file, path)? {
            return Ok(Some(file));
        }
    }
}

/// Takes the lock of an open file or directory when it is free.
pub(crate) fn try_file(file: &File, kind: Kind) -> io::Result<bool> {
    let result = match kind {
        Kind::Shared => file.try_lock_shared(),
        Kind::Exclusive => file.try_lock(),
    };
    match result {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether `path` still names `file`.
pub(crate) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(named) => Ok(held.dev() == named.dev() && held.ino() == named.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}
