//! From a build file to a graph: parse once, lower until nothing is missing.

use kiln_frontend::dockerfile::{self, Diagnostic, Severity};
use kiln_frontend::lower::{self, Facts, ImageFact, ImageName, ImageQuery, Lowered, Plan};
use kiln_oci::Platform;

use crate::error::{BuildError, Kind};
use crate::progress::StepId;
use crate::request::{BuildFile, BuildRequest};
use crate::source::image::{FoundImage, Images, Resolved};
use crate::step::Steps;

/// A graph, and the images that it stands on.
pub struct Planned {
    /// The graph, with the config of its result.
    pub plan: Plan,
    /// What the image sources in it are.
    pub images: Resolved,
    /// What the user should know about the build file.
    pub warnings: Vec<Diagnostic>,
    /// The step that stands for the build file.
    pub definition: StepId,
}

/// What to do about a build file without instructions.
const NO_BASE: &str = "a build file begins with a base: `FROM image` or `FROM scratch`";

/// More rounds than any build file needs: images named by ONBUILD triggers of images …
const MAX_ROUNDS: usize = 64;

/// Parses and lowers.
///
/// # Errors
/// When the build file has errors, or an image it needs cannot be found.
pub fn plan(
    request: &BuildRequest,
    platform: Option<&Platform>,
    images: &Images,
    steps: &Steps,
) -> Result<Planned, BuildError> {
    let BuildFile { name, text } = &request.build_file;
    let load = steps.start(format!("[internal] load build definition from {name}"));
    let definition = load.id();
    load.done();
    let text = std::str::from_utf8(text).map_err(|error| {
        BuildError::input(format!("{name} is not UTF-8 text: byte {} is not valid", error.valid_up_to()))
    })?;
    if text.is_empty() {
        return Err(BuildError::input("the Dockerfile cannot be empty").hint(NO_BASE));
    }
    let (file, mut diagnostics) = dockerfile::parse(text);
    let (file, wrong) =
        (file, diagnostics.extract_if(.., |found| found.severity == Severity::Error).collect::<Vec<_>>());
    if !wrong.is_empty() {
        return Err(build_file_errors(name, wrong));
    }
    let mut options = request.options.clone();
    options.platform = platform.cloned();
    options.filename.clone_from(name);
    options.parsed = diagnostics;
    let mut facts = Facts::default();
    let mut resolved = Resolved::default();
    let mut failure: Option<BuildError> = None;
    for _ in 0..MAX_ROUNDS {
        let lowered = lower::lower(&file, &options, &facts).map_err(|errors| {
            let built = build_file_errors(name, errors);
            // Lowering knows which line wanted an image; why there is none is known here.
            match failure.take() {
                Some(cause) => BuildError { kind: cause.kind, hint: cause.hint.or(built.hint), ..built },
                None => built,
            }
        })?;
        match lowered {
            Lowered::Done(plan) => {
                let warnings = plan.warnings.iter().chain(&plan.undeclared).cloned().collect();
                return Ok(Planned { plan: *plan, images: resolved, warnings, definition });
            }
            Lowered::Needs(queries) => {
                let answers = find_all(&queries, images, steps);
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
        }
    }
    Err(BuildError::bug(format!("{name} needs more than {MAX_ROUNDS} rounds of images")))
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
