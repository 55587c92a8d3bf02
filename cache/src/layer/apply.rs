//! Turning the members of a tar stream into an index, and on demand into a directory.
//!
//! The directory starts empty and nobody else writes to it, so the tree in memory always knows
//! what is there. Links in the middle of a path are followed in that tree, clamped at its root;
//! the directory is only ever asked for paths without links, and refuses to follow any.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::sync::Arc;

use kiln_oci::Hasher;

use super::archive::{Archive, ArchiveError, Member};
use super::directory::{Directory, Xattrs};
use super::entry::is_kept;
use super::index::{Change, IndexEntry, Put};
use super::unpack::Limits;
use super::whiteout::{self, Name};
use crate::file::At;
use crate::layer::show;
use crate::tree::{Kind, Meta, components};

/// How many links the way to one file may go through.
const HOPS: usize = 255;

/// Reads all members of `archive` and returns the entries of the index. With `directory`, they
/// are written there.
pub(crate) fn apply(
    archive: &mut Archive<'_, impl Read>,
    directory: Option<Directory>,
    limits: &Limits,
) -> Result<Vec<IndexEntry>, ArchiveError> {
    let root = Node::new(Is::Implied);
    let mut layer = Applier { root, inodes: Vec::new(), directory, limits, buffer: vec![0; 128 << 10] };
    let mut count = 0;
    while let Some(member) = archive.next()? {
        count += 1;
        if count > limits.entries {
            return Err(ArchiveError::Limit { what: "entries", limit: limits.entries });
        }
        layer.add(member, archive)?;
    }
    layer.finish()
}

struct Applier<'a> {
    root: Node,
    inodes: Vec<Inode>,
    directory: Option<Directory>,
    limits: &'a Limits,
    buffer: Vec<u8>,
}

/// A name in the tree.
struct Node {
    is: Is,
    children: BTreeMap<Box<[u8]>, Node>,
    /// Whether what layers below have under this name is hidden.
    hides: bool,
}

/// What a name stands for.
#[derive(Clone, Copy, PartialEq)]
enum Is {
    /// Nothing: it only hides.
    Whiteout,
    /// A directory without an entry of its own.
    Implied,
    /// Anything with an entry: a number in `inodes`.
    Entry(usize),
}

struct Inode {
    meta: Meta,
    xattrs: Xattrs,
}

impl Node {
    fn new(is: Is) -> Self {
        Self { is, children: BTreeMap::new(), hides: false }
    }
}

type Path = Vec<Box<[u8]>>;
/// A directory, and a name in it.
type Place = (Path, Box<[u8]>);

