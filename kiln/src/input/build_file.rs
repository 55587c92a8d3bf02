//! Finding and reading the build file.
//!
//! Without `-f` it is `Dockerfile` in the context, else `dockerfile`, else `Containerfile`. With `-f` it is that path,
//! from the current directory, inside the context or not; `-` is standard input.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use kiln_builder::{ARCHIVE_HEAD, BuildError, BuildFile, is_archive};

/// The names that are tried when none is given.
pub const NAMES: [&str; 3] = ["Dockerfile", "dockerfile", "Containerfile"];

/// A build file is no larger.
pub const LARGEST: u64 = 16 << 20;

/// So many entries of a directory are looked at for a hint.
const MOST_ENTRIES: usize = 500;

/// A build file and where it was.
#[derive(Debug)]
pub struct Found {
    /// The file.
    pub file: BuildFile,
    /// Its path; `None` for standard input.
    pub path: Option<PathBuf>,
}

/// Reads the build file: `name` is the value of `-f`, `context` the context directory.
///
/// # Errors
/// When there is none, or it cannot be read; the hint says what is nearby.
pub fn find(name: Option<&str>, context: &Path, current: &Path) -> Result<Found, BuildError> {
    match name {
        Some("-") => Ok(Found { file: from_stdin(io::stdin().lock())?, path: None }),
        Some(name) => {
            let mut failure = io::Error::from(io::ErrorKind::NotFound);
            for name in spellings(name) {
                let path = current.join(&name);
                match read(&path) {
                    Ok(text) => return Ok(Found { file: BuildFile { name, text }, path: Some(path) }),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => failure = error,
                }
            }
            // For BuildKit the directory of the build file is a place of its own, and only the name is in it.
            let base = Path::new(name).file_name().map_or(name.into(), |base| base.to_string_lossy());
            let error = unreadable(&base, &failure);
            Err(match in_context(name, context, current) {
                Some(other) => {
                    error.hint(format!("`-f` starts from the current directory: try `-f {}`", other.display()))
                }
                None => with_neighbours(error, context),
            })
        }
        None => {
            for name in NAMES {
                let path = context.join(name);
                match read(&path) {
                    Ok(text) => return Ok(Found { file: BuildFile { name: name.to_owned(), text }, path: Some(path) }),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(unreadable(name, &error)),
                }
            }
            Err(with_neighbours(
                BuildError::input("failed to read dockerfile: open Dockerfile: no such file or directory"),
                context,
            ))
        }
    }
}

/// Returns the names that are tried for one that is given: the usual one may be in lower case (spec:
/// stages-platforms.md §5).
pub fn spellings(name: &str) -> impl Iterator<Item = String> {
    let directory = name.strip_suffix(NAMES[0]).filter(|directory| directory.is_empty() || directory.ends_with('/'));
    let lower = directory.map(|directory| format!("{directory}{}", NAMES[1]));
    std::iter::once(name.to_owned()).chain(lower)
}

/// Reads a build file from standard input.
///
/// # Errors
/// When it cannot be read, is too large, or is an archive.
pub fn from_stdin(stdin: impl Read) -> Result<BuildFile, BuildError> {
    let file = from_reader(stdin)?;
    if is_archive(&file.text[..file.text.len().min(ARCHIVE_HEAD)]) {
        return Err(BuildError::input("standard input is an archive, and a build file is text")
            .hint("a context that is an archive is given as `-` in the place of the directory, without `-f -`"));
    }
    Ok(file)
}

/// Reads a build file that somebody else has begun to read.
///
/// # Errors
/// When it cannot be read or is too large.
pub fn from_reader(reader: impl Read) -> Result<BuildFile, BuildError> {
    let text = limited(reader).map_err(|error| unreadable("-", &error))?;
    Ok(BuildFile { name: "-".to_owned(), text })
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(io::Error::from_raw_os_error(rustix::io::Errno::ISDIR.raw_os_error()));
    }
    limited(file)
}

fn limited(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    reader.take(LARGEST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LARGEST {
        return Err(io::Error::other("it is larger than 16 MiB"));
    }
    Ok(text)
}

/// The sentence that BuildKit says, so that people find it.
fn unreadable(name: &str, error: &io::Error) -> BuildError {
    let why = match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::IsADirectory => "is a directory".to_owned(),
        _ => error.to_string(),
    };
    BuildError::input(format!("failed to read dockerfile: open {name}: {why}"))
}

/// Where `-f NAME` would be if NAME had been meant from the context, as seen from the current directory.
fn in_context(name: &str, context: &Path, current: &Path) -> Option<PathBuf> {
    let path = context.join(name);
    path.is_file().then(|| path.strip_prefix(current).map(Path::to_owned).unwrap_or(path))
}

