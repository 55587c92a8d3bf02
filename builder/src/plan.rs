//! From a build file to a graph: parse once, lower until nothing is missing.

use kiln_frontend::dockerfile::{self, Diagnostic, Severity, csv};
use kiln_frontend::graph::{Edge, Graph, Source, Union};
use kiln_frontend::lower::{self, Facts, ImageFact, ImageName, ImageQuery, Lowered, Plan};
use kiln_oci::Platform;

use crate::error::{BuildError, Kind};
use crate::progress::StepId;
use crate::request::{BuildFile, BuildRequest};
use crate::source::image::{FoundImage, Images, Resolved};
use crate::step::Steps;

/// A graph, and the images that it stands on.
pub struct Planned {
    /// The graph of all platforms.
    pub graph: Graph,
    /// What is made of it, one for each platform. Their own graphs are empty: edges are those of
    /// the one above.
    pub plans: Vec<Plan>,
    /// Whether the result is an index, of however many platforms.
    pub is_index: bool,
    /// What the image sources in it are.
    pub images: Resolved,
    /// What the user should know about the build file.
    pub warnings: Vec<Diagnostic>,
    /// The step that stands for the build file.
    pub definition: StepId,
}

impl Planned {
    /// Returns what is to be made: a file system for each platform, unless it is the empty one.
    pub fn roots(&self) -> impl Iterator<Item = Edge> {
        self.plans.iter().filter_map(|plan| plan.root)
    }
}

/// The build argument that makes an index of one platform, or none of several.
const MULTI_PLATFORM: &str = "BUILDKIT_MULTI_PLATFORM";

/// What to do about a build file without instructions.
const NO_BASE: &str = "a build file begins with a base: `FROM image` or `FROM scratch`";

/// More rounds than any build file needs: images named by ONBUILD triggers of images …
const MAX_ROUNDS: usize = 64;

/// Where the facts come from that lowering asks for.
pub struct Outside<'a> {
    /// Images.
    pub images: Images<'a>,
    /// Tells the time of a repository or a download.
    pub time: &'a dyn Fn(&Source) -> Result<Option<i64>, BuildError>,
}

/// Parses and lowers, for every platform of the request.
///
/// # Errors
/// When the build file has errors, or an image it needs cannot be found.
pub fn plan(request: &BuildRequest, outside: &Outside, steps: &Steps) -> Result<Planned, BuildError> {
    let is_index = is_index(request)?;
    let load = steps.start(format!("[internal] load build definition from {}", request.build_file.name));
    let definition = load.id();
    load.done();
    let (file, parsed) = parse(&request.build_file, &request.options)?;
    let options = |platform: Option<&Platform>| lower::Request {
        platform: platform.cloned(),
        filename: request.build_file.name.clone(),
        parsed: parsed.clone(),
        multi_platform: is_index,
        ..request.options.clone()
    };
    let requests: Vec<lower::Request> = match &request.platforms[..] {
        [] => vec![options(None)],
        platforms => platforms.iter().map(|platform| options(Some(platform))).collect(),
    };
    let (plans, images) = lower_all(&request.build_file.name, &file, &requests, outside, steps)?;
    let first = plans.first().into_iter();
    let mut warnings: Vec<_> = first.flat_map(|plan| plan.warnings.iter().chain(&plan.undeclared)).cloned().collect();
    warnings.dedup();
    let (graph, plans) = unite(plans);
    Ok(Planned { graph, plans, is_index, images, warnings, definition })
}

/// Whether an index is wanted (spec: stages-platforms.md §11).
fn is_index(request: &BuildRequest) -> Result<bool, BuildError> {
    let several = request.platforms.len() > 1;
    let Some(text) = request.options.build_args.get(MULTI_PLATFORM).filter(|text| !text.is_empty()) else {
        return Ok(several);
    };
    match csv::boolean(text) {
        None => Err(BuildError::input(format!("invalid boolean value for multi-platform: {text}"))
            .hint(format!("set {MULTI_PLATFORM} to `true` or `false`"))),
        Some(false) if several => {
            Err(BuildError::input("conflicting config: returning multiple target platforms is not allowed")
                .hint(format!("build for one platform, or leave {MULTI_PLATFORM} out")))
        }
        Some(wanted) => Ok(wanted),
    }
}

/// Parses a build file; also returns what is to be said about one that is good enough.
///
/// # Errors
/// When it is empty, written for another frontend, or has mistakes in it.
pub fn parse(file: &BuildFile, options: &lower::Request) -> Result<(dockerfile::File, Vec<Diagnostic>), BuildError> {
    let BuildFile { name, text } = file;
    if text.is_empty() {
        return Err(BuildError::input("the Dockerfile cannot be empty").hint(NO_BASE));
    }
    // Before it is parsed: another language would have many mistakes.
    if let Some(found) = lower::foreign_frontend(&String::from_utf8_lossy(text), options) {
        return Err(build_file_errors(name, vec![found]));
    }
    let (file, mut diagnostics) = dockerfile::parse_bytes(text);
    let wrong: Vec<_> = diagnostics.extract_if(.., |found| found.severity == Severity::Error).collect();
    if wrong.is_empty() { Ok((file, diagnostics)) } else { Err(build_file_errors(name, wrong)) }
}

