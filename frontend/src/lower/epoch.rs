//! SOURCE_DATE_EPOCH: the time to write instead of the time of the build.

use super::arguments::Globals;
use super::context::{Context, ContextKind};
use super::remote::{self, SourceKind};
use super::stages::{Stage, Stages, error};
use super::{ContextTime, Request};
use crate::dockerfile::ast::{Sources, Word};
use crate::dockerfile::{self, Diagnostic, InstructionKind};

/// The name of the argument.
pub(super) const NAME: &str = "SOURCE_DATE_EPOCH";

/// Finds the time, in seconds, and puts it (or its absence) into the arguments.
pub(super) fn resolve(
    globals: &mut Globals,
    stages: &Stages<'_>,
    request: &mut Request,
) -> Result<Option<i64>, Diagnostic> {
    let given = request.build_args.get(NAME).cloned();
    let global = globals.values.get(NAME).filter(|value| !value.is_empty()).map(str::to_owned);
    let Some(value) = given.or(global) else { return Ok(None) };
    let seconds = interpret(&value, stages, request)?;
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
    Ok(seconds)
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

fn interpret(value: &str, stages: &Stages<'_>, request: &Request) -> Result<Option<i64>, Diagnostic> {
    if value.is_empty() {
        return Ok(None);
    }
    if value == "context" {
        return match request.context_time {
            ContextTime::None => Ok(None),
            ContextTime::At(seconds) => Ok(Some(seconds)),
            ContextTime::Unknown => Err(wrong("the time of the context is not known".to_owned())
                .hint("say `--build-arg SOURCE_DATE_EPOCH=context`")),
        };
    }
    if let Ok(seconds) = value.parse::<i64>() {
        return Ok(Some(seconds));
    }
    let seconds = "give the number of seconds since 1970";
    match Context::find(value, &request.build_platform, request)? {
        Some(Context { kind: ContextKind::Local(_), .. }) => return Ok(None),
        Some(_) => return Err(wrong(format!("cannot take SOURCE_DATE_EPOCH from context {value}")).hint(seconds)),
        None => {}
    }
    match stages.named(value) {
        None => Err(wrong(format!("invalid SOURCE_DATE_EPOCH: {value}")).hint(seconds)),
        Some(stage) => {
            let stage = &stages.list[stage];
            check_source(stage).map_err(|found| found.at(stage.instruction.lines, stage.instruction.span))?;
            Err(wrong(format!("cannot take SOURCE_DATE_EPOCH from stage {value}")).hint(seconds))
        }
    }
}

/// Checks that a stage is nothing but something that is fetched, and so has a time.
fn check_source(stage: &Stage<'_>) -> Result<(), Diagnostic> {
    if stage.from.image.text != "scratch" {
        return Err(wrong("SOURCE_DATE_EPOCH stage must use FROM scratch".to_owned()));
    }
    let mut sources = Vec::new();
    for instruction in &stage.instructions {
        match &instruction.kind {
            InstructionKind::Arg(_) => {}
            InstructionKind::Add(add) => sources.push(&add.sources),
            other => {
                let name = other.name().unwrap_or_default();
                return Err(wrong(format!(
                    "SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported {name} instruction"
                )));
            }
        }
    }
    match &sources[..] {
        [Sources { paths, inline, .. }] if paths.len() == 1 && inline.is_empty() => match remote::kind(&paths[0].text)?
        {
            SourceKind::Git | SourceKind::Http => Ok(()),
            SourceKind::Path => {
                Err(wrong("SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD".to_owned()))
            }
        },
        [_] => Err(wrong("SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD".to_owned())),
        _ => Err(wrong("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD".to_owned())),
    }
}

fn wrong(message: String) -> Diagnostic {
    error("source-date-epoch", message)
}
