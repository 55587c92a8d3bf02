//! Trees from git repositories, for ADD and for contexts (spec: copy-add.md §16).
//!
//! One `ls-remote` says which commit is meant; a commit whose tree is here is not fetched. Else
//! it is fetched into a bare repository, which is a cache mount that no command can have, and
//! checked out from there.

mod checkout;
mod program;
mod refs;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use kiln_cache::mount::{MountRequest, Sharing};
use kiln_oci::{Digest, Hasher};

use self::program::{Git, Header, REMOTE, user_info};
use self::refs::Resolved;
use super::image::environment;
use super::remote::{Made, Remote, RemoteTree, check_address};
use crate::error::{BuildError, Kind};
use crate::op::file;

/// A part of a git repository.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GitTree {
    /// Its address.
    pub remote: String,
    /// Branch, tag or commit; empty for the default.
    pub reference: String,
    /// The directory that is wanted; empty for all.
    pub subdir: String,
    /// Keep `.git`. Not together with a directory.
    pub keep_git_dir: bool,
    /// The commit it must be, or its beginning.
    pub checksum: Option<String>,
    /// Fetch submodules too.
    pub submodules: bool,
    /// Files have the time of the commit rather than that of the checkout.
    pub commit_times: bool,
}

impl GitTree {
    /// Refuses what git could take for something else.
    fn check(&self) -> Result<(), BuildError> {
        check_address(&self.remote)?;
        if self.remote.starts_with('-') {
            return Err(BuildError::input(format!("{:?} is no address of a repository", self.remote)));
        }
        // What git forbids in names of branches and tags, for it reads it as something else.
        let is_forbidden = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c);
        let name = &self.reference;
        if name.starts_with('-') || name.contains("..") || name.contains("@{") || name.contains(is_forbidden) {
            return Err(BuildError::input(format!("{name:?} is no branch, tag or commit")));
        }
        Ok(())
    }

    /// The address and what of it, without what may be a password.
    pub fn shown(&self) -> String {
        let part = if self.subdir.is_empty() { String::new() } else { format!(":{}", self.subdir) };
        let fragment = if self.reference.is_empty() && part.is_empty() { "" } else { "#" };
        format!("{}{fragment}{}{part}", redacted(&self.remote), self.reference)
    }

    fn keeps_git_dir(&self) -> bool {
        self.keep_git_dir && self.subdir.is_empty()
    }

    /// Everything that the tree of a commit is (cache-keys.md §6).
    fn class(&self, resolved: &Resolved) -> Digest {
        let mut hasher = Hasher::domain("kiln.git-tree.v1");
        hasher.field(&resolved.commit).field(&self.subdir);
        hasher.number(u64::from(self.submodules)).number(u64::from(self.commit_times));
        if self.keeps_git_dir() {
            // All of these are in the directory.
            hasher.field(&self.remote).field(&resolved.name).field(resolved.tag.as_deref().unwrap_or_default());
        }
        hasher.finish()
    }

    /// `https://host/` and `host`, of an address that takes headers.
    fn host(&self) -> Option<(String, String)> {
        let (scheme, rest) = self.remote.split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https"))?;
        let authority = rest.split(['/', '?', '#']).next()?;
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        Some((format!("{scheme}://{host}/"), host.to_owned()))
    }
}

impl Remote<'_> {
    /// Checks out a tree, or finds it here.
    ///
    /// # Errors
    /// When the repository cannot be reached, or does not have what is wanted.
    pub fn git(&self, tree: &GitTree) -> Result<RemoteTree, BuildError> {
        tree.check()?;
        let began = Instant::now();
        let scratch = self.store.scratch("git").map_err(|error| environment(&error))?;
        let agent = if tree.host().is_none() { self.secrets.agent("default") } else { None };
        let git = Git {
            home: scratch.path(),
            remote: &tree.remote,
            authorization: self.git_authorization(tree)?,
            agent: agent.as_ref().map(|agent| &*agent.socket),
            cancel: self.cancel,
            step: self.step,
        };
        let resolved = refs::resolve(&git, tree).map_err(|error| match error.kind {
            Kind::Cancelled => error,
            _ => error.context("failed to load cache key"),
        })?;
        git.show(&format!("{}\t{}", resolved.commit, resolved.name));
        let class = tree.class(&resolved);
        let _lock = self.lock(&class)?;
        if let Some(tree) = self.tree(&class) {
            return Ok(tree);
        }
        let made = Made { key: class, class, name: "git", facts: &[("commit", resolved.commit.clone())], began };
        let bare = self.bare(tree, &resolved)?;
        fetch(&git, bare.path(), &resolved, tree.keeps_git_dir())?;
        let work = scratch.path().join("work");
        checkout::checkout(&git, tree, &resolved, bare.path(), &work)?;
        drop(bare);
        let files = checkout::files(self.store, tree, &git, &resolved, &work)?;
        self.keep(&made, || self.pack(file::Source::Local(Arc::new(files))))
    }

    /// Takes the bare repository of an address. Commands cannot have it: the identity of theirs is another's.
    fn bare(&self, tree: &GitTree, resolved: &Resolved) -> Result<kiln_cache::mount::CacheMount, BuildError> {
        let mut base = Hasher::domain("kiln.git-repository.v1");
        base.field(&tree.remote).field(resolved.object_format());
        let host = tree.remote.rsplit('@').next().unwrap_or_default();
        let request = MountRequest { id: &format!("git {host}"), base: Some(base.finish()), sharing: Sharing::Locked };
        self.store.cache_mount(&request, &|| self.cancel.is_cancelled(), |_| Ok(())).map_err(|error| match error {
            kiln_cache::mount::MountError::Cancelled(_) => BuildError::cancelled(),
            error => environment(&error),
        })
    }

    /// What the client lends for the host of a repository.
    fn git_authorization(&self, tree: &GitTree) -> Result<Option<Header>, BuildError> {
        let Some((scope, host)) = tree.host() else { return Ok(None) };
        let name = host.split(':').next().unwrap_or_default();
        for suffix in [format!(".{host}"), format!(".{name}"), String::new()] {
            if let Some(header) = self.secret(&format!("GIT_AUTH_HEADER{suffix}"))? {
                return Ok(Some(Header { scope, line: format!("Authorization: {header}") }));
            }
            if let Some(token) = self.secret(&format!("GIT_AUTH_TOKEN{suffix}"))? {
                let basic = kiln_registry_client::basic("x-access-token", &token);
                return Ok(Some(Header { scope, line: format!("Authorization: {basic}") }));
            }
        }
        Ok(None)
    }
}

