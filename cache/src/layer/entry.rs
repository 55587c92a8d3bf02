//! The entries that a new layer is made of.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::Arc;

use kiln_oci::Digest;

use crate::tree::{Kind, Meta};

/// Something that a new layer holds, or takes away.
#[derive(Debug)]
pub struct NewEntry {
    /// The path: relative, names separated by single slashes, none at the end.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: NewKind,
    /// The permission, set-id and sticky bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When it was changed: seconds since 1970, and nanoseconds. A tar stream keeps the seconds.
    pub mtime: (i64, u32),
    /// Extended attributes. A tar stream keeps `security.capability`, the index `user.*` too.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What an entry of a new layer is.
#[derive(Debug)]
pub enum NewKind {
    /// A regular file.
    File {
        /// Its length.
        size: u64,
        /// Its bytes.
        content: Content,
    },
    /// A directory.
    Directory,
    /// A symbolic link, and where it points.
    Symlink(Vec<u8>),
    /// Another name for a file that came earlier in this layer, given by path.
    Hardlink(Vec<u8>),
    /// A character device: major and minor number.
    Char(u32, u32),
    /// A block device: major and minor number.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
    /// Nothing: what layers below have there is taken away. Mode, owner and time do not count.
    Whiteout,
}

/// The bytes of a regular file.
pub enum Content {
    /// Bytes in memory.
    Bytes(Arc<[u8]>),
    /// A file that is opened when its turn comes.
    Open {
        /// The digest of its bytes, where that is known. The layer is not made when it is another.
        digest: Option<Digest>,
        /// Opens it.
        open: Box<dyn FnOnce() -> io::Result<File> + Send>,
    },
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
            Self::Open { .. } => f.write_str("Open(…)"),
        }
    }
}

impl Content {
    /// A file of which nothing is known yet.
    pub fn open(open: impl FnOnce() -> io::Result<File> + Send + 'static) -> Self {
        Self::Open { digest: None, open: Box::new(open) }
    }
}

impl NewEntry {
    /// Makes an entry that belongs to root, at the epoch, without extended attributes.
    pub fn new(path: impl Into<Vec<u8>>, kind: NewKind, mode: u32) -> Self {
        Self { path: path.into(), kind, mode, uid: 0, gid: 0, mtime: (0, 0), xattrs: BTreeMap::new() }
    }

    /// Returns what an index says of the entry; `None` for whiteouts and hard links. Regular
    /// files get `content`.
    pub(crate) fn meta(&self, content: Option<Digest>) -> Option<Meta> {
        let kind = match &self.kind {
            NewKind::File { .. } => Kind::File,
            NewKind::Directory => Kind::Directory,
            NewKind::Symlink(_) => Kind::Symlink,
            NewKind::Char(..) => Kind::Char,
            NewKind::Block(..) => Kind::Block,
            NewKind::Fifo => Kind::Fifo,
            NewKind::Hardlink(_) | NewKind::Whiteout => return None,
        };
        let mut meta = Meta::new(kind, self.mode & 0o7777);
        (meta.uid, meta.gid) = (self.uid, self.gid);
        meta.mtime = (self.mtime.0, 0);
        meta.content = content;
        match &self.kind {
            NewKind::File { size, .. } => meta.size = *size,
            NewKind::Symlink(target) => meta.link = target.clone(),
            NewKind::Char(major, minor) | NewKind::Block(major, minor) => meta.device = (*major, *minor),
            _ => {}
        }
        if kind != Kind::Symlink {
            let kept = self.xattrs.iter().filter(|(name, _)| is_kept(name));
            meta.xattrs.extend(kept.map(|(name, value)| (name.clone(), value.clone())));
        }
        if let Some(capability) = self.capability() {
            meta.xattrs.insert(CAPABILITY.to_vec(), capability);
        }
        Some(meta)
    }

    /// Returns the file capability in the form that layers keep: one that was set in a user
    /// namespace for its root is one for root.
    pub(crate) fn capability(&self) -> Option<Vec<u8>> {
        let mut value = self.xattrs.get(CAPABILITY)?.clone();
        // The highest byte of the first number is the revision; revision 3 ends with the id of root.
        if value.len() == 24 && value[3] == 3 && value[20..] == [0; 4] {
            value.truncate(20);
            value[3] = 2;
        }
        Some(value)
    }
}

/// Whether the store keeps an extended attribute: the file capability, and what users set.
/// `user.overlay.*` rules overlays, and `user.kiln.*` is what kiln notes beside files.
pub fn is_kept(name: &[u8]) -> bool {
    let is_ours = name.starts_with(b"user.overlay.") || name.starts_with(b"user.kiln.");
    // A PAX record ends its key with the first equals sign.
    name == CAPABILITY || name.starts_with(b"user.") && !is_ours && !name.contains(&b'=')
}

/// What file systems call a file capability.
pub(crate) const CAPABILITY: &[u8] = b"security.capability";
