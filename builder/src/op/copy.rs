//! The copy of COPY and ADD: which files go where, with which owner and mode.
//!
//! Works on metadata alone (spec: copy-add.md §5–§13); contents are read when the layer is
//! packed. [`fingerprint`] is the content key of a copy's source: it walks the same files by
//! the same rules, so that what was hashed is what is copied.

use kiln_frontend::dockerfile::mode::FileMode;
use kiln_frontend::dockerignore::Patterns;
use kiln_frontend::graph::{Copy, Mode};
use kiln_oci::{Digest, Hasher};

use super::archive;
use super::content::Contents;
use super::files::{self, FileKind, FileMeta, FileNode, Name, ResolveError};
use super::overlay::{Entry, NewDirectory, Overlay, OverlayError};
use super::wildcard;

/// Why files could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The source names nothing.
    #[error("{0:?}: not found")]
    NotFound(String),
    /// A cycle of symlinks in the source.
    #[error("too many links in {0}")]
    TooManyLinks(String),
    /// The directory in front of a wildcard is not there. A wildcard that matches nothing in it is no error.
    #[error("lstat {0}: no such file or directory")]
    NoDirectory(String),
    /// A wildcard that is none.
    #[error("{0}: syntax error in pattern")]
    Pattern(String),
    /// `--parents` or `--exclude` with a pattern that is none.
    #[error("{0}")]
    Filter(String),
    /// A directory would go where something else is.
    #[error("cannot copy to non-directory: {0}")]
    ToNonDirectory(String),
    /// A file would go where a directory is.
    #[error("cannot replace to directory {0} with file")]
    OntoDirectory(String),
    /// The destination's directories cannot be made.
    #[error(transparent)]
    Destination(#[from] OverlayError),
    /// A mode that is none.
    #[error("invalid chmod parameter: {0}")]
    Mode(String),
    /// An archive that cannot be extracted.
    #[error(transparent)]
    Archive(#[from] archive::ArchiveError),
    /// Reading a source failed.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// How a copy's flags change what is copied.
pub struct Attributes {
    /// `--chown`, looked up.
    pub owner: Option<(u32, u32)>,
    /// `--chmod`.
    pub mode: Option<FileMode>,
}

/// Reads the mode of a graph.
///
/// # Errors
/// When a symbolic mode does not parse.
pub fn file_mode(mode: Option<&Mode>) -> Result<Option<FileMode>, CopyError> {
    Ok(match mode {
        None => None,
        Some(Mode::Octal(bits)) => Some(FileMode::Octal(*bits)),
        Some(Mode::Symbolic(text)) => Some(text.parse().map_err(|_| CopyError::Mode(text.clone()))?),
    })
}

impl Attributes {
    fn apply(&self, meta: &mut FileMeta) {
        if let Some((uid, gid)) = self.owner {
            (meta.uid, meta.gid) = (uid, gid);
        }
        if meta.kind == FileKind::Symlink {
            return;
        }
        if let Some(mode) = &self.mode {
            meta.mode = mode.apply(meta.mode, meta.kind == FileKind::Directory);
        }
    }

    /// Owner and mode of directories that have to be made.
    pub fn directory(&self) -> NewDirectory {
        let mode = if let Some(FileMode::Octal(bits)) = self.mode { bits & 0o777 } else { 0o755 };
        NewDirectory { mode, owner: self.owner }
    }
}

/// Copies from `source` into `overlay`. `number` tells the copies of one instruction apart.
///
/// # Errors
/// As BuildKit's, with its texts (spec: copy-add.md §20).
pub fn copy(
    overlay: &mut Overlay,
    source: &FileNode,
    action: &Copy,
    attributes: &Attributes,
    contents: &Contents,
    number: u32,
) -> Result<(), CopyError> {
    let filter = Filter::new(action)?;
    if filter.include.is_some() {
        check_required(source, action)?;
    }
    for (index, matched) in matches(source, action)?.into_iter().enumerate() {
        let job = Job {
            overlay,
            filter: &filter,
            attributes,
            contents,
            // Every match is a copy of its own: no hard links across.
            links: number * 65_536 + u32::try_from(index).unwrap_or(u32::MAX) % 65_536,
            action,
        };
        job.run(&matched)?;
    }
    Ok(())
}

/// One file or directory that a source names.
struct Match<'a> {
    /// The path as written or matched; its last component is the name of the copy.
    name: Vec<Name>,
    /// What is there, symlinks followed.
    node: &'a FileNode,
    /// Whether that is the whole source.
    is_root: bool,
}

fn matches<'a>(source: &'a FileNode, action: &Copy) -> Result<Vec<Match<'a>>, CopyError> {
    let pattern = action.source.as_bytes();
    let paths = if action.wildcards && wildcard::has_wildcard(pattern) {
        wildcard::expand(source, pattern).map_err(|error| match error {
            wildcard::WildcardError::Syntax => CopyError::Pattern(action.source.clone()),
            wildcard::WildcardError::Links => CopyError::TooManyLinks(action.source.clone()),
            wildcard::WildcardError::NoDirectory(path) => CopyError::NoDirectory(files::display(&path)),
        })?
    } else {
        vec![files::components(pattern)]
    };
    paths
        .into_iter()
        .map(|name| {
            let physical = resolve(source, &name, action.follow_symlinks)?;
            let node = source.get(&physical).ok_or_else(|| CopyError::NotFound(files::display(&name)))?;
            Ok(Match { name, node, is_root: physical.is_empty() })
        })
        .collect()
}

