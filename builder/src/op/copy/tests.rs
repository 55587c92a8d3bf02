//! Copies, case by case and against a model.

mod model;

use std::collections::BTreeMap;
use std::sync::Arc;

use kiln_cache::Store;
use kiln_cache::tree::Tree;
use kiln_frontend::graph::CopyFrom;
use kiln_runtime::Cancel;

use super::*;
use crate::layers::Layers;
use crate::op::files::Origin;
use crate::progress::Silent;
use crate::step::Steps;

/// The time of the build.
const NOW: i64 = 9;
/// The time of everything that a test does not date.
const OLD: i64 = 1;

/// Makes a tree of lines: `path/` is a directory, `path -> target` a symlink, `path == path` one more name of a file,
/// anything else a file with its path as content. Behind that may stand `mode`, `user:group`, `@time` and `name=value`
/// for an attribute.
fn tree(text: &str) -> FileNode {
    let mut top = FileNode::empty();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut words = line.split(' ');
        let path = words.next().unwrap();
        let mut meta = FileMeta::directory(0o755, (OLD, 0));
        let mut group = None;
        if !path.ends_with('/') {
            (meta.kind, meta.mode, meta.size) = (FileKind::Regular, 0o644, path.len() as u64);
        }
        while let Some(word) = words.next() {
            if word == "->" {
                (meta.kind, meta.mode, meta.size) = (FileKind::Symlink, 0o777, 0);
                meta.target = words.next().unwrap().into();
            } else if word == "==" {
                group = words.next();
            } else if let Some((user, owner)) = word.split_once(':') {
                (meta.uid, meta.gid) = (user.parse().unwrap(), owner.parse().unwrap());
            } else if let Some(time) = word.strip_prefix('@') {
                meta.mtime = (time.parse().unwrap(), 0);
            } else if let Some((name, value)) = word.split_once('=') {
                meta.xattrs.insert(name.into(), value.into());
            } else {
                meta.mode = u32::from_str_radix(word, 8).unwrap();
            }
        }
        let content = group.unwrap_or(path);
        let mut node = FileNode::leaf(meta, Origin::Bytes(content.as_bytes().into()));
        node.link_group = group.map(|first| (0, first.len() as u64));
        put(&mut top, path, node);
        if let Some(first) = group {
            let names = files::components(first.as_bytes());
            let first = names.iter().fold(&mut top, |at, name| at.children.get_mut(name).unwrap());
            first.link_group = group.map(|first| (0, first.len() as u64));
        }
    }
    top
}

fn put(top: &mut FileNode, path: &str, node: FileNode) {
    let names = files::components(path.as_bytes());
    let (last, parents) = names.split_last().unwrap();
    let mut at = top;
    for name in parents {
        let parent = || FileNode::leaf(FileMeta::directory(0o755, (OLD, 0)), Origin::None);
        at = at.children.entry(name.clone()).or_insert_with(parent);
    }
    at.children.insert(last.clone(), node);
}

/// A COPY as lowering makes it.
fn action(source: &str, destination: &str) -> Copy {
    Copy {
        from: CopyFrom::Input(1),
        source: source.to_owned(),
        destination: destination.to_owned(),
        owner: None,
        mode: None,
        wildcards: true,
        follow_symlinks: true,
        contents_only: true,
        unpack: false,
        include: None,
        required: Vec::new(),
        exclude: Vec::new(),
    }
}

/// `--parents` with a pivot.
fn with_parents(base: &str, pattern: &str, destination: &str) -> Copy {
    Copy { include: Some(vec![pattern.to_owned()]), ..action(base, destination) }
}

/// Files that are copied into, one copy after the other.
struct Stage {
    _temporary: tempfile::TempDir,
    contents: Contents,
    base: Tree,
}

