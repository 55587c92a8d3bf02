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
mod run;
mod schedule;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use kiln_cache::Store;
use kiln_frontend::dockerfile::Diagnostic;
use kiln_frontend::graph::{Edge, Graph, LocalSource, MountKind, Op, Vertex, VertexId, op_digest};
use kiln_oci::{Digest, Hasher};
use kiln_runtime::{Cancel, Footing, Program, Resources};

use crate::engine::{self, Client};
use crate::error::{BuildError, chain};
use crate::fetch::FetchedContext;
use crate::imports::Imports;
use crate::layers::Layers;
use crate::op::exec::SharedNetwork;
use crate::request::LayerOptions;
use crate::source::image::Resolved;
use crate::step::Steps;

use run::Run;

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
