//! Walks the graph: keys, look-ups, and what has to run, as much of it at once as can be.
//!
//! Vertices become ready when all their inputs are known; a ready one is looked up at once,
//! and only a miss costs a thread. A class, the identity of a result, is known without its
//! files being here, so a chain of hits touches records alone (spec: cache-keys.md §2.1).
//!
//! A vertex whose class is known and whose result is nowhere to be had is left at that
//! ([`Value::Absent`]) until somebody needs the result: then it is solved once more, as one that is
//! *wanted*, and who needs it waits.

mod job;
mod key;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, Once, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use kiln_cache::context::Memo;
use kiln_cache::{Record, Store};
use kiln_frontend::dockerfile::Diagnostic;
use kiln_frontend::graph::{Edge, Graph, LocalSource, MountKind, Op, Source, Vertex, VertexId, op_digest};
use kiln_oci::{Digest, Hasher};
use kiln_runtime::{Cancel, Footing, Program, Resources};

use crate::engine::{self, Client};
use crate::error::{BuildError, chain};
use crate::fetch::FetchedContext;
use crate::imports::Imports;
use crate::layers::Layers;
use crate::op::content::Contents;
use crate::op::exec::SharedNetwork;
use crate::request::LayerOptions;
use crate::source::image::Resolved;
use crate::source::local::LocalContext;
use crate::step::Steps;

pub use job::{Job, lock};

/// What a solver works with.
pub struct Solver<'a> {
    /// Where results are kept.
    pub store: &'a Store,
    /// Brings layers.
    pub layers: Arc<Layers>,
    /// What is to be made.
    pub graph: &'a Graph,
    /// The main context, where it is not a directory of the client.
    pub context: Option<&'a FetchedContext>,
    /// What the image sources are.
    pub images: &'a Resolved,
    /// Lends context files and secrets.
    pub client: &'a Client<'a>,
    /// Stops this solve; the solver uses it itself when a vertex fails.
    pub cancel: Cancel,
    /// Who hears about it.
    pub steps: Steps,
    /// Sets up sandboxes.
    pub program: &'a OnceLock<std::io::Result<Program>>,
    /// Where that program is.
    pub program_path: &'a std::path::Path,
    /// What this process may do with commands.
    pub footing: &'a Footing,
    /// Whether the user has been told of it.
    pub told_footing: Once,
    /// What commands share that say nothing about their network.
    pub network: &'a SharedNetwork,
    /// What each command may use.
    pub resources: &'a Resources,
    /// How many commands may run at the same time.
    pub jobs: Option<usize>,
    /// How long one command may take.
    pub step_timeout: Option<std::time::Duration>,
    /// Whether what a failed command leaves is kept.
    pub keeps_failed: bool,
    /// How the layers of the result become blobs; `None` when nobody wants these.
    pub blobs: Option<LayerOptions>,
    /// Where else results may be found.
    pub imports: &'a Imports,
}

/// What a vertex came to.
#[derive(Debug, Clone)]
pub struct Solved {
    /// The identity of the result: what keys above are made of.
    pub class: Digest,
    /// The result.
    pub value: Value,
    /// When its layer was made, nanoseconds since 1970.
    pub created: Option<u64>,
    /// Whether the class only means something in this build: a directory of the client.
    is_of_session: bool,
    /// Whether it was found rather than made.
    pub is_cached: bool,
}

/// A result.
#[derive(Debug, Clone)]
pub enum Value {
    /// Layers, lowest first.
    Chain(Arc<[Digest]>),
    /// A directory of the client.
    Local(LocalSource),
    /// It was made once, and is not to be had without making it again. The class stands for it.
    Absent,
}

/// How far a vertex could be solved.
enum Progress {
    /// To the end.
    Solved(Solved),
    /// These must have results first.
    Needs(Vec<VertexId>),
}

/// What a whole build came to.
pub struct Solution {
    /// For each vertex that was needed.
    pub solved: BTreeMap<VertexId, Solved>,
    /// What came up that is probably not meant, in the order of the build file.
    pub warnings: Vec<Diagnostic>,
}

impl Solution {
    /// Returns the layers of an edge; none for the empty file system.
    pub fn chain(&self, edge: Option<Edge>) -> Vec<Digest> {
        match edge.and_then(|edge| self.solved.get(&edge.vertex)) {
            Some(Solved { value: Value::Chain(chain), .. }) => chain.to_vec(),
            _ => Vec::new(),
        }
    }

