//! The mounts of a command: what the graph names, as the sandbox wants it.

use std::path::Path;
use std::sync::Arc;

use kiln_frontend::graph::{Copy, CopyFrom, Exec, Mount, MountKind};
use kiln_oci::{Digest, Hasher};
use kiln_runtime as runtime;

use super::agent::Forwarded;
use super::{directory, scratch_failed};
use crate::error::{BuildError, chain};
use crate::layers::Layers;
use crate::op::copy;
use crate::op::file::{self, Source};
use crate::op::files::FileNode;
use crate::seam::Secrets;
use crate::solver::{Job, Solver, Value};

/// A mount as the sandbox wants it.
#[derive(Default)]
struct Mounted {
    mount: Option<runtime::Mount>,
    env: Option<(String, String)>,
    /// The socket of an agent, held until the command has ended.
    agent: Option<Forwarded>,
}

/// What mounts are made of.
pub(super) struct Supplies<'a> {
    pub(super) layers: &'a Layers,
    pub(super) secrets: &'a dyn Secrets,
    /// A directory for this command alone.
    pub(super) scratch: &'a Path,
    /// For each mount, the layers that it shows a part of, lowest first.
    pub(super) trees: &'a [Vec<Digest>],
}

/// Makes ready what all mounts of a command need but for its cache mounts, adds to the variables what belongs to secrets and
/// agents, and returns the mounts in order.
///
/// # Errors
/// When a source cannot be had.
pub(super) fn prepare(
    supplies: &Supplies<'_>,
    mounts: &[Mount],
    env: &mut Vec<String>,
) -> Result<(Vec<Option<runtime::Mount>>, Vec<Forwarded>), BuildError> {
    let (mut prepared, mut agents) = (Vec::new(), Vec::new());
    for (index, wanted) in mounts.iter().enumerate() {
        let mounted = mount(supplies, wanted, index)?;
        if let Some((name, value)) = mounted.env {
            let is_named = |entry: &String| entry.split('=').next() == Some(&name);
            match wanted.kind {
                // Only where nobody has said otherwise: the first ssh mount, or the image.
                MountKind::Ssh { .. } if env.iter().any(is_named) => {}
                _ => {
                    env.retain(|entry| !is_named(entry));
                    env.push(format!("{name}={value}"));
                }
            }
        }
        prepared.push(mounted.mount);
        agents.extend(mounted.agent);
    }
    Ok((prepared, agents))
}

fn mount(supplies: &Supplies<'_>, mount: &Mount, index: usize) -> Result<Mounted, BuildError> {
    let scratch = supplies.scratch;
    let made = |kind: runtime::MountKind| Mounted {
        mount: Some(runtime::Mount { target: mount.target.clone(), read_only: mount.read_only, kind }),
        env: None,
        agent: None,
    };
    match &mount.kind {
        MountKind::Bind { source, .. } => {
            let mut layers = supplies.layers.directories(&supplies.trees[index])?;
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
            let value = supplies
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
            let Some(agent) = supplies.secrets.agent(id) else {
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

/// Returns a mount that is done without where what it is of is not given.
pub(super) fn not_required(mut mount: Mount) -> Mount {
    if let MountKind::Secret { required, .. } | MountKind::Ssh { required, .. } = &mut mount.kind {
        *required = false;
    }
    mount
}

fn no_agent(id: &str) -> BuildError {
    let shown = if id == "default" { "" } else { id };
    BuildError::input(format!("no SSH key {shown:?} forwarded from the client"))
        .hint(format!("start an agent and pass it with `--ssh {id}`, or a key with `--ssh {id}=FILE`"))
}

/// Returns for each mount the layers that it shows a part of; none where it shows nothing that was built.
///
/// # Errors
/// When a directory of the client cannot be read.
pub(super) fn trees(solver: &Solver, job: &Job, op: &Exec) -> Result<Vec<Vec<Digest>>, BuildError> {
    let tree = |mount: &Mount| match mount.kind {
        MountKind::Bind { input, .. } => tree(solver, job, input),
        _ => Ok(Vec::new()),
    };
    op.mounts.iter().map(tree).collect()
}

/// Returns the layers of an input, lowest first. A client's directory is copied first, so
/// that the command sees what was hashed, without what is ignored.
fn tree(solver: &Solver, job: &Job, input: usize) -> Result<Vec<Digest>, BuildError> {
    let Some(Some(solved)) = job.inputs().get(input) else { return Ok(Vec::new()) };
    match &solved.value {
        Value::Chain(chain) => Ok(chain.to_vec()),
        Value::Local(_) => {
            let Some(source) = job.source(Some(solved))? else { return Ok(Vec::new()) };
            let packed = file::directory_of(solver.store, &source, job.contents())
                .map_err(|error| BuildError::input(chain(&error)))?;
            Ok(vec![packed.diff_id])
        }
        Value::Absent => Err(BuildError::bug("files of a step that has no result were asked for")),
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
