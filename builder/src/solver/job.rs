//! The work on one vertex: its content key, its lock, what it does, and the record of it.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Instant;

use kiln_cache::{NamedInput, Record, Store, StoreLock};
use kiln_frontend::dockerfile::{Lines, Span};
use kiln_frontend::graph::{
    CopyFrom, FileAction, FileOp, Location, MountKind, Op, Source, Vertex, VertexId, content_op_digest, op_digest,
};
use kiln_oci::{Digest, Platform};
use kiln_runtime::Cancel;

use super::run::Run;
use super::{
    Progress, Solved, Value, absent, definition, fresh_class, key, nanoseconds, now, op_in_session, scratch_class,
};
use crate::error::{BuildError, chain};
use crate::layers;
use crate::op::content::Contents;
use crate::op::file::{self, Base, Make};
use crate::op::{copy, exec, missing, suspect};
use crate::source::local::LocalContext;
use crate::source::remote::Remote;
use crate::step::Step;

/// What a vertex is looked for by, besides its definition.
enum Sought {
    /// Nothing.
    None,
    /// The content of these, which they must have first.
    Needs(Vec<VertexId>),
    /// This.
    Key(Digest),
}

/// The work on one vertex.
pub struct Job<'r, 's> {
    run: &'r Run<'s>,
    id: VertexId,
    vertex: &'r Vertex,
    inputs: &'r [Option<Solved>],
    /// Whether somebody needs the result, rather than its class.
    is_wanted: bool,
    /// Begun when there is something to tell.
    step: OnceLock<Step>,
}

impl<'r, 's> Job<'r, 's> {
    pub(super) fn new(run: &'r Run<'s>, id: VertexId, inputs: &'r [Option<Solved>], is_wanted: bool) -> Self {
        Self { run, id, vertex: run.solver.graph.vertex(id), inputs, is_wanted, step: OnceLock::new() }
    }

    /// Returns the step, if it was begun.
    pub(super) fn into_step(self) -> Option<Step> {
        self.step.into_inner()
    }
    /// Returns what the vertex works on.
    pub fn inputs(&self) -> &[Option<Solved>] {
        self.inputs
    }

    /// Returns the platform that the result is for.
    pub fn platform(&self) -> Option<&Platform> {
        self.vertex.platform.as_ref()
    }

    /// Returns how the log names it.
    pub fn name(&self) -> &str {
        &self.vertex.name
    }

    /// Returns how the user sees it.
    pub fn step(&self) -> &Step {
        self.step.get_or_init(|| self.run.solver.steps.start(&self.vertex.name))
    }

    /// Returns what opens files.
    pub fn contents(&self) -> &Contents {
        &self.run.contents
    }

    /// Finds or makes the result.
    pub(super) fn solve(&self) -> Result<Progress, BuildError> {
        if let Op::Source(source) = &self.vertex.op {
            return self.fetch(source).map(Progress::Solved);
        }
        if let Op::File(op) = &self.vertex.op {
            self.warn(op)?;
        }
        let definition = definition(self.vertex, self.inputs);
        let looks_up = !self.vertex.ignore_cache;
        if let (true, Some(key)) = (looks_up, &definition)
            && let Some(found) = self.import(key)
        {
            return Ok(Progress::Solved(found));
        }
        let sought = if looks_up { self.sought()? } else { Sought::None };
        let content = match sought {
            Sought::None => None,
            Sought::Needs(absent) => return Ok(Progress::Needs(absent)),
            Sought::Key(key) => {
                if let Some(found) = self.run.look_up(&key, self.is_wanted).or_else(|| self.import(&key)) {
                    if let Some(definition) = &definition {
                        self.alias(definition, &key);
                    }
                    return Ok(Progress::Solved(found));
                }
                Some(key)
            }
        };
        let absent = absent(self.vertex, self.inputs);
        if !absent.is_empty() {
            return Ok(Progress::Needs(absent));
        }
        self.make(definition, content).map(Progress::Solved)
    }

