//! The file system of a stage while files are copied into it: the chain below, which does
//! not change, and the changes, which become the layer.

use std::collections::BTreeMap;

use kiln_cache::layer::is_kept;
use kiln_cache::tree::{Node, Tree};
use kiln_oci::Digest;

use super::files::{self, FileKind, FileMeta, Inode, MAX_DEPTH, Name, Origin, ResolveError};
use super::layer_files;

/// A stage's file system: what is below, and what is new.
pub struct Overlay<'a> {
    chain: &'a [Digest],
    base: &'a Tree,
    root: Change,
    now: (i64, u32),
}

/// What is new at one path.
#[derive(Debug, Default)]
struct Change {
    /// The file as it is now, where it differs from below.
    entry: Option<Entry>,
    /// Nothing of what is below shows through under this path.
    is_fresh: bool,
    children: BTreeMap<Name, Change>,
}

/// A file that was put.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What it is.
    pub meta: FileMeta,
    /// Where its bytes are.
    pub origin: Origin,
    /// The sha256 of its bytes, where known.
    pub content: Option<Digest>,
    /// Names put with the same number share an inode.
    pub link_group: Option<LinkGroup>,
}

/// The number of an inode that has several names: of the copy it came with, and within that.
pub type LinkGroup = (u32, Inode);

impl Entry {
    /// A directory.
    pub fn directory(meta: FileMeta) -> Self {
        Self { meta, origin: Origin::None, content: None, link_group: None }
    }
}

/// What is at a path.
#[derive(Debug, Clone)]
pub struct Found {
    /// The file.
    pub meta: FileMeta,
    /// Where its bytes are.
    pub origin: Origin,
    /// The sha256 of its bytes, where known.
    pub content: Option<Digest>,
}

/// Why a path could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OverlayError {
    /// A file stands where a directory is needed.
    #[error("mkdir {0}: not a directory")]
    NotADirectory(String),
    /// A cycle of symlinks.
    #[error("too many links in {0}")]
    TooManyLinks(String),
    /// Deeper than a layer may be: others could not unpack it.
    #[error("{0}: directories are nested more than {MAX_DEPTH} deep")]
    TooDeep(String),
    /// A hard link to what is not there.
    #[error("link to {0}: no such file")]
    NoTarget(String),
}

/// Owner and mode of directories that are made.
#[derive(Debug, Clone, Copy)]
pub struct NewDirectory {
    /// Permission bits.
    pub mode: u32,
    /// User and group; without, what the kernel gives root's new directories.
    pub owner: Option<(u32, u32)>,
}

impl NewDirectory {
    /// What a kernel makes in a directory: one whose group is inherited hands the group and that bit on.
    fn inside(self, parent: &FileMeta, now: (i64, u32)) -> FileMeta {
        const SET_GROUP: u32 = 0o2000;
        let inherited = parent.mode & SET_GROUP;
        let mut meta = FileMeta::directory(self.mode | inherited, now);
        let group = if inherited == 0 { 0 } else { parent.gid };
        (meta.uid, meta.gid) = self.owner.unwrap_or((0, group));
        meta
    }
}

/// Whether a new file has the content of the one below it, which has equal metadata.
pub type SameContent<'a, E> = &'a mut dyn FnMut(&[Name], &Entry, &Node) -> Result<bool, E>;

impl<'a> Overlay<'a> {
    /// Starts with no changes to the file system `base` of the layers `chain`. `now` is the time of the build.
    pub fn new(chain: &'a [Digest], base: &'a Tree, now: (i64, u32)) -> Self {
        Self { chain, base, root: Change::default(), now }
    }

    /// Returns the time of the build.
    pub fn now(&self) -> (i64, u32) {
        self.now
    }