/// Resolves a source path inside its tree.
pub fn resolve(source: &FileNode, path: &[Name], follow_last: bool) -> Result<Vec<Name>, CopyError> {
    let look = |at: &[Name]| {
        source.get(at).filter(|node| node.meta.kind == FileKind::Symlink).map(|node| node.meta.target.clone())
    };
    files::resolve(&files::join(path), follow_last, look)
        .map_err(|ResolveError::TooManyLinks| CopyError::TooManyLinks(files::display(path)))
}

/// `--parents` without wildcards: the path must be there, and its directories be real ones.
fn check_required(source: &FileNode, action: &Copy) -> Result<(), CopyError> {
    if wildcard::has_wildcard(action.source.as_bytes()) {
        return Ok(());
    }
    let base = resolve(source, &files::components(action.source.as_bytes()), true)?;
    for required in &action.required {
        let below = files::components(required.as_bytes());
        let found = source.get(&base).and_then(|base| base.get(&below));
        // As a pattern, the directory itself names nothing (spec: copy-add.md §12.8).
        if found.is_none() || below.is_empty() {
            let mut path = files::components(action.source.as_bytes());
            path.extend(below);
            return Err(CopyError::NotFound(files::display(&path)));
        }
    }
    Ok(())
}

/// `--parents` and `--exclude`.
struct Filter {
    include: Option<Patterns>,
    exclude: Option<Patterns>,
}

/// What a filter says about one path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Copy it.
    Take,
    /// Not itself, but something below may be wanted.
    Look,
    /// Neither it nor anything below.
    Skip,
}

impl Filter {
    fn new(action: &Copy) -> Result<Self, CopyError> {
        let read = |kind: &str, lines: &[String]| {
            Patterns::new(lines)
                .map_err(|error| CopyError::Filter(format!("invalid {kind}patterns: [{}]: {error}", lines.join(" "))))
        };
        Ok(Self {
            include: action.include.as_deref().map(|lines| read("include", lines)).transpose()?,
            exclude: Some(&action.exclude[..])
                .filter(|lines| !lines.is_empty())
                .map(|lines| read("exclude", lines))
                .transpose()?,
        })
    }

    fn verdict(&self, path: &[Name], is_directory: bool) -> Verdict {
        let joined = String::from_utf8_lossy(&files::join(path)).into_owned();
        let mut verdict = Verdict::Take;
        if let Some(include) = &self.include
            && !include.verdict_of(&joined).matched
        {
            if !is_directory || !include.may_match_below(&joined) {
                return Verdict::Skip;
            }
            verdict = Verdict::Look;
        }
        if let Some(exclude) = &self.exclude
            && exclude.verdict_of(&joined).matched
        {
            if !is_directory || exclude.can_prune(&joined) {
                return Verdict::Skip;
            }
            verdict = Verdict::Look;
        }
        verdict
    }
}

/// The copy of one match.
struct Job<'o, 'b, 'a> {
    overlay: &'o mut Overlay<'b>,
    filter: &'a Filter,
    attributes: &'a Attributes,
    contents: &'a Contents,
    links: u32,
    action: &'a Copy,
}

/// A directory that is only made if something below it is copied.
struct Pending {
    path: Vec<Name>,
    meta: FileMeta,
}

