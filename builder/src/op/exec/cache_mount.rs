//! Cache mounts: taken from the store, filled where new, and kept well.
//!
//! A command writes to an overlay over the directory, which is folded in when it has ended. So a command that is killed
//! leaves no half-written cache. Steps that use one cache mount at the same time have one overlay between them.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kiln_cache::Store;
use kiln_cache::mount::{CacheMount, Ending, Member, MountError, MountRequest, Sharing, Way};
use kiln_frontend::graph::{self, Exec, MountKind};
use kiln_oci::{Digest, Hasher};
use kiln_runtime::{self as runtime, Cancel, Isolation, OwnMounts};

use crate::error::{BuildError, chain};
use crate::export::files::{self, Owners};
use crate::op::copy;
use crate::op::files::components;
use crate::solver::Job;
use crate::step::Step;

/// How far apart it is tried to use a cache mount together with others that come and go.
const PAUSE: Duration = Duration::from_millis(10);
/// After so long the user is told what is waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// The cache mounts of one command. Dropped, they end as if it had been killed.
pub(super) struct Caches {
    /// In the order of their ids, in which everybody takes them: so no two steps wait for each other.
    held: Vec<CacheMount>,
    /// For each mount of the command, which of these it is.
    places: Vec<Option<usize>>,
}

impl Caches {
    /// Takes all cache mounts of a command.
    ///
    /// # Errors
    /// When one cannot be had or filled.
    pub(super) fn take(wanted: &Wanted<'_>, waiting: &Waiting<'_>) -> Result<Self, BuildError> {
        let mounts = &wanted.op.mounts;
        let mut wishes: Vec<(usize, CacheWish<'_>)> = Vec::new();
        for (index, (mount, base)) in mounts.iter().zip(wanted.bases).enumerate() {
            if let (MountKind::Cache { id, sharing, input, source, owner }, Some(base)) = (&mount.kind, *base) {
                let wish = CacheWish { id, base, sharing: *sharing, input: *input, source, owner: *owner };
                wishes.push((index, wish));
            }
        }
        wishes.sort_by_key(|(_, wish)| wish.id);
        let mut caches = Self { held: Vec::new(), places: vec![None; mounts.len()] };
        let mut taken: Vec<(&str, Digest)> = Vec::new();
        for (index, wish) in &wishes {
            // One that is mounted twice is taken once, or it would wait for itself.
            let identity = (wish.id, wish.base);
            let place = match taken.iter().position(|other| *other == identity) {
                Some(place) => place,
                None => {
                    caches.held.push(wish.take(wanted, waiting)?);
                    taken.push(identity);
                    taken.len() - 1
                }
            };
            caches.places[*index] = Some(place);
        }
        Ok(caches)
    }

    /// Calls `run` where the cache mounts can be mounted, on a thread of its own if need be.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub(super) fn within<T: Send>(
        &mut self,
        isolation: Isolation,
        waiting: &Waiting<'_>,
        run: impl FnOnce(&Self) -> T + Send,
    ) -> Result<T, BuildError> {
        // Where nothing is mounted it is copied, and nobody else may have it meanwhile.
        if self.held.is_empty() || isolation == Isolation::Chroot {
            return Ok(run(self));
        }
        let on_thread = || {
            match OwnMounts::leave_host(isolation) {
                Ok(mounts) => self.held.iter_mut().try_for_each(|cache| enter(cache, &mounts, waiting))?,
                Err(error) => tracing::debug!(%error, "cache mounts are used without an overlay"),
            }
            Ok(run(self))
        };
        let joined = std::thread::scope(|scope| scope.spawn(on_thread).join());
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Returns all mounts of the command as the sandbox wants them, given those that are ready.
    pub(super) fn complete(&self, ready: Vec<Option<runtime::Mount>>, mounts: &[graph::Mount]) -> Vec<runtime::Mount> {
        let all = mounts.iter().zip(ready).enumerate();
        all.filter_map(|(index, (mount, ready))| ready.or_else(|| self.mount(index, mount))).collect()
    }

    /// Returns the mount of this number as the sandbox wants it, if it is a cache mount.
    fn mount(&self, index: usize, mount: &graph::Mount) -> Option<runtime::Mount> {
        let MountKind::Cache { source, input, .. } = &mount.kind else { return None };
        let path = self.held[self.places[index]?].path().to_owned();
        let kind = match &**source {
            "/" => runtime::MountKind::Directory { path },
            // It was filled from there.
            _ if input.is_some() => runtime::MountKind::Directory { path },
            _ => runtime::MountKind::Bind { layers: vec![path], path: source.clone(), upper: None },
        };
        Some(runtime::Mount { target: mount.target.clone(), read_only: mount.read_only, kind })
    }

    /// Ends the use, after the command has.
    ///
    /// # Errors
    /// When the store refuses.
    pub(super) fn finish(self, is_killed: bool, step: &Step) -> Result<(), BuildError> {
        for cache in self.held {
            let id = cache.id().to_owned();
            match cache.finish(is_killed).map_err(|error| BuildError::environment(chain(&error)))? {
                Ending::Kept => {}
                Ending::Restored => step.note(format!(
                    "the command was killed: the cache mount `{id}` is again as it was before the command"
                )),
                Ending::KeptAsShared => step.note(format!(
                    "the command was killed: the cache mount `{id}` keeps what it wrote, since others may use it too"
                )),
            }
        }
        Ok(())
    }
}

/// Whose cache mounts are wanted.
pub(super) struct Wanted<'a> {
    /// Where they are.
    pub(super) store: &'a Store,
    /// What fills new ones; without it they are empty.
    pub(super) job: Option<&'a Job<'a, 'a>>,
    /// The command.
    pub(super) op: &'a Exec,
    /// What [`bases`] says.
    pub(super) bases: &'a [Option<Digest>],
    /// What the command is shut in by.
    pub(super) isolation: Isolation,
}