    /// Returns what is at a physical path.
    pub fn find(&self, path: &[Name]) -> Option<Found> {
        let mut change = Some(&self.root);
        let mut below = Some(self.base.root());
        for name in path {
            let is_fresh = change.is_some_and(|change| change.is_fresh);
            // A path below something that is no directory does not exist.
            if let Some(entry) = change.and_then(|change| change.entry.as_ref())
                && entry.meta.kind != FileKind::Directory
            {
                return None;
            }
            below = below.filter(|_| !is_fresh).and_then(|node| node.children.get(name));
            change = change.and_then(|change| change.children.get(name));
            if change.is_some_and(|change| change.is_fresh) {
                below = None;
            }
        }
        match (change.and_then(|change| change.entry.as_ref()), below) {
            (Some(entry), _) => {
                Some(Found { meta: entry.meta.clone(), origin: entry.origin.clone(), content: entry.content })
            }
            (None, Some(node)) => Some(Found {
                meta: layer_files::meta(node),
                origin: layer_files::origin(self.chain, node, &files::join(path)),
                content: node.meta.content,
            }),
            (None, None) if path.is_empty() => {
                Some(Found { meta: FileMeta::directory(0o755, (0, 0)), origin: Origin::None, content: None })
            }
            (None, None) => None,
        }
    }

    /// Resolves a path inside this file system; what is missing is kept as written.
    pub fn resolve(&self, path: &[u8], follow_last: bool) -> Result<Vec<Name>, OverlayError> {
        files::resolve(path, follow_last, |at| {
            self.find(at).filter(|found| found.meta.kind == FileKind::Symlink).map(|found| found.meta.target)
        })
        .map_err(|ResolveError::TooManyLinks| OverlayError::TooManyLinks(String::from_utf8_lossy(path).into_owned()))
    }

    /// Makes a directory and every missing one above it; existing ones stay as they are.
    /// Returns the physical path.
    ///
    /// # Errors
    /// When something that is not a directory is in the way, or it is too deep.
    pub fn make_directories(&mut self, path: &[u8], new: NewDirectory) -> Result<Vec<Name>, OverlayError> {
        let physical = self.resolve(path, true)?;
        let mut parent = self.find(&[]).map_or_else(|| FileMeta::directory(0o755, self.now), |found| found.meta);
        for depth in 1..=physical.len() {
            let at = &physical[..depth];
            parent = match self.find(at) {
                Some(found) if found.meta.kind == FileKind::Directory => found.meta,
                Some(_) => return Err(OverlayError::NotADirectory(files::display(at))),
                None => {
                    let meta = new.inside(&parent, self.now);
                    self.put(at, Entry::directory(meta.clone()))?;
                    meta
                }
            };
        }
        Ok(physical)
    }

    /// Puts a file, replacing what was there with everything below it. The directory above
    /// gets the time of the build, as it does when a name is added to a real one.
    ///
    /// # Errors
    /// When it is too deep.
    pub fn put(&mut self, path: &[Name], entry: Entry) -> Result<(), OverlayError> {
        let Some((_, parent)) = path.split_last() else { return Ok(()) };
        if parent.len() >= MAX_DEPTH {
            return Err(OverlayError::TooDeep(files::shorten(path)));
        }
        let now = self.now;
        self.update(parent, |meta| meta.mtime = now);
        let change = self.change(path);
        *change = Change { entry: Some(entry), is_fresh: true, children: BTreeMap::new() };
        Ok(())
    }

    /// Changes the metadata of something that exists.
    pub fn update(&mut self, path: &[Name], edit: impl FnOnce(&mut FileMeta)) {
        let Some(found) = self.find(path) else { return };
        let change = self.change(path);
        let entry = change.entry.get_or_insert_with(|| Entry {
            meta: found.meta,
            origin: found.origin,
            content: None,
            link_group: None,
        });
        edit(&mut entry.meta);
    }

    /// Gives a file that was put here, or one from below, one more name; returns the number of its
    /// group, which one from below does not have. Directories have one name only.
    ///
    /// # Errors
    /// When there is nothing at `target`, or a directory, or the new name is too deep.
    pub fn link(&mut self, target: &[Name], path: &[Name], number: u32) -> Result<Option<LinkGroup>, OverlayError> {
        let Some(found) = self.find(target).filter(|found| found.meta.kind != FileKind::Directory) else {
            return Err(OverlayError::NoTarget(files::display(target)));
        };
        let mut entry = Entry { meta: found.meta, origin: found.origin, content: None, link_group: None };
        if let Some(first) = self.put_entry(target) {
            // The number of a group that copies cannot have: those stay below 2^32 inodes of one match.
            let group = *first.link_group.get_or_insert((u32::MAX, (0, u64::from(number))));
            entry = Entry { link_group: Some(group), ..first.clone() };
        }
        let group = entry.link_group;
        self.put(path, entry)?;
        Ok(group)
    }

