//! Trees from the network: a file from a web server, a git checkout, the archive of a context.
//!
//! Each becomes a layer of its own. Its class says what is in it (cache-keys.md §6), so the steps
//! above are found again wherever the tree came from. A record leads to it from what was asked
//! for, and remembers with its named inputs what the next build needs to ask whether that is
//! still so: an ETag, for one.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::Arc;
use std::time::Instant;

use kiln_cache::layer::Packed;
use kiln_cache::{NamedInput, Record, Store, StoreLock};
use kiln_frontend::graph::Source;
use kiln_oci::Digest;
use kiln_registry_client::Client as Registry;
use kiln_runtime::Cancel;

use super::git::GitTree;
use super::http::{HttpFile, LARGEST};
use super::image::environment;
use crate::error::{BuildError, chain};
use crate::layers::Layers;
use crate::op::content::Contents;
use crate::op::copy;
use crate::op::file::{self, FileError};
use crate::op::files::FileKind;
use crate::seam::Secrets;
use crate::solver::nanoseconds;
use crate::step::Step;

/// What fetching works with.
pub struct Remote<'a> {
    /// Where trees are kept.
    pub store: &'a Store,
    /// Their layers.
    pub layers: &'a Arc<Layers>,
    /// Opens files, and has a place for those being fetched.
    pub contents: &'a Contents,
    /// Makes requests.
    pub registry: &'a Registry,
    /// Lends what servers want to see.
    pub secrets: &'a dyn Secrets,
    /// Stops it.
    pub cancel: &'a Cancel,
    /// Who hears about it.
    pub step: &'a Step,
}

/// A tree that was fetched, or was here already.
#[derive(Debug, Clone)]
pub struct RemoteTree {
    /// What is in it, as a key.
    pub class: Digest,
    /// Its layers.
    pub chain: Vec<Digest>,
    /// Whether it was here already.
    pub is_cached: bool,
}

/// What is known of a tree that was asked for before.
pub struct Known {
    tree: RemoteTree,
    facts: BTreeMap<String, String>,
}

/// A tree that was just made.
pub struct Made<'a> {
    /// What was asked for.
    pub key: Digest,
    /// What is in it.
    pub class: Digest,
    /// For people, without secrets.
    pub name: &'a str,
    /// What the next build needs to know, by name.
    pub facts: &'a [(&'static str, String)],
    /// When the work on it began.
    pub began: Instant,
}

impl Known {
    /// Returns something that was remembered.
    pub fn fact(&self, name: &str) -> Option<&str> {
        self.facts.get(name).map(String::as_str)
    }

    /// It is still so.
    pub fn into_tree(self) -> RemoteTree {
        self.tree
    }
}

