//! Turning the upper directory of an overlay into a layer.
//!
//! The upper directory holds more than what changed: files copied up and left as they were,
//! whiteouts of names that never were below, marks of the overlay. It is brought into the form
//! that unpacking the layer's own tar stream would give, then becomes the directory form. What
//! is below is looked up path by path, so the cost does not depend on the size of the base.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid};

use super::directory::times;
use super::entry::CAPABILITY;
use super::note::{Known, Note, Notes};
use super::owner;
use super::pack::{Packed, Packer, publish, publish_directory};
use super::read::{self, attribute, is_whiteout, open_file};
use super::{Compression, LayerError, Ownership};
use crate::file::{At, list};
use crate::remove::remove_tree;
use crate::{FileError, Store};

/// How deep directories may be nested.
const DEPTH: usize = 512;

/// Makes a layer of what changed between the directories `lowers` (topmost first) and the
/// overlay of `upper` on them. The overlay must not be mounted any more; `upper` becomes the
/// directory form, and is gone from where it was. `notes` say what the file system could not hold.
///
/// # Errors
/// When something in `upper` cannot be part of a layer, or when the store cannot be written.
pub fn seal(
    store: &Store,
    upper: PathBuf,
    lowers: &[PathBuf],
    notes: &Notes,
    compression: Option<Compression>,
) -> Result<Packed, LayerError> {
    let ownership = store.ownership();
    let mut comparison = Comparison { top: &upper, ownership, notes, known: Known::default() };
    let children = comparison.children(&upper, lowers, false, 0)?;
    let known = comparison.known;
    normalise_children(&upper, children)?;
    // The root itself is no part of a layer; unpacked ones have this.
    let root = Some((Uid::ROOT, Gid::ROOT));
    let (uid, gid) = root.unzip();
    rustix::fs::chownat(CWD, &upper, uid, gid, AtFlags::empty())
        .or_else(ignore_refusal)
        .at(FileError::GIVING, &upper)?;
    rustix::fs::chmodat(CWD, &upper, Mode::from_bits_retain(0o755), AtFlags::empty())
        .at("change the mode of", &upper)?;
    drop_marks(&upper)?;

    let mut packer = Packer::new(store, compression, None, None);
    for entry in read::entries(&upper, ownership).knowing(known) {
        packer.add(entry?)?;
    }
    let packed = packer.finish()?;
    publish(store, &packed, None)?;
    publish_directory(store, &packed.diff_id, &upper)?;
    // Still there when the store had this layer already.
    remove_tree(&upper).at("delete", &upper)?;
    Ok(packed)
}

fn ignore_refusal(error: rustix::io::Errno) -> rustix::io::Result<()> {
    if error == rustix::io::Errno::PERM { Ok(()) } else { Err(error) }
}

/// A name in the upper directory, and how it compares with what is below.
struct Found {
    name: OsString,
    state: State,
}

enum State {
    Directory {
        /// As below, but for times and what is in it.
        same: bool,
        mtime: (i64, i64),
        children: Vec<Found>,
        /// Names below that the directory hides as a whole.
        hidden: Vec<OsString>,
    },
    File {
        /// As below.
        same: bool,
    },
    /// Nothing, or something that a layer cannot hold; `needed` when something is below.
    Gone { needed: bool },
}

/// What the layers below have at a path.
enum Below {
    Nothing,
    /// The directories that are seen as one, topmost first, and what is known of the topmost.
    Directories(Vec<PathBuf>, Metadata),
    Other(PathBuf, Metadata),
}

fn look_below(lowers: &[PathBuf], name: &OsStr) -> Result<Below, FileError> {
    let mut merged: Option<(Vec<PathBuf>, Metadata)> = None;
    for lower in lowers {
        let path = lower.join(name);
        let found = match std::fs::symlink_metadata(&path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).at("look at", path),
        };
        if found.is_dir() {
            let opaque = mark(&path, "opaque")?.is_some_and(|value| value == b"y");
            match &mut merged {
                Some((directories, _)) => directories.push(path),
                None => merged = Some((vec![path], found)),
            }
            if opaque {
                break;
            }
        } else if merged.is_some() || is_whiteout(&path, &found) {
            break;
        } else {
            return Ok(Below::Other(path, found));
        }
    }
    Ok(merged.map_or(Below::Nothing, |(directories, top)| Below::Directories(directories, top)))
}

/// Lists what the merged directories show.
fn names_below(lowers: &[PathBuf]) -> Result<BTreeSet<OsString>, FileError> {
    let mut shown = BTreeSet::new();
    let mut hidden = BTreeSet::new();
    for lower in lowers {
        let mut here = Vec::new();
        for name in list(lower)? {
            if hidden.contains(&name) {
                continue;
            }
            let path = lower.join(&name);
            if is_whiteout(&path, &std::fs::symlink_metadata(&path).at("look at", &path)?) {
                here.push(name);
            } else {
                shown.insert(name);
            }
        }
        hidden.extend(here.into_iter().filter(|name| !shown.contains(name)));
    }
    Ok(shown)
}

