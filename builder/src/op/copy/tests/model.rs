//! A model of COPY: files in a map from path to file, changed by steps that read like the ones of a shell.
//! Everything random in here is as small as it can be, so that things meet.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    File(String),
    Directory,
    Link(String),
}

#[derive(Debug, Clone, PartialEq)]
struct File {
    kind: Kind,
    mode: u32,
    owner: (u32, u32),
    time: i64,
}

/// All files by path, without the root; paths start with a slash.
type Files = BTreeMap<String, File>;

/// Something went wrong; what exactly is not the model's business.
struct Wrong;

fn parent(path: &str) -> &str {
    &path[..path.rfind('/').unwrap()]
}

fn is_directory(files: &Files, path: &str) -> bool {
    path.is_empty() || files.get(path).is_some_and(|file| file.kind == Kind::Directory)
}

/// Follows all symlinks of a path, which is made absolute inside the root.
fn follow(files: &Files, path: &str, depth: u32) -> Result<String, Wrong> {
    if depth > 40 {
        return Err(Wrong);
    }
    let mut done = String::new();
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    for (index, part) in parts.iter().enumerate() {
        if *part == ".." {
            done.truncate(done.rfind('/').unwrap_or(0));
            continue;
        }
        let here = format!("{done}/{part}");
        if let Some(File { kind: Kind::Link(target), .. }) = files.get(&here) {
            let start = if target.starts_with('/') { String::new() } else { done };
            let rest = parts[index + 1..].join("/");
            return follow(files, &format!("{start}/{target}/{rest}"), depth + 1);
        }
        done = here;
    }
    Ok(done)
}

fn touch(files: &mut Files, path: &str) {
    if let Some(file) = files.get_mut(path) {
        file.time = NOW;
    }
}

fn insert(files: &mut Files, path: &str, file: File) {
    files.insert(path.to_owned(), file);
    touch(files, parent(path));
}

/// `mkdir -p`.
fn make(files: &mut Files, path: &str, mode: u32, owner: Option<(u32, u32)>) -> Result<(), Wrong> {
    if is_directory(files, path) {
        return Ok(());
    }
    if files.contains_key(path) {
        return Err(Wrong);
    }
    make(files, parent(path), mode, owner)?;
    // What a directory with the set-group-id bit does to those made in it.
    let above = files.get(parent(path)).filter(|above| above.mode & 0o2000 != 0);
    let mode = mode | above.map_or(0, |_| 0o2000);
    let owner = owner.unwrap_or((0, above.map_or(0, |above| above.owner.1)));
    insert(files, path, File { kind: Kind::Directory, mode, owner, time: NOW });
    Ok(())
}

fn children<'a>(files: &'a Files, path: &str) -> Vec<(&'a str, &'a File)> {
    let start = format!("{path}/");
    files
        .iter()
        .filter(|(name, _)| name.starts_with(&start) && !name[start.len()..].contains('/'))
        .map(|(name, file)| (&name[start.len()..], file))
        .collect()
}

/// A random COPY.
#[derive(Debug, Clone)]
struct Instruction {
    source: String,
    destination: String,
    owner: Option<(u32, u32)>,
    mode: Option<u32>,
    exclude: Option<String>,
    /// `--parents`: what of the source, a directory, is copied.
    include: Option<String>,
}

/// `**/x` is anything of that name, `x/*` all in a directory, a plain pattern what is at that place.
fn matches(pattern: &str, path: &str) -> bool {
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    match (pattern.strip_prefix("**/"), pattern.strip_suffix("/*")) {
        (Some(wanted), _) => wanted == name,
        (_, Some(wanted)) => wanted == directory,
        _ => pattern == path,
    }
}

impl Instruction {
    fn run(&self, from: &Files, to: &mut Files) -> Result<(), Wrong> {
        let (directory, last) = self.source.rsplit_once('/').unwrap();
        if !last.contains('*') {
            return self.one(from, to, &self.source);
        }
        let real = follow(from, directory, 0)?;
        if !real.is_empty() && !from.contains_key(&real) {
            return Err(Wrong);
        }
        let start = last.trim_end_matches('*');
        let names: Vec<String> = children(from, &real).iter().map(|(name, _)| (*name).to_owned()).collect();
        for name in names.iter().filter(|name| name.starts_with(start)) {
            self.one(from, to, &format!("{directory}/{name}"))?;
        }
        Ok(())
    }

