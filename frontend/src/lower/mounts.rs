//! The mounts of a RUN.

use super::path;
use crate::dockerfile::csv;
use crate::dockerfile::mount::{Mount as Written, MountKind as WrittenKind, Sharing as WrittenSharing};
use crate::graph::{CacheOwner, Mount, MountKind, Sharing};

/// Why a mount is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum MountError {
    /// The root, or nothing.
    #[error("invalid mount target {0:?}")]
    Target(String),
    /// A source for an agent's socket.
    #[error("ssh does not support source")]
    SshSource,
}

/// Returns the name after `from=` of a mount that has not been read yet.
pub(super) fn from(text: &str) -> Option<String> {
    let fields = csv::fields(text).ok()?;
    let named = fields.iter().rev().find_map(|field| {
        let (key, value) = field.split_once('=')?;
        key.eq_ignore_ascii_case("from").then(|| value.to_owned())
    });
    named.filter(|name| !name.is_empty())
}

/// What lies around a mount.
pub(super) struct Surroundings<'a> {
    /// The working directory.
    pub(super) cwd: &'a str,
    /// BUILDKIT_CACHE_MOUNT_NS.
    pub(super) cache_namespace: &'a str,
    /// How many ssh mounts came before.
    pub(super) ssh_count: usize,
    /// The index of the input, for those that have one.
    pub(super) input: Option<usize>,
}

/// Returns what a mount means.
pub(super) fn lower(written: &Written, around: &Surroundings<'_>) -> Result<Mount, MountError> {
    let source = path::rooted(written.source.as_deref().unwrap_or_default());
    let target = target(written, around)?;
    let owner = |mode: u32| (written.uid.unwrap_or(0), written.gid.unwrap_or(0), written.mode.unwrap_or(mode));
    let kind = match written.kind {
        // Every bind mount has an input, were it the empty file system; 0 would be the root.
        WrittenKind::Bind => MountKind::Bind { input: around.input.unwrap_or(0), source },
        WrittenKind::Cache => {
            let (uid, gid, mode) = if source == "/" { owner(0o755) } else { (0, 0, 0o755) };
            let id = match &written.id {
                Some(id) => id.clone(),
                None => path::clean(written.target.as_deref().unwrap_or_default()),
            };
            MountKind::Cache {
                id: format!("{}/{id}", around.cache_namespace),
                sharing: match written.sharing.unwrap_or_default() {
                    WrittenSharing::Shared => Sharing::Shared,
                    WrittenSharing::Private => Sharing::Private,
                    WrittenSharing::Locked => Sharing::Locked,
                },
                input: around.input,
                source,
                owner: CacheOwner { uid, gid, mode },
            }
        }
        WrittenKind::Tmpfs => MountKind::Tmpfs { size: written.size.unwrap_or(0) },
        WrittenKind::Secret => {
            let (uid, gid, mode) = owner(0o400);
            MountKind::Secret {
                id: secret_id(written),
                file: written.target.is_some() || written.env.is_none(),
                env: written.env.clone(),
                required: written.required,
                uid,
                gid,
                mode,
            }
        }
        WrittenKind::Ssh => {
            if written.source.is_some() {
                return Err(MountError::SshSource);
            }
            let (uid, gid, mode) = owner(0o600);
            let id = written.id.clone().unwrap_or_else(|| "default".to_owned());
            MountKind::Ssh { id, required: written.required, uid, gid, mode }
        }
    };
    let read_only = written.read_only || matches!(written.kind, WrittenKind::Secret | WrittenKind::Ssh);
    Ok(Mount { target, read_only, kind })
}

fn secret_id(written: &Written) -> String {
    match written.id.as_ref().or(written.source.as_ref()) {
        Some(id) => id.clone(),
        None => path::base(written.target.as_deref().unwrap_or_default()).to_owned(),
    }
}

fn target(written: &Written, around: &Surroundings<'_>) -> Result<String, MountError> {
    let whole = match (written.kind, written.target.as_deref()) {
        (_, Some(target)) if target.starts_with('/') => path::clean(target),
        (_, Some(target)) => path::rooted(&format!("{}/{target}", around.cwd)),
        (WrittenKind::Secret, None) => path::rooted(&format!("/run/secrets/{}", path::base(&secret_id(written)))),
        (WrittenKind::Ssh, None) => format!("/run/buildkit/ssh_agent.{}", around.ssh_count),
        (_, None) => path::rooted(around.cwd),
    };
    if whole == "/" { Err(MountError::Target(whole)) } else { Ok(whole) }
}
