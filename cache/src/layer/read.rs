//! Reading a directory form back into the entries that a tar stream is made of.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::directory::os;
use super::entry::{Content, NewEntry, NewKind, is_kept};
use super::note::Known;
use super::{LayerError, Ownership};
use crate::FileError;
use crate::file::{At, list};

/// Iterates over what is in a directory form, in the order of a walk. Sockets are left out.
pub(crate) fn entries(directory: &Path, ownership: Ownership) -> Entries {
    let mut entries = Entries {
        directory: directory.to_owned(),
        ownership,
        known: Known::default(),
        open: Vec::new(),
        links: HashMap::new(),
    };
    entries.open.push((Vec::new(), None));
    entries
}

/// See [`entries`].
pub(crate) struct Entries {
    directory: PathBuf,
    ownership: Ownership,
    known: Known,
    /// The directories on the way, each with the names that are left, the next one last; `None`
    /// before they are read.
    open: Vec<(Vec<u8>, Option<Vec<OsString>>)>,
    /// The first name of each file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl Iterator for Entries {
    type Item = Result<NewEntry, LayerError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (path, names) = self.open.last_mut()?;
            let names = match names {
                Some(names) => names,
                None => match list(&self.directory.join(os(path))) {
                    Ok(mut found) => {
                        found.sort_by(|one, two| two.cmp(one));
                        names.insert(found)
                    }
                    Err(error) => {
                        self.open.clear();
                        return Some(Err(error.into()));
                    }
                },
            };
            let Some(name) = names.pop() else {
                self.open.pop();
                continue;
            };
            let mut child = path.clone();
            if !child.is_empty() {
                child.push(b'/');
            }
            child.extend_from_slice(name.as_bytes());
            match self.entry(&child) {
                Ok(Some(entry)) => {
                    if matches!(entry.kind, NewKind::Directory) {
                        self.open.push((child, None));
                    }
                    return Some(Ok(entry));
                }
                Ok(None) => {}
                Err(error) => {
                    self.open.clear();
                    return Some(Err(error.into()));
                }
            }
        }
    }
}

impl Entries {
    /// Corrects the entries by what is known of them.
    pub(crate) fn knowing(self, known: Known) -> Self {
        Self { known, ..self }
    }

    fn entry(&mut self, path: &[u8]) -> Result<Option<NewEntry>, FileError> {
        let full = self.directory.join(os(path));
        let found = std::fs::symlink_metadata(&full).at("look at", &full)?;
        let file_type = found.file_type();
        let device = || (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
        let mut kind = if file_type.is_dir() {
            NewKind::Directory
        } else if file_type.is_symlink() {
            let target = std::fs::read_link(&full).at("read the link", &full)?;
            NewKind::Symlink(target.into_os_string().into_vec())
        } else if is_whiteout(&full, &found) {
            return Ok(Some(NewEntry::new(path, NewKind::Whiteout, 0)));
        } else if file_type.is_char_device() {
            NewKind::Char(device().0, device().1)
        } else if file_type.is_block_device() {
            NewKind::Block(device().0, device().1)
        } else if file_type.is_fifo() {
            NewKind::Fifo
        } else if file_type.is_file() {
            let full = full.clone();
            let open = move || open_file(&full);
            NewKind::File { size: found.len(), content: Content::open(open) }
        } else {
            return Ok(None);
        };
        // A link between names of the layer; the overlay's whiteouts have left above.
        if !file_type.is_dir() && found.nlink() > 1 {
            match self.links.entry((found.dev(), found.ino())) {
                std::collections::hash_map::Entry::Occupied(first) => kind = NewKind::Hardlink(first.get().clone()),
                std::collections::hash_map::Entry::Vacant(none) => drop(none.insert(path.to_owned())),
            }
        }
        let mut xattrs = BTreeMap::new();
        if file_type.is_file() || file_type.is_dir() {
            xattrs = kept_attributes(&full).at("read the attributes of", &full)?;
        }
        let mode = if file_type.is_symlink() { 0o777 } else { found.mode() & 0o7777 };
        let mtime = (found.mtime(), u32::try_from(found.mtime_nsec()).unwrap_or_default());
        let (uid, gid) = self.ownership.of(&full, &found)?;
        let mut entry = NewEntry { path: path.to_owned(), kind, mode, uid, gid, mtime, xattrs };
        self.known.correct(&mut entry);
        Ok(Some(entry))
    }
}

/// The extended attribute of an empty file that stands for a whiteout where none can be made: on an overlay.
pub const WHITEOUT_MARK: &str = "user.kiln.whiteout";

/// Whether this says that a name is hidden: as an overlay writes it, or as it is written on one.
pub(crate) fn is_whiteout(path: &Path, metadata: &Metadata) -> bool {
    if metadata.file_type().is_char_device() {
        return metadata.rdev() == 0;
    }
    let may_be = metadata.is_file() && metadata.len() == 0 && metadata.mode() & 0o7777 == 0;
    may_be && matches!(attribute(path, WHITEOUT_MARK.as_bytes()), Ok(Some(_)))
}

/// Opens a regular file for reading, without following a link in its place.
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NOATIME;
    match OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path) {
        // Only an owner may leave the time of the last access alone.
        Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {
            OpenOptions::new().read(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(path)
        }
        other => other,
    }
}

/// Reads the extended attributes of a file or directory that a layer keeps.
fn kept_attributes(path: &Path) -> rustix::io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut names = vec![0; 1 << 10];
    let length = match rustix::fs::llistxattr(path, &mut names) {
        Err(Errno::RANGE) => {
            // No file system of Linux has longer lists.
            names.resize(64 << 10, 0);
            rustix::fs::llistxattr(path, &mut names)
        }
        Err(Errno::OPNOTSUPP) => Ok(0),
        other => other,
    }?;
    let names = names[..length].split(|byte| *byte == 0).filter(|name| is_kept(name));
    let mut kept = BTreeMap::new();
    for name in names {
        if let Some(value) = attribute(path, name)? {
            kept.insert(name.to_vec(), value);
        }
    }
    Ok(kept)
}

/// Reads an extended attribute of a file, or of a link itself; `None` when it has none.
pub(crate) fn attribute(path: &Path, name: &[u8]) -> rustix::io::Result<Option<Vec<u8>>> {
    let mut value = [0; 256];
    match rustix::fs::lgetxattr(path, name, &mut value) {
        Ok(length) => Ok(Some(value[..length].to_vec())),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(Errno::RANGE) => {
            let mut value = vec![0; 64 << 10];
            let length = rustix::fs::lgetxattr(path, name, &mut value)?;
            value.truncate(length);
            Ok(Some(value))
        }
        Err(error) => Err(error),
    }
}
