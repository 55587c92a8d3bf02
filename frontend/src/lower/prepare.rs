//! Before any instruction is looked at: arguments, bases, platforms, what is needed and what must be known.

use std::collections::BTreeSet;
use std::rc::Rc;

use kiln_oci::{ImageConfig, Platform};

use super::arguments::{Globals, expand};
use super::context::Context;
use super::epoch::{self, Epoch};
use super::onbuild::{self, Trigger};
use super::origin::{Lookup, Origin};
use super::reach::{Dependency, check_cycles, reachable};
use super::stages::{Stage, Stages, error, not_expanded};
use super::{Facts, ImageFact, ImageQuery, Needs, Request};
use crate::check::{
    Reporter, from_platform_flag_const_disallowed, invalid_default_arg_in_from, redundant_target_platform,
    undefined_arg_in_from,
};
use crate::dockerfile::suggest::{Suggestions, closest};
use crate::dockerfile::{Diagnostic, File, Instruction, InstructionKind};

/// A file, ready to be worked through.
#[derive(Debug)]
pub(super) struct Prepared<'a> {
    /// What the user asked for, with SOURCE_DATE_EPOCH resolved.
    pub(super) request: Request,
    pub(super) facts: &'a Facts,
    pub(super) escape: char,
    pub(super) stages: Stages<'a>,
    pub(super) globals: Globals,
    /// SOURCE_DATE_EPOCH.
    pub(super) epoch: Option<i64>,
    /// For each stage what its FROM means.
    pub(super) heads: Vec<Head>,
    /// For each stage what its base wants done first.
    pub(super) triggers: Vec<Rc<[Trigger]>>,
    /// The stage that is asked for.
    pub(super) target: usize,
    /// The stages to work through.
    pub(super) wanted: BTreeSet<usize>,
}

/// What a FROM means.
#[derive(Debug, Clone)]
pub(super) struct Head {
    /// What the stage is made on.
    pub(super) base: Base,
    /// What commands of the stage run on.
    pub(super) platform: Platform,
}

/// What a stage is made on.
#[derive(Debug, Clone)]
pub(super) enum Base {
    /// Nothing.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    /// A name to be looked up outside.
    Outside(String),
    /// A context in the place of the whole stage, instructions and all.
    Replaced(Context),
}

/// What a round of preparation came to.
pub(super) enum Preparation<'a> {
    Ready(Box<Prepared<'a>>),
    Needs(Needs),
}

/// A name that an instruction takes files from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FilesFrom {
    /// A stage.
    Stage(usize),
    /// Something outside.
    Outside(String),
}

/// Prepares a file.
pub(super) fn prepare<'a>(
    file: &'a File,
    request: &Request,
    facts: &'a Facts,
    reporter: &mut Reporter,
) -> Result<Preparation<'a>, Vec<Diagnostic>> {
    let one = |found: Diagnostic| vec![found];
    let stages = Stages::of(file).map_err(one)?;
    let mut request = request.clone();
    let mut globals = Globals::of(&stages, &request, file.escape).map_err(one)?;
    let epoch = match epoch::resolve(&mut globals, &stages, &mut request, facts, file.escape).map_err(one)? {
        Epoch::Known(seconds) => seconds,
        Epoch::Of(source) => return Ok(Preparation::Needs(Needs { times: vec![source], ..Needs::default() })),
    };
    check_defaults(&stages, &globals, file.escape, reporter);
    let mut heads = Vec::new();
    for stage in &stages.list {
        let head = head(stage, &stages, &heads, &globals, &request, file.escape, reporter);
        heads.push(head.map_err(|found| vec![found.at(stage.instruction.lines, stage.instruction.span)])?);
    }
    let target = find_target(&stages, &request).map_err(one)?;
    let mut dependencies = Vec::new();
    for stage in &stages.list {
        dependencies.push(stage_dependencies(stage, &stages, file.escape).map_err(one)?);
    }
    check_cycles(&stages, &dependencies).map_err(one)?;
    let mut edges: Vec<Vec<usize>> =
        dependencies.iter().map(|list| list.iter().map(|dependency| dependency.stage).collect()).collect();
    for (edges, head) in edges.iter_mut().zip(&heads) {
        if let Base::Stage(base) = head.base {
            edges.push(base);
        }
    }
    let mut prepared = Prepared {
        request,
        facts,
        escape: file.escape,
        triggers: vec![Rc::from([]); stages.list.len()],
        stages,
        globals,
        epoch,
        heads,
        target,
        wanted: BTreeSet::new(),
    };
    let needs = prepared.settle(edges)?;
    Ok(if needs.is_empty() {
        Preparation::Ready(Box::new(prepared))
    } else {
        Preparation::Needs(Needs { images: needs, ..Needs::default() })
    })
}

