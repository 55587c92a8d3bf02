//! Stages to graph, image config and history.
//!
//! Lowering is pure and resumable: where it needs a fact from outside, it says so in
//! [`Lowered::Needs`]; the caller finds out, adds the fact to [`Facts`] and asks again.

mod arguments;
mod assembly;
mod context;
mod copy;
mod environment;
mod epoch;
mod history;
mod metadata;
mod mounts;
mod name;
mod onbuild;
mod origin;
mod outline;
mod owner;
pub(crate) mod path;
mod ports;
mod prepare;
mod reach;
mod remote;
mod run;
mod stage;
mod stages;
mod syntax;
mod targets;
mod undeclared;
mod workdir;

use std::collections::BTreeMap;

use kiln_oci::{Digest, ImageConfig, Platform};

use crate::check::{self, Reporter};
use crate::dockerfile::ast::DirectiveName;
use crate::dockerfile::{Diagnostic, File, Lines, csv};
use crate::dockerignore::Patterns;
use crate::graph::{Edge, Graph, Source};
use assembly::Assembly;
pub use epoch::may_want_context_time;
pub use outline::{Outline, OutlineArgument, OutlineMount};
use prepare::{Preparation, Prepared};
pub use syntax::foreign_frontend;
pub use targets::{Target, targets};

/// What the user asked for.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// `--target`.
    pub target: Option<String>,
    /// `--build-arg`, in order.
    pub build_args: BTreeMap<String, String>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--platform`; `None` when not given (the build platform, "implicit").
    pub platform: Option<Platform>,
    /// The platform of this machine.
    pub build_platform: Platform,
    /// Whether several platforms are built (names get a prefix).
    pub multi_platform: bool,
    /// `--build-context`: name as given → value as given (`docker-image://…`, `oci-layout://…`,
    /// a URL, or `local:NAME` for a directory of the client).
    pub contexts: BTreeMap<String, String>,
    /// `--no-cache`.
    pub no_cache: bool,
    /// `--no-cache-filter`.
    pub no_cache_filter: Vec<String>,
    /// `--network`.
    pub network: crate::graph::Network,
    /// `--add-host`.
    pub extra_hosts: Vec<(String, String)>,
    /// `--shm-size`.
    pub shm_size: Option<u64>,
    /// `--ulimit`.
    pub ulimits: Vec<String>,
    /// The name of the build file, for messages.
    pub filename: String,
    /// The parent of the cgroups of commands; empty for none.
    pub cgroup_parent: String,
    /// Which time the main context has, for `SOURCE_DATE_EPOCH=context`.
    pub context_time: ContextTime,
    /// The ignore file of the context, for the check of what COPY names.
    pub ignore: Option<Patterns>,
    /// What the parser said about the file: some of it counts as found by the checks.
    pub parsed: Vec<Diagnostic>,
    /// Only check the file: without a target, every stage is looked at.
    pub check: bool,
}

impl Request {
    /// Returns the platform to build for.
    pub fn target_platform(&self) -> Platform {
        self.platform.as_ref().unwrap_or(&self.build_platform).normalized()
    }

    /// Whether contexts that are git repositories keep their `.git`, unless their address says otherwise.
    pub fn keeps_git_dir(&self) -> bool {
        let value = self.build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR");
        value.and_then(|value| csv::boolean(value)).unwrap_or(false)
    }
}

/// The time of the main context.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ContextTime {
    /// It has none: it is a directory of the client, or nothing.
    #[default]
    None,
    /// Of the commit, of the download, or of the newest file of an archive: seconds since 1970.
    At(i64),
    /// It has one that nobody has asked for.
    Unknown,
}

/// An image that lowering asks about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageQuery {
    /// Which: a normalised reference, or an OCI layout.
    pub image: ImageName,
    /// For what.
    pub platform: Platform,
}

/// How an image is named.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ImageName {
    /// Fully qualified, with tag or digest.
    Reference(String),
    /// An OCI layout directory of the client, with what stands after `oci-layout://`:
    /// `path[:tag][@digest]`.
    OciLayout(String),
}

/// What was found out about an image.
#[derive(Debug, Clone)]
pub enum ImageFact {
    /// It is there.
    Found {
        /// The manifest or index that the name points to.
        digest: Digest,
        /// The config of the image for the platform.
        config: Box<ImageConfig>,
    },
    /// It is not, and why (`docker.io/library/nope:latest: not found`).
    Missing(String),
}

/// What is known of the outside.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The images asked for so far.
    pub images: BTreeMap<ImageQuery, ImageFact>,
    /// The times of sources asked for so far, in seconds since 1970; `None` for one that has no time.
    pub times: Vec<(Source, Option<i64>)>,
}

/// What has to be found out before lowering can go on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Images, each once, sorted.
    pub images: Vec<ImageQuery>,
    /// The times of repositories and downloads, for SOURCE_DATE_EPOCH.
    pub times: Vec<Source>,
}

