//! File operations: copies and made directories become one layer, packed in one pass.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use kiln_cache::Store;
use kiln_cache::layer::{self, Change, Compression, LayerError, NewEntry, NewKind, Pack, Packed, Put};
use kiln_cache::tree::{Node, Tree};
use kiln_frontend::graph::{CopyFrom, FileAction, FileOp};
use kiln_oci::{Digest, Hasher};

use super::content::{Contents, DamagedLayer};
use super::copy::{self, Attributes, CopyError};
use super::files::{self, FileKind, FileMeta, FileNode, Name, Origin};
use super::overlay::{Entry, LinkGroup, NewDirectory, Overlay, OverlayError};
use super::owner::{self, OwnerError};
use crate::source::local::LocalContext;

/// Why a file operation failed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A copy.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// A directory to be made.
    #[error(transparent)]
    Directory(#[from] OverlayError),
    /// An owner.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// Writing the layer.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// Reading a file.
    #[error("cannot read {path}")]
    Read {
        /// Its place in the image.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl FileError {
    /// Returns what to do about it, where the error alone tells.
    pub fn hint(&self) -> Option<&'static str> {
        let destination = match self {
            Self::Directory(error)
            | Self::Copy(
                CopyError::Destination(error) | CopyError::Archive(super::archive::ArchiveError::Destination(error)),
            ) => Some(error),
            _ => None,
        };
        match (self, destination) {
            (_, Some(OverlayError::NotADirectory(_))) => {
                Some("there is a file of that name in the image: take another place, or remove it in a step before")
            }
            (Self::Copy(CopyError::ToNonDirectory(_)), _) => Some(
                "a file or a link of that name is in the image, and what is copied there is a directory: take another place, \
                 or remove it in a step before",
            ),
            (Self::Copy(CopyError::OntoDirectory(_)), _) => Some(
                "a directory of that name is in the image, and what is copied there is a file: take another place, or remove \
                 it in a step before",
            ),
            (Self::Copy(CopyError::TooManyLinks(_)), _) | (_, Some(OverlayError::TooManyLinks(_))) => {
                Some("a symlink on the way leads back to itself")
            }
            (_, Some(OverlayError::TooDeep(_))) => {
                Some("no layer may be deeper: pack the tree into an archive, and copy that")
            }
            (Self::Owner(OwnerError::NoFileSystem), _) => Some(
                "names are looked up in the image's /etc/passwd and /etc/group, which `FROM scratch` and `--link` do not \
                 have: give numbers",
            ),
            _ => None,
        }
    }
}

/// What a file operation starts from.
pub struct Base<'a> {
    /// The layers below.
    pub chain: &'a [Digest],
    /// Their files.
    pub tree: &'a Tree,
    /// Whether there is anything below at all (not `FROM scratch`, not `--link`).
    pub exists: bool,
}

/// What to make of the result.
pub struct Make {
    /// Of the blob; `None` for no blob.
    pub compression: Option<Compression>,
    /// Whether a command will want the directory.
    pub directory: bool,
    /// The time of the build.
    pub now: (i64, u32),
    /// What an earlier run of the operation came to.
    pub like: Option<Digest>,
}

/// A source of copies.
pub enum Source {
    /// The files of a stage or image.
    Files(Arc<FileNode>),
    /// The client's directory.
    Local(Arc<LocalContext>),
}

impl Source {
    /// The files.
    pub fn tree(&self) -> &FileNode {
        match self {
            Self::Files(files) => files,
            Self::Local(local) => &local.tree,
        }
    }
}

/// Applies a file operation and packs what it changed.
///
/// # Errors
/// As [`copy::copy`], when an owner cannot be looked up, or a file cannot be read or changes.
pub fn run(
    store: &Store,
    op: &FileOp,
    base: &Base,
    sources: &BTreeMap<usize, Source>,
    contents: &Contents,
    make: &Make,
) -> Result<Packed, FileError> {
    let mut overlay = Overlay::new(base.chain, base.tree, make.now);
    // Names are looked up as they are before the instruction.
    let before = Overlay::new(base.chain, base.tree, make.now);
    let empty = FileNode::empty();
    for (number, action) in op.actions.iter().enumerate() {
        let look_up = |owner: &_| owner::look_up(owner, &before, base.exists, contents);
        match action {
            FileAction::MakeDir { path, mode, owner, time } => {
                let owner = owner.as_ref().map(look_up).transpose()?;
                let physical = overlay.make_directories(path.as_bytes(), NewDirectory { mode: *mode, owner })?;
                let was_there = before.find(&physical).is_some();
                if let Some(time) = time.filter(|_| !was_there) {
                    overlay.update(&physical, |meta| meta.mtime = (time, 0));
                }
            }
            FileAction::Copy(action) => {
                let attributes = Attributes {
                    owner: action.owner.as_ref().map(look_up).transpose()?,
                    mode: copy::file_mode(action.mode.as_ref())?,
                };
                let inline;
                let source = match &action.from {
                    CopyFrom::Input(input) => sources.get(input).map_or(&empty, Source::tree),
                    CopyFrom::Inline { name, data } => {
                        inline = inline_file(name, data, make.now);
                        &inline
                    }
                };
                let number = u32::try_from(number).unwrap_or(u32::MAX);
                copy::copy(&mut overlay, source, action, &attributes, contents, number)?;
            }
        }
    }
    let changes = overlay.changes(&mut |path, entry, node| is_same_content(path, entry, node, sources, contents))?;
    pack(store, changes, sources, contents, make)
}

