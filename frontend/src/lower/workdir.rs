//! Where WORKDIR goes.

use super::path;

/// Why a directory cannot be gone to. Only on Windows: everywhere else every text will do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum WorkdirError {
    /// Another drive.
    #[error("normalizing working directory: removing drive letter: The specified path is not on the system drive (C:)")]
    Drive,
    /// A drive and nothing else.
    #[error("normalizing working directory: removing drive letter: No relative path specified in \"{0}\"")]
    Bare(String),
    /// `\\server\share`.
    #[error("normalizing working directory: removing drive letter: UNC paths are not supported")]
    Unc,
}

/// Returns the working directory after `WORKDIR directory` in `current`.
///
/// An absolute path is taken as it is, not cleaned; a relative one is joined to the current
/// directory and cleaned, never above the root.
pub(super) fn next(current: &str, directory: &str, os: &str) -> Result<String, WorkdirError> {
    if os == "windows" {
        return next_on_windows(current, directory);
    }
    Ok(path::destination(current, directory, false))
}

fn next_on_windows(current: &str, directory: &str) -> Result<String, WorkdirError> {
    let current = without_drive(&current.replace('\\', "/"))?;
    let directory = without_drive(&directory.replace('\\', "/"))?;
    let whole = if directory.starts_with('/') { directory } else { format!("{current}/{directory}") };
    Ok(path::rooted(&whole).replace('/', "\\"))
}

fn without_drive(path: &str) -> Result<String, WorkdirError> {
    if path.starts_with("//") {
        return Err(WorkdirError::Unc);
    }
    let mut chars = path.chars();
    let (Some(letter), Some(':')) = (chars.next(), chars.next()) else {
        return Ok(path.to_owned());
    };
    if !letter.eq_ignore_ascii_case(&'c') {
        return Err(WorkdirError::Drive);
    }
    match chars.as_str() {
        "" => Err(WorkdirError::Bare(path.to_owned())),
        rest => Ok(rest.to_owned()),
    }
}
