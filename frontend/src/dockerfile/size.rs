//! Sizes of memory: `64m`, `1.5g`, `10`. Units are powers of 1024.

use super::quote::go_quote;

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// No number.
    #[error("invalid size: '{0}'")]
    Invalid(String),
    /// A unit that there is not.
    #[error("invalid suffix: '{0}'")]
    Suffix(String),
    /// A number with something in it that does not belong there.
    #[error("strconv.ParseFloat: parsing {}: invalid syntax", go_quote(.0))]
    Number(String),
}

/// Reads a size in bytes, rounded down.
pub fn parse(text: &str) -> Result<u64, SizeError> {
    let invalid = || SizeError::Invalid(text.to_owned());
    let is_number = |c: char| c.is_ascii_digit() || matches!(c, '.' | ' ' | ',');
    // The number ends at its last digit (or point); one blank may stand between it and the unit.
    let Some(last) = text.rfind(is_number) else { return Err(invalid()) };
    let (number, suffix) = match text.as_bytes()[last] {
        b' ' => (&text[..last], &text[last + 1..]),
        _ => text.split_at(last + 1),
    };
    if number.starts_with('-') {
        return Err(invalid());
    }
    // A sign and an exponent are part of the number; names of numbers are not.
    let well_formed = number.bytes().all(|byte| byte.is_ascii_digit() || b".+-eE".contains(&byte));
    let Some(value) = Some(number).filter(|_| well_formed).and_then(|number| number.parse::<f64>().ok()) else {
        return Err(SizeError::Number(number.to_owned()));
    };
    let power = match &*suffix.to_lowercase() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => return Err(SizeError::Suffix(suffix.to_lowercase())),
    };
    Ok((value * 1024f64.powi(power)) as u64)
}
