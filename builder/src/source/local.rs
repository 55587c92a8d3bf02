//! A directory of the client: walked once, in parallel, pruned by its ignore file; contents
//! are opened only when somebody needs them.
//!
//! Everything is reached from the directory's own descriptor by the kernel and without following
//! symlinks, so a tree that changes underneath can make the walk fail but never lead it outside.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use kiln_cache::context::{Memo, Stat};
use kiln_frontend::dockerignore::Patterns;
use kiln_oci::{Digest, Hasher};
use rayon::prelude::*;
use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::follow;
use super::walk::{MAX_PATH, Walk, failed};
use crate::op::files::{self, FileNode, MAX_DEPTH, Name};
use crate::seam::ContextRoot;

/// Why a context could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// A file or directory cannot be read.
    #[error("cannot read {path} in the build context")]
    Read {
        /// Relative to the context.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A path of the build that is no pattern.
    #[error("invalid includepatterns: [{0}]: syntax error in pattern")]
    Pattern(String),
    /// Deeper than any sane tree.
    #[error("{path}: directories are nested more than {MAX_DEPTH} deep")]
    TooDeep {
        /// Its beginning.
        path: String,
    },
    /// Longer than the kernel takes.
    #[error("{path}: the path is longer than {MAX_PATH} bytes")]
    TooLong {
        /// Its beginning.
        path: String,
    },
}

impl LocalError {
    /// Returns what may be done about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Read { source, .. } => unreadable_hint(source).map(str::to_owned),
            _ => None,
        }
    }
}

/// Returns what may be done about a file of a context that cannot be read.
fn unreadable_hint(error: &io::Error) -> Option<&'static str> {
    (error.kind() == io::ErrorKind::PermissionDenied)
        .then_some("make it readable for the user who builds, or leave it out with .dockerignore")
}

/// A file of a context cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot read `{path}` in the build context")]
pub struct Unreadable {
    path: String,
    #[source]
    source: io::Error,
}

impl Unreadable {
    /// Returns what may be done about it.
    pub fn hint(&self) -> Option<&'static str> {
        unreadable_hint(&self.source)
    }
}

/// A file is not the one that was walked any more.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` of the build context changed while the build was reading it")]
pub struct Changed(String);

/// A walked context.
pub struct LocalContext {
    /// What is in it and not ignored.
    pub tree: FileNode,
    /// Its path, for messages.
    pub path: PathBuf,
    /// What was left out: the ignore file's name and patterns.
    pub ignore: Option<(String, Patterns)>,
    root: Arc<File>,
    memo: Memo,
    /// What was hashed in this build: also of files too young for the memo.
    hashed: Mutex<HashMap<Stat, Digest>>,
}

/// A file of a context, as it was walked.
#[derive(Debug)]
pub struct LocalFile {
    root: Arc<File>,
    path: Vec<u8>,
    /// Its identity and times.
    pub stat: Stat,
    /// Whether it has no extended attributes. Only such files are remembered, so that knowing a
    /// digest is knowing that there are none: a new one would have changed the ctime.
    is_plain: bool,
}

impl LocalFile {
    /// The file `path` of the context `root`.
    pub(super) fn new(root: Arc<File>, path: Vec<u8>, stat: Stat, is_plain: bool) -> Self {
        Self { root, path, stat, is_plain }
    }

    /// Returns where it is, relative to the context.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }

    /// Opens the file.
    ///
    /// # Errors
    /// When it is gone or is not the file that was walked.
    pub fn open(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let file = loop {
            match openat2(&*self.root, &self.path[..], flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => continue,
                Err(error) => {
                    let source = io::Error::from(error);
                    return Err(io::Error::new(source.kind(), Unreadable { path: self.shown(), source }));
                }
                Ok(file) => break File::from(file),
            }
        };
        if identity(&rustix::fs::fstat(&file)?) != self.stat {
            return Err(io::Error::other(Changed(self.shown())));
        }
        Ok(file)
    }
}

impl LocalContext {
    /// Walks a context. `used` are the paths that the build names, absolute within the
    /// context; empty for all of it. `memo` remembers the digests of earlier builds.
    ///
    /// # Errors
    /// When a directory cannot be read, or is too deep.
    pub fn walk(context: ContextRoot, used: &[String], memo: Memo) -> Result<Self, LocalError> {
        let root = Arc::new(context.directory);
        let ignore = context.ignore;
        let include = match follow::follow(&root, used) {
            Some(paths) => Some(Patterns::new(&paths).map_err(|_| LocalError::Pattern(paths.join(" ")))?),
            None => None,
        };
        let walk = Walk { root: &root, memo: Some(&memo), ignore: ignore.as_ref().map(|(_, patterns)| patterns) };
        let tree = walk.run(include.as_ref())?;
        Ok(Self { tree, path: context.path, ignore, root, memo, hashed: Mutex::default() })
    }

