//! Commands: the sandbox's specification from the graph's, and a layer from what it changed.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use kiln_cache::layer;
use kiln_cache::mount::{CacheMount, MountError, MountRequest, Sharing};
use kiln_frontend::graph::{self, Copy, CopyFrom, Exec, Mount, MountKind, Network, Security};
use kiln_oci::{Digest, Hasher};
use kiln_runtime::{self as runtime, Outcome, RunError, SetupError, Stream};

use crate::error::{BuildError, chain};
use crate::export::files::{self, Owners};
use crate::op::copy;
use crate::op::file::{self, Source};
use crate::op::files::{FileNode, components};
use crate::progress::OutputStream;
use crate::solver::{Job, Solver, Value};

/// How many of a command's last lines go into the error.
const TAIL_LINES: usize = 20;
/// How much of a line.
const TAIL_LINE: usize = 2_000;

/// Runs a command and makes a layer of what it changed; returns its diff_id and size.
///
/// # Errors
/// When the sandbox cannot be set up, or the command fails.
pub fn run(solver: &Solver, job: &Job, op: &Exec) -> Result<(Digest, u64), BuildError> {
    let layers = job.base();
    let mut lowers = solver.layers.directories(layers)?;
    lowers.reverse();
    let scratch = solver.store.scratch("exec").map_err(|error| BuildError::environment(chain(&error)))?;
    let upper = directory(scratch.path(), "upper").map_err(|error| scratch_failed(scratch.path(), &error))?;
    let work = directory(scratch.path(), "work").map_err(|error| scratch_failed(scratch.path(), &error))?;
    // The root of the new file system has the mode and owner of the one below.
    adopt(&upper, lowers.first()).map_err(|error| scratch_failed(scratch.path(), &error))?;
    let root = runtime::Root { lowers: lowers.clone(), upper: upper.clone(), work };
    let mut spec = runtime::Spec::new(root, op.args.iter().cloned());
    spec.env.clone_from(&op.env);
    spec.env.extend(op.proxy_env.iter().cloned());
    spec.cwd.clone_from(&op.cwd);
    spec.user.clone_from(&op.user);
    if !op.hostname.is_empty() {
        spec.hostname.clone_from(&op.hostname);
    }
    spec.extra_hosts = op.extra_hosts.clone();
    spec.shm_size = op.shm_size;
    spec.network = match op.network {
        Network::None => runtime::Network::None,
        Network::Host => runtime::Network::Host,
        Network::Default => {
            job.step().note("network: this RUN uses the host's network (`--network=none` gives it none)");
            runtime::Network::Host
        }
    };
    if op.security == Security::Insecure {
        return Err(BuildError::input("security.insecure is not allowed")
            .hint("kiln has no way yet to grant `RUN --security=insecure`; remove the flag"));
    }
    let mut held = Vec::new();
    for (index, mount) in op.mounts.iter().enumerate() {
        let mounted = self::mount(solver, job, mount, scratch.path(), index)?;
        if let Some((name, value)) = mounted.env {
            spec.env.retain(|entry| entry.split('=').next() != Some(&name));
            spec.env.push(format!("{name}={value}"));
        }
        spec.mounts.extend(mounted.mount);
        held.extend(mounted.held);
    }
    let tail = Mutex::new(Tail::default());
    let mut output = |stream: Stream, bytes: &[u8]| {
        tail.lock().expect("no panic under the lock").push(bytes);
        let stream = match stream {
            Stream::Stdout => OutputStream::Stdout,
            Stream::Stderr => OutputStream::Stderr,
        };
        job.step().output(stream, bytes);
    };
    let outcome = runtime::run(solver.program()?, &spec, &mut output, &solver.cancel);
    drop(held);
    let log = tail.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).lines();
    let command = op.args.join(" ");
    match outcome {
        Ok(outcome) if outcome.is_success() => {}
        Ok(outcome) => return Err(command_failed(&command, op, outcome, log)),
        Err(error) => return Err(not_run(&command, &error, log)),
    }
    let packed = layer::seal(solver.store, upper, &lowers, None).map_err(|error| crate::layers::failed(&error))?;
    Ok((packed.diff_id, packed.size))
}

