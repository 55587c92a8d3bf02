//! SOURCE_DATE_EPOCH: the time to write instead of the time of the build.

use super::arguments::{Globals, expand};
use super::context::{Context, ContextKind};
use super::environment::Environment;
use super::remote::{self, SourceKind};
use super::stages::{Stage, Stages, error, not_expanded};
use super::{ContextTime, Facts, Request};
use crate::dockerfile::ast::{Argument, Sources, Word};
use crate::dockerfile::{self, Diagnostic, InstructionKind};
use crate::graph::Source;

/// The name of the argument.
pub(super) const NAME: &str = "SOURCE_DATE_EPOCH";

/// Which time there is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Epoch {
    /// This, in seconds, or none.
    Known(Option<i64>),
    /// That of this source, which is not known yet.
    Of(Source),
}

/// Finds the time, and puts it (or its absence) into the arguments (spec: expansion.md §11).
pub(super) fn resolve(
    globals: &mut Globals,
    stages: &Stages<'_>,
    request: &mut Request,
    facts: &Facts,
    escape: char,
) -> Result<Epoch, Diagnostic> {
    let given = request.build_args.get(NAME).cloned();
    let global = globals.values.get(NAME).filter(|value| !value.is_empty()).map(str::to_owned);
    let Some(value) = given.or(global) else { return Ok(Epoch::Known(None)) };
    let seconds = match interpret(&value, stages, globals, request, escape)? {
        Epoch::Known(seconds) => seconds,
        Epoch::Of(source) => match facts.times.iter().find(|(known, _)| *known == source) {
            Some((_, seconds)) => *seconds,
            None => return Ok(Epoch::Of(source)),
        },
    };
    match seconds {
        Some(seconds) => {
            let text = seconds.to_string();
            if request.build_args.contains_key(NAME) {
                request.build_args.insert(NAME.to_owned(), text.clone());
            }
            if globals.values.get(NAME).is_some() {
                globals.values.set(NAME, &text);
            }
        }
        None => {
            request.build_args.remove(NAME);
            globals.values.unset(NAME);
        }
    }
    Ok(Epoch::Known(seconds))
}

/// Whether a default in the file may be `context`: whoever fetches the context then has to find out its time.
pub fn may_want_context_time(text: &str) -> bool {
    let is_time = |word: &Word| word.text.parse::<i64>().is_ok();
    text.contains(NAME)
        && dockerfile::parse(text)
            .0
            .instructions
            .iter()
            .map(|instruction| &instruction.kind)
            .take_while(|kind| !matches!(kind, InstructionKind::From(_)))
            .filter_map(|kind| if let InstructionKind::Arg(arguments) = kind { Some(arguments) } else { None })
            .flatten()
            .any(|argument| argument.name.text == NAME && argument.default.as_ref().is_some_and(|word| !is_time(word)))
}

fn interpret(
    value: &str,
    stages: &Stages<'_>,
    globals: &Globals,
    request: &Request,
    escape: char,
) -> Result<Epoch, Diagnostic> {
    if value.is_empty() {
        return Ok(Epoch::Known(None));
    }
    if value == "context" {
        return match request.context_time {
            ContextTime::None => Ok(Epoch::Known(None)),
            ContextTime::At(seconds) => Ok(Epoch::Known(Some(seconds))),
            ContextTime::Unknown => Err(wrong("the time of the context is not known".to_owned())
                .hint("say `--build-arg SOURCE_DATE_EPOCH=context`")),
        };
    }
    if let Ok(seconds) = value.parse::<i64>() {
        return Ok(Epoch::Known(Some(seconds)));
    }
    if let Some(context) = Context::find(value, &request.build_platform, request)? {
        return of_context(&context, request);
    }
    let Some(stage) = stages.named(value) else {
        return Err(wrong(format!("invalid SOURCE_DATE_EPOCH: {value}"))
            .hint("give the number of seconds since 1970, `context`, or the name of a context or a stage"));
    };
    let stage = &stages.list[stage];
    let source = of_stage(stage, globals, request, escape);
    source.map(Epoch::Of).map_err(|found| found.at(stage.instruction.lines, stage.instruction.span))
}

