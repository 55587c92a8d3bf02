//! Why a source is not there: left out by the ignore file, or spelled nearly like another, or elsewhere.

use std::collections::VecDeque;

use kiln_frontend::dockerfile::hint as frontend_hint;
use kiln_frontend::dockerfile::suggest::closest;
use kiln_frontend::graph::{FileAction, Op};

use super::copy;
use super::file::Source;
use super::files::{self, FileKind, FileNode, Name};
use crate::source::local::LocalContext;

/// So many names are looked at for one that was perhaps meant.
const MOST_NAMES: usize = 20_000;

/// Returns what may help with a path that is not in `source`.
pub fn hint(source: &Source, path: &str) -> Option<String> {
    let names = files::components(path.as_bytes());
    if source.tree().get(&names).is_some_and(FileNode::is_directory) {
        return Some("`--parents` wants a path or a pattern below it: `./**` stands for all there is".to_owned());
    }
    match source {
        Source::Local(context) => Some(in_context(context, &names)),
        Source::Files(tree) => {
            let list = |path: &[Name]| {
                let children = tree.get(path).map(|node| node.children.iter());
                children.into_iter().flatten().map(|(name, node)| (name.clone(), node.is_directory())).collect()
            };
            if let Some(Dangling { link, target, .. }) = dangling(tree, &names) {
                return Some(format!("`/{link}` is a link to `{target}`, where nothing is"));
            }
            nearest(&names, &list).map(|near| format!("did you mean `/{near}`?"))
        }
    }
}

/// Returns what may help where a word was taken for a source that was not meant as one.
pub fn misread(op: &Op) -> Option<&'static str> {
    let Op::File(op) = op else { return None };
    let sources = op.actions.iter().filter_map(|action| match action {
        FileAction::Copy(copy) => copy.source.strip_prefix('/'),
        _ => None,
    });
    sources.into_iter().find_map(|source| match source {
        _ if frontend_hint::is_comment(source) => Some(frontend_hint::COMMENT),
        _ if source.starts_with('-') => Some("flags have two dashes and stand before the sources"),
        _ => None,
    })
}

fn in_context(context: &LocalContext, path: &[Name]) -> String {
    if let Some(line) = ignored(context, path) {
        return format!("`{}` is there, but {line} leaves it out of the context", text(path));
    }
    if let Some(Dangling { link, target, place }) = dangling(&context.tree, path) {
        let what = format!("`{link}` is a link to `{target}`");
        return match ignored(context, &place) {
            Some(line) => format!("{what}, which {line} leaves out of the context"),
            None => format!("{what}, which is not in the context; links do not lead out of it"),
        };
    }
    let is_ignored =
        |path: &[Name]| context.ignore.as_ref().is_some_and(|(_, patterns)| patterns.verdict_of(&text(path)).matched);
    let list = |directory: &[Name]| {
        let mut found = context.list(directory);
        found.retain(|(name, _)| !is_ignored(&[directory, std::slice::from_ref(name)].concat()));
        found.sort();
        found
    };
    if context.list(&[]).is_empty() {
        return "the context is empty: it is the last argument, a directory; `-f -` reads the build file alone from standard input"
            .to_owned();
    }
    match nearest(path, &list) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("sources are looked up in the context, {}", context.path.display()),
    }
}

/// A link to what is not there.
struct Dangling {
    link: String,
    /// As it is written.
    target: String,
    /// As it is looked up.
    place: Vec<Name>,
}

/// Returns the link for which a path leads nowhere.
fn dangling(tree: &FileNode, path: &[Name]) -> Option<Dangling> {
    (1..=path.len()).find_map(|depth| {
        let link = copy::resolve(tree, &path[..depth], false).ok()?;
        let node = tree.get(&link).filter(|node| node.meta.kind == FileKind::Symlink)?;
        let place = copy::resolve(tree, &link, true).ok().filter(|place| tree.get(place).is_none())?;
        Some(Dangling { link: text(&link), target: String::from_utf8_lossy(&node.meta.target).into_owned(), place })
    })
}

/// Returns the line of the ignore file that hides a path which is there.
fn ignored(context: &LocalContext, path: &[Name]) -> Option<String> {
    let (file, patterns) = context.ignore.as_ref()?;
    let (last, parents) = path.split_last()?;
    context.list(parents).iter().find(|(name, _)| name == last)?;
    let verdict = patterns.verdict_of(&text(path));
    let pattern = patterns.patterns().get(verdict.decided_by?).filter(|_| verdict.matched)?;
    Some(format!("{file}:{} (`{}`)", pattern.line, pattern.text))
}

/// Tells what is in a directory, and what of that is a directory.
type List<'a> = &'a dyn Fn(&[Name]) -> Vec<(Name, bool)>;

/// Returns a path that was perhaps meant: spelled nearly like it, or of the same name and elsewhere.
fn nearest(path: &[Name], list: List) -> Option<String> {
    let (last, parents) = path.split_last()?;
    let beside: Vec<String> =
        list(parents).iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect();
    if let Some(near) = closest(&String::from_utf8_lossy(last), beside.iter().map(String::as_str)) {
        return Some(text(&[parents, &[near.as_bytes().into()]].concat()));
    }
    let mut ahead = VecDeque::from([Vec::new()]);
    let mut left = MOST_NAMES;
    while let Some(directory) = ahead.pop_front() {
        for (name, is_directory) in list(&directory) {
            left = left.checked_sub(1)?;
            let below = [&directory[..], &[name]].concat();
            if below.last() == Some(last) {
                return Some(text(&below));
            }
            if is_directory {
                ahead.push_back(below);
            }
        }
    }
    None
}

fn text(path: &[Name]) -> String {
    String::from_utf8_lossy(&files::join(path)).into_owned()
}
