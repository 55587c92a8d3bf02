//! The index of a layer: every entry with its metadata and content digest, in one file.
//!
//! ```text
//! "kilnidx1" ‖ diff id (32) ‖ tar size ‖ number of entries ‖ entries ‖ sha256 of all before (32)
//! entry = bytes shared with the path before ‖ rest of the path ‖ flags ‖ metadata
//! ```
//! Numbers are little-endian. A file that does not read back exactly is no index.

use std::collections::BTreeMap;
use std::sync::Arc;

use kiln_oci::Digest;

use crate::tree::{Kind, Meta, split, walk_order};

const MAGIC: &[u8; 8] = b"kilnidx1";

/// What a layer holds, in the order of a walk.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerIndex {
    diff_id: Digest,
    size: u64,
    /// Sorted by [`walk_order`], each path once.
    entries: Vec<IndexEntry>,
}

/// One entry of a layer.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexEntry {
    /// Its path: relative, without a slash at the end.
    pub path: Box<[u8]>,
    /// What happens there.
    pub change: Change,
}

/// What a layer does at a path.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// It takes away what layers below have there.
    Whiteout,
    /// It puts something there.
    Put(Put),
}

/// Something that a layer puts at a path.
#[derive(Debug, Clone, PartialEq)]
pub struct Put {
    /// What it is.
    pub meta: Meta,
    /// A directory that has no entry of its own: it is only there because of what is in it, and
    /// leaves a directory of layers below as it is.
    pub implied: bool,
    /// A directory that hides what layers below have in it.
    pub opaque: bool,
    /// For a file with several names in this layer: the first of them.
    pub links: Option<Arc<[u8]>>,
}

impl LayerIndex {
    /// Makes an index; `size` is the length of the tar stream.
    pub fn new(diff_id: Digest, size: u64, mut entries: Vec<IndexEntry>) -> Self {
        entries.sort_by(|one, two| walk_order(&one.path, &two.path));
        Self { diff_id, size, entries }
    }

    /// Returns the identity of the layer.
    pub fn diff_id(&self) -> Digest {
        self.diff_id
    }

    /// Returns the length of the tar stream.
    pub fn tar_size(&self) -> u64 {
        self.size
    }

    /// Returns the entries, in the order of a walk.
    pub fn entries(&self) -> &[IndexEntry] {
        &self.entries
    }

    /// Returns the entry at a path.
    pub fn get(&self, path: &[u8]) -> Option<&Change> {
        let found = self.entries.binary_search_by(|entry| walk_order(&entry.path, path)).ok()?;
        Some(&self.entries[found].change)
    }

    /// Returns the path of the regular file whose content is so many in the layer.
    pub(crate) fn path_of_content(&self, number: usize) -> Option<&[u8]> {
        let own = |entry: &&IndexEntry| match &entry.change {
            Change::Put(put) => {
                put.meta.kind == Kind::File && put.links.as_ref().is_none_or(|first| **first == *entry.path)
            }
            Change::Whiteout => false,
        };
        self.entries.iter().filter(own).nth(number).map(|entry| &*entry.path)
    }

    /// Whether some directory is only implied, so that the directory form made from this layer
    /// alone may give it another mode and owner than layers below.
    pub fn has_implied(&self) -> bool {
        self.entries.iter().any(|entry| matches!(&entry.change, Change::Put(put) if put.implied))
    }