impl Remote<'_> {
    /// Returns what earlier builds came to for this key and can still be had, the newest first.
    pub fn known(&self, key: &Digest) -> Vec<Known> {
        let classes = self.store.classes_of(key);
        let known = classes.iter().filter_map(|class| {
            // Others may have come to the same content, and remember other things of it.
            let record = self.store.results(class).into_iter().find(|record| record.key == *key)?;
            let tree = self.tree(class)?;
            let facts = record.inputs.into_iter().filter_map(|input| Some((input.name, input.text?))).collect();
            Some(Known { tree, facts })
        });
        known.collect()
    }

    /// Returns the tree of a class, if it can be had.
    pub fn tree(&self, class: &Digest) -> Option<RemoteTree> {
        self.store.results(class).into_iter().find_map(|record| {
            let chain = record.outputs.into_iter().next()?;
            let is_here = chain.iter().all(|diff_id| self.layers.is_available(diff_id));
            is_here.then_some(RemoteTree { class: *class, chain, is_cached: true })
        })
    }

    /// Returns the tree that another key leads to.
    pub fn alias(&self, key: &Digest) -> Option<RemoteTree> {
        self.tree(&self.store.class(key)?)
    }

    /// Makes a layer with `pack`, unless there is one of the class, and remembers how it was come by.
    ///
    /// # Errors
    /// When a file cannot be read or the store not be written.
    pub fn keep(
        &self,
        made: &Made,
        pack: impl FnOnce() -> Result<Packed, BuildError>,
    ) -> Result<RemoteTree, BuildError> {
        let tree = self.tree(&made.class);
        let (chain, size) = match &tree {
            Some(tree) => (tree.chain.clone(), 0),
            None => {
                let packed = pack()?;
                (vec![packed.diff_id], packed.size)
            }
        };
        let inputs: Vec<NamedInput> = made
            .facts
            .iter()
            .map(|(name, text)| NamedInput {
                name: (*name).to_owned(),
                digest: Digest::of(text),
                text: Some(text.clone()),
            })
            .collect();
        let is_known = tree.is_some()
            && self.store.results(&made.class).iter().any(|record| record.key == made.key && record.inputs == inputs);
        if !is_known {
            let record = Record {
                key: made.key,
                class: made.class,
                op: made.class,
                step: made.name.to_owned(),
                outputs: vec![chain.clone()],
                inputs,
                seconds: made.began.elapsed().as_secs_f64(),
                size,
                created: nanoseconds(),
                contents: Vec::new(),
            };
            self.store.record(&record).map_err(|error| environment(&error))?;
        }
        Ok(RemoteTree { class: made.class, chain, is_cached: false })
    }

    /// Makes a layer of files.
    ///
    /// # Errors
    /// When a file cannot be read or the store not be written.
    pub fn pack(&self, source: file::Source) -> Result<Packed, BuildError> {
        file::directory_of(self.store, &source, self.contents).map_err(|error| match &error {
            FileError::Layer(error) => self.layers.failed(error),
            error => BuildError::environment(chain(error)),
        })
    }

    /// Fetches what a source of a graph stands for, or finds it here.
    ///
    /// # Errors
    /// As [`Remote::http`] and [`Remote::git`]. Other sources are none of the network's.
    pub fn source(&self, source: &Source) -> Result<RemoteTree, BuildError> {
        match source {
            Source::Http { url, filename, checksum } => {
                self.http(&HttpFile { url, filename, checksum: checksum.as_ref(), largest: LARGEST })
            }
            Source::Git { remote, reference, subdir, keep_git_dir, checksum, submodules, commit_times } => {
                self.git(&GitTree {
                    remote: remote.clone(),
                    reference: reference.clone(),
                    subdir: subdir.clone(),
                    keep_git_dir: *keep_git_dir,
                    checksum: checksum.clone(),
                    submodules: *submodules,
                    commit_times: *commit_times,
                })
            }
            Source::Image { reference } => Err(BuildError::bug(format!("image {reference} was not resolved"))),
            Source::OciLayout { store, .. } => Err(BuildError::bug(format!("layout {store} was not resolved"))),
            Source::Local(local) => Err(BuildError::bug(format!("directory {} was given to work on", local.name))),
        }
    }

    /// Waits until nobody else, here or in another process, fetches the same.
    ///
    /// # Errors
    /// When cancelled, or the lock cannot be made.
    pub fn lock(&self, key: &Digest) -> Result<StoreLock, BuildError> {
        crate::solver::lock(self.store, key, self.cancel)
    }

    /// Returns the text of a secret, without the line end behind it; `None` when the client has none of that name.
    ///
    /// # Errors
    /// When it cannot be read or is no text.
    pub fn secret(&self, id: &str) -> Result<Option<String>, BuildError> {
        let bytes = self
            .secrets
            .secret(id)
            .map_err(|error| BuildError::input(format!("cannot read the secret `{id}`: {error}")))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let text = String::from_utf8(bytes).map_err(|_| BuildError::input(format!("the secret `{id}` is not text")))?;
        Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
    }
}

/// Refuses an address that could be mistaken for two lines, or for something else.
///
/// # Errors
/// When it has control characters or blanks in it.
pub fn check_address(address: &str) -> Result<(), BuildError> {
    match address.chars().find(|c| c.is_control() || c.is_whitespace()) {
        None => Ok(()),
        Some(c) => Err(BuildError::input(format!("the address {address:?} has the character {c:?} in it"))
            .hint("write blanks in addresses as `%20`")),
    }
}

/// Reads a regular file of a tree, resolving symlinks inside the tree; `None` when there is none.
///
/// # Errors
/// When it is larger than `limit` or cannot be read.
pub fn read_file(
    layers: &Layers,
    contents: &Contents,
    tree: &RemoteTree,
    path: &str,
    limit: u64,
) -> Result<Option<Vec<u8>>, BuildError> {
    let files = layers.files(&tree.chain)?;
    let names = crate::op::files::components(path.as_bytes());
    let physical = copy::resolve(&files, &names, true).map_err(|error| BuildError::input(error.to_string()))?;
    let Some(node) = files.get(&physical).filter(|node| node.meta.kind == FileKind::Regular) else {
        return Ok(None);
    };
    if node.meta.size > limit {
        return Err(BuildError::input(format!("`{path}` is larger than {limit} bytes")));
    }
    let mut bytes = Vec::new();
    let failed = |error| unreadable(layers, path, &error);
    let input = contents.read_whole(&node.origin, node.meta.size, node.content).map_err(failed)?;
    input.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}

/// A file of a fetched tree that cannot be read.
pub fn unreadable(layers: &Layers, path: &str, error: &std::io::Error) -> BuildError {
    let is_damage = layers.take_damage(error);
    BuildError { is_damage, ..BuildError::environment(format!("cannot read `{path}`: {error}")) }
}