    /// Returns the key of a step that is made of how its inputs were made; none where that says nothing to other builds.
    pub fn definition(&self, vertex: &Vertex) -> Option<Digest> {
        let input = |input: &Option<Edge>| input.and_then(|edge| self.solved.get(&edge.vertex).cloned());
        definition(vertex, &vertex.inputs.iter().map(input).collect::<Vec<_>>())
    }
}

impl Solved {
    /// Whether there is no result, but a class.
    fn is_absent(&self) -> bool {
        matches!(self.value, Value::Absent)
    }
}

/// The identity of the empty file system.
const SCRATCH: &str = "kiln.scratch.v1";

impl Solver<'_> {
    /// Solves everything that `roots` need.
    ///
    /// # Errors
    /// Of the first vertex that fails; what runs beside it is stopped, what was finished is kept.
    pub fn solve(&self, roots: &[Edge]) -> Result<Solution, BuildError> {
        let needed = self.graph.needed(roots.iter().copied());
        self.empty_cache_mounts(&needed)?;
        let run = Run::new(self, roots, &needed);
        run.all(needed, roots)
    }

    /// Commands that are to run again, whatever is known of them, find their cache mounts empty.
    fn empty_cache_mounts(&self, needed: &BTreeSet<VertexId>) -> Result<(), BuildError> {
        let mut ids = BTreeSet::new();
        for vertex in needed.iter().map(|id| self.graph.vertex(*id)).filter(|vertex| vertex.ignore_cache) {
            let Op::Exec(exec) = &vertex.op else { continue };
            ids.extend(exec.mounts.iter().filter_map(|mount| match &mount.kind {
                MountKind::Cache { id, .. } => Some(&**id),
                _ => None,
            }));
        }
        if ids.is_empty() {
            return Ok(());
        }
        self.store.empty_cache_mounts(&ids).map_err(|error| BuildError::environment(chain(&error)))
    }
}

/// One solve in progress.
struct Run<'s> {
    solver: &'s Solver<'s>,
    contents: Contents,
    /// Makes the classes of this build's local directories unlike all others.
    session: Digest,
    /// Vertices on whose directory a command may run.
    below_exec: BTreeSet<VertexId>,
    /// Vertices whose layer is in the result.
    in_result: BTreeSet<VertexId>,
    contexts: Mutex<BTreeMap<String, Arc<Walked>>>,
    warnings: Mutex<Vec<Diagnostic>>,
    /// Vertices without a result that the user has been told of.
    told: Mutex<BTreeSet<VertexId>>,
    /// Vertices that were looked at for what is probably not meant.
    suspected: Mutex<BTreeSet<VertexId>>,
    slots: Slots,
}

/// A directory of the client, walked by the first who needs it; or why it could not be, and what to do.
type Walked = OnceLock<Result<Arc<LocalContext>, (String, Option<String>)>>;

/// Limits how many commands run at once.
struct Slots {
    free: Mutex<usize>,
    changed: Condvar,
}

type Outcome = (VertexId, Result<Progress, BuildError>);

/// Which vertices can be worked on.
struct Schedule {
    /// Now.
    ready: Vec<VertexId>,
    /// Once so many others are solved.
    waiting: BTreeMap<VertexId, usize>,
    /// Who waits for which.
    users: BTreeMap<VertexId, Vec<VertexId>>,
    /// Those whose result somebody needs.
    wanted: BTreeSet<VertexId>,
    solved: BTreeMap<VertexId, Solved>,
}

impl Schedule {
    fn new(graph: &Graph, needed: &BTreeSet<VertexId>, wanted: BTreeSet<VertexId>) -> Self {
        let (users, waiting) = (BTreeMap::<VertexId, Vec<VertexId>>::new(), BTreeMap::new());
        let mut schedule = Self { ready: Vec::new(), waiting, users, wanted, solved: BTreeMap::new() };
        for id in needed {
            let inputs: BTreeSet<VertexId> =
                graph.vertex(*id).inputs.iter().flatten().map(|edge| edge.vertex).collect();
            for input in &inputs {
                schedule.users.entry(*input).or_default().push(*id);
            }
            if inputs.is_empty() {
                schedule.ready.push(*id);
            } else {
                schedule.waiting.insert(*id, inputs.len());
            }
        }
        schedule.ready.reverse();
        schedule
    }