    /// Returns the bytes to store.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(self.diff_id.as_bytes());
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&(self.entries.len() as u64).to_le_bytes());
        let mut before: &[u8] = b"";
        for entry in &self.entries {
            let shared = before.iter().zip(&*entry.path).take_while(|(one, two)| one == two).count();
            before = &entry.path;
            number(&mut out, shared as u64);
            field(&mut out, &entry.path[shared..]);
            let Change::Put(put) = &entry.change else {
                out.push(WHITEOUT);
                continue;
            };
            let meta = &put.meta;
            let flag = |set: bool, flag: u8| if set { flag } else { 0 };
            out.push(flag(put.implied, IMPLIED) | flag(put.opaque, OPAQUE) | flag(put.links.is_some(), LINKS));
            out.push(meta.kind.code());
            for value in [meta.mode.into(), meta.uid.into(), meta.gid.into(), zigzag(meta.mtime.0), meta.mtime.1.into()]
            {
                number(&mut out, value);
            }
            match meta.kind {
                Kind::File => {
                    number(&mut out, meta.size);
                    out.extend_from_slice(meta.content.unwrap_or_else(|| Digest::of("")).as_bytes());
                }
                Kind::Symlink => field(&mut out, &meta.link),
                Kind::Char | Kind::Block => {
                    number(&mut out, meta.device.0.into());
                    number(&mut out, meta.device.1.into());
                }
                Kind::Directory | Kind::Fifo => {}
            }
            number(&mut out, meta.xattrs.len() as u64);
            for (name, value) in &meta.xattrs {
                field(&mut out, name);
                field(&mut out, value);
            }
            if let Some(links) = &put.links {
                field(&mut out, links);
            }
        }
        let checksum = Digest::of(&out);
        out.extend_from_slice(checksum.as_bytes());
        out
    }

    /// Reads what [`LayerIndex::encode`] wrote; `None` when anything about it is wrong.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, checksum) = bytes.split_last_chunk::<32>()?;
        if Digest::of(body).as_bytes() != checksum {
            return None;
        }
        let mut from = Reader(body);
        if from.array::<8>()? != *MAGIC {
            return None;
        }
        let diff_id = Digest::from_bytes(from.array()?);
        let size = u64::from_le_bytes(from.array()?);
        let count = u64::from_le_bytes(from.array()?);
        let mut entries: Vec<IndexEntry> = Vec::with_capacity(usize::try_from(count).ok()?.min(body.len() / 3));
        for _ in 0..count {
            let shared = usize::try_from(from.number()?).ok()?;
            let before: &[u8] = entries.last().map_or(b"", |entry| &entry.path);
            let path = [before.get(..shared)?, from.field()?].concat();
            if path.is_empty() || !entries.is_empty() && walk_order(before, &path).is_ge() {
                return None;
            }
            let change = from.change()?;
            entries.push(IndexEntry { path: path.into(), change });
        }
        from.0.is_empty().then_some(Self { diff_id, size, entries })
    }
}

const WHITEOUT: u8 = 1;
const IMPLIED: u8 = 2;
const OPAQUE: u8 = 4;
const LINKS: u8 = 8;

fn zigzag(number: i64) -> u64 {
    (number.cast_unsigned() << 1) ^ (number >> 63).cast_unsigned()
}

/// Seven bits in each byte, the lowest first; the eighth says that more follow.
fn number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn field(out: &mut Vec<u8>, bytes: &[u8]) {
    number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*array)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array::<1>()?;
            let bits = u64::from(byte & 0x7f);
            number |= bits << shift;
            if bits << shift >> shift != bits {
                return None;
            }
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn small(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    fn field(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (field, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(field)
    }

    fn change(&mut self) -> Option<Change> {
        let [flags] = self.array::<1>()?;
        if flags == WHITEOUT {
            return Some(Change::Whiteout);
        }
        let [kind] = self.array::<1>()?;
        let mut meta = Meta::new(Kind::of_code(kind)?, self.small()?);
        meta.uid = self.small()?;
        meta.gid = self.small()?;
        let seconds = self.number()?;
        meta.mtime.0 = (seconds >> 1).cast_signed() ^ -(seconds & 1).cast_signed();
        meta.mtime.1 = self.small()?;
        match meta.kind {
            Kind::File => {
                meta.size = self.number()?;
                meta.content = Some(Digest::from_bytes(self.array()?));
            }
            Kind::Symlink => meta.link = self.field()?.to_vec(),
            Kind::Char | Kind::Block => meta.device = (self.small()?, self.small()?),
            Kind::Directory | Kind::Fifo => {}
        }
        let mut xattrs = BTreeMap::new();
        for _ in 0..self.number()? {
            xattrs.insert(self.field()?.to_vec(), self.field()?.to_vec());
        }
        meta.xattrs = xattrs;
        let links = if flags & LINKS != 0 { Some(self.field()?.into()) } else { None };
        Some(Change::Put(Put { meta, implied: flags & IMPLIED != 0, opaque: flags & OPAQUE != 0, links }))
    }
}

/// Collects the entries of an index that come in the order of a walk, and adds the directories
/// that were left out.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    entries: Vec<IndexEntry>,
}

