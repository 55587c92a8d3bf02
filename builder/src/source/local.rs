//! A directory of the client: walked once, in parallel, pruned by its ignore file; contents
//! are opened only when somebody needs them.
//!
//! Everything is reached from the directory's own descriptor by the kernel and without following
//! symlinks, so a tree that changes underneath can make the walk fail but never lead it outside.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use kiln_cache::context::{Memo, Stat};
use kiln_frontend::dockerignore::{Hits, Patterns};
use kiln_oci::{Digest, Hasher};
use rayon::prelude::*;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat2, statat};
use rustix::io::Errno;

use super::follow;
use crate::op::files::{self, FileKind, FileMeta, FileNode, Name, Origin};
use crate::seam::ContextRoot;

/// The deepest directory that is walked.
const MAX_DEPTH: usize = 512;
/// The longest path, as the kernel's PATH_MAX.
const MAX_PATH: usize = 4096;

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
                    let error = io::Error::from(error);
                    return Err(io::Error::new(
                        error.kind(),
                        format!("`{}` of the build context: {error}", self.shown()),
                    ));
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

    fn known(&self, file: &LocalFile) -> Option<Digest> {
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

    /// Writes what was learned, if anything was.
    pub fn save(&self) {
        if let Err(error) = self.memo.save() {
            tracing::debug!(%error, "the digests of the context are not remembered");
        }
    }
}

fn identity(stat: &rustix::fs::Stat) -> Stat {
    let nanoseconds = |seconds: i64, rest: u64| seconds.saturating_mul(1_000_000_000).saturating_add(rest as i64);
    Stat {
        dev: stat.st_dev,
        ino: stat.st_ino,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
        ctime: nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
    }
}

/// One walk over a context.
struct Walk<'a> {
    root: &'a Arc<File>,
    /// Without one it is a look at names and sizes.
    memo: Option<&'a Memo>,
    ignore: Option<&'a Patterns>,
}

/// A list of patterns, with what it says of the directory that is being walked.
#[derive(Clone, Copy)]
struct Rules<'a> {
    patterns: &'a Patterns,
    above: &'a Hits,
}

impl<'a> Rules<'a> {
    /// A list with what it says of a directory, where it says something.
    fn of(patterns: Option<&'a Patterns>, above: Option<&'a Hits>) -> Option<Self> {
        patterns.zip(above).map(|(patterns, above)| Rules { patterns, above })
    }
}

/// What the rules say of a name.
struct Verdict {
    /// A directory that is only there if something below it is.
    is_passage: bool,
    /// For what is in a directory: what is included, where not everything is.
    include: Option<Hits>,
    /// For what is in a directory: what is ignored.
    ignore: Option<Hits>,
}

/// A directory that was met.
struct Directory {
    /// Which one of the level above it is in.
    parent: usize,
    name: Name,
    path: Vec<Name>,
    node: FileNode,
    verdict: Verdict,
}

