//! Build contexts written down as data, and made as folders or archives.
//!
//! The entries are those of the recorded builds in `testdata/vectors`: whoever writes one says
//! what differs from an ordinary file of root's with a fixed time, and nothing else.

mod archive;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lsetxattr, makedev, mknodat, utimensat,
};
use serde::{Deserialize, Deserializer};

pub use archive::{Compression, archive};

/// The time of everything in a folder that says no other, in seconds.
pub const FOLDER_TIME: i64 = 1_600_000_000;

/// The time of everything in an archive that says no other, in seconds.
pub const ARCHIVE_TIME: i64 = 1_000_000_000;

/// One thing in a context.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Entry {
    /// Its path in the context. Folders on the way are made.
    pub path: String,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// What a file contains; a text where entries are read.
    #[serde(deserialize_with = "text")]
    pub content: Vec<u8>,
    /// What a file contains, in hexadecimal digits.
    pub hex: Option<String>,
    /// How long a file is that consists of `fill`, again and again.
    pub size: Option<usize>,
    /// What a file of a given size consists of; `x` if nothing is said.
    pub fill: Option<String>,
    /// The target of a symbolic link, the path of the file of a hard link.
    pub link: String,
    /// Permission bits in octal digits.
    pub mode: Option<String>,
    /// The owner; root if nothing is said.
    pub uid: Option<u32>,
    /// The group; root's if nothing is said.
    pub gid: Option<u32>,
    /// Seconds since 1970.
    pub mtime: Option<i64>,
    /// The number of a device, `major:minor`; `1:3` if nothing is said.
    pub dev: Option<String>,
    /// Extended attributes; a value is text, or hexadecimal digits after `0x`.
    pub xattr: BTreeMap<String, String>,
    /// What is in an archive.
    pub entries: Vec<Entry>,
    /// How an archive is compressed.
    pub compression: Compression,
}

/// What an [`Entry`] is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A file.
    #[default]
    File,
    /// A folder.
    Dir,
    /// A symbolic link.
    Symlink,
    /// Another name of a file.
    Hardlink,
    /// A named pipe.
    Fifo,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A file that is a tar archive.
    Tar,
}

/// A change of a context.
#[derive(Debug, Clone, Deserialize)]
pub struct Edit {
    /// What is done.
    #[serde(default)]
    pub op: Operation,
    /// The new path, where something is renamed.
    #[serde(default)]
    pub to: String,
    /// What is written, or the path, mode or time to change.
    #[serde(flatten)]
    pub entry: Entry,
}

/// What an [`Edit`] does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Makes the entry in place of what is there.
    #[default]
    Write,
    /// Removes the path and what is below it.
    Remove,
    /// Gives the path another name.
    Rename,
    /// Sets the mode.
    Chmod,
    /// Sets the time.
    Touch,
}

/// Makes a folder with these entries, each with the times it says.
///
/// # Errors
/// When the machine does not let us, or an entry makes no sense.
pub fn make(root: &Path, entries: &[Entry]) -> io::Result<()> {
    fs::create_dir_all(root)?;
    set_mode(root, 0o755)?;
    for entry in entries {
        make_entry(root, entry)?;
    }
    let named: BTreeSet<&Path> = entries.iter().map(|entry| relative(&entry.path)).collect();
    let parents = named.iter().flat_map(|path| path.ancestors().skip(1));
    let unnamed: BTreeSet<&Path> = parents.filter(|path| !named.contains(path)).collect();
    // Children before parents: setting a time changes nothing above it, removing a name does.
    for parent in unnamed.iter().rev().filter(|path| !path.as_os_str().is_empty()) {
        set_mode(&root.join(parent), 0o755)?;
        set_time(&root.join(parent), FOLDER_TIME)?;
    }
    set_times(root, entries)?;
    set_time(root, FOLDER_TIME)
}

/// Changes a folder.
///
/// # Errors
/// As [`make`].
pub fn edit(root: &Path, edits: &[Edit]) -> io::Result<()> {
    for edit in edits {
        let path = root.join(relative(&edit.entry.path));
        match edit.op {
            Operation::Write => {
                if edit.entry.kind != Kind::Dir && path.symlink_metadata().is_ok() {
                    remove(&path)?;
                }
                make_entry(root, &edit.entry)?;
                set_times(root, std::slice::from_ref(&edit.entry))?;
            }
            Operation::Remove => remove(&path)?,
            Operation::Rename => fs::rename(&path, root.join(relative(&edit.to)))?,
            Operation::Chmod => set_mode(&path, edit.entry.mode_or("")?)?,
            Operation::Touch => set_time(&path, edit.entry.mtime.ok_or_else(|| nonsense("a touch without mtime"))?)?,
        }
    }
    Ok(())
}

