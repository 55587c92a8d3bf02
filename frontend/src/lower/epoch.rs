//! SOURCE_DATE_EPOCH: the time to write instead of the time of the build.

use super::Request;
use super::arguments::Globals;
use super::context::{Context, ContextKind};
use super::stages::error;
use crate::dockerfile::Diagnostic;

/// The name of the argument.
pub(super) const NAME: &str = "SOURCE_DATE_EPOCH";

/// Finds the time, in seconds, and puts it (or its absence) into the arguments.
pub(super) fn resolve(globals: &mut Globals, request: &mut Request) -> Result<Option<i64>, Diagnostic> {
    let given = request.build_args.get(NAME).cloned();
    let global = globals.values.get(NAME).filter(|value| !value.is_empty()).map(str::to_owned);
    let Some(value) = given.or(global) else { return Ok(None) };
    let seconds = interpret(&value, request)?;
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

fn interpret(value: &str, request: &Request) -> Result<Option<i64>, Diagnostic> {
    if value.is_empty() || value == "context" {
        // The main context is a directory, which has no time of its own.
        return Ok(None);
    }
    if let Ok(seconds) = value.parse::<i64>() {
        return Ok(Some(seconds));
    }
    match Context::find(value, &request.build_platform, request)? {
        Some(Context { kind: ContextKind::Local(_), .. }) => Ok(None),
        Some(_) => Err(error("source-date-epoch", format!("cannot take SOURCE_DATE_EPOCH from context {value}"))
            .hint("give the number of seconds since 1970")),
        None => Err(error("source-date-epoch", format!("invalid SOURCE_DATE_EPOCH: {value}"))),
    }
}