    /// Returns the content key, if it is worth looking for that.
    fn sought(&self) -> Result<Sought, BuildError> {
        let solver = self.run.solver;
        // Without any record of this step there is nothing to find: then the content is
        // hashed while it is copied, and read once instead of twice.
        let is_bound = matches!(self.vertex.op, Op::Exec(_));
        let kind = content_op_digest(self.vertex);
        let may_be = || solver.store.has_op(&kind) || solver.imports.have_any(self.run.cancel());
        if !self.has_content_inputs() || !(is_bound || may_be()) {
            return Ok(Sought::None);
        }
        let absent = self.absent_contents();
        if !absent.is_empty() {
            return Ok(Sought::Needs(absent));
        }
        if solver.imports.is_empty() && !self.inputs.iter().flatten().any(Solved::is_absent) {
            // Reading may take a while, and there is little doubt that the result will be needed.
            self.step();
        }
        self.content_key().map(Sought::Key)
    }

    /// Does the work, unless somebody has done it meanwhile. `sought` is the content key, if it is known.
    fn make(&self, definition: Option<Digest>, sought: Option<Digest>) -> Result<Solved, BuildError> {
        let store = self.run.solver.store;
        let op = op_digest(self.vertex);
        let name = definition.unwrap_or_else(|| op_in_session(&op, &self.run.session));
        self.step();
        let _lock = lock(store, &name, self.run.cancel())?;
        // Somebody else may have been doing the same.
        if !self.vertex.ignore_cache
            && let Some(found) = definition.as_ref().and_then(|key| self.run.look_up(key, true))
        {
            return Ok(found);
        }
        if self.run.cancel().is_cancelled() {
            return Err(BuildError::cancelled());
        }
        let began = Instant::now();
        let (diff_id, size) = self.work()?;
        let seconds = began.elapsed().as_secs_f64();
        let mut layers: Vec<Digest> = self.base().to_vec();
        layers.push(diff_id);
        // What was hashed before is what was copied.
        let content = match sought {
            None if self.has_content_inputs() => Some(self.content_key()?),
            sought => sought,
        };
        // What was made before and is gone had a class, and others are known by that.
        let known = |key: Option<Digest>| key.and_then(|key| Some(store.known(&key)?.class));
        let class = match self.vertex.ignore_cache {
            true => None,
            false => known(definition).or_else(|| known(content)).or(definition).or(content),
        };
        let class = class.unwrap_or_else(|| fresh_class(&self.run.session, self.id));
        let made = Record {
            seconds,
            size,
            contents: content.into_iter().collect(),
            ..self.record(class, Some(layers.clone()), nanoseconds())
        };
        for key in definition.iter().chain(&content) {
            let record = Record { key: *key, ..made.clone() };
            store.record(&record).map_err(|error| BuildError::environment(chain(&error)))?;
        }
        Ok(Solved {
            class,
            value: Value::Chain(layers.into()),
            created: Some(made.created),
            is_of_session: false,
            is_cached: false,
        })
    }

    /// Describes a result of this step; the key is that of its class.
    fn record(&self, class: Digest, layers: Option<Vec<Digest>>, created: u64) -> Record {
        Record {
            key: class,
            class,
            // Steps that differ only in where their sources lie may share results by content.
            op: content_op_digest(self.vertex),
            step: self.vertex.name.clone(),
            outputs: layers.into_iter().collect(),
            inputs: self.named_inputs(),
            seconds: 0.0,
            size: 0,
            created,
            contents: Vec::new(),
        }
    }

