//! Which part of a context a build may need: the paths that it names, and where symlinks on them lead
//! (spec: dockerignore.md §6).
//!
//! The result is a list of patterns for the walk. Nothing is opened but directories, and each by its physical path below
//! the context, so that a symlink can only add another path inside.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::fs::{Dir, readlinkat};

use super::walk;
use crate::op::files::{self, Name};
use crate::op::wildcard;

/// How many paths are looked at, and how many components one has, before everything is taken: more symlinks lead to each
/// other than a sane context has.
const MAX_STEPS: usize = 10_000;
const MAX_DEPTH: usize = 512;

/// Returns the patterns of what `used` names in a context and of what symlinks on the way lead to, in byte order; nothing
/// for all of it.
pub fn follow(root: &File, used: &[String]) -> Option<Vec<String>> {
    let mut follower = Follower { root, found: BTreeSet::new(), seen: HashSet::new(), ahead: VecDeque::new() };
    follower.ahead.extend(used.iter().map(|path| files::components(path.as_bytes())));
    let mut steps = 0;
    while let Some(path) = follower.ahead.pop_front() {
        steps += 1;
        if path.is_empty() || path.len() > MAX_DEPTH || steps > MAX_STEPS {
            return None;
        }
        if follower.seen.insert(path.clone()) {
            follower.path(&path);
        }
    }
    let text = |path: &Vec<Name>| String::from_utf8_lossy(&files::join(path)).into_owned();
    let mut patterns: Vec<String> = Vec::new();
    // In the order of components, what is below another path comes behind it.
    let mut above: Option<&Vec<Name>> = None;
    for path in &follower.found {
        if above.is_none_or(|above| !path.starts_with(above)) {
            patterns.push(text(path));
            above = Some(path);
        }
    }
    patterns.sort();
    (!used.is_empty()).then_some(patterns)
}

struct Follower<'a> {
    root: &'a File,
    found: BTreeSet<Vec<Name>>,
    seen: HashSet<Vec<Name>>,
    /// Paths that are still to be looked at.
    ahead: VecDeque<Vec<Name>>,
}

impl Follower<'_> {
    fn path(&mut self, path: &[Name]) {
        for depth in 1..=path.len() {
            let (at, rest) = path.split_at(depth);
            let (last, parents) = at.split_last().expect("a path has components");
            let Some(directory) = self.open(parents) else { break };
            let links = if wildcard::has_wildcard(last) {
                matching_links(&directory, last)
            } else {
                target(&directory, last).into_iter().collect()
            };
            if !links.is_empty() {
                self.found.insert(at.to_vec());
                self.ahead.extend(links.into_iter().map(|target| {
                    let mut written = if target.starts_with(b"/") { Vec::new() } else { files::join(parents) };
                    written.push(b'/');
                    written.extend(target);
                    let mut path = files::components(&written);
                    path.extend_from_slice(rest);
                    path
                }));
                if !wildcard::has_wildcard(last) {
                    return;
                }
            }
        }
        self.found.insert(path.to_vec());
    }

    /// Opens a directory by its physical path.
    fn open(&self, path: &[Name]) -> Option<OwnedFd> {
        walk::open_directory(self.root, &files::join(path)).ok()
    }
}

/// Returns where a symlink leads; nothing for anything else.
fn target(directory: &OwnedFd, name: &[u8]) -> Option<Vec<u8>> {
    Some(readlinkat(directory, name, Vec::new()).ok()?.into_bytes())
}

fn matching_links(directory: &OwnedFd, pattern: &[u8]) -> Vec<Vec<u8>> {
    let Ok(entries) = Dir::read_from(directory) else { return Vec::new() };
    entries
        .flatten()
        .map(|entry| entry.file_name().to_bytes().to_vec())
        .filter(|name| wildcard::is_match(pattern, name))
        .filter_map(|name| target(directory, &name))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[track_caller]
    fn check(links: &[(&str, &str)], used: &[&str], expected: Option<&[&str]>) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("real/deep")).unwrap();
        for (link, target) in links {
            symlink(target, directory.path().join(link)).unwrap();
        }
        let root = File::open(directory.path()).unwrap();
        let used: Vec<String> = used.iter().map(|&path| path.to_owned()).collect();
        let expected = expected.map(|paths| paths.iter().map(|&path| path.to_owned()).collect());
        assert_eq!(follow(&root, &used), expected);
    }

    #[test]
    fn nothing_named_is_everything() {
        check(&[], &[], None);
        check(&[], &["a", "."], None);
        check(&[("up", "..")], &["up"], None);
    }

    #[test]
    fn what_is_below_another_path_is_not_named_again() {
        check(&[], &["a/b", "a", "a.b", "a/c/d"], Some(&["a", "a.b"]));
    }

    #[test]
    fn links_bring_what_they_lead_to() {
        let links = [("l", "real"), ("real/abs", "/other"), ("out", "../../etc/passwd")];
        check(&links, &["l/deep/x"], Some(&["l", "real/deep/x"]));
        check(&links, &["l/abs/y"], Some(&["l", "other/y", "real/abs"]));
        check(&links, &["out"], Some(&["etc/passwd", "out"]));
    }

    #[test]
    fn links_that_a_wildcard_matches_are_followed() {
        check(&[("dl", "real"), ("other", "x")], &["d*/y"], Some(&["d*", "real/y"]));
        check(&[], &["r*/y"], Some(&["r*/y"]));
    }

    #[test]
    fn circles_end() {
        check(&[("loop", "loop")], &["loop"], Some(&["loop"]));
        check(&[("a", "b"), ("b", "a/x")], &["a"], None);
    }
}
