//! Signals by name or number, for STOPSIGNAL.

use super::suggest;

/// The text is not a signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid signal: {0}")]
pub struct SignalError(pub String);

/// The first and the last of the signals without names of their own.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

const NAMES: [(&str, i32); 34] = [
    ("ABRT", 6),
    ("ALRM", 14),
    ("BUS", 7),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("IO", 29),
    ("IOT", 6),
    ("KILL", 9),
    ("PIPE", 13),
    ("POLL", 29),
    ("PROF", 27),
    ("PWR", 30),
    ("QUIT", 3),
    ("SEGV", 11),
    ("STKFLT", 16),
    ("STOP", 19),
    ("SYS", 31),
    ("TERM", 15),
    ("TRAP", 5),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("USR1", 10),
    ("USR2", 12),
    ("VTALRM", 26),
    ("WINCH", 28),
    ("XCPU", 24),
    ("XFSZ", 25),
];

/// Returns the name of the signal that was perhaps meant.
pub fn closest(text: &str) -> Option<String> {
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    // A name of one or two letters is near to too many.
    let name = Some(name).filter(|name| name.len() > 2)?;
    suggest::closest(name, NAMES.iter().map(|(known, _)| *known)).map(|known| format!("SIG{known}"))
}

/// Returns the number of a signal: any number but 0, or a name with or without `SIG`, in any case.
pub fn parse(text: &str) -> Result<i64, SignalError> {
    let invalid = || SignalError(text.to_owned());
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return text.parse().ok().filter(|number| *number != 0).ok_or_else(invalid);
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let named = NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    named.or_else(|| realtime(name)).map(i64::from).ok_or_else(invalid)
}

/// `RTMIN`, `RTMIN+1` … `RTMIN+15`, `RTMAX-14` … `RTMAX-1`, `RTMAX`.
fn realtime(name: &str) -> Option<i32> {
    let offset = |text: &str, largest: i32| {
        let number: i32 = text.parse().ok()?;
        // Only as it is usually written: no sign, no zero in front.
        ((1..=largest).contains(&number) && number.to_string() == text).then_some(number)
    };
    match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) => Some(RTMIN),
        (_, Some("")) => Some(RTMAX),
        (Some(rest), _) => offset(rest.strip_prefix('+')?, 15).map(|number| RTMIN + number),
        (_, Some(rest)) => offset(rest.strip_prefix('-')?, 14).map(|number| RTMAX - number),
        (None, None) => None,
    }
}
