//! What the files of a directory form are, where the file system of an ordinary user cannot hold it.
//!
//! The owner of what can have no attribute, and devices, for which empty files stand. While a command runs they are known by
//! inode; in a layer by path; and from then on the index has them.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::UNIX_EPOCH;

use super::entry::{NewEntry, NewKind};
use super::index::{Change, LayerIndex};
use crate::tree::Kind;

/// What something is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Note {
    /// User and group.
    pub owner: Option<(u32, u32)>,
    /// A device: whether it is one of blocks, major and minor number.
    pub device: Option<(bool, u32, u32)>,
}

/// A file: its number, and when it was made (seconds, nanoseconds), since numbers are given again.
pub type Inode = (u64, Option<(i64, u32)>);

/// What is known of the files that a command has made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notes {
    /// The user and group of whatever is new and noted nowhere; none where files have real owners.
    pub owner: Option<(u32, u32)>,
    files: HashMap<Inode, Note>,
}

impl Notes {
    /// Adds a note; what it says replaces what was said of the file before.
    pub fn add(&mut self, file: Inode, note: Note) {
        let known = self.files.entry(file).or_default();
        known.owner = note.owner.or(known.owner);
        known.device = note.device.or(known.device);
    }

    /// Returns what is known of a file.
    pub(crate) fn of(&self, metadata: &Metadata) -> Option<Note> {
        if self.files.is_empty() {
            return None;
        }
        let born = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let born = born.and_then(|time| Some((i64::try_from(time.as_secs()).ok()?, time.subsec_nanos())));
        self.files.get(&(metadata.ino(), born)).copied()
    }
}

/// What is known of the files of a layer, by path.
#[derive(Debug, Default)]
pub(crate) struct Known(HashMap<Vec<u8>, Note>);

impl Known {
    /// Returns what an index knows.
    pub(crate) fn of(index: &LayerIndex) -> Self {
        let mut known = Self::default();
        for entry in index.entries() {
            let Change::Put(put) = &entry.change else { continue };
            let device = match put.meta.kind {
                Kind::Char | Kind::Block => Some((put.meta.kind == Kind::Block, put.meta.device.0, put.meta.device.1)),
                Kind::Symlink | Kind::Fifo => None,
                Kind::File | Kind::Directory => continue,
            };
            known.add(entry.path.to_vec(), Note { owner: Some((put.meta.uid, put.meta.gid)), device });
        }
        known
    }

    /// Adds a note.
    pub(crate) fn add(&mut self, path: Vec<u8>, note: Note) {
        self.0.insert(path, note);
    }

    /// Makes an entry say what is known.
    pub(crate) fn correct(&self, entry: &mut NewEntry) {
        let Some(note) = self.0.get(&entry.path) else { return };
        if let Some((uid, gid)) = note.owner {
            (entry.uid, entry.gid) = (uid, gid);
        }
        match (note.device, &entry.kind) {
            // What was written went into the file that stands for it, and would have gone to the device.
            (Some((true, major, minor)), NewKind::File { .. }) => entry.kind = NewKind::Block(major, minor),
            (Some((false, major, minor)), NewKind::File { .. }) => entry.kind = NewKind::Char(major, minor),
            _ => {}
        }
    }
}