impl Job<'_, '_, '_> {
    /// Steps (a) to (g) of copy-add.md §5.
    fn run(mut self, matched: &Match) -> Result<(), CopyError> {
        let written = self.action.destination.as_bytes();
        let into = written.ends_with(b"/") || self.filter.include.is_some();
        // `..` takes back what is written in front of it, not what a symlink there leads to.
        let names = files::components(written);
        let destination = absolute(&names);
        if self.action.unpack
            && matched.node.meta.kind == FileKind::Regular
            && archive::extract(self.overlay, matched.node, &destination, self.attributes, self.contents)?
        {
            return Ok(());
        }
        let new = self.attributes.directory();
        let kept = if into { names.len() } else { names.len().saturating_sub(1) };
        self.overlay.make_directories(&absolute(&names[..kept]), new)?;
        let mut target = self.overlay.resolve(&destination, true)?;
        let is_inside = !matched.node.is_directory() || !self.action.contents_only;
        if is_inside && self.is_directory(&target) {
            target.extend(matched.name.last().cloned());
        }
        let made = if matched.node.is_directory() && self.overlay.find(&target).is_none() {
            &target[..]
        } else {
            target.split_last().map_or(&target[..], |(_, parent)| parent)
        };
        self.overlay.make_directories(&absolute(made), new)?;
        if matched.node.is_directory() {
            self.top_directory(matched, &target)
        } else {
            self.file(matched.node, &target)
        }
    }

    fn is_directory(&self, path: &[Name]) -> bool {
        self.overlay.find(path).is_some_and(|found| found.meta.kind == FileKind::Directory)
    }

    /// The directory that the source names: it exists by now, and keeps what it is but for
    /// its time.
    fn top_directory(&mut self, matched: &Match, target: &[Name]) -> Result<(), CopyError> {
        if !self.is_directory(target) {
            return Err(CopyError::ToNonDirectory(files::display(target)));
        }
        self.children(matched.node, &mut Vec::new(), &mut target.to_vec(), &mut Vec::new())?;
        // The root of a source was made for it, and has no time of its own.
        let time = if matched.is_root { self.overlay.now() } else { matched.node.meta.mtime };
        self.overlay.update(target, |meta| meta.mtime = time);
        Ok(())
    }

    fn children(
        &mut self,
        node: &FileNode,
        below: &mut Vec<Name>,
        target: &mut Vec<Name>,
        pending: &mut Vec<Pending>,
    ) -> Result<(), CopyError> {
        for (name, child) in &node.children {
            below.push(name.clone());
            target.push(name.clone());
            let verdict = self.filter.verdict(below, child.is_directory());
            match verdict {
                Verdict::Skip => {}
                Verdict::Look | Verdict::Take if child.is_directory() => {
                    self.directory(child, verdict, below, target, pending)?;
                }
                Verdict::Look | Verdict::Take => {
                    self.make_pending(pending)?;
                    self.file(child, target)?;
                }
            }
            target.pop();
            below.pop();
        }
        Ok(())
    }

    fn directory(
        &mut self,
        node: &FileNode,
        verdict: Verdict,
        below: &mut Vec<Name>,
        target: &mut Vec<Name>,
        pending: &mut Vec<Pending>,
    ) -> Result<(), CopyError> {
        let mut meta = node.meta.clone();
        if verdict == Verdict::Look {
            pending.push(Pending { path: target.clone(), meta });
            let depth = pending.len();
            self.children(node, below, target, pending)?;
            // Still there: nothing below was copied.
            if pending.len() == depth {
                pending.pop();
            }
            return Ok(());
        }
        self.make_pending(pending)?;
        self.attributes.apply(&mut meta);
        match self.overlay.find(target) {
            None => self.overlay.put(target, Entry::directory(meta.clone()))?,
            Some(found) if found.meta.kind == FileKind::Directory => {
                let mut new = meta.clone();
                self.overlay.update(target, |was| {
                    // Attributes are added to those it has.
                    new.xattrs.extend(
                        std::mem::take(&mut was.xattrs).into_iter().filter(|(name, _)| !meta.xattrs.contains_key(name)),
                    );
                    *was = new;
                });
            }
            Some(_) => return Err(CopyError::ToNonDirectory(files::display(target))),
        }
        self.children(node, below, target, pending)?;
        // Times last: what was put below has changed them.
        self.overlay.update(target, |now| now.mtime = meta.mtime);
        Ok(())
    }

    /// Makes the directories that are only there as parents.
    fn make_pending(&mut self, pending: &mut Vec<Pending>) -> Result<(), CopyError> {
        for Pending { path, mut meta } in pending.drain(..) {
            match self.overlay.find(&path) {
                None => {
                    self.attributes.apply(&mut meta);
                    self.overlay.put(&path, Entry::directory(meta))?;
                }
                Some(found) if found.meta.kind == FileKind::Directory => {
                    self.overlay.update(&path, |now| now.mode = meta.mode);
                }
                Some(_) => return Err(CopyError::ToNonDirectory(files::display(&path))),
            }
        }
        Ok(())
    }

    fn file(&mut self, node: &FileNode, target: &[Name]) -> Result<(), CopyError> {
        if self.is_directory(target) {
            return Err(CopyError::OntoDirectory(files::display(target)));
        }
        let mut meta = node.meta.clone();
        self.attributes.apply(&mut meta);
        let link_group = node.link_group.map(|group| (self.links, group));
        self.overlay.put(target, Entry { meta, origin: node.origin.clone(), content: node.content, link_group })?;
        Ok(())
    }
}

