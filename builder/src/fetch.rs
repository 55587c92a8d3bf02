//! Contexts and build files that have to be fetched before a build can begin.

use std::io::Read;
use std::sync::Arc;

use kiln_frontend::dockerfile::git;
use kiln_frontend::graph::Source;
use kiln_frontend::lower;
use kiln_oci::Digest;
use kiln_runtime::Cancel;

use crate::engine::{Engine, Work};
use crate::error::BuildError;
use crate::layers::Layers;
use crate::op::content::Contents;
use crate::op::files::{FileKind, FileNode};
use crate::seam::Secrets;
use crate::source::context::{Archive, DOWNLOAD};
use crate::source::git::GitTree;
use crate::source::image::environment;
use crate::source::remote::{Remote, RemoteTree, read_file};
use crate::step::{Step, Steps};

pub use crate::source::context::{HEAD as ARCHIVE_HEAD, is_archive};

/// How often something is fetched again because what the store had of it turned out to be damaged.
const MAX_RETRIES: usize = 8;

/// Fetches, before the build that needs it.
pub struct Fetcher<'a> {
    engine: &'a Engine,
    secrets: &'a dyn Secrets,
    work: Work,
    contents: Arc<Contents>,
}

/// Where a context comes from.
#[derive(Clone)]
enum From {
    Archive {
        archive: Arc<Archive>,
        /// It is kept for as long as they are.
        _contents: Arc<Contents>,
    },
    Http(String),
    Git(Box<GitTree>),
}

/// A context that the store has, to be built from instead of a directory of the client.
///
/// No prune runs while it lives.
#[derive(Clone)]
pub struct FetchedContext {
    from: From,
    tree: RemoteTree,
    /// The one file is not part of a context, but the build file itself.
    is_build_file: bool,
    /// When the server says that it was last changed.
    changed: Option<i64>,
    _lock: Arc<kiln_cache::StoreLock>,
}

impl std::fmt::Debug for FetchedContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FetchedContext").field("tree", &self.tree).finish_non_exhaustive()
    }
}

impl FetchedContext {
    /// What is in it, as a key.
    pub(crate) fn class(&self) -> Digest {
        self.tree.class
    }

    /// Its layers.
    pub(crate) fn chain(&self) -> &[Digest] {
        &self.tree.chain
    }
}

impl Engine {
    /// Returns what fetches contexts, telling `steps` of it.
    pub fn fetcher<'a>(&'a self, steps: &Steps, secrets: &'a dyn Secrets, cancel: &Cancel) -> Fetcher<'a> {
        let work = self.work(steps.clone(), cancel.clone());
        let contents = Arc::new(Contents::new(work.layers.clone(), self.store.clone()));
        Fetcher { engine: self, secrets, work, contents }
    }
}