    /// Keeps what a vertex came to, and lets those go on who waited for it.
    fn solve(&mut self, id: VertexId, solved: Solved) {
        self.solved.insert(id, solved);
        for user in self.users.remove(&id).unwrap_or_default() {
            if let Some(left) = self.waiting.get_mut(&user) {
                *left -= 1;
                if *left == 0 {
                    self.ready.push(user);
                }
            }
        }
    }

    /// Has `id` wait until `inputs`, which were solved without results, have them.
    fn want(&mut self, id: VertexId, inputs: Vec<VertexId>) {
        let mut left = 0;
        for input in inputs {
            // Somebody else may have wanted it meanwhile, and got it.
            if self.solved.get(&input).is_some_and(|solved| !solved.is_absent()) {
                continue;
            }
            left += 1;
            self.users.entry(input).or_default().push(id);
            if self.wanted.insert(input) {
                self.ready.push(input);
            }
        }
        if left == 0 {
            self.ready.push(id);
        } else {
            self.waiting.insert(id, left);
        }
    }
}

impl<'s> Run<'s> {
    fn new(solver: &'s Solver<'s>, roots: &[Edge], needed: &BTreeSet<VertexId>) -> Self {
        let contents = Contents::new(solver.layers.clone(), solver.store.clone());
        let mut run = Self {
            solver,
            contents,
            session: session(),
            below_exec: BTreeSet::new(),
            in_result: BTreeSet::new(),
            contexts: Mutex::default(),
            warnings: Mutex::default(),
            told: Mutex::default(),
            suspected: Mutex::default(),
            slots: Slots { free: Mutex::new(solver.jobs.unwrap_or(usize::MAX)), changed: Condvar::new() },
        };
        // Inputs come before their users, so one pass from the end sees users first.
        for id in needed.iter().rev() {
            let vertex = solver.graph.vertex(*id);
            let is_mounted = match vertex.op {
                // The root, and what is bound into it.
                Op::Exec(_) => &vertex.inputs[..],
                Op::Merge if run.below_exec.contains(id) => &vertex.inputs[..],
                _ if run.below_exec.contains(id) => &vertex.inputs[..vertex.inputs.len().min(1)],
                _ => &[],
            };
            run.below_exec.extend(is_mounted.iter().flatten().map(|edge| edge.vertex));
        }
        let mut ahead: Vec<VertexId> = roots.iter().map(|edge| edge.vertex).collect();
        while let Some(id) = ahead.pop() {
            if !run.in_result.insert(id) {
                continue;
            }
            let vertex = solver.graph.vertex(id);
            let below = if matches!(vertex.op, Op::Merge) {
                &vertex.inputs[..]
            } else {
                &vertex.inputs[..vertex.inputs.len().min(1)]
            };
            ahead.extend(below.iter().flatten().map(|edge| edge.vertex));
        }
        run
    }

