//! The comma-separated fields of `--mount` and `--device`.
//!
//! A field may be quoted as a whole (`"a,b"`, with `""` for a quote); a quote inside a field is an ordinary character.

use std::borrow::Cow;

/// Why a text is not a list of fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CsvError {
    /// Nothing there.
    #[error("EOF")]
    Empty,
    /// A quoted field is not closed, or something follows its closing quote.
    #[error("extraneous or missing \" in quoted-field")]
    Quote,
}

/// Splits a text into its fields.
pub fn fields(text: &str) -> Result<Vec<Cow<'_, str>>, CsvError> {
    if text.is_empty() {
        return Err(CsvError::Empty);
    }
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                (Cow::Borrowed(&rest[..end]), &rest[end..])
            }
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(after) => rest = after,
            None if after.is_empty() => return Ok(fields),
            None => return Err(CsvError::Quote),
        }
    }
}

/// Reads up to the closing quote.
fn quoted_field(text: &str) -> Result<(Cow<'_, str>, &str), CsvError> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let end = rest.find('"').ok_or(CsvError::Quote)?;
        field.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        let Some(after) = rest.strip_prefix('"') else {
            return Ok((Cow::Owned(field), rest));
        };
        field.push('"');
        rest = after;
    }
}

/// Reads a truth value as Go does.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
