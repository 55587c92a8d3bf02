//! What a build starts from: its context and its build file, wherever they are.
//!
//! ```text
//! DIRECTORY            the build file is in it, or where -f says
//! -                    an archive with the build file in it, or nothing but a build file
//! git or http(s) URL   the build file is in it; -f names it there, unless it is absolute
//! ```
//! With `-f -` the build file comes from standard input, with `-f https://…` from a web server.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use kiln_builder::{ARCHIVE_HEAD, BuildError, BuildFile, FetchedContext, Fetcher, is_archive};
use kiln_frontend::dockerfile::git;
use kiln_frontend::lower::{self, ContextTime};
use kiln_runtime::Cancel;

use super::build_file::{self, Found};
use super::context::Main;
use super::stdin::Stdin;

/// The PATH argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A directory.
    Directory(PathBuf),
    /// `-`.
    Stdin,
    /// A repository, as it was written.
    Git(String),
    /// A file on a web server.
    Http(String),
}

/// What a build starts from.
#[derive(Debug)]
pub struct Origin {
    /// The build file.
    pub file: BuildFile,
    /// Where it is on this machine, if it is.
    pub path: Option<PathBuf>,
    /// The directory of the context, if it is one.
    pub main: Main,
    /// The context, if it was fetched.
    pub context: Option<FetchedContext>,
    /// The time of the context, so far as it is known.
    pub time: ContextTime,
}

/// Looks at the PATH argument. Relative paths are taken from `current`.
///
/// # Errors
/// When it is no directory and nothing that can be fetched.
pub fn locate(text: &str, current: &Path) -> Result<Place, BuildError> {
    if text == "-" {
        return Ok(Place::Stdin);
    }
    let path = current.join(text);
    match std::fs::metadata(&path) {
        Ok(found) if found.is_dir() => return Ok(Place::Directory(path)),
        Ok(_) => {
            return Err(BuildError::input(format!(
                "unable to prepare context: `{text}` is a file, and a context is a directory"
            ))
            .hint(format!("if it is the build file: `kiln build -f {text} DIRECTORY`")));
        }
        Err(_) => {}
    }
    match git::parse(text) {
        Ok(_) => return Ok(Place::Git(text.to_owned())),
        Err(git::GitError::Malformed(cause)) => {
            return Err(BuildError::input(format!("unable to prepare context: {cause}")));
        }
        Err(git::GitError::NotGit(_)) => {}
    }
    if is_url(text) {
        return Ok(Place::Http(text.to_owned()));
    }
    match std::fs::metadata(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(BuildError::input(format!("unable to prepare context: cannot read `{text}`: {error}")))
        }
        _ => {
            let error = BuildError::input(format!("unable to prepare context: path \"{text}\" not found"));
            Err(error.hint(match text.contains("://") {
                true => {
                    "a context is a directory, `-`, a git address or an `http(s)://` URL: of a bucket, a signed one"
                }
                false => "the last argument is the context directory, often `.`",
            }))
        }
    }
}

/// Whether something is fetched from a web server.
pub fn is_url(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// What else is known of what is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The value of `-f`.
    pub name: Option<&'a str>,
    /// Where relative paths start.
    pub current: &'a Path,
    /// How a repository is checked out.
    pub options: &'a lower::Request,
    /// Ends the wait for standard input.
    pub cancel: &'a Cancel,
}

/// Reads the build file, and fetches the context if it is not a directory.
///
/// # Errors
/// When either is missing or cannot be had.
pub fn find(place: Place, wanted: Wanted, fetcher: &Fetcher) -> Result<Origin, BuildError> {
    find_both(place, wanted, fetcher)
        .map_err(|error| if wanted.cancel.is_cancelled() { BuildError::cancelled() } else { error })
}