impl Prepared<'_> {
    /// Looks up the images of the wanted stages and reads the triggers of their bases, which may
    /// want more stages and images. Returns what is not known yet.
    fn settle(&mut self, mut edges: Vec<Vec<usize>>) -> Result<Vec<ImageQuery>, Vec<Diagnostic>> {
        let mut has_triggers = vec![false; edges.len()];
        loop {
            let everything = self.request.check && self.request.target.is_none();
            let targets = if everything { 0..edges.len() } else { self.target..self.target + 1 };
            self.wanted = reachable(targets, &edges);
            let mut lookup = Lookup::new(self.facts);
            for &stage in &self.wanted {
                self.look_up(stage, &mut lookup);
            }
            if !lookup.errors.is_empty() {
                return Err(lookup.errors);
            }
            let mut has_new = false;
            for stage in self.wanted.clone() {
                if has_triggers[stage] {
                    continue;
                }
                let Some(texts) = self.trigger_texts(stage) else { continue };
                has_triggers[stage] = true;
                let triggers = self.parse_triggers(stage, &texts).map_err(|found| vec![found])?;
                has_new |= !triggers.is_empty();
                for trigger in triggers.iter() {
                    let sources = file_sources(&trigger.instruction, &self.stages, self.escape);
                    for source in sources.map_err(|found| vec![self.at_from(stage, found)])? {
                        if let FilesFrom::Stage(other) = source {
                            edges[stage].push(other);
                        }
                    }
                }
                self.triggers[stage] = triggers;
            }
            if !has_new {
                return Ok(lookup.into_needs());
            }
        }
    }

    /// Notes the images that a stage needs.
    fn look_up(&self, index: usize, lookup: &mut Lookup<'_>) {
        let stage = &self.stages.list[index];
        let head = &self.heads[index];
        let mut note = |name: &str, origin: Result<Origin, Diagnostic>, instruction: &Instruction| match origin {
            Ok(origin) => {
                if let Some(query) = origin.query(&head.platform) {
                    lookup.image(query, name, &self.stages, instruction);
                }
            }
            Err(found) => {
                let hint = lookup.stage_hint(name, &self.stages, instruction);
                let found = found.at(instruction.lines, instruction.span);
                lookup.errors.push(Diagnostic { hint: hint.or(found.hint.clone()), ..found });
            }
        };
        match &head.base {
            Base::Scratch | Base::Stage(_) => {}
            Base::Outside(name) => note(name, self.outside(name, &head.platform), stage.instruction),
            Base::Replaced(context) => {
                note(&context.name, Ok(Origin::Context(context.clone())), stage.instruction);
                return;
            }
        }
        let own = stage.instructions.iter().map(|&instruction| (instruction, instruction));
        let triggers = self.triggers[index].iter().map(|trigger| (&trigger.instruction, stage.instruction));
        for (instruction, shown) in triggers.chain(own) {
            for source in file_sources(instruction, &self.stages, self.escape).unwrap_or_default() {
                if let FilesFrom::Outside(name) = source {
                    note(&name, self.outside(&name, &head.platform), shown);
                }
            }
        }
    }

    /// Finds out what a name stands for that is no stage.
    pub(super) fn outside(&self, name: &str, platform: &Platform) -> Result<Origin, Diagnostic> {
        Origin::outside(name, platform, &self.request)
    }

    /// Returns the config of an image that was looked up.
    pub(super) fn config(&self, query: &ImageQuery) -> Option<&ImageConfig> {
        match self.facts.images.get(query)? {
            ImageFact::Found { config, .. } => Some(config),
            ImageFact::Missing(_) => None,
        }
    }

    /// Returns what the base of a stage wants done, as soon as that is known.
    fn trigger_texts(&self, index: usize) -> Option<Vec<String>> {
        let head = &self.heads[index];
        match &head.base {
            Base::Scratch | Base::Replaced(_) => Some(Vec::new()),
            Base::Stage(base) => Some(onbuild::texts(&self.stages.list[*base])),
            Base::Outside(name) => match self.outside(name, &head.platform).ok()?.query(&head.platform) {
                None => Some(Vec::new()),
                Some(query) => self.config(&query).map(|config| config.config.on_build.clone()),
            },
        }
    }

    fn parse_triggers(&self, stage: usize, texts: &[String]) -> Result<Rc<[Trigger]>, Diagnostic> {
        let triggers: Result<Vec<Trigger>, Diagnostic> = texts.iter().map(|text| onbuild::parse(text)).collect();
        triggers.map(Rc::from).map_err(|found| self.at_from(stage, found))
    }

    fn at_from(&self, stage: usize, mut found: Diagnostic) -> Diagnostic {
        let instruction = self.stages.list[stage].instruction;
        found.lines.clear();
        found.spans.clear();
        found.at(instruction.lines, instruction.span)
    }
}