fn absolute(path: &[Name]) -> Vec<u8> {
    let mut text = vec![b'/'];
    text.extend(files::join(path));
    text
}

/// Reads, or remembers, the content of one file, which stands at a path below its source.
pub type DigestOf<'a> = &'a dyn Fn(&FileNode, &[Name]) -> Result<Digest, CopyError>;

/// Returns a digest of everything that a copy takes from its source: the names, metadata and
/// contents, without times. `digest` reads, or remembers, the content of one file.
///
/// # Errors
/// As [`copy`] for the source, and those of `digest`.
pub fn fingerprint(source: &FileNode, action: &Copy, digest: DigestOf) -> Result<Digest, CopyError> {
    let filter = Filter::new(action)?;
    if filter.include.is_some() {
        check_required(source, action)?;
    }
    let mut hasher = Hasher::domain("kiln.copy-source.v1");
    for matched in matches(source, action)? {
        hasher.field(matched.name.last().map_or(&b""[..], |name| name));
        let is_top_kept = !matched.node.is_directory() || !action.contents_only;
        hasher.number(u64::from(matched.node.is_directory()));
        if is_top_kept {
            hash_meta(&mut hasher, &matched.node.meta);
        }
        if matched.node.is_directory() {
            hash_children(&mut hasher, matched.node, &filter, &mut Vec::new(), digest)?;
        } else if matched.node.meta.kind == FileKind::Regular {
            hasher.digest(&digest(matched.node, &matched.name)?);
        }
    }
    Ok(hasher.finish())
}

fn hash_children(
    hasher: &mut Hasher,
    node: &FileNode,
    filter: &Filter,
    below: &mut Vec<Name>,
    digest: DigestOf,
) -> Result<(), CopyError> {
    for (name, child) in &node.children {
        below.push(name.clone());
        let verdict = filter.verdict(below, child.is_directory());
        if verdict != Verdict::Skip {
            hasher.number(below.len() as u64);
            hasher.field(name);
            hash_meta(hasher, &child.meta);
            if child.is_directory() {
                hash_children(hasher, child, filter, below, digest)?;
            } else if child.meta.kind == FileKind::Regular {
                hasher.digest(&digest(child, below)?);
            }
        }
        below.pop();
    }
    Ok(())
}

fn hash_meta(hasher: &mut Hasher, meta: &FileMeta) {
    let kind = match meta.kind {
        FileKind::Regular => 0,
        FileKind::Symlink => 2,
        FileKind::Char => 3,
        FileKind::Block => 4,
        FileKind::Directory => 5,
        FileKind::Fifo => 6,
    };
    let mode = if meta.kind == FileKind::Symlink { 0o777 } else { meta.mode };
    hasher.number(kind).number(u64::from(mode)).number(u64::from(meta.uid)).number(u64::from(meta.gid));
    hasher.number(if meta.kind == FileKind::Regular { meta.size } else { 0 });
    hasher.field(&meta.target).number(u64::from(meta.device.0)).number(u64::from(meta.device.1));
    // Labels of a host's security modules are no part of a file (spec: cache-keys.md §5).
    let counted = |name: &[u8]| {
        name == b"security.capability" || !name.starts_with(b"security.") && !name.starts_with(b"system.")
    };
    let xattrs: Vec<_> = meta.xattrs.iter().filter(|(name, _)| counted(name)).collect();
    hasher.number(xattrs.len() as u64);
    for (name, value) in xattrs {
        hasher.field(name).field(value);
    }
}

/// Collects the files of a context that a copy will read.
pub fn local_files<'a>(source: &'a FileNode, action: &Copy, found: &mut Vec<&'a crate::source::local::LocalFile>) {
    let (Ok(matched), Ok(filter)) = (matches(source, action), Filter::new(action)) else { return };
    for matched in matched {
        collect(matched.node, &filter, &mut Vec::new(), found);
    }
}

fn collect<'a>(
    node: &'a FileNode,
    filter: &Filter,
    below: &mut Vec<Name>,
    found: &mut Vec<&'a crate::source::local::LocalFile>,
) {
    if let files::Origin::Local(file) = &node.origin {
        found.push(file);
    }
    for (name, child) in &node.children {
        below.push(name.clone());
        if filter.verdict(below, child.is_directory()) != Verdict::Skip {
            collect(child, filter, below, found);
        }
        below.pop();
    }
}

#[cfg(test)]
mod tests;