fn find_both(place: Place, wanted: Wanted, fetcher: &Fetcher) -> Result<Origin, BuildError> {
    let Wanted { name, current, options, cancel } = wanted;
    let elsewhere = match name {
        Some("-") if place == Place::Stdin => {
            return Err(BuildError::input("invalid argument: can't use stdin for both build context and dockerfile"));
        }
        Some("-") => Some(Found { file: build_file::from_stdin(Stdin::new(cancel))?, path: None }),
        Some(url) if is_url(url) => {
            let text = fetcher.build_file(url, build_file::LARGEST)?;
            Some(Found { file: BuildFile { name: "Dockerfile".to_owned(), text }, path: None })
        }
        Some(path) if Path::new(path).is_absolute() && !matches!(place, Place::Directory(_)) => {
            Some(build_file::find(name, current, current)?)
        }
        _ => None,
    };
    let address = match &place {
        Place::Git(url) => Some(url.clone()),
        _ => None,
    };
    let context = match place {
        Place::Directory(directory) => {
            let Found { file, path } = match elsewhere {
                Some(found) => found,
                None => build_file::find(name, &directory, current)?,
            };
            return Ok(Origin { file, path, main: Main::Directory(directory), context: None, time: ContextTime::None });
        }
        Place::Http(url) => fetcher.http(&url)?,
        Place::Git(url) => fetcher.git(&url, options)?,
        Place::Stdin => {
            let mut stdin = Stdin::new(cancel);
            let mut head = Vec::new();
            let read = stdin.by_ref().take(ARCHIVE_HEAD as u64).read_to_end(&mut head);
            read.map_err(|error| BuildError::environment(format!("cannot read standard input: {error}")))?;
            let mut whole = io::Cursor::new(&head[..]).chain(stdin);
            if !is_archive(&head) {
                if name.is_some() {
                    return Err(BuildError::input(
                        "ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles",
                    )
                    .hint("with `-f` the context `-` is an archive, and standard input is none"));
                }
                let file = build_file::from_reader(whole)?;
                return Ok(Origin { file, path: None, main: Main::Empty, context: None, time: ContextTime::None });
            }
            fetcher.archive(&mut whole)?
        }
    };
    let Found { file, path } = match elsewhere {
        Some(found) => found,
        None => Found { file: in_fetched(fetcher, &context, name)?, path: None },
    };
    let time = time(fetcher, &context, address.as_deref(), &file, options)?;
    Ok(Origin { file, path, main: Main::Empty, context: Some(context), time })
}

/// Finds out the time of a context if a build argument wants it, or if a default in the file may. `repository` is the
/// address of a context that is one.
fn time(
    fetcher: &Fetcher,
    context: &FetchedContext,
    repository: Option<&str>,
    file: &BuildFile,
    options: &lower::Request,
) -> Result<ContextTime, BuildError> {
    let known = |time: Option<i64>| time.map_or(ContextTime::None, ContextTime::At);
    match (options.build_args.get("SOURCE_DATE_EPOCH"), repository) {
        (Some(value), _) if value == "context" => Ok(known(fetcher.time(context)?)),
        (None, _) if !lower::may_want_context_time(&String::from_utf8_lossy(&file.text)) => Ok(ContextTime::Unknown),
        // Only a build argument gives the files of a repository the time of their commit.
        (None, Some(url)) => {
            let mut dated = options.clone();
            dated.build_args.insert("SOURCE_DATE_EPOCH".to_owned(), "context".to_owned());
            Ok(known(fetcher.time(&fetcher.git(url, &dated)?)?))
        }
        (None, None) => Ok(known(fetcher.time(context)?)),
        (Some(_), _) => Ok(ContextTime::Unknown),
    }
}

/// Reads the build file of a context that was fetched.
fn in_fetched(fetcher: &Fetcher, context: &FetchedContext, name: Option<&str>) -> Result<BuildFile, BuildError> {
    let names: Vec<String> = match name {
        Some(name) => build_file::spellings(name).collect(),
        None => build_file::NAMES.map(str::to_owned).into(),
    };
    for name in &names {
        if let Some(text) = fetcher.read(context, name, build_file::LARGEST)? {
            return Ok(BuildFile { name: name.clone(), text });
        }
    }
    Err(BuildError::input(format!("failed to read dockerfile: open {}: no such file or directory", names[0]))
        .hint("the build file is looked for in the context that was fetched; name it there with `-f`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_path_argument_means() {
        let here = tempfile::tempdir().unwrap();
        std::fs::write(here.path().join("f"), "").unwrap();
        let message = |text: &str| locate(text, here.path()).unwrap_err().message;
        assert!(message("f").contains("`f` is a file"));
        assert!(message("nope").ends_with("path \"nope\" not found"));
        assert!(message("file:///etc").ends_with("not found"));
        let bucket = locate("s3://bucket/context.tgz", here.path()).unwrap_err();
        assert!(bucket.message.ends_with("not found") && bucket.hint.is_some_and(|hint| hint.contains("bucket")));
        assert!(message("https://example.com/r.git?nonsense=1").contains("unexpected query"));
        let place = |text: &str| locate(text, here.path()).unwrap();
        assert_eq!(place("-"), Place::Stdin);
        assert_eq!(place("."), Place::Directory(here.path().join(".")));
        assert_eq!(place("https://example.com/x.tar.gz"), Place::Http("https://example.com/x.tar.gz".into()));
        for text in ["https://example.com/r.git#main:sub", "git@example.com:r", "github.com/a/b", "ssh://h/r"] {
            assert_eq!(place(text), Place::Git(text.into()));
        }
        // What is there wins.
        std::fs::create_dir_all(here.path().join("github.com/a/b")).unwrap();
        assert!(matches!(place("github.com/a/b"), Place::Directory(_)));
    }
}
