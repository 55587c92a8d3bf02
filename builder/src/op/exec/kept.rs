//! Failed commands that are kept, and shells in their place.

use std::sync::Arc;

use kiln_cache::Store;
use kiln_frontend::graph::Exec;
use kiln_oci::{Digest, Platform};
use kiln_runtime::{self as runtime, Cancel, Event, Isolation, Program, Resources, Terminal};
use serde::{Deserialize, Serialize};

use super::cache_mount::{Caches, Waiting, Wanted};
use super::mounts::{self, Supplies};
use super::{SharedNetwork, adopt, directory, failure, platform, scratch_failed, specify};
use crate::error::{BuildError, Kind, chain};
use crate::layers::Layers;
use crate::seam::Secrets;
use crate::solver::{Job, Solver, nanoseconds};
use crate::step::Steps;

/// What a command had around it, beside what the graph says.
#[derive(Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) isolation: Isolation,
    pub(super) resources: Resources,
    /// Of the mounts: what [`mounts::trees`] says.
    pub(super) trees: Vec<Vec<Digest>>,
    /// Of the mounts: what `cache_mount::bases` says.
    pub(super) bases: Vec<Option<Digest>>,
}

/// A failed command as it is kept. No secret is in it: their mounts only name them.
#[derive(Serialize, Deserialize)]
struct Description {
    number: u32,
    name: String,
    created: u64,
    platform: Option<Platform>,
    exec: Exec,
    /// What it ran on, lowest first.
    layers: Vec<Digest>,
    place: Place,
}

/// A failed command that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptStep {
    /// The number of its step in the log.
    pub number: u32,
    /// As the log names it.
    pub name: String,
    /// When it failed, nanoseconds since 1970.
    pub created: u64,
}

/// Keeps a failed command if that is wanted, and says in its error how to look around.
pub(super) fn offer(
    solver: &Solver,
    job: &Job,
    op: &Exec,
    place: Place,
    upper: &std::path::Path,
    mut error: BuildError,
) -> BuildError {
    if error.kind != Kind::Input {
        return error;
    }
    let mut advice = "`--on-fail=shell` opens a shell where it failed";
    if solver.keeps_failed {
        let description = Description {
            number: job.step().id().0,
            name: job.name().to_owned(),
            created: nanoseconds(),
            platform: job.platform().cloned(),
            exec: op.clone(),
            layers: job.base().to_vec(),
            place,
        };
        let bytes = serde_json::to_vec(&description).expect("plain data");
        match solver.store.keep_failed(upper, &bytes) {
            Ok(()) => {
                error.is_kept = true;
                advice = "`kiln shell` opens a shell where it failed";
            }
            Err(refused) => job.step().note(format!("the failed step is not kept: {}", chain(&refused))),
        }
    }
    let hint = match &error.hint {
        Some(hint) => format!("{hint}; {advice}"),
        None => advice.to_owned(),
    };
    error.hint(hint)
}

/// Returns the failed commands that are kept, the newest first.
///
/// # Errors
/// When the store cannot be read.
pub(crate) fn list(store: &Store) -> Result<Vec<KeptStep>, BuildError> {
    let kept = |(_, it): &(_, Description)| KeptStep { number: it.number, name: it.name.clone(), created: it.created };
    Ok(load(store)?.iter().map(kept).collect())
}

fn load(store: &Store) -> Result<Vec<(kiln_cache::Failed, Description)>, BuildError> {
    let failed = store.failed().map_err(|error| BuildError::environment(chain(&error)))?;
    let mut found = Vec::new();
    for failed in failed {
        // What another version has written, or nobody could finish, is not there.
        let description = failed.description().ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        found.extend(description.map(|description| (failed, description)));
    }
    Ok(found)
}

/// Which shell is wanted.
#[derive(Debug, Clone, Default)]
pub struct ShellRequest {
    /// The number of a step, or a part of its name; without it the last that failed.
    pub step: Option<String>,
    /// As it was before the command rather than after it.
    pub before: bool,
    /// The kind of terminal, for TERM.
    pub term: Option<String>,
}

/// What the client lends to a shell.
pub struct Seat<'a> {
    /// Secrets and agents; those of the build are not kept.
    pub secrets: &'a dyn Secrets,
    /// Takes the user's terminal when all is ready.
    pub terminal: &'a dyn Fn() -> std::io::Result<Terminal>,
    /// Takes what the shell writes.
    pub output: &'a mut (dyn FnMut(&[u8]) + Send),
    /// Hears of layers that have to be fetched.
    pub steps: Steps,
    /// Ends it.
    pub cancel: Cancel,
}

/// What a shell stands on.
pub(crate) struct Ground<'a> {
    pub(crate) store: &'a Store,
    pub(crate) layers: Arc<Layers>,
    pub(crate) program: &'a Program,
    pub(crate) isolation: Option<Isolation>,
}