impl Walk<'_> {
    /// Walks what `include` matches; everything without it. Level by level, so that neither the stack nor the number of
    /// open directories depends on the depth.
    fn run(&self, include: Option<&Patterns>) -> Result<FileNode, LocalError> {
        let mut node = FileNode::empty();
        if let Ok(stat) = rustix::fs::fstat(self.root.as_fd()) {
            node.meta.mode = stat.st_mode & 0o7777;
            node.meta.mtime = (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0));
        }
        let verdict = Verdict {
            is_passage: false,
            include: include.map(Patterns::root),
            ignore: self.ignore.map(Patterns::root),
        };
        let top = Directory { parent: 0, name: Name::default(), path: Vec::new(), node, verdict };
        let mut done: Vec<Vec<Directory>> = Vec::new();
        let mut level = vec![top];
        while !level.is_empty() {
            let below: Vec<Vec<Directory>> = level
                .par_iter_mut()
                .enumerate()
                .map(|(number, directory)| self.directory(number, directory, include))
                .collect::<Result<_, _>>()?;
            done.push(level);
            level = below.into_iter().flatten().collect();
        }
        while let Some(level) = done.pop() {
            for Directory { parent, name, node, verdict, .. } in level {
                match done.last_mut() {
                    Some(_) if verdict.is_passage && node.children.is_empty() => {}
                    Some(above) => drop(above[parent].node.children.insert(name, node)),
                    None => return Ok(node),
                }
            }
        }
        Ok(FileNode::empty())
    }

    /// Lists a directory, number `number` of its level: puts files into it, and returns the directories in it.
    fn directory(
        &self,
        number: usize,
        directory: &mut Directory,
        include: Option<&Patterns>,
    ) -> Result<Vec<Directory>, LocalError> {
        let Directory { path, node, verdict, .. } = directory;
        if path.len() > MAX_DEPTH {
            return Err(LocalError::TooDeep { path: shorten(path) });
        }
        let fd = match open_directory(self.root, &files::join(path)) {
            Ok(fd) => fd,
            // It was removed, or is something else by now.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                verdict.is_passage = true;
                return Ok(Vec::new());
            }
            // What is ignored may be somebody else's.
            Err(Errno::ACCESS) if verdict.is_passage => return Ok(Vec::new()),
            Err(error) => return Err(failed(path, error.into())),
        };
        let include = Rules::of(include, verdict.include.as_ref());
        let ignore = Rules::of(self.ignore, verdict.ignore.as_ref());
        let mut found = Vec::new();
        let mut subdirectories = Vec::new();
        let mut entries = Dir::read_from(&fd).map_err(|error| failed(path, error.into()))?;
        while let Some(entry) = entries.read() {
            let entry = entry.map_err(|error| failed(path, error.into()))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let mut below = path.to_vec();
            below.push(name.to_bytes().into());
            let joined = files::join(&below);
            let mut kind = entry.file_type();
            let mut stat = None;
            if kind == FileType::Unknown {
                let Some(found) = look(&fd, name, &below)? else { continue };
                kind = FileType::from_raw_mode(found.st_mode);
                stat = Some(found);
            }
            let text = String::from_utf8_lossy(&joined);
            let Some(verdict) = judge(&text, kind == FileType::Directory, include, ignore) else { continue };
            if joined.len() > MAX_PATH {
                return Err(LocalError::TooLong { path: shorten(&below) });
            }
            let stat = match stat {
                Some(stat) => stat,
                None => match look(&fd, name, &below)? {
                    Some(stat) => stat,
                    None => continue,
                },
            };
            let Some(node) = self.node(&fd, name, &below, joined, &stat)? else { continue };
            let name: Name = name.to_bytes().into();
            if node.is_directory() {
                subdirectories.push(Directory { parent: number, name, path: below, node, verdict });
            } else {
                found.push((name, node));
            }
        }
        node.children = found.into_iter().collect();
        Ok(subdirectories)
    }

    /// Makes the node of a file; nothing for a socket, which belongs to a running program.
    fn node(
        &self,
        fd: &OwnedFd,
        name: &CStr,
        path: &[Name],
        joined: Vec<u8>,
        stat: &rustix::fs::Stat,
    ) -> Result<Option<FileNode>, LocalError> {
        let Some(kind) = kind_of(stat) else { return Ok(None) };
        let identity = identity(stat);
        let is_known = self.memo.is_none_or(|memo| kind == FileKind::Regular && memo.get(&identity).is_some());
        let meta = metadata(fd, name, kind, stat, is_known).map_err(|error| failed(path, error))?;
        let mut node = FileNode::leaf(meta, Origin::None);
        if kind == FileKind::Regular {
            let is_plain = node.meta.xattrs.is_empty();
            let file = LocalFile { root: self.root.clone(), path: joined, stat: identity, is_plain };
            node.origin = Origin::Local(Arc::new(file));
            node.link_group = (stat.st_nlink > 1).then_some(stat.st_ino);
        }
        Ok(Some(node))
    }
}