impl Stage {
    fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let store = Store::open(&temporary.path().join("store")).unwrap();
        let registry = Arc::new(kiln_registry_client::Client::new(kiln_registry_client::Options::default()));
        let layers = Layers::new(store.clone(), registry, Steps::new(Arc::new(Silent)), Cancel::new(), Arc::default());
        Self { contents: Contents::new(Arc::new(layers), store), _temporary: temporary, base: Tree::empty() }
    }

    fn overlay(&self, start: &FileNode) -> Overlay<'_> {
        let mut overlay = Overlay::new(&[], &self.base, (NOW, 0));
        let all = Attributes { owner: None, mode: None };
        copy(&mut overlay, start, &action("/", "/"), &all, &self.contents, 0).unwrap();
        overlay
    }

    fn copy(
        &self,
        overlay: &mut Overlay,
        source: &FileNode,
        action: &Copy,
        owner: Option<(u32, u32)>,
    ) -> Result<(), CopyError> {
        let attributes = Attributes { owner, mode: file_mode(action.mode.as_ref())? };
        copy(overlay, source, action, &attributes, &self.contents, 1)
    }
}

/// What is in a stage: for each path how it would be written for [`tree`], with owner and time.
fn listing(overlay: &Overlay) -> BTreeMap<String, String> {
    let changes = overlay.changes(&mut |_, _, _| Ok::<_, ()>(false)).unwrap();
    let mut groups: BTreeMap<_, String> = BTreeMap::new();
    changes
        .iter()
        .map(|(path, Entry { meta, origin, link_group, .. })| {
            let path = files::display(path);
            let content = match origin {
                Origin::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                _ => String::new(),
            };
            let first = link_group.map(|group| groups.entry(group).or_insert_with(|| path.clone()).clone());
            let kind = match (meta.kind, first) {
                (FileKind::Directory, _) => "dir".to_owned(),
                (FileKind::Symlink, _) => format!("-> {}", String::from_utf8_lossy(&meta.target)),
                (_, Some(first)) if first != path => format!("== {first}"),
                _ => format!("= {content}"),
            };
            let mut text = format!("{kind} {:o} {}:{} @{}", meta.mode, meta.uid, meta.gid, meta.mtime.0);
            for (name, value) in &meta.xattrs {
                text += &format!(" {}={}", String::from_utf8_lossy(name), String::from_utf8_lossy(value));
            }
            (path, text)
        })
        .collect()
}

/// Copies into what `start` has, and compares some of the paths, or the error.
#[track_caller]
fn check_owned(
    start: &str,
    source: &str,
    owner: Option<(u32, u32)>,
    actions: &[Copy],
    expected: Result<&[(&str, &str)], &str>,
) {
    let stage = Stage::new();
    let source = tree(source);
    let mut overlay = stage.overlay(&tree(start));
    let result = actions.iter().try_for_each(|action| stage.copy(&mut overlay, &source, action, owner));
    match expected {
        Ok(lines) => {
            result.unwrap();
            let found = listing(&overlay);
            for (path, line) in lines {
                assert_eq!(found.get(*path).map_or("nothing", |line| line), *line, "{path} of {found:#?}");
            }
        }
        Err(message) => assert_eq!(result.unwrap_err().to_string(), message),
    }
}

#[track_caller]
fn check(start: &str, source: &str, action: Copy, expected: Result<&[(&str, &str)], &str>) {
    check_owned(start, source, None, &[action], expected);
}

#[test]
fn a_directory_stands_for_what_is_in_it() {
    let source = "d/ 700 5:6 @3\nd/sub/ 750 5:6 @4\nd/f 600 5:6 @2";
    let expected = [("/x", "dir 755 0:0 @3"), ("/x/sub", "dir 750 5:6 @4"), ("/x/f", "= d/f 600 5:6 @2")];
    check("", source, action("/d", "/x"), Ok(&expected));
    check("", source, action("/d", "/x/"), Ok(&expected));
    // One that is there keeps what it is; those in it do not.
    let there = "x/ 1777 7:7\nx/sub/ 777 7:7";
    check(there, source, action("/d", "/x"), Ok(&[("/x", "dir 1777 7:7 @3"), ("/x/sub", "dir 750 5:6 @4")]));
}

#[test]
fn attributes_are_added_to_those_of_a_directory_that_is_there() {
    let there = "x/sub/ user.a=old user.b=kept";
    let source = "d/sub/ user.a=new user.c=more";
    check(there, source, action("/d", "/x"), Ok(&[("/x/sub", "dir 755 0:0 @1 user.a=new user.b=kept user.c=more")]));
}

