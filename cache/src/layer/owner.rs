//! How the owners of files are held in directory forms.
//!
//! Whoever runs commands on a directory needs it in the form that its own rights can read and write, so the forms that
//! different users, mappings and namespaces have made stand beside each other.

use std::fs::Metadata;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Gid, Uid, XattrFlags};
use rustix::io::Errno;

use super::read::attribute;
use crate::FileError;
use crate::file::At;

/// How this process holds the owners of files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ownership {
    /// As they are.
    #[default]
    Real,
    /// As they are to this process, which is in a user namespace that has the ids of the host from this one on.
    Mapped {
        /// The id of the host that is 1 in the namespace.
        first: u32,
    },
    /// In an attribute, [`Ownership::MARK`]: there is only one id.
    Recorded,
    /// Not at all: the index alone knows them, and no command can run.
    Lost,
}

impl Ownership {
    /// The extended attribute that says `uid:gid` where there is only one id. No layer has it.
    pub const MARK: &str = "user.kiln.owner";

    /// Gives a file or directory to somebody, or notes that it is theirs.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn give(self, file: impl AsFd, (uid, gid): (u32, u32)) -> rustix::io::Result<()> {
        match self {
            Self::Real | Self::Mapped { .. } => {
                rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            }
            Self::Recorded if (uid, gid) != (0, 0) => {
                rustix::fs::fsetxattr(file, Self::MARK, format!("{uid}:{gid}").as_bytes(), XattrFlags::empty())
            }
            Self::Recorded | Self::Lost => Ok(()),
        }
    }

    /// Whether anything can be given away, and not only what has attributes.
    pub fn is_real(self) -> bool {
        matches!(self, Self::Real | Self::Mapped { .. })
    }

    /// Returns the name of the directory form.
    pub(crate) fn directory_name(self) -> String {
        match self {
            Self::Real => "fs".to_owned(),
            Self::Mapped { first } => format!("fs-{first}"),
            Self::Recorded => "fs-single".to_owned(),
            Self::Lost => "fs-lost".to_owned(),
        }
    }

    /// Returns the owner of a file of which the metadata are known.
    pub(crate) fn of(self, path: &Path, metadata: &Metadata) -> Result<(u32, u32), FileError> {
        if self != Self::Recorded {
            return Ok((metadata.uid(), metadata.gid()));
        }
        Ok(marked(path)?.unwrap_or_default())
    }
}

/// Returns the owner that a mark names.
pub(crate) fn marked(path: &Path) -> Result<Option<(u32, u32)>, FileError> {
    match attribute(path, Ownership::MARK.as_bytes()) {
        // Links and the like have no such attributes.
        Err(Errno::PERM) => Ok(None),
        other => Ok(other.at("read an attribute of", path)?.and_then(|text| parse(&text))),
    }
}

/// Marks a file or directory as somebody's.
pub(crate) fn mark(path: &Path, (uid, gid): (u32, u32)) -> Result<(), FileError> {
    rustix::fs::lsetxattr(path, Ownership::MARK, format!("{uid}:{gid}").as_bytes(), XattrFlags::empty())
        .at("set an attribute of", path)
}

fn parse(text: &[u8]) -> Option<(u32, u32)> {
    let (uid, gid) = std::str::from_utf8(text).ok()?.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_two_numbers() {
        assert_eq!(parse(b"1000:33"), Some((1000, 33)));
        for bad in [&b""[..], b"1", b"a:1", b"1:-1", b"1:2:3", b"\xff:1"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