    fn all(self, needed: BTreeSet<VertexId>, roots: &[Edge]) -> Result<Solution, BuildError> {
        let graph = self.solver.graph;
        let mut schedule = Schedule::new(graph, &needed, roots.iter().map(|edge| edge.vertex).collect());
        let mut failure: Option<BuildError> = None;
        let this = &self;
        std::thread::scope(|scope| {
            let (sender, outcomes) = mpsc::channel::<Outcome>();
            let mut active = 0usize;
            loop {
                while let Some(id) = schedule.ready.pop() {
                    if failure.is_some() || this.cancel().is_cancelled() {
                        continue;
                    }
                    let inputs: Vec<Option<Solved>> = graph
                        .vertex(id)
                        .inputs
                        .iter()
                        .map(|input| input.and_then(|edge| schedule.solved.get(&edge.vertex).cloned()))
                        .collect();
                    let is_wanted = schedule.wanted.contains(&id);
                    match this.quick(id, &inputs, is_wanted) {
                        Some(Progress::Solved(result)) => schedule.solve(id, result),
                        Some(Progress::Needs(inputs)) => schedule.want(id, inputs),
                        None => {
                            active += 1;
                            let sender = sender.clone();
                            scope.spawn(move || {
                                let result = this.slow(id, &inputs, is_wanted);
                                // The receiver lives until every thread has reported.
                                let _ = sender.send((id, result));
                            });
                        }
                    }
                }
                if active == 0 {
                    break;
                }
                let Ok((id, result)) = outcomes.recv() else { break };
                active -= 1;
                match result {
                    Ok(Progress::Needs(inputs)) => schedule.want(id, inputs),
                    Ok(Progress::Solved(result)) => {
                        // Packing a finished layer goes on beside the steps after it.
                        if let Some((layer, options)) = this.to_compress(id, &result) {
                            scope.spawn(move || {
                                if let Err(error) = this.solver.layers.descriptor(&layer, options) {
                                    tracing::debug!(%error, "compressing {layer} beside the build failed");
                                }
                            });
                        }
                        schedule.solve(id, result);
                    }
                    Err(error) => {
                        // The target needs everything that was started: nothing of it can succeed now.
                        this.cancel().cancel();
                        let is_first = failure.as_ref().is_none_or(|first| first.kind == crate::Kind::Cancelled);
                        if is_first {
                            failure = Some(error);
                        }
                    }
                }
            }
        });
        self.save_contexts();
        let solved = schedule.solved;
        let is_whole = solved.len() == needed.len()
            && roots.iter().all(|edge| solved.get(&edge.vertex).is_some_and(|solved| !solved.is_absent()));
        match failure {
            Some(failure) => Err(failure),
            None if !is_whole => Err(BuildError::cancelled()),
            None => {
                self.tell_absent(&solved);
                let mut warnings = self.warnings.into_inner().expect("no panic under the lock");
                warnings.sort_by_key(|warning| warning.lines.first().map(|lines| lines.first));
                Ok(Solution { solved, warnings })
            }
        }
    }

    /// Tells of the steps whose results nobody needed after all: only now that is sure.
    fn tell_absent(&self, solved: &BTreeMap<VertexId, Solved>) {
        let told = self.told.lock().expect("no panic under the lock");
        for (id, _) in solved.iter().filter(|(id, solved)| solved.is_absent() && !told.contains(id)) {
            let vertex = self.solver.graph.vertex(*id);
            if matches!(vertex.op, Op::Exec(_) | Op::File(_)) {
                self.solver.steps.start(&vertex.name).cached();
            }
        }
    }

    /// The layer that a command made, if the result will need its blob.
    fn to_compress(&self, id: VertexId, solved: &Solved) -> Option<(Digest, LayerOptions)> {
        let options = self.solver.blobs?;
        let is_new = !solved.is_cached && self.in_result.contains(&id);
        let is_exec = matches!(self.solver.graph.vertex(id).op, Op::Exec(_));
        match &solved.value {
            Value::Chain(chain) if is_new && is_exec => Some((*chain.last()?, options)),
            _ => None,
        }
    }

    fn cancel(&self) -> &Cancel {
        &self.solver.cancel
    }

    fn save_contexts(&self) {
        for context in self.contexts.lock().expect("no panic under the lock").values() {
            if let Some(Ok(context)) = context.get() {
                context.save();
            }
        }
    }

    /// What needs no work: sources, merges, and steps whose definition is known here.
    fn quick(&self, id: VertexId, inputs: &[Option<Solved>], is_wanted: bool) -> Option<Progress> {
        let vertex = self.solver.graph.vertex(id);
        let solved = match &vertex.op {
            Op::Source(Source::Image { .. } | Source::OciLayout { .. }) => self.image(vertex)?,
            Op::Source(Source::Local(local)) if local.name == "context" && self.solver.context.is_some() => {
                self.solver.context.map(fetched)?
            }
            Op::Source(Source::Local(local)) => {
                let mut hasher = Hasher::domain("kiln.local.v1");
                hasher.digest(&self.session).field(&local.name);
                let value = Value::Local(local.clone());
                Solved { class: hasher.finish(), value, created: None, is_of_session: true, is_cached: true }
            }
            Op::Source(_) => return None,
            Op::Merge => {
                let absent = absent(vertex, inputs);
                if is_wanted && !absent.is_empty() {
                    return Some(Progress::Needs(absent));
                }
                merge(inputs)
            }
            Op::Exec(_) | Op::File(_) => {
                if vertex.ignore_cache {
                    return None;
                }
                let found = self.look_up(&definition(vertex, inputs)?, is_wanted)?;
                if !found.is_absent() {
                    self.solver.steps.start(&vertex.name).cached();
                }
                found
            }
        };
        Some(Progress::Solved(solved))
    }