/// A mount as the sandbox wants it.
#[derive(Default)]
struct Mounted {
    mount: Option<runtime::Mount>,
    env: Option<(String, String)>,
    /// A cache mount, held until the command has ended.
    held: Option<Arc<CacheMount>>,
}

fn mount(solver: &Solver, job: &Job, mount: &Mount, scratch: &Path, index: usize) -> Result<Mounted, BuildError> {
    let made = |kind: runtime::MountKind| Mounted {
        mount: Some(runtime::Mount { target: mount.target.clone(), read_only: mount.read_only, kind }),
        env: None,
        held: None,
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
        MountKind::Cache { id, sharing, input, source, owner } => {
            let (held, path) =
                cache_mount(solver, job, &CacheWish { id, sharing: *sharing, input: *input, source, owner: *owner })?;
            let kind = if source == "/" || input.is_some() {
                runtime::MountKind::Directory { path }
            } else {
                runtime::MountKind::Bind { layers: vec![path], path: source.clone(), upper: None }
            };
            Ok(Mounted { held: Some(held), ..made(kind) })
        }
        MountKind::Ssh { .. } => Err(BuildError::input("kiln does not forward ssh agents yet")
            .hint("use a secret, or clone beforehand and COPY")),
    }
}

/// A cache mount as the graph names it.
struct CacheWish<'a> {
    id: &'a str,
    sharing: graph::Sharing,
    input: Option<usize>,
    source: &'a str,
    owner: graph::CacheOwner,
}

/// Takes a cache mount, which starts empty or as a copy of an input.
fn cache_mount(solver: &Solver, job: &Job, wish: &CacheWish) -> Result<(Arc<CacheMount>, PathBuf), BuildError> {
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
    Ok((Arc::new(mount), path))
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
        let empty = Source::Files(Arc::new(FileNode::empty()));
        let source = source.unwrap_or(empty);
        prints.push(file::fingerprint_of(&source, &whole, job.contents()).map_err(|error| missing(&error, path))?);
    }
    Ok(prints)
}

fn missing(error: &copy::CopyError, path: &str) -> BuildError {
    let mut built = BuildError::input(format!("failed to compute cache key: {}", chain(error)));
    if matches!(error, copy::CopyError::NotFound(_)) {
        built.hint = Some(format!("the bind mount's source `{path}` must be in the context and not ignored"));
    }
    built
}

fn directory(parent: &Path, name: &str) -> io::Result<PathBuf> {
    let path = parent.join(name);
    fs::DirBuilder::new().mode(0o755).create(&path)?;
    Ok(path)
}

fn adopt(upper: &Path, below: Option<&PathBuf>) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let Some(below) = below else { return fs::set_permissions(upper, fs::Permissions::from_mode(0o755)) };
    let metadata = fs::metadata(below)?;
    std::os::unix::fs::chown(upper, Some(metadata.uid()), Some(metadata.gid()))?;
    fs::set_permissions(upper, fs::Permissions::from_mode(metadata.mode() & 0o7777))
}

fn scratch_failed(path: &Path, error: &io::Error) -> BuildError {
    BuildError::environment(format!("cannot prepare a sandbox in {}: {error}", path.display()))
}

fn command_failed(command: &str, op: &Exec, outcome: Outcome, log: Vec<String>) -> BuildError {
    let code = outcome.code();
    let mut message = format!("process {command:?} did not complete successfully: exit code: {code}");
    let mut hint = None;
    match outcome {
        Outcome::Killed { oom: true, .. } => {
            message.push_str(": cannot allocate memory");
            hint = Some("the machine ran out of memory while the command ran".to_owned());
        }
        Outcome::Killed { signal, .. } => hint = Some(format!("signal {signal} ended the command")),
        Outcome::Exited(127) => hint = not_found_hint(op, &log),
        Outcome::Exited(126) => {
            hint = Some("the shell found the program but could not execute it: check its mode and format".to_owned());
        }
        Outcome::Exited(_) => {}
    }
    BuildError { hint, log, status: Some(code), ..BuildError::input(message) }
}

