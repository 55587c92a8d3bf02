//! The engine: one store, and everything that can be done with it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Once, OnceLock};

use kiln_cache::Store;
use kiln_cache::layer::Ownership;
use kiln_frontend::dockerfile::{Diagnostic, Phase};
use kiln_frontend::graph::Op;
use kiln_frontend::lower::Plan;
use kiln_registry_client::{Client as Registry, Credentials, Options};
use kiln_runtime::{Cancel, Footing, Ids, Isolation, Program};

use crate::entitlement;
use crate::error::{BuildError, chain};
use crate::export::output::{self, Exporter};
use crate::fetch::FetchedContext;
use crate::imports::Imports;
use crate::layers::Layers;
use crate::lost::Lost;
use crate::op::exec::{self, SharedNetwork};
use crate::plan::{self, Outside, Planned};
use crate::progress::StepId;
use crate::request::{BuildRequest, BuildResult};
use crate::seam::{Contexts, Results, Secrets};
use crate::solver::Solver;
use crate::source::image::{Images, environment};
use crate::step::Steps;

/// How to set up an [`Engine`].
pub struct EngineOptions {
    /// The state directory.
    pub root: PathBuf,
    /// The program that sets up sandboxes: the kiln binary itself.
    pub sandbox_program: PathBuf,
    /// What this process may do with commands and the owners of files.
    pub footing: Footing,
    /// Where registry credentials come from.
    pub credentials: Arc<dyn Credentials>,
    /// Registries to be spoken to without TLS, or without checking it.
    pub insecure_registries: Vec<String>,
}

/// What the client lends to one build.
pub struct Client<'a> {
    /// Context files.
    pub contexts: &'a dyn Contexts,
    /// Secrets.
    pub secrets: &'a dyn Secrets,
    /// Where results go.
    pub results: &'a dyn Results,
    /// What is told of it.
    pub steps: Steps,
    /// Stops everything.
    pub cancel: Cancel,
}

/// One store and everything that can be done with it.
pub struct Engine {
    pub(crate) store: Store,
    pub(crate) registry: Registry,
    program: OnceLock<std::io::Result<Program>>,
    program_path: PathBuf,
    pub(crate) footing: Footing,
}

/// How often a context that changes while it is read is read again.
const MAX_CHANGES: usize = 5;
/// How often a build is tried again after something in the store turned out to be damaged; each
/// try moves at least one damaged file aside.
const MAX_RETRIES: usize = 32;

impl Engine {
    /// Opens, and makes if absent, the store. Nothing else is done before it is needed.
    ///
    /// # Errors
    /// When the state directory cannot be used.
    pub fn open(options: EngineOptions) -> Result<Self, BuildError> {
        let store = Store::open(&options.root)
            .map_err(|error| environment(&error).hint("set KILN_ROOT to a directory that you may write to"))?
            .holding(ownership(&options.footing));
        let registry = Registry::new(Options {
            credentials: options.credentials,
            insecure: options.insecure_registries,
            ..Options::default()
        });
        Ok(Self {
            store,
            registry,
            program: OnceLock::new(),
            program_path: options.sandbox_program,
            footing: options.footing,
        })
    }

    /// Returns the store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Parses and lowers for the first platform without building, for people who want to see the graph.
    ///
    /// # Errors
    /// As [`Engine::build`], up to that point.
    pub fn plan(&self, request: &BuildRequest, client: &Client) -> Result<Plan, BuildError> {
        let work = self.work(client.steps.clone(), client.cancel.clone());
        let mut request = request.clone();
        request.platforms.truncate(1);
        let mut planned = self.planned(&request, client, &work)?;
        let plan = planned.plans.pop().ok_or_else(|| BuildError::bug("nothing was planned"))?;
        Ok(Plan { graph: planned.graph, ..plan })
    }

    /// Builds.
    ///
    /// # Errors
    /// When the build file has errors, a source is missing, a command fails, the machine or a
    /// registry refuses something, or the client cancels. What was finished is kept.
    pub fn build(&self, request: &BuildRequest, client: &Client) -> Result<BuildResult, BuildError> {
        let _lock = self.store.lock_shared().map_err(|error| environment(&error))?;
        // What a killed build left is nobody's.
        self.store.sweep().map_err(|error| environment(&error))?;
        kiln_runtime::network::sweep();
        let steps = client.steps.clone();
        let mut context = request.context.clone();
        let mut retries = 0;
        let mut changes = 0;
        let imports = Imports::new(&request.cache_from, &self.registry.with_cancel(client.cancel.flag()), &steps);
        let lost = Arc::<Lost>::default();
        loop {
            // Each try has a token of its own, which the engine uses itself when a part fails.
            let work = self.work_without(steps.clone(), Cancel::new(), lost.clone());
            let result = linked(&client.cancel, &work.cancel, || {
                if let Some(context) = &mut context {
                    *context = self.fetcher(&steps, client.secrets, &work.cancel).restore(context)?;
                }
                let planned = self.planned(request, client, &work)?;
                self.build_planned(request, context.as_ref(), client, &work, &imports, planned)
            });
            let is_over = client.cancel.is_cancelled();
            match result {
                // The store has moved the damaged file aside: the step that made it runs again.
                Err(error) if !is_over && retries < MAX_RETRIES && (work.layers.met_damage() || error.is_damage) => {
                    tracing::warn!(%error, "something in the store is damaged; building it again");
                    retries += 1;
                }
                Err(error) if !is_over && changes < MAX_CHANGES && error.is_change => {
                    tracing::info!(%error, "the context changed; reading it again");
                    changes += 1;
                }
                result => {
                    if retries > 0
                        && let Err(error) = self.store.sweep()
                    {
                        tracing::debug!(%error, "what was damaged is not deleted yet");
                    }
                    return result.map(|mut built| {
                        built.warnings.extend(imports.warnings());
                        built.warnings.extend(lost.reasons().iter().map(|reason| ran_again(reason)));
                        built
                    });
                }
            }
        }
    }