/// The one file of a here-document.
fn inline_file(name: &str, data: &[u8], now: (i64, u32)) -> FileNode {
    let mut meta = FileMeta::directory(0o644, now);
    meta.kind = FileKind::Regular;
    meta.size = data.len() as u64;
    let mut top = FileNode::empty();
    top.children.insert(name.as_bytes().into(), FileNode::leaf(meta, Origin::Bytes(data.into())));
    top
}

/// Whether a new file has the same bytes as the one below it.
fn is_same_content(
    path: &[Name],
    entry: &Entry,
    node: &Node,
    sources: &BTreeMap<usize, Source>,
    contents: &Contents,
) -> Result<bool, FileError> {
    let below = node.meta.content;
    let failed = |source| FileError::Read { path: files::display(path), source };
    let digest = match (&entry.origin, entry.content) {
        (_, Some(digest)) => digest,
        (Origin::Local(file), None) => match local(sources) {
            Some(context) => context.digest(file).map_err(failed)?,
            None => hash(contents, &entry.origin).map_err(failed)?,
        },
        _ => hash(contents, &entry.origin).map_err(failed)?,
    };
    Ok(below == Some(digest))
}

fn local(sources: &BTreeMap<usize, Source>) -> Option<&LocalContext> {
    sources.values().find_map(|source| if let Source::Local(local) = source { Some(&**local) } else { None })
}

fn hash(contents: &Contents, origin: &Origin) -> io::Result<Digest> {
    let mut hasher = Hasher::new();
    io::copy(&mut contents.read(origin)?, &mut hasher)?;
    Ok(hasher.finish())
}

fn pack(
    store: &Store,
    changes: Vec<(Vec<Name>, Entry)>,
    sources: &BTreeMap<usize, Source>,
    contents: &Contents,
    make: &Make,
) -> Result<Packed, FileError> {
    let mut links: BTreeMap<LinkGroup, Vec<u8>> = BTreeMap::new();
    let mut read: Vec<Reading> = Vec::new();
    let entries = changes.into_iter().map(|(path, entry)| {
        let joined = files::join(&path);
        let kind = match (entry.meta.kind, entry.link_group) {
            (FileKind::Regular, Some(group)) if links.contains_key(&group) => NewKind::Hardlink(links[&group].clone()),
            (FileKind::Regular, group) => {
                if let Some(group) = group {
                    links.insert(group, joined.clone());
                }
                let known = match &entry.origin {
                    Origin::Local(file) => local(sources).and_then(|context| context.known(file)),
                    _ => None,
                };
                // What is known of a context was compared when it was read.
                if known.is_none() && matches!(entry.origin, Origin::Local(_) | Origin::Layer(..)) {
                    read.push(Reading { path: joined.clone(), origin: entry.origin.clone(), content: entry.content });
                }
                let content = contents
                    .content(entry.origin, known)
                    .map_err(|source| LayerError::Other(format!("{}: {source}", files::display(&path)).into()))?;
                NewKind::File { size: entry.meta.size, content }
            }
            (FileKind::Directory, _) => NewKind::Directory,
            (FileKind::Symlink, _) => NewKind::Symlink(entry.meta.target),
            (FileKind::Char, _) => NewKind::Char(entry.meta.device.0, entry.meta.device.1),
            (FileKind::Block, _) => NewKind::Block(entry.meta.device.0, entry.meta.device.1),
            (FileKind::Fifo, _) => NewKind::Fifo,
        };
        let mode = if entry.meta.kind == FileKind::Symlink { 0o777 } else { entry.meta.mode };
        Ok(NewEntry {
            path: joined,
            kind,
            mode,
            uid: entry.meta.uid,
            gid: entry.meta.gid,
            mtime: entry.meta.mtime,
            xattrs: entry.meta.xattrs,
        })
    });
    let options = Pack { compression: make.compression, directory: make.directory, like: make.like };
    let packed = layer::pack(store, entries, &options).inspect_err(|error| {
        if let (LayerError::Changed { .. }, Some(context)) = (error, local(sources)) {
            context.forget();
        }
    })?;
    check(&packed, &read, local(sources))?;
    Ok(packed)
}