impl Entry {
    /// Returns the content of a file.
    ///
    /// # Errors
    /// When it is written in a way that makes no sense.
    pub fn bytes(&self) -> io::Result<Vec<u8>> {
        if self.kind == Kind::Tar {
            return archive(&self.entries, self.compression);
        }
        match (&self.hex, self.size) {
            (Some(hex), _) => from_hex(hex),
            (None, Some(size)) => Ok(self.fill.as_deref().unwrap_or("x").bytes().cycle().take(size).collect()),
            (None, None) => Ok(self.content.clone()),
        }
    }

    fn mode_or(&self, default: &str) -> io::Result<u32> {
        let digits = self.mode.as_deref().unwrap_or(default);
        u32::from_str_radix(digits, 8).map_err(|_| nonsense(&format!("mode {digits:?}")))
    }

    fn device(&self) -> io::Result<(u32, u32)> {
        let text = self.dev.as_deref().unwrap_or("1:3");
        let numbers = text.split_once(':').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        numbers.ok_or_else(|| nonsense(&format!("device {text:?}")))
    }

    fn attributes(&self) -> io::Result<Vec<(&str, Vec<u8>)>> {
        let value = |text: &str| text.strip_prefix("0x").map_or_else(|| Ok(text.as_bytes().to_vec()), from_hex);
        self.xattr.iter().map(|(name, text)| Ok((&**name, value(text)?))).collect()
    }
}

fn make_entry(root: &Path, entry: &Entry) -> io::Result<()> {
    let path = root.join(relative(&entry.path));
    fs::create_dir_all(path.parent().ok_or_else(|| nonsense("an entry without a path"))?)?;
    match entry.kind {
        Kind::Dir => fs::create_dir_all(&path)?,
        Kind::Symlink => symlink(&entry.link, &path)?,
        Kind::Hardlink => return fs::hard_link(root.join(relative(&entry.link)), &path),
        Kind::Fifo => make_node(&path, FileType::Fifo, (0, 0))?,
        Kind::Char => make_node(&path, FileType::CharacterDevice, entry.device()?)?,
        Kind::Block => make_node(&path, FileType::BlockDevice, entry.device()?)?,
        Kind::File | Kind::Tar => {
            if path.symlink_metadata().is_ok() {
                fs::remove_file(&path)?;
            }
            fs::write(&path, entry.bytes()?)?;
        }
    }
    if entry.uid.is_some() || entry.gid.is_some() {
        lchown(&path, Some(entry.uid.unwrap_or(0)), Some(entry.gid.unwrap_or(0)))?;
    }
    if entry.kind != Kind::Symlink {
        set_mode(&path, entry.mode_or(if entry.kind == Kind::Dir { "755" } else { "644" })?)?;
    }
    for (name, value) in entry.attributes()? {
        lsetxattr(&path, name, &value, XattrFlags::empty())?;
    }
    Ok(())
}

fn make_node(path: &Path, kind: FileType, (major, minor): (u32, u32)) -> io::Result<()> {
    Ok(mknodat(CWD, path, kind, Mode::from_raw_mode(0o644), makedev(major, minor))?)
}

fn set_times(root: &Path, entries: &[Entry]) -> io::Result<()> {
    for entry in entries.iter().rev().filter(|entry| entry.kind != Kind::Hardlink) {
        let path = root.join(relative(&entry.path));
        if path.symlink_metadata().is_ok() {
            set_time(&path, entry.mtime.unwrap_or(FOLDER_TIME))?;
        }
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn set_time(path: &Path, seconds: i64) -> io::Result<()> {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn remove(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

fn relative(path: &str) -> &Path {
    Path::new(path.trim_matches('/'))
}

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    String::deserialize(deserializer).map(String::into_bytes)
}

fn from_hex(digits: &str) -> io::Result<Vec<u8>> {
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.as_bytes().chunks(2).map(pair).collect::<Option<_>>().ok_or_else(|| nonsense(&format!("digits {digits:?}")))
}

fn nonsense(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("the context makes no sense: {what}"))
}
