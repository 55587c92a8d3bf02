//! `RUN --mount`: what is mounted where while a command runs.
//!
//! The options are read when the instruction is reached, because variables may stand in their values; only few mistakes
//! are found earlier ([`check_early`]).

use super::{
    csv::{self, CsvError},
    expand::ExpandError,
    quote::go_quote,
    size::{self, SizeError},
    suggest,
};

/// A mount, with its values expanded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mount {
    /// What kind.
    pub kind: MountKind,
    /// Stage, named context or image that the content comes from.
    pub from: Option<String>,
    /// The path in there.
    pub source: Option<String>,
    /// Where it appears.
    pub target: Option<String>,
    /// Whether it cannot be written to.
    pub read_only: bool,
    /// The size of a tmpfs in bytes; nothing when unlimited.
    pub size: Option<u64>,
    /// The name of a cache, a secret or an agent.
    pub id: Option<String>,
    /// How commands share a cache.
    pub sharing: Option<Sharing>,
    /// Whether a missing secret or agent is an error.
    pub required: bool,
    /// The mode, where given.
    pub mode: Option<u32>,
    /// The owner, where given.
    pub uid: Option<u32>,
    /// The group, where given.
    pub gid: Option<u32>,
    /// The variable that a secret is put into.
    pub env: Option<String>,
}

/// The kinds of mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum MountKind {
    /// Files of a context, a stage or an image.
    #[default]
    Bind,
    /// A directory that outlives the build.
    Cache,
    /// Memory.
    Tmpfs,
    /// A file that leaves no trace.
    Secret,
    /// An agent that signs.
    Ssh,
}

/// How commands that run at once share a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Sharing {
    /// All use the same directory.
    #[default]
    Shared,
    /// Each has its own.
    Private,
    /// One after the other.
    Locked,
}

/// Why a `--mount` cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    /// Not a list of fields.
    #[error("failed to parse csv mounts: {0}")]
    Fields(#[from] CsvError),
    /// A value that cannot be expanded.
    #[error(transparent)]
    Expand(#[from] ExpandError),
    /// A field that should be `key=value`.
    #[error("invalid field '{0}' must be a key=value pair")]
    Field(String),
    /// A key that there is not.
    #[error("unexpected key '{key}' in '{field}'{}", suggest::hint(suggestion))]
    Key {
        /// The key, in lower case.
        key: String,
        /// The field it is in.
        field: String,
        /// What was perhaps meant.
        suggestion: Option<&'static str>,
    },
    /// A key that this kind of mount does not have.
    #[error("unexpected key '{key}' for mount type '{kind}'")]
    KeyForKind {
        /// The key.
        key: &'static str,
        /// The kind, as far as it was read.
        kind: MountKind,
    },
    /// A kind that there is not.
    #[error("unsupported mount type {}{}", go_quote(.text), suggest::hint(suggestion))]
    Kind {
        /// What was written.
        text: String,
        /// What was perhaps meant.
        suggestion: Option<&'static str>,
    },
    /// A way of sharing that there is not.
    #[error("unsupported sharing value {}{}", go_quote(.text), suggest::hint(suggestion))]
    Sharing {
        /// What was written.
        text: String,
        /// What was perhaps meant.
        suggestion: Option<&'static str>,
    },
    /// A value that is not true or false.
    #[error("invalid value for {key}: {value}")]
    Boolean {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// A value that is not a number.
    #[error("invalid value {value} for {key}")]
    Number {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
    },
    /// A size that cannot be read.
    #[error("invalid value for size: {value}")]
    Size {
        /// The value.
        value: String,
        /// Why.
        #[source]
        source: SizeError,
    },
    /// `from=$X`.
    #[error("'from' doesn't support variable expansion, define alias stage instead")]
    FromVariable,
    /// Mode, owner or group on a mount that has none.
    #[error("{key} not allowed for {} type mounts", go_quote(kind.as_str()))]
    NotAllowed {
        /// The key.
        key: &'static str,
        /// The kind.
        kind: MountKind,
    },
    /// `sharing` on a mount that is not a cache.
    #[error("invalid cache sharing set for {0} mount")]
    SharingForKind(MountKind),
    /// A secret with `from`.
    #[error("secret mount should not have a from")]
    SecretFrom,
    /// A secret with `sharing`.
    #[error("secret mount should not define sharing")]
    SecretSharing,
    /// A secret with two names.
    #[error("both source and id can't be set")]
    SourceAndId,
    /// A secret without a name.
    #[error("invalid secret mount. one of source, target required")]
    SecretName,
}

impl MountKind {
    const ALL: [Self; 5] = [Self::Bind, Self::Cache, Self::Tmpfs, Self::Secret, Self::Ssh];

    /// Returns the name as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Cache => "cache",
            Self::Tmpfs => "tmpfs",
            Self::Secret => "secret",
            Self::Ssh => "ssh",
        }
    }

    fn parse(text: &str) -> Result<Self, MountError> {
        let name = text.to_lowercase();
        Self::ALL.into_iter().find(|kind| kind.as_str() == name).ok_or_else(|| MountError::Kind {
            suggestion: suggest::closest(&name, Self::ALL.map(Self::as_str)),
            text: text.to_owned(),
        })
    }
}

impl std::fmt::Display for MountKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Sharing {
    const ALL: [Self; 3] = [Self::Shared, Self::Private, Self::Locked];

    /// Returns the name as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Private => "private",
            Self::Locked => "locked",
        }
    }

    fn parse(text: &str) -> Result<Self, MountError> {
        let name = text.to_lowercase();
        Self::ALL.into_iter().find(|sharing| sharing.as_str() == name).ok_or_else(|| MountError::Sharing {
            suggestion: suggest::closest(&name, Self::ALL.map(Self::as_str)),
            text: text.to_owned(),
        })
    }
}