/// Whether each FROM names an image when nobody gives an argument.
fn check_defaults(stages: &Stages<'_>, globals: &Globals, escape: char, reporter: &mut Reporter) {
    let Some(defaults) = &globals.defaults else { return };
    for stage in &stages.list {
        let written = &stage.from.image.text;
        if let Ok(expansion) = expand(written, defaults, escape) {
            invalid_default_arg_in_from::check(stage.instruction, written, &expansion.text, reporter);
        }
    }
}

fn head(
    stage: &Stage<'_>,
    stages: &Stages<'_>,
    earlier: &[Head],
    globals: &Globals,
    request: &Request,
    escape: char,
    reporter: &mut Reporter,
) -> Result<Head, Diagnostic> {
    let written = &stage.from.image.text;
    let name = expand(written, &globals.values, escape).map_err(|cause| not_expanded(&cause))?;
    undefined_arg_in_from::check(stage.instruction, &name.unmatched, &globals.declared, reporter);
    if name.text.is_empty() {
        let found = error("blank-base-name", format!("base name ({written}) should not be blank"));
        return Err(found.hint(blank_hint(&name.unmatched, globals, stages)));
    }
    let flag = match &stage.from.platform {
        None => None,
        Some(word) => Some(platform_flag(stage, &word.text, stages, globals, escape, reporter)?),
    };
    let target = request.target_platform();
    if let Some(own) = &stage.name {
        let platform = flag.clone().unwrap_or_else(|| target.clone());
        if let Some(context) = Context::find(own, &platform, request)? {
            return Ok(Head { base: Base::Replaced(context), platform });
        }
    }
    let base = match stages.earlier(&name.text, stage.index) {
        Some(base) => Base::Stage(base),
        None if name.text == "scratch" => Base::Scratch,
        None => Base::Outside(name.text),
    };
    let platform = match &base {
        Base::Stage(base) => earlier[*base].platform.clone(),
        Base::Scratch => target,
        Base::Outside(_) | Base::Replaced(_) => flag.unwrap_or(target),
    };
    Ok(Head { base, platform })
}

/// What to do about a word of FROM that comes to nothing, because of the variables in it that have no value.
fn blank_hint(unset: &BTreeSet<String>, globals: &Globals, stages: &Stages<'_>) -> String {
    let is_declared_later = |name: &String| {
        let lines = stages.list.iter().flat_map(|stage| &stage.instructions);
        lines
            .filter_map(|line| if let InstructionKind::Arg(list) = &line.kind { Some(list) } else { None })
            .flatten()
            .any(|argument| argument.name.text == *name)
    };
    match unset.iter().next() {
        None => "it needs an image, a stage or `scratch`".to_owned(),
        Some(name) if globals.declared.contains(name) => {
            format!("give it a value with `--build-arg {name}=…`, or a default with `ARG {name}=…`")
        }
        Some(name) if is_declared_later(name) => {
            format!("FROM sees only ARGs before the first FROM: move `ARG {name}` up there")
        }
        Some(name) => format!("declare it with `ARG {name}=…` before the first FROM"),
    }
}

