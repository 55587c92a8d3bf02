//! Trees: the file system that a chain of layers makes, seen through the layers' indexes.
//!
//! Nothing is read but indexes. Each directory has a digest over all below it, so two trees, or
//! a tree and a subtree, are compared by one digest.

mod meta;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use kiln_oci::Digest;

pub use meta::{Kind, Meta, Selected, file_digest, select_digest, tree_digest};

use crate::layer::{Change, LayerError, LayerIndex, Put};
use crate::{Store, layer};

/// The file system that a chain of layers makes.
#[derive(Debug, Clone)]
pub struct Tree {
    root: Node,
}

/// A file or directory of a [`Tree`].
#[derive(Debug, Clone)]
pub struct Node {
    /// What is known of it.
    pub meta: Meta,
    /// What is in it, by name; empty for all but directories.
    pub children: BTreeMap<Box<[u8]>, Node>,
    /// The number of the layer that put it there last, as given to [`Tree::apply`].
    pub layer: usize,
    /// The names that are one file: the path of the first of them in that layer. `None` for a
    /// file with one name. Equal layer and equal path mean the same file.
    pub links: Option<Arc<[u8]>>,
    digest: OnceLock<Digest>,
}

impl Node {
    fn new(meta: Meta, layer: usize, links: Option<Arc<[u8]>>) -> Self {
        Self { meta, children: BTreeMap::new(), layer, links, digest: OnceLock::new() }
    }

    /// Returns the digest: of the whole tree for a directory, of the file for others.
    pub fn digest(&self) -> Digest {
        *self.digest.get_or_init(|| {
            let own = file_digest(&self.meta);
            if !self.meta.is_directory() {
                return own;
            }
            tree_digest(&own, self.children.iter().map(|(name, child)| (&**name, child.digest())))
        })
    }

    /// Returns where in its layer the bytes of this file are, which stands at `path` in the tree.
    pub fn place<'a>(&'a self, path: &'a [u8]) -> &'a [u8] {
        self.links.as_deref().unwrap_or(path)
    }

    /// Returns what stands at `path` below this node. No symbolic link is followed.
    pub fn get(&self, path: impl AsRef<[u8]>) -> Option<&Node> {
        components(path.as_ref()).try_fold(self, |node, name| node.children.get(name))
    }

    /// Calls `visit` for everything below this node, a directory before what is in it, with
    /// paths relative to it.
    ///
    /// # Errors
    /// When `visit` fails.
    pub fn walk<E>(&self, visit: &mut impl FnMut(&[u8], &Node) -> Result<(), E>) -> Result<(), E> {
        fn descend<E>(
            node: &Node,
            path: &mut Vec<u8>,
            visit: &mut impl FnMut(&[u8], &Node) -> Result<(), E>,
        ) -> Result<(), E> {
            for (name, child) in &node.children {
                let length = path.len();
                if length > 0 {
                    path.push(b'/');
                }
                path.extend_from_slice(name);
                visit(path, child)?;
                descend(child, path, visit)?;
                path.truncate(length);
            }
            Ok(())
        }
        descend(self, &mut Vec::new(), visit)
    }
}

impl Tree {
    /// Returns the tree of no layer: an empty directory.
    pub fn empty() -> Self {
        Self { root: Node::new(Meta::directory(), 0, None) }
    }

    /// Returns the tree of a chain of layers, lowest first. Missing indexes are made from blobs.
    ///
    /// # Errors
    /// When a layer has neither index nor blob here.
    pub fn of(store: &Store, chain: &[Digest]) -> Result<Self, LayerError> {
        let mut tree = Self::empty();
        for (number, diff_id) in chain.iter().enumerate() {
            tree.apply(number, &*layer::ensure_index(store, diff_id)?);
        }
        Ok(tree)
    }

    /// Puts a layer on top, under a number that [`Node::layer`] will show.
    pub fn apply(&mut self, number: usize, index: &LayerIndex) {
        for entry in index.entries() {
            match &entry.change {
                Change::Whiteout => self.remove(&entry.path),
                Change::Put(put) => self.put(number, &entry.path, put),
            }
        }
    }

    /// Returns the root directory.
    pub fn root(&self) -> &Node {
        &self.root
    }

    /// Returns what stands at `path`. No symbolic link is followed; the empty path is the root.
    pub fn get(&self, path: impl AsRef<[u8]>) -> Option<&Node> {
        self.root.get(path)
    }

    fn remove(&mut self, path: &[u8]) {
        if self.get(path).is_none() {
            return;
        }
        let (parent, name) = split(path);
        let mut node = &mut self.root;
        node.digest.take();
        for component in components(parent) {
            let Some(child) = node.children.get_mut(component) else { return };
            child.digest.take();
            node = child;
        }
        node.children.remove(name);
    }

    fn put(&mut self, number: usize, path: &[u8], put: &Put) {
        let (parent, name) = split(path);
        if name.is_empty() {
            return;
        }
        let mut node = &mut self.root;
        node.digest.take();
        for component in components(parent) {
            // An index lists a directory before what is in it, so this makes nothing; and if
            // one does not, the tree is still a tree.
            let child =
                node.children.entry(component.into()).or_insert_with(|| Node::new(Meta::directory(), number, None));
            if !child.meta.is_directory() {
                *child = Node::new(Meta::directory(), number, None);
            }
            child.digest.take();
            node = child;
        }
        let new = |put: &Put| Node::new(put.meta.clone(), number, put.links.clone());
        match node.children.get_mut(name) {
            Some(old) if old.meta.is_directory() && put.meta.is_directory() => {
                old.digest.take();
                if put.opaque {
                    old.children.clear();
                }
                if !put.implied {
                    old.meta = put.meta.clone();
                    old.layer = number;
                }
            }
            _ => {
                node.children.insert(name.into(), new(put));
            }
        }
    }
}

/// Iterates over the names of a path; extra slashes do not count.
pub(crate) fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty())
}

/// Splits a path into its directory (empty at the top) and its last name.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// Compares two paths in the order of a walk: by their names, not by their bytes.
pub(crate) fn walk_order(one: &[u8], two: &[u8]) -> std::cmp::Ordering {
    one.split(|&byte| byte == b'/').cmp(two.split(|&byte| byte == b'/'))
}