    /// Changes the metadata of a file with several names, at one of them; whether that is one still.
    pub fn update_linked(&mut self, path: &[Name], group: LinkGroup, edit: impl FnOnce(&mut FileMeta)) -> bool {
        match self.put_entry(path) {
            Some(entry) if entry.link_group == Some(group) => {
                edit(&mut entry.meta);
                true
            }
            _ => false,
        }
    }

    /// Returns what was put at a path.
    fn put_entry(&mut self, path: &[Name]) -> Option<&mut Entry> {
        let change = path.iter().try_fold(&mut self.root, |change, name| change.children.get_mut(name))?;
        change.entry.as_mut()
    }

    fn change(&mut self, path: &[Name]) -> &mut Change {
        let mut change = &mut self.root;
        for name in path {
            let is_fresh = change.is_fresh;
            change = change.children.entry(name.clone()).or_insert_with(|| Change {
                // Below a fresh directory there is nothing either.
                is_fresh,
                ..Change::default()
            });
        }
        change
    }

    /// Returns what was changed, in the order of a layer: by path component, a directory
    /// before its children, and with every directory above a change.
    ///
    /// An entry that is equal to what is below is left out (spec: layer-tar.md §1.3), where the
    /// attributes that users set count, too: the steps above find them in the layer. `same`
    /// decides for regular files whose metadata are equal whether the contents are, too.
    ///
    /// # Errors
    /// Those of `same`.
    pub fn changes<E>(&self, same: SameContent<E>) -> Result<Vec<(Vec<Name>, Entry)>, E> {
        let mut found = Vec::new();
        let mut path = Vec::new();
        self.collect(&self.root, Some(self.base.root()), &mut path, &mut found, same)?;
        Ok(found)
    }

    fn collect<E>(
        &self,
        change: &Change,
        below: Option<&Node>,
        path: &mut Vec<Name>,
        found: &mut Vec<(Vec<Name>, Entry)>,
        same: SameContent<E>,
    ) -> Result<(), E> {
        for (name, child) in &change.children {
            let node = below.and_then(|node| node.children.get(name));
            path.push(name.clone());
            let place = found.len();
            let is_changed = match (&child.entry, node) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some(entry), Some(node)) => !self.is_equal(path, entry, node, same)?,
            };
            self.collect(child, node.filter(|_| !child.is_fresh), path, found, same)?;
            // A directory that did not change itself is listed when something below it did.
            if is_changed || found.len() > place {
                let entry = child.entry.clone().or_else(|| node.map(|node| self.entry_of(path, node)));
                if let Some(entry) = entry {
                    found.insert(place, (path.clone(), entry));
                }
            }
            path.pop();
        }
        Ok(())
    }

    fn is_equal<E>(&self, path: &[Name], entry: &Entry, node: &Node, same: SameContent<E>) -> Result<bool, E> {
        let below = layer_files::meta(node);
        let new = &entry.meta;
        if new.kind != below.kind
            || new.mode != below.mode && new.kind != FileKind::Symlink
            || (new.uid, new.gid) != (below.uid, below.gid)
            || new.device != below.device
            || !kept(new).eq(kept(&below))
        {
            return Ok(false);
        }
        match new.kind {
            FileKind::Directory => Ok(true),
            _ if new.mtime.0 != below.mtime.0 => Ok(false),
            FileKind::Symlink => Ok(new.target == below.target),
            FileKind::Regular if new.size != below.size => Ok(false),
            FileKind::Regular => same(path, entry, node),
            FileKind::Char | FileKind::Block | FileKind::Fifo => Ok(true),
        }
    }

    fn entry_of(&self, path: &[Name], node: &Node) -> Entry {
        Entry {
            meta: layer_files::meta(node),
            origin: layer_files::origin(self.chain, node, &files::join(path)),
            content: None,
            link_group: None,
        }
    }
}

/// The attributes that a layer keeps.
fn kept(meta: &FileMeta) -> impl Iterator<Item = (&Vec<u8>, &Vec<u8>)> {
    meta.xattrs.iter().filter(|(name, _)| is_kept(name))
}