    /// Looks for a result in the caches elsewhere, and keeps what they say: next time it is known here.
    fn import(&self, key: &Digest) -> Option<Solved> {
        let solver = self.run.solver;
        if solver.imports.is_empty() {
            return None;
        }
        let layers = &solver.layers;
        let is_here = |diff_id: &Digest| layers.is_here(diff_id);
        let mut found = solver.imports.find(key, &is_here, self.run.cancel())?;
        // What could not be had a moment ago is not there now.
        found.chain = found.chain.filter(|chain| chain.iter().all(|(diff_id, _)| !layers.is_lost(diff_id)));
        for (diff_id, blob) in found.chain.iter().flatten() {
            if let Err(error) = layers.may_be_had(diff_id, blob, &found.source) {
                tracing::debug!(%error, "the layers of an imported result cannot be noted");
                found.chain = None;
                break;
            }
        }
        // Nothing that was made here gives way to what others say of its class, now or later.
        let here = self.run.available(&solver.store.results(&found.class));
        let chain = match &here {
            Some(Solved { value: Value::Chain(chain), .. }) => Some(chain.to_vec()),
            _ => found.chain.map(|chain| chain.into_iter().map(|(diff_id, _)| diff_id).collect()),
        };
        let now = nanoseconds();
        let created = here.and_then(|here| here.created).or(found.created).map_or(now, |created| created.min(now));
        let mut contents = found.contents;
        if definition(self.vertex, self.inputs) != Some(*key) && !contents.contains(key) {
            contents.push(*key);
        }
        let record = Record { key: *key, contents, ..self.record(found.class, chain.clone(), created) };
        if let Err(error) = solver.store.record(&record) {
            tracing::debug!(%error, "an imported result is not kept");
        }
        let value = match chain {
            Some(chain) => Value::Chain(chain.into()),
            None if self.is_wanted => return None,
            None => Value::Absent,
        };
        Some(Solved { class: found.class, value, created: Some(created), is_of_session: false, is_cached: true })
    }

    /// Returns those inputs without results that count by their content.
    fn absent_contents(&self) -> Vec<VertexId> {
        let mut absent = absent(self.vertex, self.inputs);
        let counts = |number: usize| match &self.vertex.op {
            Op::File(_) => number > 0,
            Op::Exec(op) => {
                op.mounts.iter().any(|mount| matches!(mount.kind, MountKind::Bind { input, .. } if input == number))
            }
            Op::Source(_) | Op::Merge => false,
        };
        let edges = self.vertex.inputs.iter().enumerate().filter(|(number, _)| counts(*number));
        let counting: Vec<VertexId> = edges.filter_map(|(_, edge)| edge.map(|edge| edge.vertex)).collect();
        absent.retain(|id| counting.contains(id));
        absent
    }

    /// Tells of files that a copy from a directory of the client takes and perhaps should not.
    fn warn(&self, op: &FileOp) -> Result<(), BuildError> {
        // A vertex that had to wait comes again.
        if !self.run.suspected.lock().expect("no panic under the lock").insert(self.id) {
            return Ok(());
        }
        for (number, input) in self.inputs.iter().enumerate() {
            let Some(Solved { value: Value::Local(local), .. }) = input else { continue };
            let context = self.run.context(local)?;
            let place = self.vertex.location.as_ref();
            let found = suspect::warnings(op, number, &context).into_iter().map(|warning| match place {
                Some(Location { span, lines }) => {
                    warning.at(Lines::new(lines.0, lines.1), Span { start: span.start, end: span.end })
                }
                None => warning,
            });
            self.run.warnings.lock().expect("no panic under the lock").extend(found);
        }
        Ok(())
    }

    fn alias(&self, definition: &Digest, content: &Digest) {
        let known = self.run.solver.store.known(content).map(|known| known.records).unwrap_or_default();
        let made = known.iter().find(|record| record.has_outputs()).or(known.first());
        if let Some(mut record) = made.cloned() {
            record.key = *definition;
            if let Err(error) = self.run.solver.store.record(&record) {
                tracing::debug!(%error, "a second key of a result is not kept");
            }
        }
    }

