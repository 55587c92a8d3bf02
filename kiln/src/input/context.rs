//! Build contexts: the main one, the named ones, and what their ignore files leave out.
//!
//! The main context's ignore file is `<build file>.dockerignore` beside the build file, else `.dockerignore` in the
//! context; a named context has only its own `.dockerignore`. Ignore files inside a context are opened by the kernel with
//! the context as root, so a symlink in it cannot lead out.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use kiln_builder::BuildError;
use kiln_builder::seam::{ContextRoot, Contexts};
use kiln_frontend::dockerignore::{self, PatternError, Patterns};
use kiln_oci::Reference;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use tempfile::TempDir;

const IGNORE_FILE: &str = ".dockerignore";

/// An ignore file is no larger.
const LARGEST: u64 = 16 << 20;

/// The directory of the main context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Main {
    /// It is one.
    Directory(PathBuf),
    /// There is none: nothing but a build file on standard input, or a context that the engine has fetched.
    Empty,
}

/// The contexts that the command line names.
pub struct LocalContexts {
    main: Main,
    empty: Mutex<Option<TempDir>>,
    /// The ignore file of this build file, where there is one.
    ignore: Option<(String, Patterns)>,
    named: BTreeMap<String, PathBuf>,
}

impl LocalContexts {
    /// Makes the contexts; `build_file` is the path of the build file, if it has one.
    ///
    /// # Errors
    /// When the build file's own ignore file cannot be read or is malformed.
    pub fn new(main: Main, build_file: Option<&Path>, named: BTreeMap<String, PathBuf>) -> Result<Self, BuildError> {
        let ignore = match (&main, build_file) {
            (Main::Directory(_), Some(path)) => own_ignore_file(path)?,
            _ => None,
        };
        Ok(Self { main, empty: Mutex::new(None), ignore, named })
    }
}

impl LocalContexts {
    /// Takes what the main context leaves out from the file at `path`, and from no other; `name` is what it is called.
    ///
    /// # Errors
    /// When the file cannot be read or is malformed, or the context is no directory.
    pub fn with_ignore_file(mut self, path: &Path, name: &str) -> Result<Self, BuildError> {
        if self.main == Main::Empty {
            return Err(BuildError::input(format!("`{name}` cannot be used: the context is not a directory"))
                .hint("ignore files are for directories of this machine"));
        }
        let file = File::options().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path);
        let read = file.map_err(|error| in_file(name, &error)).and_then(|file| patterns(&file, name));
        let patterns = read.map_err(|error| unusable(&error))?;
        self.ignore = Some((name.to_owned(), patterns));
        Ok(self)
    }

    /// Returns what the main context leaves out.
    ///
    /// # Errors
    /// When the ignore file cannot be read or is malformed: no build begins with such a one, whether it needs the context
    /// or not.
    pub fn ignored(&self) -> Result<Option<Patterns>, BuildError> {
        let (Main::Directory(path), None) = (&self.main, &self.ignore) else {
            return Ok(self.ignore.as_ref().map(|(_, patterns)| patterns.clone()));
        };
        let directory = File::options().read(true).custom_flags(OFlags::DIRECTORY.bits() as i32).open(path);
        // Who needs the files hears why the directory cannot be opened.
        let Ok(directory) = directory else { return Ok(None) };
        let found = context_ignore_file(directory).map_err(|error| unusable(&error))?;
        Ok(found.map(|(_, patterns)| patterns))
    }
}

impl Contexts for LocalContexts {
    fn open(&self, name: &str) -> io::Result<ContextRoot> {
        let name = name.strip_prefix("local:").unwrap_or(name);
        if let Some(path) = self.named.get(name) {
            return open_directory(path, None);
        }
        if name != "context" {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no context `{name}`")));
        }
        match &self.main {
            Main::Directory(path) => open_directory(path, self.ignore.clone()),
            Main::Empty => {
                let mut empty = self.empty.lock().unwrap_or_else(PoisonError::into_inner);
                let directory = match empty.take() {
                    Some(directory) => directory,
                    None => tempfile::tempdir()?,
                };
                let root = open_directory(directory.path(), None);
                *empty = Some(directory);
                root
            }
        }
    }
}

fn open_directory(path: &Path, ignore: Option<(String, Patterns)>) -> io::Result<ContextRoot> {
    let path = path.canonicalize()?;
    let directory = File::options().read(true).custom_flags(OFlags::DIRECTORY.bits() as i32).open(&path)?;
    let ignore = match ignore {
        Some(ignore) => Some(ignore),
        None => context_ignore_file(&directory)?,
    };
    Ok(ContextRoot { directory, path, ignore })
}

