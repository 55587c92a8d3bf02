//! One solve in progress: what is ready is looked up at once, and only a miss costs a thread.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, OnceLock, mpsc};

use kiln_cache::Record;
use kiln_cache::context::Memo;
use kiln_frontend::dockerfile::Diagnostic;
use kiln_frontend::graph::{Edge, LocalSource, Op, Source, Vertex, VertexId};
use kiln_oci::{Digest, Hasher};
use kiln_runtime::Cancel;

use super::schedule::Schedule;
use super::{
    Job, Progress, Solution, Solved, Solver, Value, absent, definition, fetched, merge, scratch_class, session,
};
use crate::error::{BuildError, chain};
use crate::op::content::Contents;
use crate::request::LayerOptions;
use crate::source::local::LocalContext;

/// One solve in progress.
pub(super) struct Run<'s> {
    pub(super) solver: &'s Solver<'s>,
    pub(super) contents: Contents,
    /// Makes the classes of this build's local directories unlike all others.
    pub(super) session: Digest,
    /// Vertices on whose directory a command may run.
    pub(super) below_exec: BTreeSet<VertexId>,
    /// Vertices whose layer is in the result.
    pub(super) in_result: BTreeSet<VertexId>,
    pub(super) contexts: Mutex<BTreeMap<String, Arc<Walked>>>,
    pub(super) warnings: Mutex<Vec<Diagnostic>>,
    /// Vertices without a result that the user has been told of.
    pub(super) told: Mutex<BTreeSet<VertexId>>,
    /// Vertices that were looked at for what is probably not meant.
    pub(super) suspected: Mutex<BTreeSet<VertexId>>,
    pub(super) slots: Slots,
}

/// A directory of the client, walked by the first who needs it; or why it could not be, and what to do.
pub(super) type Walked = OnceLock<Result<Arc<LocalContext>, (String, Option<String>)>>;

/// Limits how many commands run at once.
pub(super) struct Slots {
    free: Mutex<usize>,
    changed: Condvar,
}

type Outcome = (VertexId, Result<Progress, BuildError>);

impl<'s> Run<'s> {
    pub(super) fn new(solver: &'s Solver<'s>, roots: &[Edge], needed: &BTreeSet<VertexId>) -> Self {
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

    pub(super) fn all(self, needed: BTreeSet<VertexId>, roots: &[Edge]) -> Result<Solution, BuildError> {
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

    pub(super) fn cancel(&self) -> &Cancel {
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
    pub(super) fn look_up(&self, key: &Digest, is_wanted: bool) -> Option<Solved> {
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
    pub(super) fn available(&self, records: &[Record]) -> Option<Solved> {
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
    pub(super) fn context(&self, local: &LocalSource) -> Result<Arc<LocalContext>, BuildError> {
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

impl Slots {
    /// Waits for a free slot; `false` when cancelled meanwhile.
    pub(super) fn take(&self, cancel: &Cancel) -> bool {
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

    pub(super) fn give(&self) {
        *self.free.lock().expect("no panic under the lock") += 1;
        self.changed.notify_one();
    }
}
