//! `kiln context`: what a build would see of a directory, and why.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use clap::{Args, Subcommand};
use kiln_builder::seam::{ContextRoot, Contexts as _};
use kiln_builder::{BuildError, SeenFile, survey};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use serde_json::json;

use crate::input::build_file;
use crate::input::context::{LocalContexts, Main};
use crate::input::origin;
use crate::message::Failure;
use crate::progress::text::one_line;
use crate::table;
use crate::units::bytes;

/// The arguments of `kiln context`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List what a build would see
    Ls {
        #[command(flatten)]
        place: Place,
        /// The context directory
        #[arg(value_name = "CONTEXT", default_value = ".")]
        context: String,
    },
    /// Show how large its directories are, the largest first
    Du {
        #[command(flatten)]
        place: Place,
        /// Show directories down to this depth
        #[arg(long, value_name = "NUMBER", default_value_t = 2)]
        depth: usize,
        /// The context directory
        #[arg(value_name = "CONTEXT", default_value = ".")]
        context: String,
    },
    /// Say which line of which ignore file decided about a path
    Why {
        #[command(flatten)]
        place: Place,
        /// The path, relative to the context
        #[arg(value_name = "PATH")]
        path: String,
        /// The context directory
        #[arg(value_name = "CONTEXT", default_value = ".")]
        context: String,
    },
}

/// Which ignore file counts, and in which form the answer is given.
#[derive(Debug, Args)]
struct Place {
    /// The build file, whose own ignore file counts before that of the context
    #[arg(short, long, value_name = "FILE")]
    file: Option<String>,
    /// Leave out what this file says, instead of the context's `.dockerignore`
    #[arg(long = "ignorefile", value_name = "FILE")]
    ignore_file: Option<String>,
    /// Print in this form
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: Form,
}

/// In which form the answer is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// Text
    Table,
    /// One JSON object per line
    Json,
}

/// Runs `kiln context`.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let text = match &arguments.what {
        What::Ls { place, context } => list(&survey(&place.open(context)?)?, place.format),
        What::Du { place, depth, context } => sizes(&survey(&place.open(context)?)?, *depth, place.format),
        What::Why { place, path, context } => why(&place.open(context)?, path, place.format),
    };
    super::print(&text)
}

impl Place {
    fn open(&self, context: &str) -> Result<ContextRoot, BuildError> {
        let current = std::env::current_dir()
            .map_err(|error| BuildError::environment(format!("cannot tell the current directory: {error}")))?;
        let directory = current.join(context);
        if !directory.is_dir() {
            let error = BuildError::input(format!("`{context}` is not a directory"));
            return Err(match origin::locate(context, &current) {
                Ok(_) => error.hint("only directories of this machine can be looked at"),
                Err(_) => error,
            });
        }
        // It need not be there: only its name counts.
        let build_file = match &self.file {
            Some(file) => Some(current.join(file)),
            None => build_file::NAMES.map(|name| directory.join(name)).into_iter().find(|path| path.is_file()),
        };
        let mut contexts = LocalContexts::new(Main::Directory(directory), build_file.as_deref(), BTreeMap::new())?;
        if let Some(name) = &self.ignore_file {
            contexts = contexts.with_ignore_file(&current.join(name), name)?;
        }
        contexts.ignored()?;
        contexts.open("context").map_err(|error| BuildError::input(format!("cannot open the build context: {error}")))
    }
}

fn shown(path: &[u8]) -> String {
    one_line(&String::from_utf8_lossy(path))
}

fn list(files: &[SeenFile], form: Form) -> String {
    let line = |file: &SeenFile| match form {
        Form::Table if file.kind == "directory" => format!("{}/\n", shown(&file.path)),
        Form::Table => format!("{}\n", shown(&file.path)),
        Form::Json => {
            let path = String::from_utf8_lossy(&file.path);
            format!("{}\n", json!({ "path": path, "type": file.kind, "size": file.size }))
        }
    };
    files.iter().map(line).collect()
}