#[test]
fn made_directories_have_the_time_of_the_build() {
    check("", "f @2", action("/f", "/p/q/g"), Ok(&[("/p", "dir 755 0:0 @9"), ("/p/q/g", "= f 644 0:0 @2")]));
    let octal = Copy { mode: Some(Mode::Octal(0o4640)), ..action("/f", "/p/q/") };
    check_owned(
        "",
        "f",
        Some((3, 4)),
        &[octal],
        Ok(&[("/p", "dir 640 3:4 @9"), ("/p/q", "dir 640 3:4 @9"), ("/p/q/f", "= f 4640 3:4 @1")]),
    );
}

#[test]
fn a_group_that_is_inherited_is_handed_on() {
    let there = "shared/ 2775 0:50";
    let source = "d/sub/f\nf";
    let made = [("/shared/p", "dir 2755 0:50 @9"), ("/shared/p/q", "dir 2755 0:50 @9")];
    check(there, source, action("/f", "/shared/p/q/"), Ok(&made));
    // What is copied has its own.
    check(there, source, action("/d", "/shared"), Ok(&[("/shared/sub", "dir 755 0:0 @1")]));
    check_owned(there, source, Some((1, 2)), &[action("/f", "/shared/p/")], Ok(&[("/shared/p", "dir 2755 1:2 @9")]));
}

#[test]
fn two_dots_of_a_destination_take_back_what_is_written() {
    let there = "real/deep/\nl -> /real/deep";
    check(there, "f", action("/f", "/l/../x"), Ok(&[("/x", "= f 644 0:0 @1"), ("/real/x", "nothing")]));
    check(there, "f", action("/f", "/../../l/./x"), Ok(&[("/real/deep/x", "= f 644 0:0 @1")]));
}

#[test]
fn links_of_the_destination_stay_inside() {
    let there = "up -> ../../../out\nabs -> /etc/x\nround -> round\nfile";
    check(there, "f", action("/f", "/up/"), Ok(&[("/out/f", "= f 644 0:0 @1"), ("/up", "-> ../../../out 777 0:0 @1")]));
    check(there, "f", action("/f", "/abs"), Ok(&[("/etc/x", "= f 644 0:0 @1")]));
    check(there, "f", action("/f", "/round"), Err("too many links in /round"));
    check(there, "f", action("/f", "/file/x"), Err("mkdir /file: not a directory"));
}

#[test]
fn what_cannot_be_replaced_is_an_error() {
    check("x", "d/f", action("/d", "/x"), Err("cannot copy to non-directory: /x"));
    check("x/f/", "d/f", action("/d", "/x"), Err("cannot replace to directory /x/f with file"));
    check("x/s -> /x", "d/s/f", action("/d", "/x"), Err("cannot copy to non-directory: /x/s"));
    check("x/s -> /y", "d/s 600", action("/d", "/x"), Ok(&[("/x/s", "= d/s 600 0:0 @1")]));
}

#[test]
fn sources_that_are_not_there() {
    check("", "a/f", action("/nope", "/x"), Err("\"/nope\": not found"));
    check("", "l -> nowhere", action("/l", "/x"), Err("\"/l\": not found"));
    check("", "l -> l", action("/l", "/x"), Err("too many links in /l"));
    check("", "a/f", action("/a/n*", "/x/"), Ok(&[("/x", "nothing")]));
    check("", "a/f", action("/nope/n*", "/x/"), Err("lstat /nope: no such file or directory"));
    check("", "a/f", action("/a[/f", "/x/"), Err("/a[/f: syntax error in pattern"));
}

#[test]
fn names_of_one_file_stay_names_of_one_file() {
    let source = "d/a 600\nd/b 600 == d/a\nd/c";
    check("", source, action("/d", "/x"), Ok(&[("/x/a", "= d/a 600 0:0 @1"), ("/x/b", "== /x/a 600 0:0 @1")]));
    // Two copies make two files.
    let wild = action("/d/*", "/x/");
    check("", source, wild, Ok(&[("/x/a", "= d/a 600 0:0 @1"), ("/x/b", "= d/a 600 0:0 @1")]));
}