    /// Brings a tree from the network.
    fn fetch(&self, source: &Source) -> Result<Solved, BuildError> {
        let solver = self.run.solver;
        let remote = Remote {
            store: solver.store,
            layers: &solver.layers,
            contents: &self.run.contents,
            registry: solver.layers.registry(),
            secrets: solver.client.secrets,
            cancel: self.run.cancel(),
            step: self.step(),
        };
        let tree = remote.source(source)?;
        Ok(Solved {
            class: tree.class,
            value: Value::Chain(tree.chain.into()),
            created: None,
            is_of_session: false,
            is_cached: tree.is_cached,
        })
    }

    /// Returns the layers below.
    pub fn base(&self) -> &[Digest] {
        match self.inputs.first() {
            Some(Some(Solved { value: Value::Chain(chain), .. })) => chain,
            _ => &[],
        }
    }

    fn work(&self) -> Result<(Digest, u64), BuildError> {
        match &self.vertex.op {
            Op::File(op) => {
                let sources = self.file_sources()?;
                let base_chain = self.base();
                let tree = self.run.solver.layers.tree(base_chain)?;
                let base = Base { chain: base_chain, tree: &tree, exists: !base_chain.is_empty() };
                let blobs = self.run.solver.blobs.filter(|_| self.run.in_result.contains(&self.id));
                let compression = blobs.map(|options| options.compression);
                let directory = self.run.below_exec.contains(&self.id) || compression.is_none();
                let store = self.run.solver.store;
                let like = compression.and_then(|_| store.newest(&content_op_digest(self.vertex)));
                let like = like.and_then(|record| record.outputs.first()?.last().copied());
                let make = Make { compression, directory, now: now(), like };
                let packed = file::run(store, op, &base, &sources, &self.run.contents, &make)
                    .map_err(|error| self.explain(&error, &sources))?;
                if let Some(blob) = &packed.blob {
                    self.run.solver.layers.wrote(blob.digest);
                }
                Ok((packed.diff_id, packed.size))
            }
            Op::Exec(op) => {
                if !self.run.slots.take(self.run.cancel()) {
                    return Err(BuildError::cancelled());
                }
                let result = exec::run(self.run.solver, self, op);
                self.run.slots.give();
                result
            }
            Op::Source(_) | Op::Merge => Err(BuildError::bug("a source was given to work on")),
        }
    }

    /// Whether some input counts by its content rather than by how it was made.
    fn has_content_inputs(&self) -> bool {
        match &self.vertex.op {
            Op::File(op) => op
                .actions
                .iter()
                .any(|action| matches!(action, FileAction::Copy(copy) if matches!(copy.from, CopyFrom::Input(_)))),
            Op::Exec(op) => op.mounts.iter().any(|mount| matches!(mount.kind, MountKind::Bind { .. })),
            Op::Source(_) | Op::Merge => false,
        }
    }

    /// Reads the content of what counts by content.
    fn content_key(&self) -> Result<Digest, BuildError> {
        let prints = match &self.vertex.op {
            Op::File(file_op) => {
                let sources = self.file_sources()?;
                for source in sources.values() {
                    if let file::Source::Local(context) = source {
                        prefetch(context, file_op)?;
                    }
                }
                file::fingerprints(file_op, &sources, &self.run.contents)
                    .map_err(|error| self.explain(&error, &sources))?
            }
            Op::Exec(exec_op) => exec::fingerprints(self, exec_op)?,
            Op::Source(_) | Op::Merge => Vec::new(),
        };
        let base = self.inputs.first().and_then(Option::as_ref).map_or_else(scratch_class, |input| input.class);
        Ok(key::content(&content_op_digest(self.vertex), &base, &prints))
    }

    /// The trees that a file operation copies from, by input.
    fn file_sources(&self) -> Result<BTreeMap<usize, file::Source>, BuildError> {
        let mut sources = BTreeMap::new();
        for (number, input) in self.inputs.iter().enumerate().skip(1) {
            if let Some(source) = self.source(input.as_ref())? {
                sources.insert(number, source);
            }
        }
        Ok(sources)
    }