fn sizes(files: &[SeenFile], depth: usize, form: Form) -> String {
    // For each directory: bytes and files.
    let mut sums: BTreeMap<&[u8], (u64, u64)> = BTreeMap::from([(&b"."[..], (0, 0))]);
    let mut add = |path, size, count| {
        let (bytes, files) = sums.entry(path).or_default();
        (*bytes, *files) = (*bytes + size, *files + count);
    };
    for file in files {
        if file.kind == "directory" {
            add(&file.path, 0, 0);
            continue;
        }
        add(b".", file.size, 1);
        for (slash, _) in file.path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            add(&file.path[..slash], file.size, 1);
        }
    }
    let level = |path: &[u8]| if path == b"." { 0 } else { 1 + path.iter().filter(|byte| **byte == b'/').count() };
    let mut sums: Vec<_> = sums.into_iter().filter(|(path, _)| level(path) <= depth).collect();
    // Of equal ones the one above comes first.
    sums.sort_by(|(one, (first, _)), (other, (second, _))| second.cmp(first).then(one.cmp(other)));
    if form == Form::Json {
        let line = |(path, (bytes, files)): &(&[u8], (u64, u64))| {
            format!("{}\n", json!({ "path": String::from_utf8_lossy(path), "size": bytes, "files": files }))
        };
        return sums.iter().map(line).collect();
    }
    let mut rows = vec![["SIZE", "FILES", "DIRECTORY"].map(str::to_owned).to_vec()];
    rows.extend(sums.iter().map(|(path, (size, files))| vec![bytes(*size), files.to_string(), shown(path)]));
    table::draw(&rows)
}

/// What decided about a path.
struct Decision<'a> {
    /// Which line says so: the ignore file, its line and pattern.
    line: Option<(&'a str, usize, String)>,
    /// The path that it matches: the one in question, or a directory above.
    matched: &'a str,
    is_ignored: bool,
}

fn why(context: &ContextRoot, path: &str, form: Form) -> String {
    // An absolute path is one of the machine when it leads into the context, and else starts there, as in a COPY.
    let inside = Path::new(path).strip_prefix(&context.path).ok().and_then(Path::to_str);
    let asked = clean(inside.unwrap_or(path));
    let clean = real(context, &asked);
    let is_there = context.path.join(&clean).symlink_metadata().is_ok();
    let decision = decide(context, &clean);
    let Decision { line, matched, is_ignored } = &decision;
    if form == Form::Json {
        let mut object = json!({ "path": clean, "exists": is_there, "ignored": is_ignored });
        if let Some((file, number, pattern)) = line {
            object["ignoreFile"] = json!(file);
            object["line"] = json!(number);
            object["pattern"] = json!(pattern);
            object["matches"] = json!(matched);
        }
        return format!("{object}\n");
    }
    let verdict = match (*is_ignored, is_there) {
        (true, true) => "is left out",
        (true, false) => "would be left out",
        (false, true) => "is in the context",
        (false, false) => "would be in the context",
    };
    let reason = match line {
        None => match &context.ignore {
            Some((name, _)) => format!("nothing in {name} is about it"),
            None => "there is no ignore file".to_owned(),
        },
        Some((file, number, pattern)) if *matched == clean => format!("{file}:{number} `{pattern}`"),
        Some((file, number, pattern)) => format!("{file}:{number} `{pattern}` is about `{matched}`, which it is in"),
    };
    let absent = if is_there { "" } else { " (there is no such file)" };
    let name = |path: &str| if path.is_empty() { "`.`".to_owned() } else { format!("`{}`", one_line(path)) };
    let subject = if asked == clean { name(&clean) } else { format!("{} is {}, which", name(&asked), name(&clean)) };
    format!("{subject} {verdict}: {}{absent}\n", one_line(&reason))
}

/// Follows the symlinks on the way to a path, which stay in the context as they do for a COPY. A last one is the file itself.
fn real(context: &ContextRoot, path: &str) -> String {
    let Some((parents, name)) = path.rsplit_once('/') else { return path.to_owned() };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = openat2(&context.directory, parents, flags, Mode::empty(), resolve).ok();
    let place = found.and_then(|found| std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).ok());
    let below = place.and_then(|place| Some(place.strip_prefix(&context.path).ok()?.join(name).to_str()?.to_owned()));
    below.unwrap_or_else(|| path.to_owned())
}