#[test]
fn parents_come_with_what_is_below_them() {
    let source = "w/ 700 @3\nw/v/ 710 @4\nw/v/a.txt\nw/v/b.md\nw/e/ 711";
    let expected = [("/o", "dir 755 0:0 @9"), ("/o/w", "dir 700 0:0 @9"), ("/o/w/v", "dir 710 0:0 @9")];
    check("", source, with_parents("/", "w/v/*.txt", "/o"), Ok(&expected));
    check("", source, with_parents("/w", "v", "/o"), Ok(&[("/o", "dir 755 0:0 @3"), ("/o/v", "dir 710 0:0 @4")]));
    check("", source, with_parents("/", "**/*.txt", "/o"), Ok(&[("/o/w/e", "nothing"), ("/o/w/v/b.md", "nothing")]));
    // Parents that are there get the mode, and nothing else.
    check_owned(
        "o/w/ 777 5:5\no/w/v/ 777 5:5",
        source,
        Some((1, 2)),
        &[with_parents("/", "w/v/a.txt", "/o")],
        Ok(&[("/o/w", "dir 700 5:5 @1"), ("/o/w/v", "dir 710 5:5 @9"), ("/o/w/v/a.txt", "= w/v/a.txt 644 1:2 @1")]),
    );
    // The directory itself is not below itself.
    for base in ["/", "/w"] {
        let itself = Copy { required: vec![String::new()], ..with_parents(base, "", "/o") };
        check("", "w/a", itself, Err(&format!("{base:?}: not found")));
    }
    // A base that is a file is copied.
    check(
        "",
        "w1\nw2/f",
        with_parents("/w*", "f", "/o"),
        Ok(&[("/o/w1", "= w1 644 0:0 @1"), ("/o/f", "= w2/f 644 0:0 @1")]),
    );
}

#[test]
fn what_is_excluded_is_so_below_each_source() {
    let source = "d/a.md\nd/keep/b.md\nd/keep/c\nd/top";
    let exclude = |patterns: &[&str]| Copy {
        exclude: patterns.iter().map(|&pattern| pattern.to_owned()).collect(),
        ..action("/d", "/x")
    };
    check("", source, exclude(&["**/*.md"]), Ok(&[("/x/a.md", "nothing"), ("/x/keep/b.md", "nothing")]));
    check("", source, exclude(&["d/top"]), Ok(&[("/x/top", "= d/top 644 0:0 @1")]));
    let back = exclude(&["keep", "!keep/c"]);
    check(
        "",
        source,
        back,
        Ok(&[("/x/keep", "dir 755 0:0 @9"), ("/x/keep/b.md", "nothing"), ("/x/keep/c", "= d/keep/c 644 0:0 @1")]),
    );
    let file = Copy { exclude: vec!["top".to_owned()], ..action("/d/top", "/x") };
    check("", source, file, Ok(&[("/x", "= d/top 644 0:0 @1")]));
    check("", source, exclude(&["a", "!"]), Err("invalid excludepatterns: [a !]: illegal exclusion pattern: \"!\""));
    check("", source, exclude(&["["]), Err("invalid excludepatterns: [[]: syntax error in pattern"));
}

#[test]
fn the_content_key_has_what_is_copied_in_it_and_nothing_else() {
    let print = |text: &str, action: &Copy| {
        let digest = |node: &FileNode, _: &[Name]| match &node.origin {
            Origin::Bytes(bytes) => Ok(Digest::of(bytes)),
            _ => Ok(Digest::of("")),
        };
        fingerprint(&tree(text), action, &digest).unwrap()
    };
    let plain = action("/d", "/x");
    let first = print("d/f @1\nd/s/ 755\nother", &plain);
    assert_eq!(first, print("d/f @5\nd/s/ 755\nother 600", &plain));
    // The directory itself stays what it is at the destination.
    assert_eq!(first, print("d/ 700\nd/f\nd/s/ 755", &plain));
    for changed in
        ["d/f 600\nd/s/ 755", "d/f\nd/s/ 700", "d/f\nd/s", "d/g\nd/s/", "d/f user.a=b\nd/s/", "d/f 644 1:0\nd/s/"]
    {
        assert_ne!(first, print(changed, &plain), "{changed}");
    }
    let without = Copy { exclude: vec!["s".to_owned()], ..plain };
    assert_eq!(print("d/f\nd/s/x", &without), print("d/f\nd/s/y 600", &without));
}