/// Compares the upper directory with what is below, and finds out on the way whom its files belong to.
struct Comparison<'a> {
    top: &'a Path,
    ownership: Ownership,
    notes: &'a Notes,
    known: Known,
}

impl Comparison<'_> {
    fn children(
        &mut self,
        upper: &Path,
        lowers: &[PathBuf],
        hides: bool,
        depth: usize,
    ) -> Result<Vec<Found>, LayerError> {
        let ownership = self.ownership;
        if depth >= DEPTH {
            return Err(unrepresentable(upper, format!("directories are nested more than {DEPTH} deep")));
        }
        let mut names = list(upper)?;
        names.sort();
        let mut children = Vec::with_capacity(names.len());
        for name in names {
            let path = upper.join(&name);
            let found = std::fs::symlink_metadata(&path).at("look at", &path)?;
            let below = look_below(lowers, &name)?;
            let needed = !matches!(below, Below::Nothing);
            let is_given = self.take_note(&path, &found, &below)?;
            let state =
                if is_whiteout(&path, &found) || found.file_type().is_socket() || is_marked_whiteout(&path, &found)? {
                    State::Gone { needed }
                } else if found.is_dir() {
                    if mark(&path, "redirect")?.is_some() {
                        return Err(unrepresentable(
                            &path,
                            "it was renamed by the overlay itself (redirect_dir)".to_owned(),
                        ));
                    }
                    let opaque = hides || mark(&path, "opaque")?.is_some_and(|value| value == b"y");
                    let (same, lowers, hidden) = match below {
                        Below::Directories(lowers, top) => {
                            let hidden = if opaque { names_below(&lowers)? } else { BTreeSet::new() };
                            (same_attributes((&path, &found), (&lowers[0], &top), ownership)?, lowers, hidden)
                        }
                        _ => (false, Vec::new(), BTreeSet::new()),
                    };
                    let children = self.children(&path, &lowers, opaque && !lowers.is_empty(), depth + 1)?;
                    let is_here = |name: &OsString| children.binary_search_by(|child| child.name.cmp(name)).is_ok();
                    let hidden = hidden.into_iter().filter(|name| !is_here(name)).collect();
                    State::Directory { same, mtime: (found.mtime(), found.mtime_nsec()), children, hidden }
                } else {
                    if mark(&path, "metacopy")?.is_some() {
                        return Err(unrepresentable(
                            &path,
                            "its content was left below by the overlay (metacopy)".to_owned(),
                        ));
                    }
                    let same = match &below {
                        Below::Other(lower, was) if !is_given => same_file((&path, &found), (lower, was), ownership)?,
                        _ => false,
                    };
                    State::File { same }
                };
            children.push(Found { name, state });
        }
        Ok(children)
    }

    /// Takes over what is noted of a file. Returns whether it is noted to belong to somebody, or to be something, else.
    fn take_note(&mut self, path: &Path, found: &Metadata, below: &Below) -> Result<bool, LayerError> {
        if self.ownership == Ownership::Real {
            return Ok(false);
        }
        let note = self.notes.of(found);
        let is_new = match below {
            Below::Nothing => true,
            Below::Directories(..) => !found.is_dir(),
            Below::Other(_, was) => was.file_type() != found.file_type(),
        };
        let owner = self.notes.owner.filter(|_| is_new && self.ownership == Ownership::Recorded);
        let mut known = note.unwrap_or_default();
        if found.is_file() || found.is_dir() {
            if let (Some(owner), None) = (owner, owner::marked(path)?) {
                owner::mark(path, owner)?;
            }
            known.owner = None;
        } else {
            known.owner = known.owner.or(owner);
        }
        if known == Note::default() {
            return Ok(false);
        }
        if let Ok(path) = path.strip_prefix(self.top) {
            self.known.add(path.as_os_str().as_bytes().to_vec(), known);
        }
        Ok(known.device.is_some() || known.owner != Some((0, 0)))
    }
}