fn decide<'a>(context: &'a ContextRoot, path: &'a str) -> Decision<'a> {
    let none = Decision { line: None, matched: path, is_ignored: false };
    let Some((file, patterns)) = &context.ignore else { return none };
    let verdict = patterns.verdict_of(path);
    let Some(pattern) = verdict.decided_by.and_then(|index| patterns.patterns().get(index)) else { return none };
    // The directory nearest to the root that it decided about.
    let mut ends = path.match_indices('/').map(|(slash, _)| slash).chain([path.len()]);
    let end = ends.find(|end| patterns.verdict_of(&path[..*end]).decided_by == verdict.decided_by);
    let mark = if pattern.is_exception { "!" } else { "" };
    Decision {
        line: Some((file, pattern.line, format!("{mark}{}", pattern.text))),
        matched: &path[..end.unwrap_or(path.len())],
        is_ignored: verdict.matched,
    }
}

/// Makes a path what patterns are compared with: relative, and without `.` and `..`.
fn clean(path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in Path::new(path).components() {
        match name {
            std::path::Component::Normal(name) => names.extend(name.to_str()),
            std::path::Component::ParentDir => drop(names.pop()),
            _ => {}
        }
    }
    names.join("/")
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use kiln_frontend::dockerignore;

    use super::*;

    fn files() -> Vec<SeenFile> {
        let file = |path: &str, kind, size| SeenFile { path: path.into(), kind, size };
        vec![
            file("a", "file", 10),
            file("d", "directory", 0),
            file("d/e", "directory", 0),
            file("d/e/f", "directory", 0),
            file("d/e/f/b\nig", "file", 5_000_000),
            file("l", "symlink", 0),
        ]
    }

    fn context(ignore: &str) -> (tempfile::TempDir, ContextRoot) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("keep.log"), "").unwrap();
        std::fs::write(directory.path().join(".dockerignore"), ignore).unwrap();
        let root = ContextRoot {
            directory: std::fs::File::open(directory.path()).unwrap(),
            path: directory.path().to_owned(),
            ignore: Some((".dockerignore".to_owned(), dockerignore::parse(ignore).unwrap())),
        };
        (directory, root)
    }

    #[test]
    fn files_are_listed_by_line() {
        assert_snapshot!(list(&files(), Form::Table), @r"
        a
        d/
        d/e/
        d/e/f/
        d/e/f/b ig
        l
        ");
        assert_snapshot!(list(&files()[..2], Form::Json), @r#"
        {"path":"a","size":10,"type":"file"}
        {"path":"d","size":0,"type":"directory"}
        "#);
    }

    #[test]
    fn the_largest_directory_comes_first() {
        assert_snapshot!(sizes(&files(), 2, Form::Table), @r"
        SIZE   FILES   DIRECTORY
        5MB    3       .
        5MB    1       d
        5MB    1       d/e
        ");
        assert_snapshot!(sizes(&files(), 0, Form::Json), @r#"{"files":3,"path":".","size":5000010}"#);
    }

    #[test]
    fn every_verdict_has_its_line() {
        let (_directory, root) = context("# noise\n*.log\n!keep.log\nbuild\n");
        let say = |path: &str| why(&root, path, Form::Table);
        assert_snapshot!(say("a.log"), @"`a.log` would be left out: .dockerignore:2 `*.log` (there is no such file)");
        assert_snapshot!(say("./keep.log"), @"`keep.log` is in the context: .dockerignore:3 `!keep.log`");
        assert_snapshot!(say("build/x/y"), @"`build/x/y` would be left out: .dockerignore:4 `build` is about `build`, which it is in (there is no such file)");
        assert_snapshot!(say("/src/../Dockerfile"), @"`Dockerfile` would be in the context: nothing in .dockerignore is about it (there is no such file)");
        assert_snapshot!(say("."), @"`.` is in the context: nothing in .dockerignore is about it");
        std::fs::create_dir(root.path.join("build")).unwrap();
        std::fs::write(root.path.join("build/out"), "").unwrap();
        std::os::unix::fs::symlink("/build", root.path.join("made")).unwrap();
        assert_snapshot!(say("made/out"), @"`made/out` is `build/out`, which is left out: .dockerignore:4 `build` is about `build`, which it is in");
        assert_snapshot!(say("made"), @"`made` is in the context: nothing in .dockerignore is about it");
        let absolute = root.path.join("keep.log");
        assert_eq!(say(absolute.to_str().unwrap()), say("keep.log"));
        assert_snapshot!(why(&root, "build/x", Form::Json), @r#"{"exists":false,"ignoreFile":".dockerignore","ignored":true,"line":4,"matches":"build","path":"build/x","pattern":"build"}"#);
    }
}
