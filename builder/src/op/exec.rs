//! Commands: the sandbox's specification from the graph's, and a layer from what it changed.

mod agent;
mod cache_mount;
mod failure;
mod kept;
mod limits;
mod mounts;
mod network;
pub mod platform;

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread::ScopedJoinHandle;
use std::time::Instant;

use kiln_cache::layer::{self, Notes};
use kiln_frontend::graph::{self, Exec, Security};
use kiln_oci::Digest;
use kiln_runtime::{self as runtime, Event, Isolation, Stream};

use self::cache_mount::{Caches, Waiting, Wanted};
use self::failure::{Tail, command_failed, not_run};
use self::kept::Place;
pub(crate) use self::kept::{Ground, list as kept_steps, shell};
pub use self::kept::{KeptStep, Seat, ShellRequest};
use self::mounts::Supplies;
pub use self::mounts::fingerprints;
use self::network::Connection;
pub use self::network::SharedNetwork;
use crate::error::{BuildError, chain};
use crate::progress::OutputStream;
use crate::solver::{Job, Solver};

/// Runs a command and makes a layer of what it changed; returns its diff_id and size.
///
/// # Errors
/// When the sandbox cannot be set up, or the command fails.
pub fn run(solver: &Solver, job: &Job, op: &Exec) -> Result<(Digest, u64), BuildError> {
    let isolation = isolation(solver, job)?;
    let connect = || {
        let helper = || solver.program().map_err(|error| io::Error::other(error.message));
        solver.network.connect(op.network, isolation, &helper)
    };
    let lowers = || solver.layers.directories(job.base());
    let (connection, program, lowers) = if solver.program.get().is_some() && solver.network.is_at_hand(op.network) {
        (connect(), solver.program(), lowers())
    } else {
        // The first command's network, and the program that sets up sandboxes, are made while its layers are fetched.
        std::thread::scope(|scope| {
            let (connecting, reading) = (scope.spawn(connect), scope.spawn(|| solver.program()));
            let lowers = lowers();
            (joined(connecting), joined(reading), lowers)
        })
    };
    let (program, mut lowers) = (program?, lowers?);
    lowers.reverse();
    let scratch = solver.store.scratch("exec").map_err(|error| BuildError::environment(chain(&error)))?;
    let upper = directory(scratch.path(), "upper").map_err(|error| scratch_failed(scratch.path(), &error))?;
    let work = directory(scratch.path(), "work").map_err(|error| scratch_failed(scratch.path(), &error))?;
    // The root of the new file system has the mode and owner of the one below.
    adopt(&upper, lowers.first()).map_err(|error| scratch_failed(scratch.path(), &error))?;
    let root = runtime::Root { lowers: lowers.clone(), upper: upper.clone(), work };
    let trees = mounts::trees(solver, job, op)?;
    let bases = cache_mount::bases(job, op);
    if let Some(note) = &connection.note {
        job.step().note(note);
    }
    let mut spec = specify(op, root, connection);
    spec.isolation = isolation;
    spec.timeout = solver.step_timeout;
    spec.emulator = platform::emulator(job.platform())?;
    spec.resources = solver.resources.clone();
    let emulated = spec.emulator.as_ref().map(|emulator| (emulator.name.clone(), Instant::now()));
    if let Some((name, _)) = op.devices.iter().find(|(_, required)| *required) {
        let message = format!("CDI device injection failed: required device {name:?} is not registered");
        return Err(BuildError::input(message).hint("kiln has no registry of devices: make it optional, or remove it"));
    }
    let supplies =
        Supplies { layers: &solver.layers, secrets: solver.client.secrets, scratch: scratch.path(), trees: &trees };
    let (prepared, agents) = mounts::prepare(&supplies, &op.mounts, &mut spec.env)?;
    let waiting = Waiting::new(&solver.cancel, job.step());
    let wanted = Wanted { store: solver.store, job: Some(job), op, bases: &bases, isolation };
    let mut caches = Caches::take(&wanted, &waiting)?;
    let tail = Mutex::new(Tail::default());
    let notes = Mutex::new(Notes::default());
    let mut listener = |event: Event<'_>| match event {
        Event::Note(runtime::Note { inode, born, owner, device }) => {
            notes.lock().expect("no panic under the lock").add((inode, born), layer::Note { owner, device });
        }
        Event::Identity(uid, gid) => notes.lock().expect("no panic under the lock").owner = Some((uid, gid)),
        Event::Warning(text) => job.step().note(format!("warning: {text}")),
        Event::Output(stream, bytes) => {
            tail.lock().expect("no panic under the lock").push(bytes);
            let stream = match stream {
                Stream::Stdout => OutputStream::Stdout,
                Stream::Stderr => OutputStream::Stderr,
            };
            job.step().output(stream, bytes);
        }
    };
    let outcome = caches.within(isolation, &waiting, |caches| {
        spec.mounts = caches.complete(prepared, &op.mounts);
        runtime::run(program, &spec, &mut listener, &solver.cancel)
    })?;
    if let Some((name, begun)) = emulated {
        job.step().note(format!("emulated by {name}: {:.1}s", begun.elapsed().as_secs_f64()));
    }
    drop(agents);
    caches.finish(outcome.as_ref().map_or(true, |outcome| outcome.is_killed(&op.args)), job.step())?;
    let log = tail.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).lines();
    let command = op.args.join(" ");
    let failed = match outcome {
        Ok(outcome) if outcome.is_success() => None,
        Ok(outcome) => {
            let failed = command_failed(&command, op, outcome, spec.resources.memory, log);
            Some(failure::explain_id(failure::explain_disk(failed, solver.store.root()), isolation))
        }
        Err(error) => Some(not_run(&command, &error, log)),
    };
    if let Some(failed) = failed {
        let place = Place { isolation, resources: solver.resources.clone(), trees, bases };
        return Err(kept::offer(solver, job, op, place, &upper, failed));
    }
    let notes = notes.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    let packed =
        layer::seal(solver.store, upper, &lowers, &notes, None).map_err(|error| solver.layers.failed(&error))?;
    Ok((packed.diff_id, packed.size))
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Returns what commands are shut in by here, and says so once where it is not what is usual.
fn isolation(solver: &Solver, job: &Job) -> Result<Isolation, BuildError> {
    let footing = solver.footing;
    let Some(isolation) = footing.isolation else {
        let reasons: Vec<String> = footing.refused.iter().map(|(rung, reason)| format!("{rung}: {reason}")).collect();
        return Err(BuildError::environment(format!("commands cannot be run here: {}", reasons.join("; ")))
            .hint("run kiln as root, or see `kiln info` for what a user needs; COPY and pulls work without"));
    };
    if isolation != Isolation::Root {
        solver.told_footing.call_once(|| job.step().note(format!("sandbox: {footing}")));
    }
    Ok(isolation)
}