    pub(crate) fn program(&self) -> Result<&Program, BuildError> {
        program(&self.program, &self.program_path)
    }

    pub(crate) fn work(&self, steps: Steps, cancel: Cancel) -> Work {
        self.work_without(steps, cancel, Arc::default())
    }

    /// What works with everything but layers that are known to be lost.
    fn work_without(&self, steps: Steps, cancel: Cancel, lost: Arc<Lost>) -> Work {
        let registry = Arc::new(self.registry.with_cancel(cancel.flag()));
        let layers = Layers::new(self.store.clone(), registry.clone(), steps.clone(), cancel.clone(), lost);
        let layers = Arc::new(layers);
        Work { steps, registry, layers, cancel }
    }

    fn planned(&self, request: &BuildRequest, client: &Client, work: &Work) -> Result<Planned, BuildError> {
        let outside = Outside {
            images: Images { store: &self.store, registry: &work.registry, pull: request.pull },
            time: &|source| self.fetcher(&work.steps, client.secrets, &work.cancel).source_time(source),
        };
        let planned = plan::plan(request, &outside, &work.steps)?;
        if !request.options.check {
            planned.graph.vertices.iter().try_for_each(exec::platform::check)?;
        }
        Ok(planned)
    }

    fn build_planned(
        &self,
        request: &BuildRequest,
        context: Option<&FetchedContext>,
        client: &Client,
        work: &Work,
        imports: &Imports,
        planned: Planned,
    ) -> Result<BuildResult, BuildError> {
        entitlement::check(&planned, &request.allowed)?;
        output::check(request, &planned)?;
        warn(request, planned.definition, &planned.warnings, &work.steps);
        let network = SharedNetwork::default();
        let solver = Solver {
            store: &self.store,
            layers: work.layers.clone(),
            graph: &planned.graph,
            context,
            images: &planned.images,
            client,
            cancel: work.cancel.clone(),
            steps: work.steps.clone(),
            program: &self.program,
            program_path: &self.program_path,
            footing: &self.footing,
            told_footing: Once::new(),
            network: &network,
            resources: &request.resources,
            jobs: request.jobs,
            step_timeout: request.step_timeout,
            keeps_failed: request.keeps_failed,
            blobs: output::layer_options(request).filter(|options| !options.clamp),
            imports,
        };
        let roots: Vec<_> = planned.roots().collect();
        let solution = solver.solve(&roots)?;
        let _closing = network.close();
        warn(request, planned.definition, &solution.warnings, &work.steps);
        let exporter = Exporter { store: &self.store, work, request, client, planned: &planned, solution: &solution };
        let image = exporter.export()?;
        let is_step = |id| matches!(planned.graph.vertex(id).op, Op::Exec(_) | Op::File(_));
        let steps = solution.solved.iter().filter(|(id, _)| is_step(**id)).map(|(_, solved)| solved);
        Ok(BuildResult {
            image,
            cached: steps.clone().filter(|solved| solved.is_cached).count(),
            steps: steps.count(),
            warnings: [planned.warnings, solution.warnings].concat(),
        })
    }
}

/// Returns the program that sets up sandboxes, read and sealed once.
pub(crate) fn program<'a>(
    cell: &'a OnceLock<std::io::Result<Program>>,
    path: &Path,
) -> Result<&'a Program, BuildError> {
    cell.get_or_init(|| Program::open(path)).as_ref().map_err(|error| {
        BuildError::environment(format!("cannot read the sandbox program {}: {error}", path.display()))
    })
}

/// How the store can hold the owners of files, given where this process stands.
fn ownership(footing: &Footing) -> Ownership {
    match footing.ids {
        // The same ids, and yet other marks of overlays.
        Ids::Host if footing.isolation != Some(Isolation::Root) => Ownership::Mapped { first: 1 },
        Ids::Host => Ownership::Real,
        Ids::Mapped { first } => Ownership::Mapped { first },
        Ids::Single => Ownership::Recorded,
        Ids::Lost => Ownership::Lost,
    }
}

/// What one use of the engine works with.
pub(crate) struct Work {
    pub(crate) steps: Steps,
    pub(crate) registry: Arc<Registry>,
    pub(crate) layers: Arc<Layers>,
    pub(crate) cancel: Cancel,
}

/// Does something while a thread passes the client's wish to stop on to `inner`.
fn linked<T>(outer: &Cancel, inner: &Cancel, work: impl FnOnce() -> T) -> T {
    let end = Cancel::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            outer.wait_or(&end);
            if outer.is_cancelled() {
                inner.cancel();
            }
        });
        let result = work();
        end.cancel();
        result
    })
}

/// Tells what was found in the build file, whose step is `definition`.
fn warn(request: &BuildRequest, definition: StepId, warnings: &[Diagnostic], steps: &Steps) {
    if warnings.is_empty() {
        return;
    }
    let file = Arc::new(request.build_file.clone());
    for warning in warnings {
        steps.warn(definition, warning.clone(), file.clone());
    }
}

/// Says that a cached step had to run, because its layer could not be had.
fn ran_again(reason: &str) -> Diagnostic {
    Diagnostic::warning(Phase::Lower, "cache-import", format!("a step that was cached ran again: {reason}"))
}

/// Says that a document cannot be read.
pub(crate) fn malformed(name: &str, error: &dyn std::error::Error) -> BuildError {
    BuildError::environment(format!("{name}: {}", chain(error)))
}