/// Brings a commit into the bare repository, with as little else as the server allows.
fn fetch(git: &Git, bare: &Path, resolved: &Resolved, with_tag: bool) -> Result<(), BuildError> {
    let has_tag = || resolved.tag.as_ref().is_none_or(|tag| git.run(bare, &["cat-file", "-e", tag]).is_ok());
    let has_commit = || git.run(bare, &["cat-file", "-e", &format!("{}^{{tree}}", resolved.commit)]).is_ok();
    let is_complete = || has_commit() && (!with_tag || has_tag());
    // A killed git leaves its locks; nobody else is here.
    for lock in ["shallow.lock", "config.lock", "HEAD.lock", "packed-refs.lock"] {
        let _ = std::fs::remove_file(bare.join(lock));
    }
    git.run(bare, &["init", "--quiet", "--bare", &format!("--object-format={}", resolved.object_format())])?;
    if is_complete() {
        return Ok(());
    }
    let named = format!("+{}:refs/kiln/{}", resolved.name, resolved.commit);
    let alone = format!("+{0}:refs/kiln/{0}", resolved.commit);
    let short = |what: &str| {
        git.ask(
            bare,
            &["fetch", "--quiet", "--progress", "--depth=1", "--no-tags", "--no-recurse-submodules", REMOTE, what],
        )
    };
    // By name, which every server knows; it may be another commit by now.
    let mut failure = None;
    for what in [&named, &alone] {
        match short(what) {
            Ok(_) if is_complete() => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind == Kind::Cancelled => return Err(error),
            Err(error) => failure = Some(error),
        }
        if named == alone {
            break;
        }
    }
    // A server that gives no single commits gives everything.
    let all = [
        "fetch",
        "--quiet",
        "--progress",
        "--tags",
        "--no-recurse-submodules",
        REMOTE,
        "+refs/heads/*:refs/remotes/origin/*",
    ];
    let mut arguments = all.to_vec();
    if bare.join("shallow").exists() {
        arguments.insert(1, "--unshallow");
    }
    match git.ask(bare, &arguments) {
        Ok(_) if is_complete() => Ok(()),
        Ok(_) => {
            Err(failure
                .unwrap_or_else(|| BuildError::input(format!("the repository has no commit {}", resolved.commit))))
        }
        Err(error) => Err(error),
    }
}

/// Returns an address as it may be shown and kept.
fn redacted(remote: &str) -> String {
    match user_info(remote) {
        Some(user) => remote.replacen(&format!("{user}@"), "xxxxx@", 1),
        None => remote.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(remote: &str, reference: &str) -> bool {
        let tree = GitTree { remote: remote.into(), reference: reference.into(), ..GitTree::default() };
        tree.check().is_ok()
    }

    #[test]
    fn nothing_passes_for_an_option_or_a_pattern() {
        let remote = "https://host/r.git";
        for reference in ["", "main", "refs/heads/a/b", "v1.2-rc", "8aa8209ab7374f753830621ab5745204930d8ef0"] {
            assert!(check(remote, reference), "{reference:?}");
        }
        for reference in ["--upload-pack=x", "-x", "a b", "a\nb", "a..b", "a:b", "*", "a^{}", "HEAD~1", "@{1}"] {
            assert!(!check(remote, reference), "{reference:?}");
        }
        for remote in ["-oProxyCommand=x@host:r", "https://host/a\nb.git", "https://host/a b.git"] {
            assert!(!check(remote, ""), "{remote:?}");
        }
    }
}
