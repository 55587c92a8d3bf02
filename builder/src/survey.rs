//! What a build would see of a directory, without building.

use crate::error::{BuildError, chain};
use crate::op::files::{self, FileKind, FileNode, Name};
use crate::seam::ContextRoot;
use crate::source::local::LocalContext;

/// A file of a context that is not left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenFile {
    /// Relative to the context, with `/` between names.
    pub path: Vec<u8>,
    /// What it is: `file`, `directory`, `symlink`, `device` or `fifo`.
    pub kind: &'static str,
    /// Bytes, of regular files.
    pub size: u64,
}

/// Walks a context; returns what is in it, each directory before its content, names in byte order. No file is opened.
///
/// # Errors
/// When a directory cannot be read, or is too deep.
pub fn survey(context: &ContextRoot) -> Result<Vec<SeenFile>, BuildError> {
    let tree = LocalContext::survey(context).map_err(|error| BuildError::input(chain(&error)))?;
    let mut found = Vec::new();
    collect(&tree, &mut Vec::new(), &mut found);
    Ok(found)
}

fn collect(node: &FileNode, path: &mut Vec<Name>, found: &mut Vec<SeenFile>) {
    for (name, child) in &node.children {
        path.push(name.clone());
        let kind = match child.meta.kind {
            FileKind::Regular => "file",
            FileKind::Directory => "directory",
            FileKind::Symlink => "symlink",
            FileKind::Char | FileKind::Block => "device",
            FileKind::Fifo => "fifo",
        };
        found.push(SeenFile { path: files::join(path), kind, size: child.meta.size });
        collect(child, path, found);
        path.pop();
    }
}