impl Applier<'_> {
    fn add(&mut self, member: Member, archive: &mut impl Read) -> Result<(), ArchiveError> {
        let Some((parent, name)) = self.resolve(&member.name)? else {
            // The root itself: it is no part of a layer.
            return Ok(());
        };
        match whiteout::read(&name)? {
            Name::Ignored => return Ok(()),
            Name::Opaque => {
                self.directory_at(&parent)?.hides = true;
                return Ok(());
            }
            Name::Whiteout(hidden) => {
                let node = self.directory_at(&parent)?;
                node.children.entry(hidden.into()).or_insert_with(|| Node::new(Is::Whiteout)).hides = true;
                return Ok(());
            }
            Name::Plain => {}
        }
        if member.kind == b'1' {
            return self.add_link(member, parent, name);
        }
        let kind = Kind::of_code(member.kind);
        let kind = kind.ok_or_else(|| ArchiveError::Kind { path: show(&member.name), kind: member.kind.into() })?;
        if kind == Kind::Char && member.device == (0, 0) {
            // On disk it would be a whiteout.
            tracing::debug!("device 0:0 at {} is left out", show(&member.name));
            return Ok(());
        }
        let path = join(&parent, &name);
        let mut inode = Inode { meta: Meta::new(kind, member.mode), xattrs: member.xattrs };
        let meta = &mut inode.meta;
        (meta.uid, meta.gid, meta.mtime) = (member.uid, member.gid, member.mtime);
        meta.device = member.device;
        let kept = inode.xattrs.iter().filter(|(name, _)| is_kept(name));
        meta.xattrs = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
        let number = self.inodes.len();
        if kind == Kind::Directory {
            let node = self.directory_at(&parent)?;
            if let Some(node) = node.children.get_mut(&name)
                && let Is::Implied | Is::Entry(_) = node.is
            {
                let old = node.is;
                if matches!(old, Is::Implied) || matches!(old, Is::Entry(old) if self.inodes[old].meta.is_directory()) {
                    self.node_mut(&parent, &name).is = Is::Entry(number);
                    self.inodes.push(inode);
                    return Ok(());
                }
            }
        }
        self.make_room(&parent, &name, &path, kind)?;
        match kind {
            Kind::File => {
                let (size, content) = self.write_file(&path, &inode, archive, member.size)?;
                inode.meta.size = size;
                inode.meta.content = Some(content);
            }
            Kind::Directory => {
                if let Some(directory) = &mut self.directory {
                    directory.make_directory(&path)?;
                }
            }
            _ => {
                if kind == Kind::Symlink {
                    inode.meta.link = member.link;
                    inode.meta.mode = 0o777;
                    if inode.meta.link.is_empty() {
                        return Err(ArchiveError::Name { path: show(&path), reason: "a link that points nowhere" });
                    }
                }
                if let Some(directory) = &mut self.directory {
                    directory.make_special(&path, &inode.meta)?;
                }
            }
        }
        self.inodes.push(inode);
        self.node_mut(&parent, &name).is = Is::Entry(number);
        Ok(())
    }

    fn add_link(&mut self, member: Member, parent: Path, name: Box<[u8]>) -> Result<(), ArchiveError> {
        let path = join(&parent, &name);
        let bad = || ArchiveError::Link { path: show(&path), target: show(&member.link) };
        let (target_parent, target_name) = self.resolve(&member.link)?.ok_or_else(bad)?;
        let target = join(&target_parent, &target_name);
        let node = self.find(&target_parent).and_then(|node| node.children.get(&target_name)).ok_or_else(bad)?;
        let Is::Entry(number) = node.is else { return Err(bad()) };
        if self.inodes[number].meta.is_directory() {
            return Err(bad());
        }
        if target == path {
            return Ok(());
        }
        // Making room may delete a directory that the target is in.
        if target.strip_prefix(&path[..]).is_some_and(|rest| rest.starts_with(b"/")) {
            return Err(bad());
        }
        self.make_room(&parent, &name, &path, Kind::File)?;
        if let Some(directory) = &mut self.directory {
            let device = matches!(self.inodes[number].meta.kind, Kind::Char | Kind::Block);
            match directory.make_link(&target, &path) {
                // Without the right to make devices, there is nothing to link to.
                Err(error) if device && error.source.kind() == std::io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        self.node_mut(&parent, &name).is = Is::Entry(number);
        Ok(())
    }

    /// Deletes what is at a path, to put something of `kind` there. Makes the directories above.
    fn make_room(&mut self, parent: &Path, name: &[u8], path: &[u8], kind: Kind) -> Result<(), ArchiveError> {
        let node = self.directory_at(parent)?;
        let Some(old) = node.children.get_mut(name) else {
            node.children.insert(name.into(), Node::new(Is::Whiteout));
            return Ok(());
        };
        let was = std::mem::replace(&mut old.is, Is::Whiteout);
        old.children.clear();
        if was != Is::Whiteout {
            // A directory in place of a file is a new one, whatever is below the file.
            old.hides |= kind == Kind::Directory;
            if let Some(directory) = &mut self.directory {
                directory.remove(path)?;
            }
        }
        Ok(())
    }

    fn write_file(
        &mut self,
        path: &[u8],
        inode: &Inode,
        content: &mut impl Read,
        size: u64,
    ) -> Result<(u64, kiln_oci::Digest), ArchiveError> {
        let mut output = match &mut self.directory {
            Some(directory) => Some(directory.create_file(path)?),
            None => None,
        };
        let mut hasher = Hasher::new();
        while hasher.length() < size {
            let count = match content.read(&mut self.buffer) {
                Ok(0) => return Err(ArchiveError::Truncated(format!("`{}`", show(path)))),
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            hasher.update(&self.buffer[..count]);
            if let Some(output) = &mut output {
                output.write_all(&self.buffer[..count]).at("write", show(path))?;
            }
        }
        if let (Some(directory), Some(output)) = (&self.directory, &output) {
            directory.finish_file(path, output, &inode.meta, &inode.xattrs)?;
        }
        Ok((size, hasher.finish()))
    }

    /// Finds the directory that a path leads to, and its last name, which is not followed.
    /// `None` for the root.
    fn resolve(&self, path: &[u8]) -> Result<Option<Place>, ArchiveError> {
        let mut names: Vec<&[u8]> = Vec::new();
        for name in components(path) {
            match name {
                b"." => {}
                b".." => drop(names.pop()),
                _ => names.push(name),
            }
        }
        let Some(last) = names.pop() else { return Ok(None) };
        let mut way: VecDeque<Box<[u8]>> = names.into_iter().map(Box::from).collect();
        let mut parent = Path::new();
        let mut hops = 0;
        while let Some(name) = way.pop_front() {
            match &*name {
                b"." => continue,
                b".." => {
                    parent.pop();
                    continue;
                }
                _ => {}
            }
            let node = self.find(&parent).and_then(|node| node.children.get(&name));
            if let Some(Node { is: Is::Entry(number), .. }) = node
                && self.inodes[*number].meta.kind == Kind::Symlink
            {
                hops += 1;
                if hops > HOPS {
                    return Err(ArchiveError::Name { path: show(path), reason: "too many links on the way" });
                }
                let target = &self.inodes[*number].meta.link;
                if target.starts_with(b"/") {
                    parent.clear();
                }
                for name in components(target).collect::<Vec<_>>().into_iter().rev() {
                    way.push_front(name.into());
                }
                continue;
            }
            parent.push(name);
        }
        if parent.len() as u64 >= self.limits.depth {
            return Err(ArchiveError::Limit { what: "directories in one another", limit: self.limits.depth });
        }
        Ok(Some((parent, last.into())))
    }

    fn find(&self, path: &Path) -> Option<&Node> {
        path.iter().try_fold(&self.root, |node, name| node.children.get(name))
    }

    fn node_mut(&mut self, parent: &Path, name: &[u8]) -> &mut Node {
        let mut node = &mut self.root;
        for name in parent.iter().map(|name| &**name).chain([name]) {
            node = node.children.entry(name.into()).or_insert_with(|| Node::new(Is::Implied));
        }
        node
    }

    /// Returns the directory at a path, making it and those above where they are missing.
    fn directory_at(&mut self, path: &Path) -> Result<&mut Node, ArchiveError> {
        let mut node = &mut self.root;
        for (depth, name) in path.iter().enumerate() {
            let child = node.children.entry(name.clone()).or_insert_with(|| Node::new(Is::Whiteout));
            match child.is {
                Is::Whiteout => {
                    child.is = Is::Implied;
                    if let Some(directory) = &mut self.directory {
                        directory.make_directory(&path[..=depth].join(&b'/'))?;
                    }
                }
                Is::Entry(number) if !self.inodes[number].meta.is_directory() => {
                    let path = show(&path[..=depth].join(&b'/'));
                    return Err(ArchiveError::Name {
                        path,
                        reason: "it is no directory, but something is put into it",
                    });
                }
                Is::Implied | Is::Entry(_) => {}
            }
            node = child;
        }
        Ok(node)
    }

    /// Sets what is left of the directories, and writes the index.
    fn finish(mut self) -> Result<Vec<IndexEntry>, ArchiveError> {
        let root = std::mem::replace(&mut self.root, Node::new(Is::Implied));
        if root.hides
            && let Some(directory) = &mut self.directory
        {
            directory.set_opaque(b"")?;
        }
        let mut names = vec![0u32; self.inodes.len()];
        count(&root, &mut names);
        let mut links = vec![None; self.inodes.len()];
        let mut entries = Vec::new();
        self.finish_children(&root, &mut Vec::new(), &names, &mut links, &mut entries)?;
        Ok(entries)
    }

    fn finish_children(
        &mut self,
        node: &Node,
        path: &mut Vec<u8>,
        names: &[u32],
        links: &mut [Option<Arc<[u8]>>],
        entries: &mut Vec<IndexEntry>,
    ) -> Result<(), ArchiveError> {
        for (name, child) in &node.children {
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            let change = match child.is {
                Is::Whiteout => {
                    if let Some(directory) = &mut self.directory {
                        directory.make_whiteout(path)?;
                    }
                    Change::Whiteout
                }
                Is::Implied => {
                    Change::Put(Put { meta: Meta::directory(), implied: true, opaque: child.hides, links: None })
                }
                Is::Entry(number) => {
                    let meta = self.inodes[number].meta.clone();
                    let opaque = child.hides && meta.is_directory();
                    let several = names[number] > 1 && !meta.is_directory();
                    let links = several.then(|| links[number].get_or_insert_with(|| path[..].into()).clone());
                    Change::Put(Put { meta, implied: false, opaque, links })
                }
            };
            entries.push(IndexEntry { path: path[..].into(), change });
            self.finish_children(child, path, names, links, entries)?;
            let described = match child.is {
                Is::Implied => Some((Meta::directory(), Xattrs::new())),
                Is::Entry(number) if self.inodes[number].meta.is_directory() => {
                    let inode = &mut self.inodes[number];
                    Some((inode.meta.clone(), std::mem::take(&mut inode.xattrs)))
                }
                _ => None,
            };
            if let (Some(directory), Some((meta, xattrs))) = (&mut self.directory, described) {
                if child.hides {
                    directory.set_opaque(path)?;
                }
                directory.set_directory(path, &meta, &xattrs)?;
                directory.set_time(path, meta.mtime)?;
            }
            path.truncate(length);
        }
        Ok(())
    }
}

/// Counts the names of each inode.
fn count(node: &Node, names: &mut [u32]) {
    if let Is::Entry(number) = node.is {
        names[number] += 1;
    }
    for child in node.children.values() {
        count(child, names);
    }
}

fn join(parent: &Path, name: &[u8]) -> Vec<u8> {
    let mut path = parent.join(&b'/');
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}