/// Returns what the sandbox is told of a command, without mounts.
fn specify(op: &Exec, root: runtime::Root, connection: Connection) -> runtime::Spec {
    let mut spec = runtime::Spec::new(root, op.args.iter().cloned());
    spec.env = [&op.env[..], &op.proxy_env].concat();
    spec.cwd.clone_from(&op.cwd);
    spec.user.clone_from(&op.user);
    if !op.hostname.is_empty() {
        spec.hostname.clone_from(&op.hostname);
    }
    spec.extra_hosts = op.extra_hosts.iter().flat_map(|host| reachable(host, &connection.host)).collect();
    spec.shm_size = op.shm_size;
    spec.rlimits = limits::rlimits(&op.ulimits);
    spec.cgroup_parent.clone_from(&op.cgroup_parent);
    spec.network = connection.network;
    // Whether it may be insecure was asked before anything ran.
    spec.security = match op.security {
        Security::Sandbox => runtime::Security::Sandbox,
        Security::Insecure => runtime::Security::Insecure,
    };
    spec
}

/// Returns the lines for `/etc/hosts`: for `host-gateway` one for each address of the host's, and none where it cannot be
/// reached.
fn reachable((name, address): &(String, String), host: &[IpAddr]) -> Vec<(String, String)> {
    let addresses = match address == graph::HOST_GATEWAY {
        true => host.iter().map(ToString::to_string).collect(),
        false => vec![address.clone()],
    };
    addresses.into_iter().map(|address| (name.clone(), address)).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sandbox_and_store_mean_the_same_by_a_mark() {
        assert_eq!(runtime::OWNER_MARK, layer::Ownership::MARK);
        assert_eq!(runtime::WHITEOUT_MARK, layer::WHITEOUT_MARK);
    }
}
