//! `--chown`: names to numbers, by the files of the destination (spec: copy-add.md §7).

use std::error::Error;
use std::io::{self, Read};

use kiln_frontend::graph::{Owner, Principal};

use super::content::Contents;
use super::files::FileKind;
use super::overlay::Overlay;

/// Larger files of users are refused.
const MAX_FILE: u64 = 10 << 20;

/// Why an owner could not be looked up.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// There is no file system to look in.
    #[error("invalid user index: -1")]
    NoFileSystem,
    /// A file of users that is none.
    #[error("cannot read {path} to look up {name:?}")]
    Unreadable {
        /// The file.
        path: &'static str,
        /// Who was wanted.
        name: String,
        /// What is wrong with it.
        #[source]
        reason: Box<dyn Error + Send + Sync>,
    },
}

/// Looks up an owner in the stage's file system as it is before the instruction. Unknown
/// names are root, silently, as in BuildKit.
///
/// # Errors
/// When a name is given and there is no file system below, or its files cannot be read.
pub fn look_up(
    owner: &Owner,
    overlay: &Overlay,
    has_base: bool,
    contents: &Contents,
) -> Result<(u32, u32), OwnerError> {
    let is_name = |principal: &Principal| matches!(principal, Principal::Name(_));
    if !has_base && (is_name(&owner.user) || owner.group.as_ref().is_some_and(is_name)) {
        return Err(OwnerError::NoFileSystem);
    }
    let (uid, primary) = match &owner.user {
        Principal::Id(id) => (*id, *id),
        Principal::Name(name) => {
            let file = read(overlay, contents, "/etc/passwd", name)?;
            entry(&file, name).map_or((0, 0), |fields| (number(fields.get(2)), number(fields.get(3))))
        }
    };
    let gid = match &owner.group {
        None => primary,
        Some(Principal::Id(id)) => *id,
        Some(Principal::Name(name)) => {
            let file = read(overlay, contents, "/etc/group", name)?;
            entry(&file, name).map_or(primary, |fields| number(fields.get(2)))
        }
    };
    Ok((uid, gid))
}

fn read(overlay: &Overlay, contents: &Contents, path: &'static str, name: &str) -> Result<Vec<u8>, OwnerError> {
    let failed = |reason: Box<dyn Error + Send + Sync>| OwnerError::Unreadable { path, name: name.to_owned(), reason };
    let physical = overlay.resolve(path.as_bytes(), true).map_err(|error| failed(error.into()))?;
    let Some(found) = overlay.find(&physical) else { return Ok(Vec::new()) };
    if found.meta.kind != FileKind::Regular {
        return Err(failed("it is not a regular file".into()));
    }
    if found.meta.size > MAX_FILE {
        return Err(failed(format!("it is larger than {} MiB", MAX_FILE >> 20).into()));
    }
    let bytes = contents.read_whole(&found.origin, found.meta.size, found.content).and_then(|file| {
        let mut bytes = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut bytes)?;
        io::Result::Ok(bytes)
    });
    bytes.map_err(|error| failed(error.into()))
}

/// Returns the fields of the first line of that name.
fn entry<'a>(file: &'a [u8], name: &str) -> Option<Vec<&'a [u8]>> {
    file.split(|byte| *byte == b'\n')
        .map(|line| line.trim_ascii().split(|byte| *byte == b':').collect::<Vec<_>>())
        .find(|fields| fields[0] == name.as_bytes())
}

/// Reads a number as the programs do that take anything else, and what is missing, for 0.
fn number(field: Option<&&[u8]>) -> u32 {
    field.and_then(|field| std::str::from_utf8(field).ok()?.parse().ok()).unwrap_or(0)
}