/// Opens a directory by its physical path.
pub(super) fn open_directory(root: &File, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    loop {
        match openat2(root, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS) {
            Err(Errno::AGAIN) => {}
            result => return result,
        }
    }
}

/// Judges a name; nothing when neither it nor anything below it is wanted.
fn judge(path: &str, is_directory: bool, include: Option<Rules>, ignore: Option<Rules>) -> Option<Verdict> {
    let mut verdict = Verdict { is_passage: false, include: None, ignore: None };
    if let Some(Rules { patterns, above }) = include {
        let (found, hits) = patterns.enter(above, path);
        if !found.matched {
            if !is_directory || !patterns.may_match_below(path) {
                return None;
            }
            verdict.is_passage = true;
            verdict.include = Some(hits);
        } else if patterns.has_exceptions() {
            verdict.include = Some(hits);
        }
    }
    if let Some(Rules { patterns, above }) = ignore {
        let (found, hits) = patterns.enter(above, path);
        if found.matched {
            if !is_directory || patterns.can_prune(path) {
                return None;
            }
            verdict.is_passage = true;
        }
        verdict.ignore = Some(hits);
    }
    Some(verdict)
}

/// Looks at a name; nothing when it was removed since it was listed.
fn look(directory: &OwnedFd, name: &CStr, path: &[Name]) -> Result<Option<rustix::fs::Stat>, LocalError> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(failed(path, error.into())),
    }
}

fn kind_of(stat: &rustix::fs::Stat) -> Option<FileKind> {
    Some(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::Regular,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::CharacterDevice => FileKind::Char,
        FileType::BlockDevice => FileKind::Block,
        FileType::Fifo => FileKind::Fifo,
        _ => return None,
    })
}

/// Reads what a stat does not tell. Owners are root's: a checkout belongs to whoever made it. Of a file
/// whose digest is known (`is_known`) it is known, too, that it has no extended attributes.
fn metadata(
    fd: &OwnedFd,
    name: &CStr,
    kind: FileKind,
    stat: &rustix::fs::Stat,
    is_known: bool,
) -> io::Result<FileMeta> {
    let target =
        if kind == FileKind::Symlink { rustix::fs::readlinkat(fd, name, Vec::new())?.into_bytes() } else { Vec::new() };
    let xattrs = match kind {
        FileKind::Regular | FileKind::Directory if !is_known => xattrs(fd, name)?,
        _ => BTreeMap::new(),
    };
    let is_device = matches!(kind, FileKind::Char | FileKind::Block);
    Ok(FileMeta {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: 0,
        gid: 0,
        mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        size: if kind == FileKind::Regular { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 },
        target,
        device: if is_device { (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)) } else { (0, 0) },
        xattrs,
    })
}

/// Reads the extended attributes that belong to a file rather than to its host.
fn xattrs(fd: &OwnedFd, name: &CStr) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut path = format!("/proc/self/fd/{}/", fd.as_raw_fd()).into_bytes();
    path.extend(name.to_bytes());
    let mut list = [0u8; 4096];
    let length = match rustix::fs::llistxattr(&path[..], &mut list) {
        Ok(length) => length,
        Err(Errno::NOTSUP | Errno::NOENT) => 0,
        Err(error) => return Err(error.into()),
    };
    let mut found = BTreeMap::new();
    for key in list[..length].split(|byte| *byte == 0) {
        if !(key.starts_with(b"user.") || key == b"security.capability") {
            continue;
        }
        let mut value = vec![0u8; 64 << 10];
        let length = rustix::fs::lgetxattr(&path[..], key, &mut value)?;
        value.truncate(length);
        found.insert(key.to_vec(), value);
    }
    Ok(found)
}

fn failed(path: &[Name], source: io::Error) -> LocalError {
    let path = if path.is_empty() { ".".to_owned() } else { shorten(path) };
    LocalError::Read { path, source }
}

fn shorten(path: &[Name]) -> String {
    let text = String::from_utf8_lossy(&path.join(&b'/')).into_owned();
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