    /// Walks a context for its names and sizes alone.
    ///
    /// # Errors
    /// As [`LocalContext::walk`].
    pub fn survey(context: &ContextRoot) -> Result<FileNode, LocalError> {
        let root = context.directory.try_clone().map_err(|source| failed(&[], source))?;
        let ignore = context.ignore.as_ref().map(|(_, patterns)| patterns);
        Walk { root: &Arc::new(root), memo: None, ignore }.run(None)
    }

    /// Returns what a directory of the context has in it, ignored or not, walked or not: names, and whether each is a
    /// directory itself. Symlinks stay inside; what cannot be read is empty.
    pub fn list(&self, path: &[Name]) -> Vec<(Name, bool)> {
        let joined = files::join(path);
        let path = if joined.is_empty() { &b"."[..] } else { &joined };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let Ok(directory) = openat2(&*self.root, path, flags, Mode::empty(), resolve) else { return Vec::new() };
        let Ok(entries) = Dir::read_from(&directory) else { return Vec::new() };
        entries
            .flatten()
            .filter(|entry| !matches!(entry.file_name().to_bytes(), b"." | b".."))
            .map(|entry| (entry.file_name().to_bytes().into(), entry.file_type() == FileType::Directory))
            .collect()
    }

    /// Returns the digest of a file's content, reading it only if it is not known.
    ///
    /// # Errors
    /// When it cannot be read, or changed since the walk.
    pub fn digest(&self, file: &LocalFile) -> io::Result<Digest> {
        if let Some(digest) = self.known(file) {
            return Ok(digest);
        }
        let mut hasher = Hasher::new();
        let mut input = file.open()?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            match input.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => hasher.update(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if identity(&rustix::fs::fstat(&input)?) != file.stat {
            return Err(io::Error::other(Changed(file.shown())));
        }
        let digest = hasher.finish();
        self.remember(file, digest);
        Ok(digest)
    }

    /// Returns the digest of a file's content where nothing needs to be read for it.
    pub fn known(&self, file: &LocalFile) -> Option<Digest> {
        self.memo
            .get(&file.stat)
            .or_else(|| self.hashed.lock().expect("no panic under the lock").get(&file.stat).copied())
    }

    /// Reads and remembers every digest that is not known yet, on all cores.
    ///
    /// # Errors
    /// Those of the first file that cannot be read.
    pub fn digest_all(&self, files: &[&LocalFile]) -> Result<(), LocalError> {
        let unknown: Vec<_> = files.iter().filter(|file| self.known(file).is_none()).collect();
        unknown.into_par_iter().try_for_each(|file| {
            self.digest(file)
                .map(drop)
                .map_err(|source| LocalError::Read { path: String::from_utf8_lossy(&file.path).into_owned(), source })
        })
    }

    /// Keeps what was learned about a file while it was copied.
    pub fn remember(&self, file: &LocalFile, digest: Digest) {
        if file.is_plain {
            self.memo.insert(&file.stat, digest);
        }
        self.hashed.lock().expect("no panic under the lock").insert(file.stat, digest);
    }

    /// Forgets what earlier builds learned: some of it is wrong.
    pub fn forget(&self) {
        self.memo.forget();
    }

    /// Writes what was learned, if anything was.
    pub fn save(&self) {
        if let Err(error) = self.memo.save() {
            tracing::debug!(%error, "the digests of the context are not remembered");
        }
    }
}

pub(super) fn identity(stat: &rustix::fs::Stat) -> Stat {
    let nanoseconds = |seconds: i64, rest: u64| seconds.saturating_mul(1_000_000_000).saturating_add(rest as i64);
    Stat {
        dev: stat.st_dev,
        ino: stat.st_ino,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
        ctime: nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_not_be_read_is_no_riddle() {
        let read = |kind: io::ErrorKind| LocalError::Read { path: "f".to_owned(), source: kind.into() };
        assert!(read(io::ErrorKind::PermissionDenied).hint().is_some_and(|hint| hint.contains(".dockerignore")));
        assert_eq!(read(io::ErrorKind::NotFound).hint(), None);
    }
}