/// Names for each mount of a command what it is first filled from, if it is a cache mount.
pub(super) fn bases(job: &Job, op: &Exec) -> Vec<Option<Digest>> {
    let base = |mount: &graph::Mount| {
        let MountKind::Cache { input, source, owner, .. } = &mount.kind else { return None };
        let mut base = Hasher::domain("kiln.mount-base.v1");
        match input.and_then(|input| job.inputs().get(input)).and_then(Option::as_ref) {
            Some(seed) => base.digest(&seed.class).field(source),
            None => base.number(u64::from(owner.uid)).number(u64::from(owner.gid)).number(u64::from(owner.mode)),
        };
        Some(base.finish())
    };
    op.mounts.iter().map(base).collect()
}

/// What a step does while it waits for a cache mount: look whether it is cancelled, and tell the user once.
pub(super) struct Waiting<'a> {
    cancel: &'a Cancel,
    step: &'a Step,
    begun: Instant,
    is_told: AtomicBool,
}

impl<'a> Waiting<'a> {
    /// Starts the clock.
    pub(super) fn new(cancel: &'a Cancel, step: &'a Step) -> Self {
        Self { cancel, step, begun: Instant::now(), is_told: AtomicBool::new(false) }
    }

    /// Says whether to give up.
    fn is_over(&self, id: &str) -> bool {
        if self.begun.elapsed() > PATIENCE && !self.is_told.swap(true, Ordering::Relaxed) {
            self.step.note(format!("waiting for the cache mount `{id}`, which another step has"));
        }
        self.cancel.is_cancelled()
    }
}

fn enter(cache: &mut CacheMount, mounts: &OwnMounts, waiting: &Waiting<'_>) -> Result<(), BuildError> {
    let failed = |error| BuildError::environment(chain(&error));
    let (process, thread) = mounts.owner();
    while !waiting.is_over(cache.id()) {
        let Some(session) = cache.enter().map_err(failed)? else { return Ok(()) };
        let at = session.merged();
        match session.way() {
            Way::Make(overlay) => {
                if let Err(error) = mounts.overlay(&overlay.lower, &overlay.upper, &overlay.work, &at) {
                    tracing::debug!(%error, "a cache mount is used without an overlay");
                    return cache.retreat().map_err(failed);
                }
                return session.stands(Member { process, thread }).map_err(failed);
            }
            Way::Join(members) => {
                if members.iter().any(|member| mounts.join((member.process, member.thread), &at).is_ok()) {
                    return session.stands(Member { process, thread }).map_err(failed);
                }
            }
        }
        // Those who have it are just going, or are out of reach: in a user namespace of their own.
        cache.retreat().map_err(failed)?;
        std::thread::sleep(PAUSE);
    }
    Err(BuildError::cancelled())
}

/// A cache mount as the graph names it.
struct CacheWish<'a> {
    id: &'a str,
    /// Names what it is first filled from.
    base: Digest,
    sharing: graph::Sharing,
    input: Option<usize>,
    source: &'a str,
    owner: graph::CacheOwner,
}

impl CacheWish<'_> {
    /// Takes it; new, it is empty or a copy of an input.
    fn take(&self, wanted: &Wanted<'_>, waiting: &Waiting<'_>) -> Result<CacheMount, BuildError> {
        let request = MountRequest {
            id: self.id,
            base: Some(self.base),
            sharing: match self.sharing {
                // A copy goes back whole: nobody else may write meanwhile.
                _ if wanted.isolation == Isolation::Chroot => Sharing::Locked,
                graph::Sharing::Shared => Sharing::Shared,
                graph::Sharing::Private => Sharing::Private,
                graph::Sharing::Locked => Sharing::Locked,
            },
        };
        let seed = wanted.job.zip(self.input);
        let seed = seed.and_then(|(job, input)| Some((job, job.inputs().get(input)?.as_ref())));
        let tree = match seed {
            Some((job, seed)) => job.source(seed)?.map(|tree| (tree, job.contents())),
            None => None,
        };
        let ownership = wanted.store.ownership();
        let fill = |path: &Path| -> io::Result<()> {
            ownership.give(fs::File::open(path)?, (self.owner.uid, self.owner.gid))?;
            fs::set_permissions(path, fs::Permissions::from_mode(self.owner.mode))?;
            let Some((tree, contents)) = &tree else { return Ok(()) };
            let missing =
                || io::Error::new(io::ErrorKind::NotFound, format!("open {}: no such file or directory", self.source));
            let physical =
                copy::resolve(tree.tree(), &components(self.source.as_bytes()), true).map_err(io::Error::other)?;
            let node = tree.tree().get(&physical).ok_or_else(missing)?;
            let skipped = files::directory(node, contents, &fs::File::open(path)?, Owners::Kept(ownership))?;
            if !skipped.is_empty() {
                tracing::debug!(?skipped, "special files are not copied into a cache mount");
            }
            Ok(())
        };
        wanted.store.cache_mount(&request, &|| waiting.is_over(self.id), fill).map_err(|error| match error {
            MountError::Cancelled(_) => BuildError::cancelled(),
            MountError::Fill { source, .. } => BuildError::input(source.to_string()),
            error => BuildError::environment(chain(&error)),
        })
    }
}