/// Reads `.dockerignore` at the root of a context.
fn context_ignore_file(directory: impl AsFd) -> io::Result<Option<(String, Patterns)>> {
    // Not blocking, should it be a pipe.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = loop {
        match openat2(
            &directory,
            IGNORE_FILE,
            flags,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        ) {
            // A rename raced with the lookup; the kernel asks us to look again.
            Err(rustix::io::Errno::AGAIN) => {}
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(in_file(IGNORE_FILE, &error.into())),
            Ok(file) => break File::from(file),
        }
    };
    Ok(Some((IGNORE_FILE.to_owned(), patterns(&file, IGNORE_FILE)?)))
}

/// Reads `<build file>.dockerignore` beside the build file.
fn own_ignore_file(build_file: &Path) -> Result<Option<(String, Patterns)>, BuildError> {
    let mut path = build_file.to_owned().into_os_string();
    path.push(IGNORE_FILE);
    let name = Path::new(&path).file_name().unwrap_or_default().to_string_lossy().into_owned();
    match File::options().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(&path) {
        Ok(file) => {
            let patterns = patterns(&file, &name).map_err(|error| unusable(&error))?;
            Ok(Some((name, patterns)))
        }
        // What cannot be read is as good as absent, with BuildKit too.
        Err(_) => Ok(None),
    }
}

/// A line of an ignore file that is none.
#[derive(Debug)]
struct Malformed {
    name: String,
    error: PatternError,
}

impl std::error::Error for Malformed {}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot use `{}`: line {}: {}", self.name, self.error.line(), self.error)
    }
}

/// Reads the ignore file `name`.
fn patterns(file: &File, name: &str) -> io::Result<Patterns> {
    let failed = |error: &io::Error| in_file(name, error);
    if !file.metadata().map_err(|error| failed(&error))?.is_file() {
        return Err(failed(&io::Error::other("it is not a regular file")));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    if bytes.len() as u64 > LARGEST {
        return Err(failed(&io::Error::other("it is larger than 16 MiB")));
    }
    dockerignore::parse(&String::from_utf8_lossy(&bytes))
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, Malformed { name: name.to_owned(), error }))
}

/// The error about an ignore file.
fn unusable(error: &io::Error) -> BuildError {
    let wrong = BuildError::input(error.to_string());
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Malformed>()) {
        Some(malformed) => wrong.hint(malformed.error.hint()),
        None => wrong,
    }
}

fn in_file(name: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot use `{name}`: {error}"))
}

/// The named contexts of the command line.
#[derive(Debug, Default)]
pub struct Named {
    /// Name → what the engine is told: `docker-image://…`, `oci-layout://…`, a URL, `local:NAME`.
    pub values: BTreeMap<String, String>,
    /// The directories behind `local:NAME`.
    pub directories: BTreeMap<String, PathBuf>,
}

/// Reads `--build-context NAME=VALUE`. Relative paths are taken from `current`.
///
/// # Errors
/// When one is malformed, or names a directory that does not exist.
pub fn named(texts: &[String], current: &Path) -> Result<Named, BuildError> {
    let mut named = Named::default();
    for text in texts {
        let wrong = |why: String| BuildError::input(format!("invalid value `{text}` for `--build-context`: {why}"));
        let (name, value) = match text.split_once('=') {
            Some((name, value)) if !name.is_empty() && !value.is_empty() => (name, value),
            _ => return Err(wrong("it is not of the form `name=value`".to_owned())),
        };
        context_name(name)?;
        let told = if let Some(layout) = value.strip_prefix("oci-layout://") {
            let (path, rest) = split_layout(layout);
            let path = current.join(path);
            if !path.join("index.json").is_file() {
                return Err(wrong(format!("`{}` is not an OCI layout: it has no `index.json`", path.display())));
            }
            let path = path.to_str().ok_or_else(|| wrong("the path is not UTF-8".to_owned()))?;
            format!("oci-layout://{path}{rest}")
        } else if value.starts_with("docker-image://") || is_fetched(value) {
            value.to_owned()
        } else {
            let path = current.join(value);
            let wrong = |why: &str| {
                BuildError::input(format!("failed to get build context {name}: stat {value}: {why}"))
                    .hint("an image is written `docker-image://NAME`, a layout `oci-layout://PATH`")
            };
            match std::fs::metadata(&path) {
                Ok(found) if found.is_dir() => {}
                Ok(_) => return Err(wrong("not a directory")),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(wrong("no such file or directory"));
                }
                Err(error) => return Err(wrong(&error.to_string())),
            }
            named.directories.insert(name.to_owned(), path);
            format!("local:{name}")
        };
        named.values.insert(name.to_owned(), told);
    }
    Ok(named)
}

/// Checks the name of a context, which is that of an image, perhaps with a platform behind `::`.
fn context_name(name: &str) -> Result<(), BuildError> {
    let image = name.split_once("::").map_or(name, |(image, _)| image);
    match image.parse::<Reference>() {
        Ok(_) => Ok(()),
        Err(error) => Err(BuildError::input(format!("invalid context name {name}: {error}"))
            .hint("a context is named like an image: in small letters, perhaps with a tag")),
    }
}

/// Whether a named context is brought by the engine.
fn is_fetched(value: &str) -> bool {
    super::origin::is_url(value) || value.starts_with("git://") || value.starts_with("git@")
}