/// `sh: 1: foo: not found` and its relatives.
fn not_found_hint(op: &Exec, log: &[String]) -> Option<String> {
    let line = log.iter().rev().find(|line| line.contains("not found"))?;
    let word = line.split(": ").filter(|part| !part.contains("not found")).last()?.trim();
    if word.is_empty() || word.contains(' ') {
        return None;
    }
    let shell = op.args.first().map_or("the shell", String::as_str);
    Some(format!("{shell} found no program `{word}` in the image: install it in an earlier RUN, or check the spelling"))
}

fn not_run(command: &str, error: &RunError, log: Vec<String>) -> BuildError {
    let text = chain(error);
    let built = match error {
        RunError::Cancelled => return BuildError::cancelled(),
        RunError::Setup(setup) => {
            let hint = setup_hint(setup);
            let mut built = BuildError::input(format!("process {command:?} did not complete successfully: {text}"));
            if matches!(setup, SetupError::System { .. } | SetupError::Mount { .. }) {
                built.kind = crate::Kind::Environment;
            }
            built.hint = hint;
            built
        }
        RunError::Invalid { .. } => BuildError::input(text),
        RunError::Spawn(_) | RunError::Lost(_) => BuildError::environment(text),
    };
    BuildError { log, ..built }
}

fn setup_hint(error: &SetupError) -> Option<String> {
    match error {
        SetupError::System { errno, .. } | SetupError::Mount { errno, .. } if *errno == 1 => {
            Some("kiln runs commands as root with its own namespaces: run it as root, with CAP_SYS_ADMIN".to_owned())
        }
        SetupError::CommandNotFound { name } => {
            Some(format!("install `{name}` in an earlier RUN, or check the spelling and PATH"))
        }
        SetupError::FileNotFound { exists: true, .. } => Some(
            "the image lacks the program's interpreter or C library: use a base that has it, or link statically"
                .to_owned(),
        ),
        SetupError::FileNotFound { exists: false, .. } => Some(
            "a shell form needs /bin/sh in the image; an image without it takes `RUN [\"/program\", \"argument\"]`"
                .to_owned(),
        ),
        SetupError::ExecFormat { .. } => Some("it is for another processor, or a script without `#!` line".to_owned()),
        SetupError::PermissionDenied { .. } => Some("give it an x bit: `COPY --chmod=755`".to_owned()),
        SetupError::UnknownUser(_) | SetupError::UnknownGroup(_) => {
            Some("add it with `RUN useradd` or `RUN adduser` before USER, or use a number".to_owned())
        }
        _ => None,
    }
}

/// The last lines of what a command wrote.
#[derive(Default)]
struct Tail {
    lines: VecDeque<Vec<u8>>,
    open: bool,
}

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if !self.open {
                if self.lines.len() == TAIL_LINES {
                    self.lines.pop_front();
                }
                self.lines.push_back(Vec::new());
            }
            self.open = !piece.ends_with(b"\n");
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            if let Some(line) = self.lines.back_mut() {
                let room = TAIL_LINE.saturating_sub(line.len());
                line.extend_from_slice(&text[..text.len().min(room)]);
            }
        }
    }

    fn lines(self) -> Vec<String> {
        self.lines.into_iter().map(|line| String::from_utf8_lossy(&line).into_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_keeps_the_last_lines_whole() {
        let mut tail = Tail::default();
        for number in 0..100 {
            tail.push(b"li");
            tail.push(format!("ne {number}\n").as_bytes());
        }
        tail.push(b"open");
        let lines = tail.lines();
        assert_eq!(lines.len(), TAIL_LINES);
        assert_eq!(lines.first().map(String::as_str), Some("line 81"));
        assert_eq!(lines.last().map(String::as_str), Some("open"));
    }
}
