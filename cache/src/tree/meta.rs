//! What is known of one file, and the digest of it (the "kiln.f.v1" encoding).

use std::collections::BTreeMap;

use kiln_oci::{Digest, Hasher};

/// The kinds of files that a layer can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A named pipe.
    Fifo,
}

impl Kind {
    /// Returns the letter that stands for the kind in encodings, which is tar's.
    pub fn code(self) -> u8 {
        match self {
            Self::File => b'0',
            Self::Symlink => b'2',
            Self::Char => b'3',
            Self::Block => b'4',
            Self::Directory => b'5',
            Self::Fifo => b'6',
        }
    }

    /// Returns the kind that [`Kind::code`] gives a letter.
    pub fn of_code(code: u8) -> Option<Self> {
        [Self::File, Self::Directory, Self::Symlink, Self::Char, Self::Block, Self::Fifo]
            .into_iter()
            .find(|kind| kind.code() == code)
    }
}

/// What is known of one file, whatever its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// What it is.
    pub kind: Kind,
    /// The permission, set-id and sticky bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// When it was changed: seconds since 1970, and nanoseconds.
    pub mtime: (i64, u32),
    /// The length of a regular file, 0 for others.
    pub size: u64,
    /// Where a symbolic link points.
    pub link: Vec<u8>,
    /// The major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes. The tar stream of a layer keeps `security.capability` alone.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The digest of a regular file's content.
    pub content: Option<Digest>,
}

impl Meta {
    /// Makes the metadata of something that belongs to root, at the epoch.
    pub fn new(kind: Kind, mode: u32) -> Self {
        Self {
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            size: 0,
            link: Vec::new(),
            device: (0, 0),
            xattrs: BTreeMap::new(),
            content: None,
        }
    }

    /// Makes the metadata of a directory that nobody described.
    pub fn directory() -> Self {
        Self::new(Kind::Directory, 0o755)
    }

    /// Whether this is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == Kind::Directory
    }
}

/// Returns the digest of a file by what it is: type, mode, owner, length, link, device, extended
/// attributes and content, but neither name nor times. For a directory, the directory alone.
pub fn file_digest(meta: &Meta) -> Digest {
    let mut hasher = Hasher::domain("kiln.f.v1");
    let regular = meta.kind == Kind::File;
    let mode = if meta.kind == Kind::Symlink { 0o777 } else { meta.mode & 0o7777 };
    hasher.update(&[meta.kind.code()]);
    for number in [mode, meta.uid, meta.gid] {
        hasher.update(&number.to_le_bytes());
    }
    hasher.number(if regular { meta.size } else { 0 });
    hasher.field(&meta.link);
    hasher.update(&meta.device.0.to_le_bytes());
    hasher.update(&meta.device.1.to_le_bytes());
    let xattrs = || meta.xattrs.iter().filter(|(name, _)| is_keyed(name));
    hasher.update(&(xattrs().count() as u32).to_le_bytes());
    for (name, value) in xattrs() {
        hasher.field(name).field(value);
    }
    if regular {
        hasher.digest(&meta.content.unwrap_or_else(|| Digest::of("")));
    }
    hasher.finish()
}

/// Labels and access lists of the host would make equal checkouts differ.
fn is_keyed(xattr: &[u8]) -> bool {
    xattr == b"security.capability" || !(xattr.starts_with(b"security.") || xattr.starts_with(b"system."))
}

/// Returns the digest of a directory and all below it, from the digest of the directory alone
/// and the names and digests of its children, which must be in the order of their names.
pub fn tree_digest<'a>(directory: &Digest, children: impl ExactSizeIterator<Item = (&'a [u8], Digest)>) -> Digest {
    let mut hasher = Hasher::domain("kiln.d.v1");
    hasher.digest(directory).number(children.len() as u64);
    for (name, digest) in children {
        hasher.field(name).digest(&digest);
    }
    hasher.finish()
}

/// One thing that a selection holds: its path in it, its kind, and its digest (of the whole tree
/// for a directory that was selected whole).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selected {
    /// The path, relative to what the selection was made in.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Its [`file_digest`] or tree digest.
    pub digest: Digest,
}

/// Returns the digest of a selection of files. Their order does not matter.
pub fn select_digest(items: &[Selected]) -> Digest {
    let mut sorted: Vec<&Selected> = items.iter().collect();
    sorted.sort();
    let mut hasher = Hasher::domain("kiln.s.v1");
    hasher.number(sorted.len() as u64);
    for item in sorted {
        hasher.field(&item.path);
        hasher.update(&[item.kind.code()]);
        hasher.digest(&item.digest);
    }
    hasher.finish()
}