/// The time of a named context: that of a commit or a download; a directory has none.
fn of_context(context: &Context, request: &Request) -> Result<Epoch, Diagnostic> {
    match &context.kind {
        ContextKind::Local(_) => Ok(Epoch::Known(None)),
        ContextKind::Git(url) => Ok(Epoch::Of(dated(remote::git_context(url, request.keeps_git_dir())?))),
        ContextKind::Http(url) => Ok(Epoch::Of(remote::http_context(url))),
        ContextKind::Empty | ContextKind::Image(_) | ContextKind::OciLayout(_) => {
            Err(wrong(format!("cannot take SOURCE_DATE_EPOCH from context {}", context.name))
                .hint("an image has no time of its own; repositories and downloads have"))
        }
    }
}

/// The one thing that a stage fetches, and that it is nothing else than.
fn of_stage(stage: &Stage<'_>, globals: &Globals, request: &Request, escape: char) -> Result<Source, Diagnostic> {
    if stage.from.image.text != "scratch" {
        return Err(wrong("SOURCE_DATE_EPOCH stage must use FROM scratch".to_owned()));
    }
    let mut variables = Environment::default();
    let mut adds = Vec::new();
    for instruction in &stage.instructions {
        match &instruction.kind {
            InstructionKind::Arg(arguments) => declare(arguments, &mut variables, globals, request, escape)?,
            // What follows is not seen by it.
            InstructionKind::Add(add) => adds.push((add, variables.clone())),
            other => {
                let name = other.name().unwrap_or_default();
                return Err(wrong(format!(
                    "SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported {name} instruction"
                )));
            }
        }
    }
    let [(add, variables)] = &adds[..] else {
        return Err(wrong("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD".to_owned()));
    };
    let not_single = || wrong("SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD".to_owned());
    let Sources { paths, inline, .. } = &add.sources;
    let [path] = &paths[..] else { return Err(not_single()) };
    if !inline.is_empty() {
        return Err(not_single());
    }
    let expanded = |text: &str| match expand(text, variables, escape) {
        Ok(expansion) => Ok(expansion.text),
        Err(cause) => Err(not_expanded(&cause)),
    };
    let url = expanded(&path.text)?;
    let checksum = add.checksum.as_ref().map(|word| expanded(&word.text)).transpose()?;
    let checksum = checksum.as_deref().filter(|checksum| !checksum.is_empty());
    match remote::kind(&url)? {
        SourceKind::Git => Ok(dated(remote::git_source(&url, add.keep_git_dir, checksum)?)),
        SourceKind::Http => Ok(remote::http_source(&url, checksum)?.0),
        SourceKind::Path => Err(not_single()),
    }
}

/// Carries out the ARG of a stage that has no other variables (spec: expansion.md §9).
fn declare(
    arguments: &[Argument],
    variables: &mut Environment,
    globals: &Globals,
    request: &Request,
    escape: char,
) -> Result<(), Diagnostic> {
    for argument in arguments {
        let name = &argument.name.text;
        let value = match (request.build_args.get(name), &argument.default) {
            (Some(given), _) => Some(given.clone()),
            (None, Some(default)) => {
                Some(expand(&default.text, variables, escape).map_err(|cause| not_expanded(&cause))?.text)
            }
            (None, None) => globals.values.get(name).map(str::to_owned),
        };
        if let Some(value) = value {
            variables.set(name, &value);
        }
    }
    Ok(())
}

/// A repository whose files have the time of the commit.
fn dated(mut source: Source) -> Source {
    if let Source::Git { commit_times, .. } = &mut source {
        *commit_times = true;
    }
    source
}

fn wrong(message: String) -> Diagnostic {
    error("source-date-epoch", message)
}