    fn image(&self, vertex: &Vertex) -> Option<Solved> {
        let chain = self.image_chain(vertex)?;
        self.solver.layers.came_from(&chain, vertex.location.as_ref());
        self.solver.steps.start(&vertex.name).done();
        // The chain of contents is the identity: a moved tag with the same layers is the same.
        let class = match kiln_oci::chain_id(&chain) {
            Some(chain_id) => {
                let mut hasher = Hasher::domain("kiln.image.v1");
                hasher.digest(&chain_id);
                hasher.finish()
            }
            None => scratch_class(),
        };
        Some(Solved { class, value: Value::Chain(chain.into()), created: None, is_of_session: false, is_cached: true })
    }

    fn image_chain(&self, vertex: &Vertex) -> Option<Vec<Digest>> {
        let platform = vertex.platform.as_ref();
        match &vertex.op {
            Op::Source(Source::Image { reference }) => {
                let (_, digest) = reference.rsplit_once('@')?;
                self.solver.images.chain(&digest.parse().ok()?, platform)
            }
            Op::Source(Source::OciLayout { digest, .. }) => self.solver.images.chain(digest, platform),
            _ => None,
        }
    }

    /// Finds a result that can be had; where none is wanted, what is known of a key is enough.
    fn look_up(&self, key: &Digest, is_wanted: bool) -> Option<Solved> {
        let known = self.solver.store.known(key)?;
        let found = self.available(&known.records);
        let absent = || {
            let created = known.records.first().map(|record| record.created);
            (!is_wanted).then_some(Solved {
                class: known.class,
                value: Value::Absent,
                created,
                is_of_session: false,
                is_cached: true,
            })
        };
        found.or_else(absent)
    }

    /// Returns the newest result that can be had.
    fn available(&self, records: &[Record]) -> Option<Solved> {
        records.iter().find_map(|record| {
            let chain = record.outputs.first()?;
            chain.iter().all(|diff_id| self.solver.layers.is_available(diff_id)).then(|| Solved {
                class: record.class,
                value: Value::Chain(chain.clone().into()),
                created: Some(record.created),
                is_of_session: false,
                is_cached: true,
            })
        })
    }

    /// Everything else: caches elsewhere, content keys, and work.
    fn slow(&self, id: VertexId, inputs: &[Option<Solved>], is_wanted: bool) -> Result<Progress, BuildError> {
        let vertex = self.solver.graph.vertex(id);
        let job = Job::new(self, id, inputs, is_wanted);
        let result = job.solve();
        match &result {
            Ok(Progress::Needs(_)) => {}
            Ok(Progress::Solved(solved)) if solved.is_absent() => {
                if let Some(step) = job.into_step() {
                    self.told.lock().expect("no panic under the lock").insert(id);
                    step.cached();
                }
            }
            Ok(Progress::Solved(solved)) => {
                let step = job.into_step().unwrap_or_else(|| self.solver.steps.start(&vertex.name));
                if solved.is_cached { step.cached() } else { step.done() }
            }
            Err(_) => {
                let step = job.into_step().unwrap_or_else(|| self.solver.steps.start(&vertex.name));
                return result.map_err(|mut error| {
                    error.location = error.location.or_else(|| vertex.location.clone());
                    error.step.get_or_insert_with(|| vertex.name.clone());
                    step.failed(&error);
                    error
                });
            }
        }
        result
    }

    /// Opens and walks a directory of the client, once.
    fn context(&self, local: &LocalSource) -> Result<Arc<LocalContext>, BuildError> {
        let cell =
            self.contexts.lock().expect("no panic under the lock").entry(local.name.clone()).or_default().clone();
        let walked = cell.get_or_init(|| {
            let shown =
                if local.name == "context" { "build context".to_owned() } else { format!("context {}", local.name) };
            let step = self.solver.steps.start(format!("[internal] load {shown}"));
            let walk = || -> Result<LocalContext, BuildError> {
                let root = self
                    .solver
                    .client
                    .contexts
                    .open(&local.name)
                    .map_err(|error| BuildError::input(format!("cannot open the {shown}: {error}")))?;
                let memo = Memo::open(self.solver.store, &root.path);
                LocalContext::walk(root, &local.follow_paths, memo)
                    .map_err(|error| BuildError { hint: error.hint(), ..BuildError::input(chain(&error)) })
            };
            step.end(walk()).map(Arc::new).map_err(|error| (error.message, error.hint))
        });
        walked.clone().map_err(|(message, hint)| BuildError { hint, ..BuildError::input(message) })
    }
}