/// Lowers for each request until nothing is missing. What is missing is looked for once,
/// whichever of them asks.
fn lower_all(
    name: &str,
    file: &dockerfile::File,
    requests: &[lower::Request],
    outside: &Outside,
    steps: &Steps,
) -> Result<(Vec<Plan>, Resolved), BuildError> {
    let mut facts = Facts::default();
    let mut resolved = Resolved::default();
    let mut failure: Option<BuildError> = None;
    for _ in 0..MAX_ROUNDS {
        let mut plans = Vec::new();
        let mut queries: Vec<ImageQuery> = Vec::new();
        let mut times: Vec<Source> = Vec::new();
        for options in requests {
            let lowered = lower::lower(file, options, &facts).map_err(|errors| {
                let built = build_file_errors(name, errors);
                // Lowering knows which line wanted an image; why there is none is known here.
                match failure.take() {
                    Some(cause) => BuildError { kind: cause.kind, hint: cause.hint.or(built.hint), ..built },
                    None => built,
                }
            })?;
            match lowered {
                Lowered::Done(plan) => plans.push(*plan),
                Lowered::Needs(needs) => {
                    let new = needs.images.into_iter().filter(|query| !queries.contains(query)).collect::<Vec<_>>();
                    queries.extend(new);
                    let new = needs.times.into_iter().filter(|source| !times.contains(source)).collect::<Vec<_>>();
                    times.extend(new);
                }
            }
        }
        if queries.is_empty() && times.is_empty() {
            return Ok((plans, resolved));
        }
        for source in times {
            let time = (outside.time)(&source).map_err(|error| error.context("cannot take SOURCE_DATE_EPOCH"))?;
            facts.times.push((source, time));
        }
        let answers = find_all(&queries, &outside.images, steps);
        for (query, answer) in queries.into_iter().zip(answers) {
            let fact = match answer {
                Ok(found) => {
                    let fact = Resolved::fact(&found);
                    resolved.insert(query.clone(), found);
                    fact
                }
                Err(error) if error.kind == Kind::Cancelled => return Err(error),
                Err(error) => {
                    let message = error.message.clone();
                    failure.get_or_insert(error);
                    ImageFact::Missing(message)
                }
            };
            facts.images.insert(query, fact);
        }
    }
    Err(BuildError::bug(format!("{name} needs more than {MAX_ROUNDS} rounds of images")))
}

/// Puts the graphs of all plans into one, and makes their edges those of it.
fn unite(mut plans: Vec<Plan>) -> (Graph, Vec<Plan>) {
    if let [only] = &mut plans[..] {
        return (std::mem::take(&mut only.graph), plans);
    }
    let mut union = Union::default();
    for plan in &mut plans {
        let places = union.add(std::mem::take(&mut plan.graph));
        let edges = plan.root.iter_mut().chain(plan.layer_edges.iter_mut().flatten());
        edges.for_each(|edge| edge.vertex = places[edge.vertex.0 as usize]);
    }
    (union.into_graph(), plans)
}

fn find_all(queries: &[ImageQuery], images: &Images, steps: &Steps) -> Vec<Result<FoundImage, BuildError>> {
    let find = |query: &ImageQuery| {
        let step = steps.start(format!("[internal] load metadata for {}", shown(query)));
        step.end(images.find(query))
    };
    // What the store knows is a few small reads; only the network is worth a thread.
    if queries.len() < 2 || queries.iter().all(|query| images.is_known(query)) {
        return queries.iter().map(find).collect();
    }
    std::thread::scope(|scope| {
        let handles: Vec<_> = queries.iter().map(|query| scope.spawn(move || find(query))).collect();
        handles
            .into_iter()
            .map(|handle| handle.join().unwrap_or_else(|_| Err(BuildError::bug("looking for an image panicked"))))
            .collect()
    })
}

fn shown(query: &ImageQuery) -> String {
    match &query.image {
        ImageName::Reference(name) => name.clone(),
        ImageName::OciLayout(name) => format!("oci-layout://{name}"),
    }
}

fn build_file_errors(name: &str, diagnostics: Vec<Diagnostic>) -> BuildError {
    let message = match &diagnostics[..] {
        [only] => only.message.clone(),
        several => format!("{name} has {} errors", several.len()),
    };
    let is_empty = diagnostics.iter().any(|found| found.message == "file with no instructions");
    let hint = is_empty.then(|| NO_BASE.to_owned());
    BuildError { diagnostics, hint, ..BuildError::input(message) }
}
