//! `RUN --device`: one device by name, required or not.

use super::{csv, suggest};

/// A device that a command asks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Device {
    /// `vendor.com/class[=name]`.
    pub name: String,
    /// Whether the command cannot run without it.
    pub required: bool,
}

/// Why a `--device` cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Not a list of fields.
    #[error("failed to parse csv devices: {0}")]
    Fields(#[from] csv::CsvError),
    /// Two names.
    #[error("device name already set to {0}")]
    SecondName(String),
    /// A field that is neither the name nor `key=value`.
    #[error("invalid field '{0}' must be a key=value pair")]
    Field(String),
    /// A key that there is not.
    #[error("unexpected key '{key}' in '{field}'{}", suggest::hint(suggestion))]
    Key {
        /// The key.
        key: String,
        /// The field it is in.
        field: String,
        /// What was perhaps meant.
        suggestion: Option<&'static str>,
    },
    /// A value that is neither true nor false.
    #[error("invalid value for {key}: {value}")]
    Value {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
}

impl Device {
    /// Reads the value of the flag.
    pub fn parse(text: &str) -> Result<Self, DeviceError> {
        let mut device = Self::default();
        for field in csv::fields(text)? {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key.to_lowercase(), Some(value)),
                None => (field.to_lowercase(), None),
            };
            match (&*key, value) {
                ("required", None) => device.required = true,
                ("required", Some(value)) => {
                    device.required =
                        csv::boolean(value).ok_or_else(|| DeviceError::Value { key, value: value.to_owned() })?;
                }
                ("name", Some(_)) if !device.name.is_empty() => return Err(DeviceError::SecondName(device.name)),
                ("name", Some(value)) => device.name = value.to_owned(),
                // As long as there is no name, anything else is the bare name, which may have a `=` in it.
                _ if device.name.is_empty() => device.name = field.into_owned(),
                (_, None) => return Err(DeviceError::Field(field.into_owned())),
                (_, Some(_)) => {
                    let suggestion = suggest::closest(&key, ["name", "required"]);
                    return Err(DeviceError::Key { key, field: field.into_owned(), suggestion });
                }
            }
        }
        Ok(device)
    }
}