/// The key of a step that is made of how its inputs were made, if that is known to other builds as well.
fn definition(vertex: &Vertex, inputs: &[Option<Solved>]) -> Option<Digest> {
    (!is_of_session(inputs)).then(|| key::definition(&op_digest(vertex), &classes(inputs)))
}

/// Returns the inputs of a vertex that have no result.
fn absent(vertex: &Vertex, inputs: &[Option<Solved>]) -> Vec<VertexId> {
    let edges = vertex.inputs.iter().zip(inputs);
    let absent = edges.filter(|(_, input)| input.as_ref().is_some_and(Solved::is_absent));
    let absent: BTreeSet<VertexId> = absent.filter_map(|(edge, _)| edge.map(|edge| edge.vertex)).collect();
    absent.into_iter().collect()
}

fn classes(inputs: &[Option<Solved>]) -> Vec<Digest> {
    inputs.iter().map(|input| input.as_ref().map_or_else(scratch_class, |input| input.class)).collect()
}

fn is_of_session(inputs: &[Option<Solved>]) -> bool {
    inputs.iter().flatten().any(|input| input.is_of_session)
}

fn scratch_class() -> Digest {
    Hasher::domain(SCRATCH).finish()
}

/// A context that is in the store.
fn fetched(context: &FetchedContext) -> Solved {
    let value = Value::Chain(context.chain().into());
    Solved { class: context.class(), value, created: None, is_of_session: false, is_cached: true }
}

/// Stacks the inputs' layers.
fn merge(inputs: &[Option<Solved>]) -> Solved {
    let mut layers = Vec::new();
    let mut is_absent = false;
    for input in inputs.iter().flatten() {
        is_absent |= input.is_absent();
        if let Value::Chain(chain) = &input.value {
            layers.extend(chain.iter().copied());
        }
    }
    let mut hasher = Hasher::domain("kiln.merge.v1");
    for class in classes(inputs) {
        hasher.digest(&class);
    }
    Solved {
        class: hasher.finish(),
        value: if is_absent { Value::Absent } else { Value::Chain(layers.into()) },
        created: inputs.iter().flatten().filter_map(|input| input.created).next_back(),
        is_of_session: false,
        is_cached: true,
    }
}

/// A digest that no other build has: of the process, the time, and a count.
fn session() -> Digest {
    static BUILDS: AtomicU64 = AtomicU64::new(0);
    let mut hasher = Hasher::domain("kiln.session.v1");
    hasher.number(nanoseconds()).number(u64::from(std::process::id()));
    hasher.number(BUILDS.fetch_add(1, Ordering::Relaxed));
    hasher.finish()
}

/// Returns the time since 1970.
pub fn nanoseconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

impl Slots {
    /// Waits for a free slot; `false` when cancelled meanwhile.
    fn take(&self, cancel: &Cancel) -> bool {
        let mut free = self.free.lock().expect("no panic under the lock");
        while *free == 0 {
            if cancel.is_cancelled() {
                return false;
            }
            let wait = std::time::Duration::from_millis(100);
            free = self.changed.wait_timeout(free, wait).expect("no panic under the lock").0;
        }
        *free -= 1;
        true
    }

    fn give(&self) {
        *self.free.lock().expect("no panic under the lock") += 1;
        self.changed.notify_one();
    }
}

fn op_in_session(op: &Digest, session: &Digest) -> Digest {
    let mut hasher = Hasher::domain("kiln.session-op.v1");
    hasher.digest(op).digest(session);
    hasher.finish()
}

fn fresh_class(session: &Digest, id: VertexId) -> Digest {
    let mut hasher = Hasher::domain("kiln.fresh.v1");
    hasher.digest(session).number(u64::from(id.0));
    hasher.finish()
}

/// Returns the time of the build: seconds and nanoseconds.
pub fn now() -> (i64, u32) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (i64::try_from(since.as_secs()).unwrap_or(0), since.subsec_nanos())
}

impl Solver<'_> {
    /// Returns the program that sets up sandboxes, read and sealed once.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn program(&self) -> Result<&Program, BuildError> {
        engine::program(self.program, self.program_path)
    }
}