    fn one(&self, from: &Files, to: &mut Files, written: &str) -> Result<(), Wrong> {
        let source = follow(from, written, 0)?;
        if !source.is_empty() && !from.contains_key(&source) {
            return Err(Wrong);
        }
        if self
            .include
            .as_ref()
            .is_some_and(|path| !path.contains('*') && !from.contains_key(&format!("{source}/{path}")))
        {
            return Err(Wrong);
        }
        let made = self.mode.map_or(0o755, |mode| mode & 0o777);
        let into = self.destination.ends_with('/') || self.include.is_some();
        let base = if into { &*self.destination } else { parent(&self.destination) };
        let base = follow(to, base, 0)?;
        make(to, &base, made, self.owner)?;
        let mut target = follow(to, &self.destination, 0)?;
        if is_directory(from, &source) {
            if !to.contains_key(&target) {
                make(to, &target, made, self.owner)?;
            }
            if !is_directory(to, &target) {
                return Err(Wrong);
            }
            let mut walk = Walk { copy: self, from, to, pending: Vec::new() };
            walk.inside(&source, &target, "", self.include.is_none())?;
            let time = from.get(&source).map_or(NOW, |file| file.time);
            if let Some(file) = to.get_mut(&target) {
                file.time = time;
            }
            return Ok(());
        }
        if is_directory(to, &target) {
            target = format!("{target}/{}", &written[written.rfind('/').unwrap() + 1..]);
        }
        make(to, parent(&target), made, self.owner)?;
        self.file(&from[&source], to, &target)
    }

    fn file(&self, file: &File, to: &mut Files, target: &str) -> Result<(), Wrong> {
        if is_directory(to, target) {
            return Err(Wrong);
        }
        let is_link = matches!(file.kind, Kind::Link(_));
        let mode = self.mode.filter(|_| !is_link).unwrap_or(file.mode);
        insert(to, target, File { mode, owner: self.owner.unwrap_or(file.owner), ..file.clone() });
        Ok(())
    }

    fn action(&self) -> Copy {
        Copy {
            mode: self.mode.map(Mode::Octal),
            exclude: self.exclude.iter().cloned().collect(),
            include: self.include.iter().cloned().map(|path| vec![path]).next(),
            required: self.include.iter().filter(|path| !path.contains('*')).cloned().collect(),
            ..action(&self.source, &self.destination)
        }
    }
}

/// The copy of what is in a directory.
struct Walk<'a> {
    copy: &'a Instruction,
    from: &'a Files,
    to: &'a mut Files,
    /// Directories above, which are made when something in them is copied.
    pending: Vec<(String, File)>,
}

impl Walk<'_> {
    fn inside(&mut self, source: &str, target: &str, below: &str, is_taken: bool) -> Result<(), Wrong> {
        for (name, file) in children(self.from, source) {
            let below = format!("{below}/{name}");
            if self.copy.exclude.as_ref().is_some_and(|pattern| matches(pattern, &below[1..])) {
                continue;
            }
            let is_taken = is_taken || self.copy.include.as_ref().is_some_and(|pattern| matches(pattern, &below[1..]));
            let (source, target) = (format!("{source}/{name}"), format!("{target}/{name}"));
            if file.kind == Kind::Directory && !is_taken {
                self.pending.push((target.clone(), file.clone()));
                self.inside(&source, &target, &below, false)?;
                self.pending.retain(|(path, _)| *path != target);
            } else if file.kind == Kind::Directory {
                self.make_parents()?;
                let owner = self.copy.owner.unwrap_or(file.owner);
                let new = File { owner, mode: self.copy.mode.unwrap_or(file.mode), ..file.clone() };
                match self.to.get(&target) {
                    None => insert(self.to, &target, new.clone()),
                    Some(there) if there.kind == Kind::Directory => {}
                    Some(_) => return Err(Wrong),
                }
                self.inside(&source, &target, &below, true)?;
                self.to.insert(target, new);
            } else if is_taken {
                self.make_parents()?;
                self.copy.file(file, self.to, &target)?;
            }
        }
        Ok(())
    }

    /// New ones are like their sources, those that are there only get the mode.
    fn make_parents(&mut self) -> Result<(), Wrong> {
        for (path, file) in self.pending.drain(..) {
            match self.to.get_mut(&path) {
                Some(there) if there.kind == Kind::Directory => there.mode = file.mode,
                Some(_) => return Err(Wrong),
                None => {
                    let owner = self.copy.owner.unwrap_or(file.owner);
                    insert(self.to, &path, File { owner, mode: self.copy.mode.unwrap_or(file.mode), ..file });
                }
            }
        }
        Ok(())
    }
}

fn node(files: &Files) -> FileNode {
    let mut top = FileNode::empty();
    // Directories come before what is in them.
    for (path, file) in files {
        let mut meta = FileMeta::directory(file.mode, (file.time, 0));
        (meta.uid, meta.gid) = file.owner;
        let origin = match &file.kind {
            Kind::Directory => Origin::None,
            Kind::File(content) => {
                (meta.kind, meta.size) = (FileKind::Regular, content.len() as u64);
                Origin::Bytes(content.as_bytes().into())
            }
            Kind::Link(target) => {
                (meta.kind, meta.target) = (FileKind::Symlink, target.clone().into_bytes());
                Origin::None
            }
        };
        put(&mut top, path, FileNode::leaf(meta, origin));
    }
    top
}