/// All keys, in the order in which they are suggested.
const KEYS: [&str; 19] = [
    "destination",
    "dst",
    "env",
    "from",
    "gid",
    "id",
    "mode",
    "readonly",
    "readwrite",
    "required",
    "ro",
    "rw",
    "sharing",
    "size",
    "source",
    "src",
    "target",
    "type",
    "uid",
];

/// Checks what is checked before the instruction is reached: that there are fields, and that `from` has no variable in
/// it.
pub fn check_early(text: &str) -> Result<(), MountError> {
    for field in csv::fields(text)? {
        if let Some((key, value)) = field.split_once('=')
            && key.eq_ignore_ascii_case("from")
            && has_variable(value)
        {
            return Err(MountError::FromVariable);
        }
    }
    Ok(())
}

/// Whether a `$` has something behind it.
fn has_variable(text: &str) -> bool {
    text.match_indices('$').any(|(at, _)| text[at + 1..].chars().next().is_some_and(|c| c != '\n'))
}

/// Reads the value of the flag. `expand` expands one value.
pub fn parse(text: &str, expand: impl Fn(&str) -> Result<String, ExpandError>) -> Result<Mount, MountError> {
    let mut reader = Reader { mount: Mount::default(), read_only: None };
    for field in csv::fields(text)? {
        reader.field(&field, &expand)?;
    }
    reader.finish()
}

struct Reader {
    mount: Mount,
    read_only: Option<bool>,
}

impl Reader {
    fn field(&mut self, field: &str, expand: &impl Fn(&str) -> Result<String, ExpandError>) -> Result<(), MountError> {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value)),
            None => (field.to_lowercase(), None),
        };
        let mount = &mut self.mount;
        let Some(value) = value else {
            match &*key {
                "readonly" | "ro" => self.read_only = Some(true),
                "readwrite" | "rw" => self.read_only = Some(false),
                "required" => {
                    mount.allow("required", &[MountKind::Secret, MountKind::Ssh])?;
                    mount.required = true;
                }
                _ => return Err(MountError::Field(field.to_owned())),
            }
            return Ok(());
        };
        if key == "from" {
            if has_variable(value) {
                return Err(MountError::FromVariable);
            }
            mount.from = given(value.to_owned());
            return Ok(());
        }
        let value = expand(value)?;
        match &*key {
            "type" => mount.kind = MountKind::parse(&value)?,
            "source" | "src" => mount.source = given(value),
            "target" | "dst" | "destination" => mount.target = given(value),
            "readonly" | "ro" => self.read_only = Some(boolean(key, value)?),
            "readwrite" | "rw" => self.read_only = Some(!boolean(key, value)?),
            "required" => {
                mount.allow("required", &[MountKind::Secret, MountKind::Ssh])?;
                mount.required = boolean(key, value)?;
            }
            "size" => {
                mount.allow("size", &[MountKind::Tmpfs])?;
                let bytes = size::parse(&value).map_err(|source| MountError::Size { value, source })?;
                mount.size = Some(bytes);
            }
            "id" => mount.id = given(value),
            "sharing" => mount.sharing = Some(Sharing::parse(&value)?),
            "mode" => mount.mode = Some(number("mode", value, 8)?),
            "uid" => mount.uid = Some(number("uid", value, 10)?),
            "gid" => mount.gid = Some(number("gid", value, 10)?),
            "env" => mount.env = Some(value),
            _ => {
                let suggestion = suggest::closest(&key, KEYS);
                return Err(MountError::Key { key, field: field.to_owned(), suggestion });
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Mount, MountError> {
        let mut mount = self.mount;
        let kind = mount.kind;
        mount.read_only = self.read_only.unwrap_or(!matches!(kind, MountKind::Cache | MountKind::Tmpfs));
        let has_owner = matches!(kind, MountKind::Cache | MountKind::Secret | MountKind::Ssh);
        if !has_owner {
            let given = [("mode", mount.mode), ("uid", mount.uid), ("gid", mount.gid)];
            if let Some((key, _)) = given.into_iter().find(|(_, value)| value.is_some()) {
                return Err(MountError::NotAllowed { key, kind });
            }
        }
        if kind == MountKind::Secret {
            if mount.from.is_some() {
                return Err(MountError::SecretFrom);
            }
            if mount.sharing.is_some() {
                return Err(MountError::SecretSharing);
            }
            if mount.source.is_some() && mount.id.is_some() {
                return Err(MountError::SourceAndId);
            }
            if mount.source.is_none() && mount.id.is_none() && mount.target.is_none() {
                return Err(MountError::SecretName);
            }
        } else if kind != MountKind::Cache && mount.sharing.is_some() {
            return Err(MountError::SharingForKind(kind));
        }
        Ok(mount)
    }
}

impl Mount {
    /// Refuses a key that the kind read so far does not have.
    fn allow(&self, key: &'static str, kinds: &[MountKind]) -> Result<(), MountError> {
        if kinds.contains(&self.kind) { Ok(()) } else { Err(MountError::KeyForKind { key, kind: self.kind }) }
    }
}

/// Takes an empty value for none, as where a variable without one stands.
fn given(value: String) -> Option<String> {
    Some(value).filter(|value| !value.is_empty())
}

fn boolean(key: String, value: String) -> Result<bool, MountError> {
    csv::boolean(&value).ok_or(MountError::Boolean { key, value })
}

fn number(key: &'static str, value: String, radix: u32) -> Result<u32, MountError> {
    // A sign is no digit here.
    let number = if value.starts_with('+') { None } else { u32::from_str_radix(&value, radix).ok() };
    number.ok_or(MountError::Number { key, value })
}
