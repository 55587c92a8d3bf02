//! Which commit a branch, a tag or nothing stands for.

use super::GitTree;
use super::program::{Git, REMOTE};
use crate::error::BuildError;

/// What a reference came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The commit.
    pub commit: String,
    /// The object of an annotated tag that leads to it.
    pub tag: Option<String>,
    /// What to fetch: the full name, or the commit.
    pub name: String,
}

impl Resolved {
    /// Returns how objects are named in the repository.
    pub fn object_format(&self) -> &'static str {
        if self.commit.len() == 64 { "sha256" } else { "sha1" }
    }
}

/// Asks the server, unless it is a commit already, and compares with the checksum.
///
/// # Errors
/// When there is no such branch or tag, or it is not what it should be.
pub fn resolve(git: &Git, tree: &GitTree) -> Result<Resolved, BuildError> {
    let resolved = if is_commit(&tree.reference) {
        let commit = tree.reference.to_ascii_lowercase();
        Resolved { name: commit.clone(), commit, tag: None }
    } else {
        let wanted = if tree.reference.is_empty() { "HEAD" } else { &tree.reference };
        let peeled = format!("{wanted}^{{}}");
        let listed = git.ask(git.home, &["ls-remote", REMOTE, wanted, &peeled])?;
        choose(&listed, wanted).ok_or_else(|| {
            BuildError::input(format!("repository does not contain ref {}, output: \"\"", tree.reference))
                .hint("it is neither a branch nor a tag, nor a commit of 40 or 64 digits")
        })?
    };
    if let Some(checksum) = &tree.checksum {
        let wanted = checksum.to_ascii_lowercase();
        let objects = [resolved.tag.as_deref(), Some(&resolved.commit)];
        if !objects.iter().flatten().any(|object| object.starts_with(&wanted)) {
            let got: Vec<&str> = objects.into_iter().flatten().collect();
            let message = format!("expected checksum to match {checksum}, got {}", got.join(" or "));
            return Err(
                BuildError::input(message).hint("the branch or tag has moved, or the checksum is of another one")
            );
        }
    }
    Ok(resolved)
}

/// Whether a reference is a whole object name.
fn is_commit(reference: &str) -> bool {
    matches!(reference.len(), 40 | 64) && reference.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Picks from what `ls-remote` lists: the name itself, then a branch, then a tag.
fn choose(listed: &str, wanted: &str) -> Option<Resolved> {
    let lines: Vec<(&str, &str)> = listed.lines().filter_map(|line| line.split_once('\t')).collect();
    let find = |name: &str| lines.iter().find(|(_, own)| *own == name).map(|(object, _)| *object);
    let names = [
        Some(wanted.to_owned()).filter(|name| name == "HEAD" || name.starts_with("refs/")),
        Some(format!("refs/{wanted}")),
        Some(format!("refs/heads/{wanted}")),
        Some(format!("refs/tags/{wanted}")),
    ];
    names.into_iter().flatten().find_map(|name| {
        let object = find(&name).filter(|object| is_commit(object))?.to_owned();
        match find(&format!("{name}^{{}}")).filter(|object| is_commit(object)) {
            Some(commit) => Some(Resolved { commit: commit.to_owned(), tag: Some(object), name }),
            None => Some(Resolved { commit: object, tag: None, name }),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(listed: &[(char, &str)], wanted: &str, expected: Option<(char, Option<char>, &str)>) {
        let object = |c: char| c.to_string().repeat(40);
        let listed: String = listed.iter().map(|(c, name)| format!("{}\t{name}\n", object(*c))).collect();
        let expected = expected.map(|(commit, tag, name)| Resolved {
            commit: object(commit),
            tag: tag.map(object),
            name: name.to_owned(),
        });
        assert_eq!(choose(&listed, wanted), expected);
    }

    #[test]
    fn a_branch_wins_over_a_tag() {
        let listed = [('a', "refs/heads/x"), ('b', "refs/tags/x"), ('c', "refs/tags/x^{}")];
        check(&listed, "x", Some(('a', None, "refs/heads/x")));
        check(&listed, "refs/tags/x", Some(('c', Some('b'), "refs/tags/x")));
        check(&listed, "tags/x", Some(('c', Some('b'), "refs/tags/x")));
    }

    #[test]
    fn only_the_whole_name_counts() {
        check(&[('a', "refs/heads/feature/x"), ('b', "refs/remotes/origin/x")], "x", None);
        check(&[('a', "HEAD")], "HEAD", Some(('a', None, "HEAD")));
        check(&[], "HEAD", None);
    }
}
