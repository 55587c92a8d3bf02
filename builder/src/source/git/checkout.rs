//! From a bare repository to a tree of files.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use kiln_cache::Store;
use kiln_cache::context::Memo;

use super::program::Git;
use super::refs::Resolved;
use super::{GitTree, redacted};
use crate::error::{BuildError, chain};
use crate::op::copy;
use crate::op::files::{self, FileKind, FileNode};
use crate::seam::ContextRoot;
use crate::source::local::LocalContext;

/// Checks a commit out into `work`, with its submodules.
///
/// # Errors
/// When git cannot do it, or a submodule cannot be had.
pub fn checkout(git: &Git, tree: &GitTree, resolved: &Resolved, bare: &Path, work: &Path) -> Result<(), BuildError> {
    let failed =
        |error: std::io::Error| BuildError::environment(format!("cannot check out {}: {error}", resolved.commit));
    std::fs::create_dir(work).map_err(failed)?;
    let format = format!("--object-format={}", resolved.object_format());
    git.run(work, &["init", "--quiet", "--initial-branch=master", &format])?;
    let own = work.join(".git");
    std::fs::create_dir_all(own.join("objects/info")).map_err(failed)?;
    let objects = bare.join("objects");
    std::fs::write(own.join("objects/info/alternates"), format!("{}\n", objects.display())).map_err(failed)?;
    // Only this commit is wanted, however many the server gave.
    std::fs::write(own.join("shallow"), format!("{}\n", resolved.commit)).map_err(failed)?;
    git.run(work, &["checkout", "--quiet", "--detach", &resolved.commit])?;
    if tree.submodules && work.join(".gitmodules").symlink_metadata().is_ok_and(|found| found.is_file()) {
        // Relative addresses start from here.
        git.run(work, &["config", "remote.origin.url", &tree.remote])?;
        git.ask(work, &["submodule", "update", "--init", "--recursive", "--depth=1", "--progress"])?;
    }
    if tree.keeps_git_dir() {
        keep_git_dir(git, tree, resolved, work)?;
    }
    Ok(())
}

/// Makes `.git` stand alone.
fn keep_git_dir(git: &Git, tree: &GitTree, resolved: &Resolved, work: &Path) -> Result<(), BuildError> {
    if let (Some(tag), true) = (&resolved.tag, resolved.name.starts_with("refs/tags/")) {
        git.run(work, &["update-ref", &resolved.name, tag])?;
    }
    git.run(work, &["repack", "--quiet", "-a", "-d"])?;
    git.run(work, &["config", "remote.origin.url", &redacted(&tree.remote)])?;
    git.run(work, &["config", "remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*"])?;
    for name in ["objects/info/alternates", "logs/HEAD", "FETCH_HEAD", "ORIG_HEAD"] {
        let _ = std::fs::remove_file(work.join(".git").join(name));
    }
    let _ = std::fs::remove_dir(work.join(".git/logs"));
    Ok(())
}

/// Reads what was checked out: owned by root, with the two modes that git knows.
///
/// # Errors
/// When it cannot be read, or has no such directory.
pub fn files(
    store: &Store,
    tree: &GitTree,
    git: &Git,
    resolved: &Resolved,
    work: &Path,
) -> Result<LocalContext, BuildError> {
    let failed =
        |error: String| BuildError::environment(format!("cannot read the checkout of {}: {error}", resolved.commit));
    let flags = rustix::fs::OFlags::DIRECTORY.bits().cast_signed();
    let directory = File::options().read(true).custom_flags(flags).open(work);
    let directory = directory.map_err(|error| failed(error.to_string()))?;
    let root = ContextRoot { directory, path: work.to_owned(), ignore: None };
    let walked = LocalContext::walk(root, &[], Memo::open(store, work));
    let mut context = walked.map_err(|error| failed(chain(&error)))?;
    let time = if tree.commit_times {
        let text = git.run(work, &["log", "-1", "--format=%ct", &resolved.commit])?;
        Some((text.trim().parse().map_err(|_| failed("the commit has no time".to_owned()))?, 0))
    } else {
        None
    };
    if !tree.subdir.is_empty() {
        context.tree = subdirectory(&context.tree, &tree.subdir)?;
    }
    normalize(&mut context.tree, tree.keeps_git_dir(), time);
    Ok(context)
}

/// Finds a directory; symlinks on the way stay in the checkout.
fn subdirectory(top: &FileNode, subdir: &str) -> Result<FileNode, BuildError> {
    let wrong = |why: &str| BuildError::input(format!("invalid subdir {subdir}: {why}"));
    let names = files::components(subdir.as_bytes());
    let physical = copy::resolve(top, &names, true).map_err(|error| wrong(&error.to_string()))?;
    let missing = || wrong(&format!("failed to lstat {subdir:?}: statat {subdir}: no such file or directory"));
    let found = top.get(&physical).ok_or_else(missing)?;
    if !found.is_directory() {
        return Err(wrong("not a directory"));
    }
    Ok(found.clone())
}

/// Sets modes and times. Git tracks nothing that is called `.git`: what is, is a repository's own.
fn normalize(node: &mut FileNode, keeps_git_dir: bool, time: Option<(i64, u32)>) {
    if !keeps_git_dir {
        node.children.remove(&b".git"[..]);
    }
    node.meta.mode = match node.meta.kind {
        FileKind::Symlink => 0o777,
        FileKind::Directory => 0o755,
        _ if node.meta.mode & 0o111 != 0 => 0o755,
        _ => 0o644,
    };
    node.meta.mtime = time.unwrap_or(node.meta.mtime);
    for child in node.children.values_mut() {
        normalize(child, keeps_git_dir, time);
    }
}