/// Opens a shell in the place of a failed command and returns its exit code. What is changed there is thrown away.
///
/// # Errors
/// When no such command is kept, or the sandbox cannot be set up.
pub(crate) fn shell(ground: &Ground<'_>, request: &ShellRequest, seat: Seat<'_>) -> Result<i32, BuildError> {
    let (failed, kept) = find(ground.store, request.step.as_deref())?;
    let isolation = kept.place.isolation;
    if ground.isolation != Some(isolation) {
        return Err(BuildError::input(format!("the step failed under isolation `{isolation}`"))
            .hint(format!("`kiln shell --isolation={isolation}` opens a shell under the same")));
    }
    let step = seat.steps.start(format!("[internal] shell in {}", kept.name));
    let mut lowers = ground.layers.directories(&kept.layers)?;
    if !request.before {
        lowers.push(failed.upper());
    }
    lowers.reverse();
    let scratch = ground.store.scratch("shell").map_err(|error| BuildError::environment(chain(&error)))?;
    let place = |name: &str| directory(scratch.path(), name).map_err(|error| scratch_failed(scratch.path(), &error));
    let (upper, work) = (place("upper")?, place("work")?);
    adopt(&upper, lowers.first()).map_err(|error| scratch_failed(scratch.path(), &error))?;
    let network = SharedNetwork::default();
    let op = &kept.exec;
    let mut spec = specify(
        op,
        runtime::Root { lowers, upper, work },
        network.connect(op.network, isolation, &|| Ok(ground.program)),
    );
    spec.args = shell_of(&op.args);
    spec.isolation = isolation;
    spec.emulator = platform::emulator(kept.platform.as_ref())?;
    spec.resources = kept.place.resources.clone();
    if let Some(term) = request.term.as_ref().filter(|_| !spec.env.iter().any(|entry| entry.starts_with("TERM="))) {
        spec.env.push(format!("TERM={term}"));
    }
    let supplies =
        Supplies { layers: &ground.layers, secrets: seat.secrets, scratch: scratch.path(), trees: &kept.place.trees };
    let lenient: Vec<_> = op.mounts.iter().cloned().map(mounts::not_required).collect();
    let (prepared, _agents) = mounts::prepare(&supplies, &lenient, &mut spec.env)?;
    let waiting = Waiting::new(&seat.cancel, &step);
    let wanted = Wanted { store: ground.store, job: None, op, bases: &kept.place.bases, isolation };
    let mut caches = Caches::take(&wanted, &waiting)?;
    let terminal = (seat.terminal)().map_err(|error| {
        BuildError::environment(format!("cannot take the terminal: {error}")).hint("a shell needs one to talk to")
    })?;
    let output = seat.output;
    let mut listener = |event: Event<'_>| match event {
        Event::Output(_, bytes) => output(bytes),
        Event::Warning(text) => output(format!("warning: {text}\r\n").as_bytes()),
        Event::Note(_) | Event::Identity(..) => {}
    };
    let ended = caches.within(isolation, &waiting, |caches| {
        spec.mounts = caches.complete(prepared, &op.mounts);
        runtime::run_at_terminal(ground.program, &spec, terminal, &mut listener, &seat.cancel)
    })?;
    // Whoever sits in a shell decides what becomes of what it wrote, also where its last command was killed.
    caches.finish(ended.is_err(), &step)?;
    match ended {
        Ok(outcome) => {
            step.done();
            Ok(outcome.code())
        }
        Err(error) => step.end(Err(failure::not_run(&spec.args.join(" "), &error, Vec::new()))),
    }
}

fn find(store: &Store, wanted: Option<&str>) -> Result<(kiln_cache::Failed, Description), BuildError> {
    let mut kept = load(store)?;
    let fits = |it: &Description| match wanted {
        None => true,
        Some(text) => it.number.to_string() == text.trim_start_matches('#') || it.name.contains(text),
    };
    if let Some(place) = kept.iter().position(|(_, it)| fits(it)) {
        return Ok(kept.swap_remove(place));
    }
    let short = |name: &str| name.chars().take(60).collect::<String>();
    let names: Vec<String> = kept.iter().map(|(_, it)| format!("#{} {}", it.number, short(&it.name))).collect();
    Err(match wanted {
        Some(text) if !names.is_empty() => BuildError::input(format!("no failed step that is kept is called `{text}`"))
            .hint(format!("there are: {}", names.join("; "))),
        _ => BuildError::input("no failed step is kept").hint("`kiln build --on-fail=keep …` keeps one"),
    })
}

/// Returns the shell that a command ran in; /bin/sh where it ran in none.
fn shell_of(args: &[String]) -> Vec<String> {
    vec![args.first().filter(|_| runtime::is_shell(args)).map_or_else(|| "/bin/sh".to_owned(), String::clone)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_is_that_of_the_command() {
        let shell = |words: &[&str]| shell_of(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(shell(&["/bin/sh", "-c", "make"]), ["/bin/sh"]);
        assert_eq!(shell(&["/bin/bash", "-o", "pipefail", "-ec", "make"]), ["/bin/bash"]);
        assert_eq!(shell(&["/bin/echo", "x"]), ["/bin/sh"]);
        assert_eq!(shell(&[]), ["/bin/sh"]);
    }
}
