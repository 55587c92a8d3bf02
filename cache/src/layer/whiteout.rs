//! Whiteouts: names in a tar stream that take something away.

use super::ArchiveError;
use crate::layer::show;

/// What the last name of a path in a tar stream means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Name<'a> {
    /// Itself.
    Plain,
    /// That this name of layers below is hidden.
    Whiteout(&'a [u8]),
    /// That everything that layers below have in the directory is hidden.
    Opaque,
    /// Nothing: records of a file system that nobody uses any more.
    Ignored,
}

/// The start of the name of a whiteout.
pub(crate) const PREFIX: &[u8] = b".wh.";

/// Reads the last name of a path.
pub(crate) fn read(name: &[u8]) -> Result<Name<'_>, ArchiveError> {
    let Some(hidden) = name.strip_prefix(PREFIX) else { return Ok(Name::Plain) };
    match hidden {
        b".wh..opq" => Ok(Name::Opaque),
        b"" | b"." | b".." => Err(ArchiveError::Name { path: show(name), reason: "no such whiteout can be" }),
        _ if hidden.starts_with(PREFIX) => Ok(Name::Ignored),
        _ => Ok(Name::Whiteout(hidden)),
    }
}

/// Returns the path that stands for "`path` is hidden".
pub(crate) fn path_of(path: &[u8]) -> Vec<u8> {
    let (parent, name) = crate::tree::split(path);
    let slash: &[u8] = if parent.is_empty() { b"" } else { b"/" };
    [parent, slash, PREFIX, name].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_what_they_should() {
        assert_eq!(read(b"a").unwrap(), Name::Plain);
        assert_eq!(read(b".wh.a").unwrap(), Name::Whiteout(b"a"));
        assert_eq!(read(b".wh..wh..opq").unwrap(), Name::Opaque);
        assert_eq!(read(b".wh..wh.plnk").unwrap(), Name::Ignored);
        for bad in [&b".wh."[..], b".wh..", b".wh..."] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        assert_eq!(path_of(b"a/b"), b"a/.wh.b");
        assert_eq!(path_of(b"b"), b".wh.b");
    }
}