fn platform_flag(
    stage: &Stage<'_>,
    written: &str,
    stages: &Stages<'_>,
    globals: &Globals,
    escape: char,
    reporter: &mut Reporter,
) -> Result<Platform, Diagnostic> {
    let expansion = expand(written, &globals.values, escape).map_err(|cause| not_expanded(&cause))?;
    undefined_arg_in_from::check(stage.instruction, &expansion.unmatched, &globals.declared, reporter);
    let target = globals.values.get("TARGETPLATFORM");
    redundant_target_platform::check(stage.instruction, written, &expansion, target, reporter);
    from_platform_flag_const_disallowed::check(stage.instruction, stage.name.as_deref(), &expansion, reporter);
    if expansion.text.is_empty() {
        let mut suggestions = Suggestions::default();
        let suggestion = expansion.unmatched.iter().find_map(|name| suggestions.closest(name, &globals.declared));
        let suggestion = suggestion.map(str::to_owned);
        return Err(error("blank-platform", format!("empty platform value from expression {written}"))
            .suggest(suggestion)
            .hint(blank_hint(&expansion.unmatched, globals, stages)));
    }
    match expansion.text.parse::<Platform>() {
        Ok(platform) => Ok(platform.normalized()),
        Err(cause) => {
            let message = format!("failed to parse platform {}: {cause}", expansion.text);
            Err(error("invalid-platform", message)
                .at(stage.instruction.lines, stage.instruction.span)
                .hint("a platform is `os/architecture`, such as `linux/amd64` or `linux/arm64`"))
        }
    }
}

fn find_target(stages: &Stages<'_>, request: &Request) -> Result<usize, Diagnostic> {
    let Some(name) = &request.target else { return Ok(stages.list.len() - 1) };
    stages.named(name).ok_or_else(|| {
        let suggestion = closest(&name.to_lowercase(), stages.names()).map(str::to_owned);
        error("missing-target", format!("target stage \"{name}\" could not be found"))
            .suggest(suggestion)
            .hint(stages.hint())
    })
}

fn stage_dependencies<'a>(
    stage: &Stage<'a>,
    stages: &Stages<'_>,
    escape: char,
) -> Result<Vec<Dependency<'a>>, Diagnostic> {
    let mut out = Vec::new();
    for &instruction in &stage.instructions {
        for source in file_sources(instruction, stages, escape)? {
            if let FilesFrom::Stage(stage) = source {
                out.push(Dependency { stage, instruction });
            }
        }
    }
    Ok(out)
}

/// Returns the names an instruction takes files from, other than the build context.
pub(super) fn file_sources(
    instruction: &Instruction,
    stages: &Stages<'_>,
    escape: char,
) -> Result<Vec<FilesFrom>, Diagnostic> {
    match &instruction.kind {
        InstructionKind::Copy(copy) => match &copy.from {
            None => Ok(Vec::new()),
            Some(from) => {
                let source = copy_source(&from.text, stages, escape);
                source.map(|source| vec![source]).map_err(|found| found.at(instruction.lines, from.span))
            }
        },
        InstructionKind::Run(run) => {
            let names = run.mounts.iter().filter_map(|mount| super::mounts::from(&mount.text));
            Ok(names.map(|name| mount_source(&name, stages)).collect())
        }
        _ => Ok(Vec::new()),
    }
}

/// Finds what `COPY --from` names: a number, a stage, or something outside.
pub(super) fn copy_source(name: &str, stages: &Stages<'_>, escape: char) -> Result<FilesFrom, Diagnostic> {
    let none = super::environment::Environment::default();
    if expand(name, &none, escape).map_or(true, |expansion| expansion.text != name) {
        return Err(error(
            "variable-in-from",
            "variable expansion is not supported for --from, define a new stage with FROM using ARG from global \
             scope as a workaround",
        ));
    }
    if let Ok(index) = name.parse::<i64>() {
        return match usize::try_from(index) {
            Ok(index) if index < stages.list.len() => Ok(FilesFrom::Stage(index)),
            _ => Err(error("invalid-stage-index", format!("invalid stage index {index}"))
                .hint(format!("the stages of this file are numbered from 0 to {}", stages.list.len() - 1))),
        };
    }
    Ok(mount_source(name, stages))
}

/// Finds what `from=` of a mount names: a stage, or something outside. A number is an image.
pub(super) fn mount_source(name: &str, stages: &Stages<'_>) -> FilesFrom {
    match stages.named(name) {
        Some(stage) => FilesFrom::Stage(stage),
        None => FilesFrom::Outside(name.to_owned()),
    }
}