/// Brings a directory into the form that its tar stream has. Returns whether anything is left.
fn normalise_children(upper: &Path, children: Vec<Found>) -> Result<bool, LayerError> {
    let mut left = false;
    for Found { name, state } in children {
        let path = upper.join(name);
        match state {
            State::Gone { needed } => {
                let plain = std::fs::symlink_metadata(&path).at("look at", &path)?;
                if !needed || !is_whiteout(&path, &plain) {
                    std::fs::remove_file(&path).at("delete", &path)?;
                    if needed {
                        make_whiteout(&path)?;
                    }
                } else {
                    normalise_whiteout(&path)?;
                }
                left |= needed;
            }
            // Also where another name of the same file is new: that one is stored in full.
            State::File { same } => {
                if same {
                    std::fs::remove_file(&path).at("delete", &path)?;
                } else {
                    drop_marks(&path)?;
                    left = true;
                }
            }
            State::Directory { same, mtime, children, hidden } => {
                for name in &hidden {
                    make_whiteout(&path.join(name))?;
                }
                let filled = normalise_children(&path, children)? || !hidden.is_empty();
                if same && !filled {
                    std::fs::remove_dir(&path).at("delete", &path)?;
                    continue;
                }
                drop_marks(&path)?;
                let mtime = (mtime.0, u32::try_from(mtime.1).unwrap_or_default());
                rustix::fs::utimensat(CWD, &path, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)
                    .at("change the time of", &path)?;
                left = true;
            }
        }
    }
    Ok(left)
}

fn make_whiteout(path: &Path) -> Result<(), FileError> {
    super::directory::make_whiteout(CWD, path.as_os_str()).at("create", path)
}

/// The overlay links all its whiteouts to one device; on their own they can be deleted and kept.
fn normalise_whiteout(path: &Path) -> Result<(), FileError> {
    if std::fs::symlink_metadata(path).at("look at", path)?.nlink() == 1 {
        return Ok(());
    }
    std::fs::remove_file(path).at("delete", path)?;
    make_whiteout(path)
}

/// A path and what is known of it.
type Seen<'a> = (&'a Path, &'a Metadata);

/// Whether a directory, or anything else, has the owner, mode, device and capability of another.
fn same_attributes((one, is): Seen<'_>, (two, was): Seen<'_>, ownership: Ownership) -> Result<bool, FileError> {
    let plain = is.mode() == was.mode() && is.rdev() == was.rdev();
    if !plain || ownership.of(one, is)? != ownership.of(two, was)? {
        return Ok(false);
    }
    if !is.is_file() {
        return Ok(true);
    }
    let capability = |path: &Path| attribute(path, CAPABILITY).at("read an attribute of", path);
    Ok(capability(one)? == capability(two)?)
}

fn same_file((one, is): Seen<'_>, (two, was): Seen<'_>, ownership: Ownership) -> Result<bool, FileError> {
    if is.len() != was.len() || is.mtime() != was.mtime() {
        return Ok(false);
    }
    // A time without nanoseconds may have lost them in a tar stream.
    if is.mtime_nsec() != was.mtime_nsec() && is.mtime_nsec() != 0 && was.mtime_nsec() != 0 {
        return Ok(false);
    }
    if !same_attributes((one, is), (two, was), ownership)? {
        return Ok(false);
    }
    if is.is_symlink() {
        let target = |path: &Path| std::fs::read_link(path).at("read the link", path);
        return Ok(target(one)? == target(two)?);
    }
    if !is.is_file() {
        return Ok(true);
    }
    // A rewrite that kept size and time must not be lost.
    same_content(one, two)
}

fn same_content(one: &Path, two: &Path) -> Result<bool, FileError> {
    let mut one_file = open_file(one).at("open", one)?;
    let mut two_file = open_file(two).at("open", two)?;
    let (mut first, mut second) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let count = one_file.read(&mut first).at("read", one)?;
        if count == 0 {
            return Ok(two_file.read(&mut second).at("read", two)? == 0);
        }
        match two_file.read_exact(&mut second[..count]) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            other => other.at("read", two)?,
        }
        if first[..count] != second[..count] {
            return Ok(false);
        }
    }
}

/// Reads a mark of the overlay, whoever it was mounted by.
fn mark(path: &Path, name: &str) -> Result<Option<Vec<u8>>, FileError> {
    for space in ["trusted", "user"] {
        let name = format!("{space}.overlay.{name}");
        match attribute(path, name.as_bytes()) {
            Err(rustix::io::Errno::PERM) | Ok(None) => {}
            other => return other.at("read an attribute of", path),
        }
    }
    Ok(None)
}

/// A whiteout as an overlay inside an overlay writes it.
fn is_marked_whiteout(path: &Path, found: &Metadata) -> Result<bool, FileError> {
    Ok(found.is_file() && found.len() == 0 && mark(path, "whiteout")?.is_some())
}

/// Deletes all marks of the overlay: a directory form made from a tar stream has none.
fn drop_marks(path: &Path) -> Result<(), FileError> {
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::llistxattr(path, &mut names[..]) {
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(()),
        other => other.at("list the attributes of", path)?,
    };
    for name in names[..length].split(|&byte| byte == 0) {
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            rustix::fs::lremovexattr(path, name).at("delete an attribute of", path)?;
        }
    }
    Ok(())
}

fn unrepresentable(path: &Path, reason: String) -> LayerError {
    LayerError::Unrepresentable { path: String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned(), reason }
}
