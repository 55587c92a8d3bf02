//! The mounts of a command: what the graph names, as the sandbox wants it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_frontend::graph::{Copy, CopyFrom, Exec, Mount, MountKind};
use kiln_oci::{Digest, Hasher};
use kiln_runtime as runtime;

use super::agent::Forwarded;
use super::{directory, scratch_failed};
use crate::error::{BuildError, chain};
use crate::op::copy;
use crate::op::file::{self, Source};
use crate::op::files::FileNode;
use crate::solver::{Job, Solver, Value};

/// A mount as the sandbox wants it.
#[derive(Default)]
pub(super) struct Mounted {
    pub(super) mount: Option<runtime::Mount>,
    pub(super) env: Option<(String, String)>,
    /// The socket of an agent, held until the command has ended.
    pub(super) agent: Option<Forwarded>,
}

/// Makes ready what a mount needs.
///
/// # Errors
/// When its source cannot be had.
pub(super) fn mount(
    solver: &Solver,
    job: &Job,
    mount: &Mount,
    scratch: &Path,
    index: usize,
) -> Result<Mounted, BuildError> {
    let made = |kind: runtime::MountKind| Mounted {
        mount: Some(runtime::Mount { target: mount.target.clone(), read_only: mount.read_only, kind }),
        env: None,
        agent: None,
    };
    match &mount.kind {
        MountKind::Bind { input, source } => {
            let mut layers = tree_directories(solver, job, *input)?;
            layers.reverse();
            let upper = if mount.read_only {
                None
            } else {
                let make = |name: &str| {
                    directory(scratch, &format!("{name}-{index}")).map_err(|error| scratch_failed(scratch, &error))
                };
                Some((make("bind-upper")?, make("bind-work")?))
            };
            Ok(made(runtime::MountKind::Bind { layers, path: source.clone(), upper }))
        }
        MountKind::Tmpfs { size } => Ok(made(runtime::MountKind::Tmpfs { size: Some(*size).filter(|size| *size > 0) })),
        MountKind::Secret { id, file, env, required, uid, gid, mode } => {
            let value = solver
                .client
                .secrets
                .secret(id)
                .map_err(|error| BuildError::input(format!("secret {id} cannot be read: {error}")))?;
            if value.is_none() && *required {
                return Err(BuildError::input(format!("secret {id}: not found"))
                    .hint(format!("pass it with `--secret id={id},src=FILE` or `--secret id={id},env=NAME`")));
            }
            let mut mounted = Mounted::default();
            if let Some(name) = env {
                let bytes = value.clone().unwrap_or_default();
                let text = String::from_utf8(bytes)
                    .map_err(|_| BuildError::input(format!("secret {id} is not text and cannot be a variable")))?;
                mounted.env = Some((name.clone(), text));
            }
            if let (true, Some(bytes)) = (*file, value) {
                let content = runtime::SecretBytes(bytes);
                mounted.mount = made(runtime::MountKind::Bytes { content, uid: *uid, gid: *gid, mode: *mode }).mount;
            }
            Ok(mounted)
        }
        // Mounted when all others are ready.
        MountKind::Cache { .. } => Ok(Mounted::default()),
        MountKind::Ssh { id, required, uid, gid, mode } => {
            // The variable is there also where the agent is not.
            let variable = "SSH_AUTH_SOCK";
            let mut mounted = Mounted { env: Some((variable.to_owned(), mount.target.clone())), ..Mounted::default() };
            let Some(agent) = solver.client.secrets.agent(id) else {
                if *required {
                    return Err(no_agent(id));
                }
                return Ok(mounted);
            };
            let forwarded = Forwarded::listen(&agent, scratch, &format!("agent-{index}")).map_err(|error| {
                BuildError::environment(format!("cannot make a socket for the ssh agent `{id}`: {error}"))
            })?;
            let path = forwarded.path().to_owned();
            mounted.mount = made(runtime::MountKind::Socket { path, uid: *uid, gid: *gid, mode: *mode }).mount;
            mounted.agent = Some(forwarded);
            Ok(mounted)
        }
    }
}

fn no_agent(id: &str) -> BuildError {
    let shown = if id == "default" { "" } else { id };
    BuildError::input(format!("no SSH key {shown:?} forwarded from the client"))
        .hint(format!("start an agent and pass it with `--ssh {id}`, or a key with `--ssh {id}=FILE`"))
}

/// Returns the directories of an input, lowest first. A client's directory is copied first, so
/// that the command sees what was hashed, without what is ignored.
fn tree_directories(solver: &Solver, job: &Job, input: usize) -> Result<Vec<PathBuf>, BuildError> {
    let Some(Some(solved)) = job.inputs().get(input) else { return Ok(Vec::new()) };
    match &solved.value {
        Value::Chain(chain) => solver.layers.directories(chain),
        Value::Local(_) => {
            let Some(source) = job.source(Some(solved))? else { return Ok(Vec::new()) };
            let packed = file::directory_of(solver.store, &source, job.contents())
                .map_err(|error| BuildError::input(chain(&error)))?;
            Ok(vec![solver.layers.directory(&packed.diff_id)?])
        }
    }
}

/// Returns the content keys of what a command sees through its bind mounts.
///
/// # Errors
/// When a source is missing or cannot be read.
pub fn fingerprints(job: &Job, op: &Exec) -> Result<Vec<Digest>, BuildError> {
    let mut prints = Vec::new();
    for mount in &op.mounts {
        let MountKind::Bind { input, source: path } = &mount.kind else { continue };
        let source = job.source(job.inputs().get(*input).and_then(Option::as_ref))?;
        let whole = Copy {
            from: CopyFrom::Input(*input),
            source: path.clone(),
            destination: "/".to_owned(),
            owner: None,
            mode: None,
            wildcards: false,
            follow_symlinks: true,
            contents_only: false,
            unpack: false,
            include: None,
            required: Vec::new(),
            exclude: Vec::new(),
        };
        let source = source.unwrap_or_else(|| Source::Files(Arc::new(FileNode::empty())));
        prints.push(match file::fingerprint_of(&source, &whole, job.contents()) {
            Ok(print) => print,
            // In layers it is the command that misses it: the sandbox says so.
            Err(copy::CopyError::NotFound(_)) if matches!(source, Source::Files(_)) => absent(path),
            Err(error) => return Err(missing(&error, path)),
        });
    }
    Ok(prints)
}

/// What stands in a key for a source that is not there.
fn absent(path: &str) -> Digest {
    let mut hasher = Hasher::domain("kiln.absent.v1");
    hasher.field(path);
    hasher.finish()
}

fn missing(error: &copy::CopyError, path: &str) -> BuildError {
    let mut built = BuildError::input(format!("failed to compute cache key: {}", chain(error)));
    if matches!(error, copy::CopyError::NotFound(_)) {
        built.hint = Some(format!("the bind mount's source `{path}` must be in the context and not ignored"));
    }
    built
}
