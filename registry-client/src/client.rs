//! The client: what the rest of kiln holds in its hands.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kiln_oci::{Descriptor, Digest, Reference};

use crate::blob::{BlobStream, Origin};
use crate::credentials::{Anonymous, Credentials};
use crate::error::Error;
use crate::fetch::Fetch;
use crate::push::{self, Pushed};
use crate::resolve::{self, Resolved};
use crate::transport::Transport;

/// How often the cancel flag is looked at.
const ATTENTION: Duration = Duration::from_millis(50);

/// What a client is made of.
#[derive(Clone)]
pub struct Options {
    /// Who we are for which registry.
    pub credentials: Arc<dyn Credentials>,
    /// Hosts, with their port where they have one, whose certificate is not checked and which
    /// may speak plain http. Hosts on this machine are always so.
    pub insecure: Vec<String>,
    /// For each registry, mirrors to pull from before it: `host[:port][/path]`.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Set from outside to end all waiting.
    pub cancel: Arc<AtomicBool>,
    /// The wait before the first repetition; each further one is twice as long.
    pub backoff: Duration,
    /// How often a request is repeated.
    pub retries: u32,
    /// How long the other side may be silent.
    pub stall: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            credentials: Arc::new(Anonymous),
            insecure: Vec::new(),
            mirrors: BTreeMap::new(),
            cancel: Arc::default(),
            backoff: Duration::from_secs(1),
            retries: 4,
            stall: Duration::from_secs(60),
        }
    }
}

/// A repository: a registry and a path in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository {
    /// `docker.io`, `localhost:5000`.
    pub domain: String,
    /// `library/alpine`.
    pub path: String,
}

impl From<&Reference> for Repository {
    fn from(reference: &Reference) -> Self {
        Self { domain: reference.domain.clone(), path: reference.path.clone() }
    }
}

impl std::fmt::Display for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)
    }
}

/// Talks to registries. Clones share connections, tokens and what was learned about hosts.
#[derive(Clone)]
pub struct Client {
    pub(crate) transport: Arc<Transport>,
    cancel: Arc<AtomicBool>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// Makes a client. Nothing is read or asked before the first request.
    pub fn new(options: Options) -> Self {
        let cancel = Arc::clone(&options.cancel);
        Self { transport: Arc::new(Transport::new(options)), cancel }
    }

    /// Returns a clone that listens to another cancel flag.
    #[must_use]
    pub fn with_cancel(&self, cancel: Arc<AtomicBool>) -> Self {
        Self { transport: Arc::clone(&self.transport), cancel }
    }

    /// Fetches the manifest or index that `reference` names; without tag and digest, `latest`.
    ///
    /// # Errors
    /// When it is not there, not allowed, not reachable, or not what its digest says.
    pub fn resolve(&self, reference: &Reference) -> Result<Resolved, Error> {
        self.run(resolve::resolve(&self.transport, reference))
    }

    /// Asks what `reference` names, without its bytes where the registry can tell. Registries
    /// that limit pulls do not count this.
    ///
    /// # Errors
    /// As [`Client::resolve`].
    pub fn head(&self, reference: &Reference) -> Result<Descriptor, Error> {
        self.run(resolve::head(&self.transport, reference))
    }

    /// Fetches a manifest or index that is known by its descriptor.
    ///
    /// # Errors
    /// As [`Client::resolve`].
    pub fn manifest(&self, repository: &Repository, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        self.run(resolve::manifest(&self.transport, repository, descriptor))
    }

    /// Opens a blob for reading.
    ///
    /// At most four blobs per host are in flight at once; a stream counts until it was read to
    /// its end or dropped. Further ones wait for a while.
    ///
    /// # Errors
    /// When it is not there, not allowed or not reachable; what happens later, the stream tells.
    pub fn blob(&self, repository: &Repository, descriptor: &Descriptor) -> Result<BlobStream, Error> {
        BlobStream::open(self, Origin { repository: repository.clone(), descriptor: descriptor.clone() })
    }

    /// Whether the registry itself (no mirror) has a blob.
    ///
    /// # Errors
    /// When the registry does not say.
    pub fn has_blob(&self, repository: &Repository, descriptor: &Descriptor) -> Result<bool, Error> {
        self.run(push::has_blob(&self.transport, repository, descriptor))
    }

    /// Brings a blob into a repository: not at all where it is there already, by mounting it
    /// from another repository of the same registry (`mount_from`, paths), or by uploading what
    /// `open` gives. `progress` hears how many bytes are gone; it starts anew with each try.
    ///
    /// # Errors
    /// When the registry does not take it, or it cannot be read.
    pub fn push_blob(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        open: push::Open<'_>,
        mount_from: &[String],
        progress: &dyn Fn(u64),
    ) -> Result<Pushed, Error> {
        push::blob(self, repository, descriptor, open, mount_from, progress)
    }

    /// Whether the registry has a manifest or index under a tag, or without one under its digest.
    /// Then it has everything that this refers to.
    ///
    /// # Errors
    /// When the registry cannot be reached, or does not know us.
    pub fn has_manifest(
        &self,
        repository: &Repository,
        tag: Option<&str>,
        descriptor: &Descriptor,
    ) -> Result<bool, Error> {
        self.run(push::has_manifest(&self.transport, repository, tag, descriptor))
    }

    /// Puts a manifest or index under a tag, or under its digest alone. What it refers to must
    /// be there already.
    ///
    /// # Errors
    /// When the registry does not take it.
    pub fn push_manifest(
        &self,
        repository: &Repository,
        tag: Option<&str>,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Digest, Error> {
        self.run(push::manifest(&self.transport, repository, tag, media_type, bytes))
    }

    /// Returns the part that downloads plain URLs.
    pub fn fetch(&self) -> Fetch<'_> {
        Fetch::new(self)
    }

    /// Whether the client was told to stop.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// Waits for `work`, or for the cancel flag.
    pub(crate) fn run<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        if self.is_cancelled() {
            return Err(Error::Cancelled);
        }
        self.transport.runtime()?.block_on(async {
            let mut work = std::pin::pin!(work);
            loop {
                match tokio::time::timeout(ATTENTION, &mut work).await {
                    Ok(result) => return result,
                    Err(_) if self.is_cancelled() => return Err(Error::Cancelled),
                    Err(_) => {}
                }
            }
        })
    }
}