/// Splits `path[:tag][@digest]` behind the path.
fn split_layout(text: &str) -> (&str, &str) {
    let digest = text.rfind("@sha256:").unwrap_or(text.len());
    let last = text[..digest].rfind('/').map_or(0, |slash| slash + 1);
    let tag = text[last..digest].find(':').map_or(digest, |colon| last + colon);
    text.split_at(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_is_split_behind_its_path() {
        let digest = format!("@sha256:{}", "a".repeat(64));
        let cases = [
            ("a/b", "a/b", String::new()),
            ("a/b:tag", "a/b", ":tag".to_owned()),
            ("/a:1/b", "/a:1/b", String::new()),
            (&format!("a{digest}"), "a", digest.clone()),
            (&format!("a:t{digest}"), "a", format!(":t{digest}")),
        ];
        for (text, path, rest) in cases {
            assert_eq!(split_layout(text), (path, &*rest), "{text:?}");
        }
    }

    #[test]
    fn named_contexts_are_resolved() {
        let here = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(here.path().join("layout")).unwrap();
        std::fs::write(here.path().join("layout/index.json"), "{}").unwrap();
        let flags =
            ["img=docker-image://alpine:3", "lay=oci-layout://layout:v1", "dir=layout", "python:3=docker-image://p"];
        let named = named(&flags.map(str::to_owned), here.path()).unwrap();
        assert_eq!(named.values["img"], "docker-image://alpine:3");
        assert_eq!(named.values["lay"], format!("oci-layout://{}/layout:v1", here.path().display()));
        assert_eq!(named.values["dir"], "local:dir");
        assert_eq!(named.values["python:3"], "docker-image://p");
        assert_eq!(named.directories["dir"], here.path().join("layout"));
        let refused = super::named(&["EXTRA=layout".to_owned()], here.path()).unwrap_err();
        assert_eq!(
            refused.message,
            "invalid context name EXTRA: invalid reference format: repository name (library/EXTRA) must be lowercase"
        );
        for wrong in ["a", "a=", "=b", "a=nowhere", "a=oci-layout://nowhere", "a=file:///etc"] {
            assert!(super::named(&[wrong.to_owned()], here.path()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_build_files_own_ignore_file_wins() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("Dockerfile");
        std::fs::write(here.path().join(".dockerignore"), "a\n").unwrap();
        let open = || {
            let contexts =
                LocalContexts::new(Main::Directory(here.path().to_owned()), Some(&path), BTreeMap::new()).unwrap();
            contexts.open("context").unwrap().ignore.unwrap().0
        };
        assert_eq!(open(), ".dockerignore");
        std::fs::write(here.path().join("Dockerfile.dockerignore"), "").unwrap();
        assert_eq!(open(), "Dockerfile.dockerignore");
    }

    #[test]
    fn a_malformed_ignore_file_is_told_once_and_early() {
        let here = tempfile::tempdir().unwrap();
        std::fs::write(here.path().join(".dockerignore"), "a\n[\n").unwrap();
        let main = Main::Directory(here.path().to_owned());
        let contexts = LocalContexts::new(main, None, BTreeMap::new()).unwrap();
        let error = contexts.ignored().unwrap_err();
        assert_eq!(error.message, "cannot use `.dockerignore`: line 2: syntax error in pattern");
        assert!(error.hint.is_some_and(|hint| hint.contains("must be closed")));
        std::fs::write(here.path().join(".dockerignore"), "a\nb\n!\n").unwrap();
        let error = contexts.ignored().unwrap_err();
        assert_eq!(error.message, "cannot use `.dockerignore`: line 3: illegal exclusion pattern: \"!\"");
        assert!(error.hint.is_some_and(|hint| hint.contains("behind the `!`")));
        std::fs::write(here.path().join(".dockerignore"), "a\n").unwrap();
        assert!(contexts.ignored().unwrap().is_some());
    }

    #[test]
    fn an_ignore_file_cannot_lead_out_or_hang() {
        let here = tempfile::tempdir().unwrap();
        let ignore = here.path().join(".dockerignore");
        std::os::unix::fs::symlink("/etc/passwd", &ignore).unwrap();
        let contexts = LocalContexts::new(Main::Directory(here.path().to_owned()), None, BTreeMap::new()).unwrap();
        assert!(contexts.open("context").unwrap().ignore.is_none());
        std::fs::remove_file(&ignore).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &ignore, Mode::RUSR).unwrap();
        assert!(contexts.open("context").is_err());
        assert!(contexts.open("other").is_err());
    }

    #[test]
    fn no_context_is_an_empty_directory_that_goes_away() {
        let contexts = LocalContexts::new(Main::Empty, None, BTreeMap::new()).unwrap();
        let path = contexts.open("context").unwrap().path;
        assert_eq!(contexts.open("context").unwrap().path, path);
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
        drop(contexts);
        assert!(!path.exists());
    }
}
