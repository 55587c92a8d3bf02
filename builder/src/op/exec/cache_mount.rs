//! Cache mounts: taken from the store, filled where new.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kiln_cache::mount::{CacheMount, MountError, MountRequest, Sharing};
use kiln_frontend::graph;
use kiln_oci::Hasher;

use crate::error::{BuildError, chain};
use crate::export::files::{self, Owners};
use crate::op::copy;
use crate::op::files::components;
use crate::solver::{Job, Solver};

/// A cache mount as the graph names it.
pub(super) struct CacheWish<'a> {
    pub(super) id: &'a str,
    pub(super) sharing: graph::Sharing,
    pub(super) input: Option<usize>,
    pub(super) source: &'a str,
    pub(super) owner: graph::CacheOwner,
}

/// Takes a cache mount, which starts empty or as a copy of an input.
///
/// # Errors
/// When it cannot be had or filled.
pub(super) fn cache_mount(solver: &Solver, job: &Job, wish: &CacheWish) -> Result<(CacheMount, PathBuf), BuildError> {
    let seed = wish.input.and_then(|input| job.inputs().get(input)).and_then(Option::as_ref);
    let mut base = Hasher::domain("kiln.mount-base.v1");
    match seed {
        Some(seed) => base.digest(&seed.class).field(wish.source),
        None => {
            base.number(u64::from(wish.owner.uid)).number(u64::from(wish.owner.gid)).number(u64::from(wish.owner.mode))
        }
    };
    let request = MountRequest {
        id: wish.id,
        base: Some(base.finish()),
        sharing: match wish.sharing {
            graph::Sharing::Shared => Sharing::Shared,
            graph::Sharing::Private => Sharing::Private,
            graph::Sharing::Locked => Sharing::Locked,
        },
    };
    let tree = job.source(seed)?;
    let fill = |path: &Path| -> io::Result<()> {
        std::os::unix::fs::chown(path, Some(wish.owner.uid), Some(wish.owner.gid))?;
        fs::set_permissions(path, fs::Permissions::from_mode(wish.owner.mode))?;
        let Some(tree) = &tree else { return Ok(()) };
        let missing =
            || io::Error::new(io::ErrorKind::NotFound, format!("open {}: no such file or directory", wish.source));
        let physical =
            copy::resolve(tree.tree(), &components(wish.source.as_bytes()), true).map_err(io::Error::other)?;
        let node = tree.tree().get(&physical).ok_or_else(missing)?;
        let skipped = files::directory(node, job.contents(), &fs::File::open(path)?, Owners::Kept)?;
        if !skipped.is_empty() {
            tracing::debug!(?skipped, "special files are not copied into a cache mount");
        }
        Ok(())
    };
    let mount =
        solver.store.cache_mount(&request, &|| solver.cancel.is_cancelled(), fill).map_err(|error| match error {
            MountError::Cancelled(_) => BuildError::cancelled(),
            MountError::Fill { source, .. } => BuildError::input(source.to_string()),
            error => BuildError::environment(chain(&error)),
        })?;
    let path = mount.path().to_path_buf();
    Ok((mount, path))
}