    /// Returns an input as something to copy from.
    ///
    /// # Errors
    /// When its layers or its directory cannot be had.
    pub fn source(&self, input: Option<&Solved>) -> Result<Option<file::Source>, BuildError> {
        Ok(match input.map(|input| &input.value) {
            None => None,
            Some(Value::Chain(chain)) => Some(file::Source::Files(self.run.solver.layers.files(chain)?)),
            Some(Value::Local(local)) => Some(file::Source::Local(self.run.context(local)?)),
            Some(Value::Absent) => return Err(BuildError::bug("files of a step that has no result were asked for")),
        })
    }

    fn named_inputs(&self) -> Vec<NamedInput> {
        let class = |input: &Option<Solved>| input.as_ref().map_or_else(scratch_class, |input| input.class);
        let mut inputs: Vec<NamedInput> = Vec::new();
        inputs.push(NamedInput {
            name: "definition".to_owned(),
            digest: op_digest(self.vertex),
            text: Some(self.vertex.name.clone()),
        });
        for (number, input) in self.inputs.iter().enumerate() {
            let name = if number == 0 { "base".to_owned() } else { format!("input {number}") };
            inputs.push(NamedInput { name, digest: class(input), text: None });
        }
        inputs
    }

    /// Says more about a failed copy than its text does.
    fn explain(&self, error: &file::FileError, sources: &BTreeMap<usize, file::Source>) -> BuildError {
        use crate::op::copy::CopyError;
        if let file::FileError::Layer(error) = error {
            return self.run.solver.layers.failed(error);
        }
        if let Some(built) = layers::unreadable(error) {
            return built;
        }
        let mut built = BuildError::input(chain(error));
        built.is_damage = self.run.solver.layers.take_damage(error);
        built.hint = error.hint().map(str::to_owned);
        if let file::FileError::Copy(CopyError::NotFound(path)) = error {
            built = built.context("failed to compute cache key");
            built.hint = missing::misread(&self.vertex.op)
                .map(str::to_owned)
                .or_else(|| sources.values().find_map(|source| missing::hint(source, path)));
        }
        if let file::FileError::Copy(CopyError::NoDirectory(path)) = error {
            built.hint = sources.values().find_map(|source| missing::hint(source, path));
        }
        if let file::FileError::Copy(CopyError::Read { .. }) | file::FileError::Read { .. } = error {
            built = built.hint("check that the file can be read, and that nothing changes it while the build runs");
            built.is_change = layers::is_changed(error);
        }
        built
    }
}

/// Waits until nobody else, here or in another process, is working on what `key` names.
///
/// # Errors
/// When cancelled meanwhile, or the lock cannot be made.
pub fn lock(store: &Store, key: &Digest, cancel: &Cancel) -> Result<StoreLock, BuildError> {
    loop {
        let lock = store.try_lock_key(key).map_err(|error| BuildError::environment(chain(&error)))?;
        if let Some(lock) = lock {
            return Ok(lock);
        }
        if cancel.wait(std::time::Duration::from_millis(20)) {
            return Err(BuildError::cancelled());
        }
    }
}

/// Reads on all cores what a copy of a context will ask for file by file.
fn prefetch(context: &LocalContext, op: &FileOp) -> Result<(), BuildError> {
    let mut files = Vec::new();
    for action in &op.actions {
        if let FileAction::Copy(action) = action {
            copy::local_files(&context.tree, action, &mut files);
        }
    }
    context.digest_all(&files).map_err(|error| {
        if let Some(built) = layers::unreadable(&error) {
            return built;
        }
        let is_change = layers::is_changed(&error);
        BuildError { is_change, hint: error.hint(), ..BuildError::input(chain(&error)) }
    })
}