fn written(files: &Files) -> BTreeMap<String, String> {
    files
        .iter()
        .map(|(path, file)| {
            let kind = match &file.kind {
                Kind::Directory => "dir".to_owned(),
                Kind::File(content) => format!("= {content}"),
                Kind::Link(target) => format!("-> {target}"),
            };
            (path.clone(), format!("{kind} {:o} {}:{} @{}", file.mode, file.owner.0, file.owner.1, file.time))
        })
        .collect()
}

fn paths() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "ab", "c.d"]);
    prop::collection::vec(name, 1..4).prop_map(|names| format!("/{}", names.join("/")))
}

/// Trees whose directories mostly have this mode.
fn trees(usual: u32) -> impl Strategy<Value = Files> {
    let target = prop_oneof![paths(), Just("..".to_owned()), Just("b".to_owned()), Just("../a/b".to_owned())];
    let kind = prop_oneof![
        4 => "[xyz]{0,2}".prop_map(Kind::File),
        3 => Just(Kind::Directory),
        2 => target.prop_map(Kind::Link),
    ];
    let mode = prop::sample::select(vec![0o755, 0o600, 0o4711]);
    let file = (kind, mode, 0..2u32, 1..5i64).prop_map(|(kind, mode, owner, time)| {
        let mode = if matches!(kind, Kind::Link(_)) { 0o777 } else { mode };
        File { kind, mode, owner: (owner, owner), time }
    });
    prop::collection::vec((paths(), file), 0..10).prop_map(move |all| {
        let mut files = Files::new();
        for (path, file) in all {
            let above: Vec<&str> = path.match_indices('/').skip(1).map(|(slash, _)| &path[..slash]).collect();
            let fits = above.iter().all(|above| !files.contains_key(*above) || is_directory(&files, above));
            if fits && !files.contains_key(&path) {
                let directory = File { kind: Kind::Directory, mode: usual, owner: (0, 0), time: 2 };
                for above in above {
                    files.entry(above.to_owned()).or_insert_with(|| directory.clone());
                }
                files.insert(path, file);
            }
        }
        files
    })
}

fn instructions() -> impl Strategy<Value = Instruction> {
    let source = prop_oneof![
        4 => paths(),
        1 => Just("/".to_owned()),
        2 => paths().prop_map(|path| format!("{path}*")),
        1 => paths().prop_map(|path| format!("{path}/*")),
    ];
    let destination = prop_oneof![5 => paths(), 4 => paths().prop_map(|path| path + "/"), 1 => Just("/".to_owned())];
    let owner = prop::option::weighted(0.3, (5..7u32, 5..7u32));
    let mode = prop::option::weighted(0.3, prop::sample::select(vec![0o700, 0o2644]));
    let pattern = prop::sample::select(vec!["a", "**/b", "a/b", "**/c.d"]).prop_map(str::to_owned);
    let exclude = prop::option::weighted(0.3, pattern);
    let parents = prop::sample::select(vec!["a", "a/b", "**/b", "b/*", "**/c.d"]).prop_map(str::to_owned);
    let include = prop::option::weighted(0.4, parents);
    (source, destination, owner, mode, exclude, include).prop_map(
        |(source, destination, owner, mode, exclude, include)| {
            let include = include.filter(|_| !source.contains('*'));
            Instruction { source, destination, owner, mode, exclude, include }
        },
    )
}

#[test]
fn copies_are_those_of_the_model() {
    let stage = Stage::new();
    let done = Cell::new(0);
    let config = ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() };
    let all = (trees(0o750), trees(0o711), prop::collection::vec(instructions(), 1..4));
    let result = TestRunner::new(config).run(&all, |(start, source, copies)| {
        let (from, mut to) = (node(&source), start.clone());
        let mut overlay = stage.overlay(&node(&start));
        for copy in &copies {
            let wanted = copy.run(&source, &mut to);
            let found = stage.copy(&mut overlay, &from, &copy.action(), copy.owner);
            prop_assert_eq!(wanted.is_ok(), found.is_ok(), "{:?} {:?}", copy, found);
            if wanted.is_err() {
                return Ok(());
            }
            prop_assert_eq!(written(&to), listing(&overlay), "after {:?}", copy);
            done.set(done.get() + 1);
        }
        Ok(())
    });
    result.unwrap();
    // Most of what is random is an error early on; enough must not be.
    assert!(done.get() > 300, "{}", done.get());
}