impl Fetcher<'_> {
    /// Makes a context of an archive.
    ///
    /// # Errors
    /// When it cannot be read or unpacked.
    pub fn archive(&self, stream: &mut dyn Read) -> Result<FetchedContext, BuildError> {
        let step = self.work.steps.start("[internal] load remote build context");
        let received = self.remote(&step).receive_archive(stream);
        let archive = step.end(received)?;
        self.context(From::Archive { archive: Arc::new(archive), _contents: self.contents.clone() })
    }

    /// Downloads a context: an archive, or nothing but a build file.
    ///
    /// # Errors
    /// When it cannot be had or unpacked.
    pub fn http(&self, url: &str) -> Result<FetchedContext, BuildError> {
        self.context(From::Http(url.to_owned()))
    }

    /// Checks out a context. `options` say what is kept of the repository, and which time files have.
    ///
    /// # Errors
    /// When the address is none, or what it names cannot be had.
    pub fn git(&self, url: &str, options: &lower::Request) -> Result<FetchedContext, BuildError> {
        let parsed =
            git::parse(url).map_err(|error| BuildError::input(format!("unable to prepare context: {error}")))?;
        // The one form without a scheme.
        let prefix = if parsed.indistinguishable_from_local { "https://" } else { "" };
        let tree = GitTree {
            remote: format!("{prefix}{}", parsed.remote),
            reference: parsed.reference,
            subdir: parsed.subdir,
            keep_git_dir: parsed.keep_git_dir.unwrap_or_else(|| options.keeps_git_dir()),
            checksum: Some(parsed.checksum).filter(|checksum| !checksum.is_empty()),
            submodules: parsed.submodules.unwrap_or(true),
            commit_times: parsed.mtime == "commit"
                || parsed.mtime.is_empty() && options.build_args.contains_key("SOURCE_DATE_EPOCH"),
        };
        self.context(From::Git(Box::new(tree)))
    }

    /// Fetches once more what the store has lost: it was damaged. Nothing is done when it is there.
    ///
    /// # Errors
    /// When it cannot be had, or is not the same any more.
    pub(crate) fn restore(&self, context: &FetchedContext) -> Result<FetchedContext, BuildError> {
        if context.chain().iter().all(|diff_id| self.work.layers.is_available(diff_id)) {
            return Ok(context.clone());
        }
        let again = self.context(context.from.clone())?;
        match again.class() == context.class() {
            true => Ok(again),
            false => Err(BuildError::environment("the build context was damaged, and is another by now")
                .hint("build again: it will be that of the server")),
        }
    }

    /// Downloads a build file of at most `limit` bytes.
    ///
    /// # Errors
    /// When it cannot be had.
    pub fn build_file(&self, url: &str, limit: u64) -> Result<Vec<u8>, BuildError> {
        let _lock = self.engine.store.lock_shared().map_err(|error| environment(&error))?;
        let step = self.work.steps.start("[internal] load remote build file");
        let text = self.healing(|| self.remote(&step).http_text(url, limit));
        step.end(text)
    }

    /// Reads a file of a context; without a name, the build file that the context itself is.
    /// `None` when there is none.
    ///
    /// # Errors
    /// When it is larger than `limit`, or cannot be read.
    pub fn read(&self, context: &FetchedContext, name: &str, limit: u64) -> Result<Option<Vec<u8>>, BuildError> {
        let name = if context.is_build_file { DOWNLOAD } else { name };
        self.healing(|| {
            let context = self.restore(context)?;
            read_file(&self.work.layers, &self.contents, &context.tree, name, limit)
        })
    }

    /// Returns the time of a context, in seconds since 1970: what the server said, else that of the newest file. A
    /// repository must have been checked out with the time of its commit.
    ///
    /// # Errors
    /// When the index of its layers cannot be read.
    pub fn time(&self, context: &FetchedContext) -> Result<Option<i64>, BuildError> {
        match context.changed {
            Some(seconds) => Ok(Some(seconds)),
            None => self.healing(|| newest(&self.work.layers, self.restore(context)?.chain())),
        }
    }

    /// Returns the time of a repository or a download, in seconds since 1970 (spec: expansion.md §11): that of the commit,
    /// else what the server says, else that of the newest file of an archive.
    ///
    /// # Errors
    /// When it cannot be had.
    pub(crate) fn source_time(&self, source: &Source) -> Result<Option<i64>, BuildError> {
        let _lock = self.engine.store.lock_shared().map_err(|error| environment(&error))?;
        let step = self.work.steps.start("[internal] load time of SOURCE_DATE_EPOCH");
        let remote = self.remote(&step);
        let time = self.healing(|| {
            let tree = remote.source(source)?;
            let Source::Http { filename, url, .. } = source else { return newest(&self.work.layers, &tree.chain) };
            let opened = remote.opened(tree, url, filename)?;
            match opened.changed {
                None if opened.is_archive => newest(&self.work.layers, &opened.tree.chain),
                changed => Ok(changed),
            }
        });
        step.end(time)
    }

    fn context(&self, from: From) -> Result<FetchedContext, BuildError> {
        let lock = self.engine.store.lock_shared().map_err(|error| environment(&error))?;
        // What a killed build left is nobody's.
        self.engine.store.sweep().map_err(|error| environment(&error))?;
        let step = self.work.steps.start(match &from {
            From::Archive { .. } => "[internal] unpack build context".to_owned(),
            From::Http(_) => "[internal] load remote build context".to_owned(),
            From::Git(tree) => format!("[internal] load git source {}", tree.shown()),
        });
        let remote = self.remote(&step);
        let fetched = self.healing(|| match &from {
            From::Archive { archive, .. } => Ok((remote.archive(archive)?, false, None)),
            From::Http(url) => {
                let opened = remote.http_context(url)?;
                Ok((opened.tree, !opened.is_archive, opened.changed))
            }
            From::Git(tree) => Ok((remote.git(tree)?, false, None)),
        });
        let (tree, is_build_file, changed) = step.end(fetched)?;
        Ok(FetchedContext { from, tree, is_build_file, changed, _lock: Arc::new(lock) })
    }

    /// Tries again where something in the store turned out to be damaged: it was taken away, and is made again.
    fn healing<T>(&self, work: impl Fn() -> Result<T, BuildError>) -> Result<T, BuildError> {
        let mut retries = 0;
        loop {
            match work() {
                Err(error) if retries < MAX_RETRIES && (self.work.layers.met_damage() || error.is_damage) => {
                    tracing::warn!(%error, "something in the store is damaged; getting it again");
                    retries += 1;
                }
                result => return result,
            }
        }
    }

    fn remote<'r>(&'r self, step: &'r Step) -> Remote<'r> {
        Remote {
            store: &self.engine.store,
            layers: &self.work.layers,
            contents: &self.contents,
            registry: &self.work.registry,
            secrets: self.secrets,
            cancel: &self.work.cancel,
            step,
        }
    }
}

/// Returns the time of the newest regular file of some layers; what git keeps of a repository does not count.
fn newest(layers: &Layers, chain: &[Digest]) -> Result<Option<i64>, BuildError> {
    fn of(node: &FileNode) -> Option<i64> {
        match node.meta.kind {
            FileKind::Regular => Some(node.meta.mtime.0),
            _ => node.children.values().filter_map(of).max(),
        }
    }
    let files = layers.files(chain)?;
    let is_content = |name: &[u8]| name != b".git";
    Ok(files.children.iter().filter(|(name, _)| is_content(name)).filter_map(|(_, node)| of(node)).max())
}