/// What lowering came to.
#[derive(Debug)]
pub enum Lowered {
    /// A graph.
    Done(Box<Plan>),
    /// More facts are needed first.
    Needs(Needs),
}

/// A graph and what its result is.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What to make.
    pub graph: Graph,
    /// The result; `None` is an empty image.
    pub root: Option<Edge>,
    /// Its config, complete but for `rootfs.diff_ids` and missing times. History entries of
    /// the base image come first, unchanged.
    pub config: ImageConfig,
    /// How many of the config's history entries are the base image's.
    pub base_history: usize,
    /// For each new history entry that makes a layer, in order, the edge that made it.
    pub layer_edges: Vec<Option<Edge>>,
    /// What the build checks found, in order.
    pub warnings: Vec<Diagnostic>,
    /// A warning for each build argument that nothing declares. It is no check: no comment can skip it, and it makes no
    /// build fail.
    pub undeclared: Vec<Diagnostic>,
    /// What can be given to the target.
    pub outline: Outline,
    /// SOURCE_DATE_EPOCH, in seconds, when it is given.
    pub epoch: Option<i64>,
    /// The platform of the result.
    pub platform: Platform,
}

/// Works out what is to be made.
///
/// # Errors
/// What is wrong with the file or the request: warnings first, then at least one error.
pub fn lower(file: &File, request: &Request, facts: &Facts) -> Result<Lowered, Vec<Diagnostic>> {
    syntax::check(file, request).map_err(|found| vec![found])?;
    let argument = request.build_args.get("BUILDKIT_DOCKERFILE_CHECK").map(String::as_str);
    let options = check::Options::of(file, argument).map_err(|message| vec![wrong_options(file, argument, message)])?;
    let mut reporter = Reporter::new(options);
    check::file(file, &request.parsed, &mut reporter);
    let lowered = prepare::prepare(file, request, facts, &mut reporter).and_then(|preparation| match preparation {
        Preparation::Needs(needs) => Ok(Lowered::Needs(needs)),
        Preparation::Ready(prepared) => plan(&prepared, &mut reporter).map(|plan| Lowered::Done(Box::new(plan))),
    });
    match lowered {
        Ok(Lowered::Done(plan)) => Ok(Lowered::Done(Box::new(Plan { warnings: reporter.into_warnings(), ..*plan }))),
        Ok(Lowered::Needs(needs)) => Ok(Lowered::Needs(needs)),
        Err(errors) => {
            let mut all = reporter.into_warnings();
            all.extend(errors);
            Err(all)
        }
    }
}

/// The error about options of the checks, which stand in a build argument or else in the file.
fn wrong_options(file: &File, argument: Option<&str>, message: String) -> Diagnostic {
    let found = stages::error("invalid-check-options", message)
        .hint("the options are `skip=RULE,…`, `experimental=RULE,…` and `error=true`, with `;` between them");
    match file.directive(DirectiveName::Check) {
        Some(directive) if argument.is_none() => found.at(Lines::single(directive.line), directive.value.span),
        _ => found,
    }
}

fn plan(prepared: &Prepared<'_>, reporter: &mut Reporter) -> Result<Plan, Vec<Diagnostic>> {
    let mut assembly = Assembly::default();
    let (mut states, gathered) = stage::work_through(prepared, &mut assembly, reporter)?;
    if let Some(found) = reporter.verdict() {
        return Err(vec![found]);
    }
    let Some(mut state) = states.get_mut(prepared.target).and_then(Option::take) else {
        return Err(vec![stages::error("missing-target", "the target stage has not been made")]);
    };
    let root = assembly.edge(&state.tree, ["/"]);
    let request = &prepared.request;
    state.config.config.labels.extend(request.labels.clone());
    set_platform(&mut state.config, request);
    Ok(Plan {
        graph: assembly.finish(),
        root,
        platform: state.config.platform.clone(),
        config: state.config,
        base_history: state.base_history,
        layer_edges: state.layer_edges,
        warnings: Vec::new(),
        undeclared: undeclared::arguments(prepared),
        outline: outline::outline(prepared, gathered),
        epoch: prepared.epoch,
    })
}

/// Writes the platform that was asked for into the config; what was not asked for stays the base's.
fn set_platform(config: &mut ImageConfig, request: &Request) {
    if let Some(wanted) = &request.platform {
        let wanted = wanted.normalized();
        let platform = &mut config.platform;
        let is_other = platform.os != wanted.os || platform.architecture != wanted.architecture;
        if !wanted.variant.is_empty() || is_other {
            platform.variant = wanted.variant;
        }
        if !wanted.os_version.is_empty() || is_other {
            platform.os_version = wanted.os_version;
        }
        if !wanted.os_features.is_empty() || is_other {
            platform.os_features = wanted.os_features;
        }
        platform.os = wanted.os;
        platform.architecture = wanted.architecture;
    }
    config.platform = config.platform.normalized();
}

#[cfg(test)]
mod tests;
