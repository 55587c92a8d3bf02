//! Durations as Go writes them: `1h30m`, `1.5s`, `250ms`.

use std::{fmt, str::FromStr};

/// A number of nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Nanoseconds(pub i64);

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not of the form, or out of range.
    #[error("time: invalid duration {}", quote(.0))]
    Invalid(String),
    /// A number without a unit.
    #[error("time: missing unit in duration {}", quote(.0))]
    MissingUnit(String),
    /// A unit that there is not.
    #[error("time: unknown unit {} in duration {}", quote(.unit), quote(.text))]
    UnknownUnit {
        /// The unit.
        unit: String,
        /// The whole text.
        text: String,
    },
}

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// One more than the largest value; the negative of it still fits.
const LIMIT: u64 = 1 << 63;

impl FromStr for Nanoseconds {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let invalid = || DurationError::Invalid(text.to_owned());
        let (negative, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest == "0" {
            return Ok(Self(0));
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let (whole, after) = digits(rest);
            let fraction = after.strip_prefix('.').map(digits);
            if whole.is_empty() && fraction.is_none_or(|(fraction, _)| fraction.is_empty()) {
                return Err(invalid());
            }
            let (fraction, after) = fraction.unwrap_or(("", after));
            let length = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
            let (unit, after) = after.split_at(length);
            // A number too large is reported before its unit is looked at.
            let whole = integer(whole).ok_or_else(invalid)?;
            if unit.is_empty() {
                return Err(DurationError::MissingUnit(text.to_owned()));
            }
            let scale = unit_of(unit)
                .ok_or_else(|| DurationError::UnknownUnit { unit: unit.to_owned(), text: text.to_owned() })?;
            if whole > LIMIT / scale {
                return Err(invalid());
            }
            let value = whole * scale + part_of(fraction, scale);
            total = total.checked_add(value).filter(|total| *total <= LIMIT).ok_or_else(invalid)?;
            rest = after;
        }
        match (negative, i64::try_from(total)) {
            (true, Ok(total)) => Ok(Self(-total)),
            (true, Err(_)) => Ok(Self(i64::MIN)),
            (false, Ok(total)) => Ok(Self(total)),
            (false, Err(_)) => Err(invalid()),
        }
    }
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn integer(digits: &str) -> Option<u64> {
    digits.bytes().try_fold(0u64, |value, digit| {
        if value > LIMIT / 10 {
            return None;
        }
        Some(value * 10 + u64::from(digit - b'0')).filter(|value| *value <= LIMIT)
    })
}

fn unit_of(unit: &str) -> Option<u64> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => MICROSECOND,
        "ms" => MILLISECOND,
        "s" => SECOND,
        "m" => MINUTE,
        "h" => HOUR,
        _ => return None,
    })
}

/// Returns `0.digits` of a unit, rounded down. Digits that do not fit in 63 bits are dropped.
fn part_of(digits: &str, unit: u64) -> u64 {
    let mut value: u64 = 0;
    let mut scale = 1.0f64;
    for digit in digits.bytes() {
        if value > (LIMIT - 1) / 10 {
            break;
        }
        let next = value * 10 + u64::from(digit - b'0');
        if next > LIMIT {
            break;
        }
        value = next;
        scale *= 10.0;
    }
    (value as f64 * (unit as f64 / scale)) as u64
}

impl fmt::Display for Nanoseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        if total == 0 {
            return f.write_str("0s");
        }
        if total < SECOND {
            let (unit, scale) = match total {
                0..MICROSECOND => ("ns", 1),
                MICROSECOND..MILLISECOND => ("µs", MICROSECOND),
                _ => ("ms", MILLISECOND),
            };
            return write!(f, "{}{}{unit}", total / scale, Fraction(total % scale, scale));
        }
        let (hours, minutes, rest) = (total / HOUR, total % HOUR / MINUTE, total % MINUTE);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        write!(f, "{}{}s", rest / SECOND, Fraction(rest % SECOND, SECOND))
    }
}

/// A part of a power of ten, printed as `.digits` without trailing zeros.
struct Fraction(u64, u64);

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(mut value, mut scale) = *self;
        if value == 0 {
            return Ok(());
        }
        f.write_str(".")?;
        while value > 0 {
            scale /= 10;
            write!(f, "{}", value / scale)?;
            value %= scale;
        }
        Ok(())
    }
}

/// Quotes a text as the messages do: bytes that are not printable ASCII as `\xd9`.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => quoted.extend(['\\', char::from(byte)]),
            b' '..=b'~' | 0x7f => quoted.push(char::from(byte)),
            _ => quoted.push_str(&format!("\\x{byte:02x}")),
        }
    }
    quoted.push('"');
    quoted
}