/// Why an entry cannot come after the one before.
#[derive(Debug)]
pub(crate) enum Misplaced {
    /// It should have come earlier.
    Order,
    /// It is in something that is no directory.
    NoDirectory,
}

impl Builder {
    /// Adds an entry. Returns the directories that it implies, outermost first.
    pub(crate) fn push(&mut self, path: &[u8], change: Change) -> Result<Vec<Box<[u8]>>, Misplaced> {
        let mut implied: Vec<Box<[u8]>> = Vec::new();
        if let Some(last) = self.entries.last() {
            if walk_order(&last.path, path).is_ge() {
                return Err(Misplaced::Order);
            }
            let is_directory = matches!(&last.change, Change::Put(put) if put.meta.is_directory());
            if !is_directory && is_in(path, &last.path) {
                return Err(Misplaced::NoDirectory);
            }
        }
        let mut parent = split(path).0;
        while !parent.is_empty() && !self.is_open(parent) {
            implied.push(parent.into());
            parent = split(parent).0;
        }
        implied.reverse();
        for directory in &implied {
            let put = Put { meta: Meta::directory(), implied: true, opaque: false, links: None };
            self.entries.push(IndexEntry { path: directory.clone(), change: Change::Put(put) });
        }
        self.entries.push(IndexEntry { path: path.into(), change });
        Ok(implied)
    }

    /// Whether a directory is one of those that the last entry is in, or is the last entry.
    fn is_open(&self, directory: &[u8]) -> bool {
        self.entries.last().is_some_and(|last| *last.path == *directory || is_in(&last.path, directory))
    }

    /// Makes `path` another name of the file at `first`, and returns its metadata. `None` when
    /// there is no such file.
    pub(crate) fn link(&mut self, first: &[u8]) -> Option<Put> {
        let found = self.entries.binary_search_by(|entry| walk_order(&entry.path, first)).ok()?;
        let Change::Put(put) = &mut self.entries[found].change else { return None };
        if put.meta.is_directory() {
            return None;
        }
        put.links.get_or_insert_with(|| first.into());
        Some(put.clone())
    }

    /// Ends the index. `contents` are the digests of the regular files, in order, each once however many names it has.
    pub(crate) fn finish(self, diff_id: Digest, size: u64, contents: &[Digest]) -> LayerIndex {
        let mut index = LayerIndex { diff_id, size, entries: self.entries };
        let mut contents = contents.iter();
        for at in 0..index.entries.len() {
            let IndexEntry { path, change: Change::Put(put) } = &index.entries[at] else { continue };
            let content = match &put.links {
                _ if put.meta.kind != Kind::File => continue,
                // Its first name comes first.
                Some(first) if **first != **path => match index.get(first) {
                    Some(Change::Put(first)) => first.meta.content,
                    _ => None,
                },
                _ => contents.next().copied(),
            };
            if let Change::Put(put) = &mut index.entries[at].change {
                put.meta.content = content;
            }
        }
        index
    }
}

/// Whether a path is below a directory.
fn is_in(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.first() == Some(&b'/'))
}