/// Adds a hint with what looks like a build file in the context, one level below, or above.
fn with_neighbours(error: BuildError, context: &Path) -> BuildError {
    let mut found = build_files(context);
    if found.is_empty() {
        let mut directories: Vec<_> = entries(context).filter(|path| path.is_dir()).collect();
        directories.sort();
        found = directories.iter().take(50).flat_map(|directory| build_files(directory)).collect();
    }
    if found.is_empty()
        && let Some(parent) = context.parent()
    {
        found = build_files(parent);
    }
    found.truncate(4);
    let shown: Vec<_> = found.iter().map(|path| format!("`{}`", path.display())).collect();
    match shown.as_slice() {
        [] => error.hint(format!(
            "there is no build file in or near `{}`: write a `Dockerfile`, or name the right directory",
            context.display()
        )),
        [only] => error.hint(format!("did you mean -f {only}?")),
        several => error.hint(format!("name it with `-f`; nearby are {}", several.join(", "))),
    }
}

fn build_files(directory: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = entries(directory).filter(|path| looks_like_one(path) && path.is_file()).collect();
    found.sort();
    found
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(directory).into_iter().flatten().take(MOST_ENTRIES).filter_map(|entry| Some(entry.ok()?.path()))
}

fn looks_like_one(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let one = |base: &str| name == base || name.starts_with(&format!("{base}.")) || name.ends_with(&format!(".{base}"));
    (one("dockerfile") || one("containerfile")) && !name.ends_with(".dockerignore")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(files: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for file in files {
            let path = directory.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, *file).unwrap();
        }
        directory
    }

    fn text(found: &Found) -> &str {
        std::str::from_utf8(&found.file.text).unwrap()
    }

    #[test]
    fn the_usual_names_are_tried_in_order() {
        let both = directory(&["Dockerfile", "Containerfile"]);
        assert_eq!(text(&find(None, both.path(), Path::new("/")).unwrap()), "Dockerfile");
        let lower = directory(&["dockerfile", "Containerfile"]);
        assert_eq!(text(&find(None, lower.path(), Path::new("/")).unwrap()), "dockerfile");
        let container = directory(&["Containerfile"]);
        let found = find(None, container.path(), Path::new("/")).unwrap();
        assert_eq!((text(&found), &*found.file.name), ("Containerfile", "Containerfile"));
    }

    #[test]
    fn a_named_file_is_looked_for_from_the_current_directory() {
        let here = directory(&["docker/prod.Dockerfile", "context/Other"]);
        let context = here.path().join("context");
        let found = find(Some("docker/prod.Dockerfile"), &context, here.path()).unwrap();
        assert_eq!((text(&found), &*found.file.name), ("docker/prod.Dockerfile", "docker/prod.Dockerfile"));
        let error = find(Some("Other"), &context, here.path()).unwrap_err();
        assert_eq!(error.message, "failed to read dockerfile: open Other: no such file or directory");
        assert!(error.hint.unwrap().contains("`-f context/Other`"));
        std::fs::write(context.join("dockerfile"), "lower").unwrap();
        let found = find(Some("context/Dockerfile"), &context, here.path()).unwrap();
        assert_eq!((text(&found), &*found.file.name), ("lower", "context/dockerfile"));
        assert!(find(Some("context/xDockerfile"), &context, here.path()).is_err());
        let error = find(Some("docker"), &context, here.path()).unwrap_err();
        assert!(error.message.ends_with("open docker: is a directory"), "{}", error.message);
    }

    #[test]
    fn the_hint_says_what_is_nearby() {
        let hint = |files: &[&str]| {
            let here = directory(files);
            let context = here.path().join("context");
            std::fs::create_dir_all(&context).unwrap();
            let error = find(None, &context, here.path()).unwrap_err();
            assert_eq!(error.message, "failed to read dockerfile: open Dockerfile: no such file or directory");
            error.hint.unwrap().replace(here.path().to_str().unwrap(), "HERE")
        };
        assert_eq!(
            hint(&["context/app.Dockerfile", "context/app.Dockerfile.dockerignore"]),
            "did you mean -f `HERE/context/app.Dockerfile`?"
        );
        assert_eq!(hint(&["context/docker/Dockerfile"]), "did you mean -f `HERE/context/docker/Dockerfile`?");
        assert_eq!(hint(&["Dockerfile"]), "did you mean -f `HERE/Dockerfile`?");
        assert!(hint(&["context/Dockerfile.a", "context/Dockerfile.b"]).starts_with("name it with `-f`; nearby are"));
        assert!(hint(&["x"]).contains("no build file in or near"));
    }
}
