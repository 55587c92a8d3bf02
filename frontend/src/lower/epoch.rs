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

/// Renders seconds since 1970 as RFC 3339, in UTC.
pub(super) fn rfc3339(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since 0000-03-01, in eras of 400 years: leap days come last, so months have a formula.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3_600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn times_are_written_in_utc() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (1_000_000_000, "2001-09-09T01:46:40Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (i64::MIN, "-292277022657-01-27T08:29:52Z"),
        ] {
            assert_eq!(rfc3339(seconds), expected);
        }
    }
}