/// A file that is read while a layer is packed.
struct Reading {
    /// In the layer that is packed.
    path: Vec<u8>,
    origin: Origin,
    /// What is known of its bytes.
    content: Option<Digest>,
}

/// Looks at the digests of the bytes that were read. Those of a context are remembered, so that the next build need not
/// read them; those of a layer must be what its index says.
fn check(packed: &Packed, read: &[Reading], context: Option<&LocalContext>) -> Result<(), FileError> {
    for Reading { path, origin, content } in read {
        let Some(Change::Put(Put { meta, .. })) = packed.index.get(path) else { continue };
        let Some(digest) = meta.content else { continue };
        match (origin, context) {
            (Origin::Local(file), Some(context)) => context.remember(file, digest),
            (Origin::Layer(diff_id, inside), _) if content.is_some_and(|content| content != digest) => {
                let damaged = DamagedLayer::new(diff_id, inside, None);
                return Err(LayerError::Other(Box::new(damaged)).into());
            }
            _ => {}
        }
    }
    Ok(())
}

/// Returns the content key of the sources of a file operation: what it takes from each.
///
/// # Errors
/// When a source is missing or cannot be read.
pub fn fingerprints(
    op: &FileOp,
    sources: &BTreeMap<usize, Source>,
    contents: &Contents,
) -> Result<Vec<Digest>, FileError> {
    let empty = FileNode::empty();
    let mut prints = Vec::new();
    for action in &op.actions {
        let FileAction::Copy(action) = action else { continue };
        let CopyFrom::Input(input) = &action.from else { continue };
        prints.push(match sources.get(input) {
            Some(source) => fingerprint_of(source, action, contents)?,
            None => copy::fingerprint(&empty, action, &|_, _| Ok(Digest::of("")))?,
        });
    }
    Ok(prints)
}

/// Returns the content key of one copy from `source`.
///
/// # Errors
/// When the source is missing or cannot be read.
pub fn fingerprint_of(
    source: &Source,
    action: &kiln_frontend::graph::Copy,
    contents: &Contents,
) -> Result<Digest, CopyError> {
    let digest = |node: &FileNode, path: &[Name]| -> Result<Digest, CopyError> {
        let failed = |source| CopyError::Read { path: files::display(path), source };
        match (node.content, &node.origin, source) {
            (Some(digest), _, _) => Ok(digest),
            (None, Origin::Local(file), Source::Local(context)) => context.digest(file).map_err(failed),
            (None, origin, _) => hash(contents, origin).map_err(failed),
        }
    };
    copy::fingerprint(source.tree(), action, &digest)
}

/// Makes directories of files that a command sees through a mount, without a layer.
///
/// # Errors
/// As [`run`].
pub fn directory_of(store: &Store, source: &Source, contents: &Contents) -> Result<Packed, FileError> {
    let tree = Tree::empty();
    let mut overlay = Overlay::new(&[], &tree, (0, 0));
    let mut path = Vec::new();
    put_all(&mut overlay, source.tree(), &mut path)?;
    let changes = overlay.changes(&mut |_, _, _| Ok::<_, FileError>(false))?;
    let make = Make { compression: None, directory: true, now: (0, 0), like: None };
    let sources = BTreeMap::from([(
        0,
        match source {
            Source::Files(files) => Source::Files(files.clone()),
            Source::Local(local) => Source::Local(local.clone()),
        },
    )]);
    pack(store, changes, &sources, contents, &make)
}

fn put_all(overlay: &mut Overlay, node: &FileNode, path: &mut Vec<Name>) -> Result<(), OverlayError> {
    for (name, child) in &node.children {
        path.push(name.clone());
        overlay.put(
            path,
            Entry {
                meta: child.meta.clone(),
                origin: child.origin.clone(),
                content: child.content,
                link_group: child.link_group.map(|group| (0, group)),
            },
        )?;
        put_all(overlay, child, path)?;
        let time = child.meta.mtime;
        overlay.update(path, |meta| meta.mtime = time);
        path.pop();
    }
    Ok(())
}
