//! What `{HTTP}` and `{GIT}` stand for: a web server and a git repository behind it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use kiln_testkit::context::{self, Entry, Kind, archive};
use kiln_testkit::{Request, Response, Server, git};
use tempfile::TempDir;

use crate::case::Case;
use crate::play::Result;

/// Stands for the newest commit of the branch `main` in recorded texts.
const COMMIT: &str = "8aa8209ab7374f753830621ab5745204930d8ef0";
const TIME: &str = "Sun, 09 Sep 2001 01:46:40 GMT";

/// The servers of one case, gone with this value.
#[derive(Debug, Default)]
pub struct Servers {
    /// What is written for what.
    names: Vec<(String, String)>,
    _server: Option<Server>,
    _repository: Option<TempDir>,
}

impl Servers {
    /// Starts what a case mentions.
    pub fn of(case: &Case) -> Result<Self> {
        let mut servers = Self::default();
        let git = case.mentions("{GIT}") || case.mentions(&COMMIT[..7]);
        if !git && !case.mentions("{HTTP}") {
            return Ok(servers);
        }
        let mut root = PathBuf::new();
        if git {
            let folder = tempfile::tempdir()?;
            let commit = make_repository(folder.path())?;
            servers.names.push((COMMIT.to_owned(), commit.clone()));
            servers.names.push((COMMIT[..7].to_owned(), commit[..7].to_owned()));
            root = folder.path().to_owned();
            servers._repository = Some(folder);
        }
        let server = Server::start(move |request| answer(request, &root));
        let url = format!("http://{}", server.address());
        servers.names.push(("{GIT}".to_owned(), format!("{url}/r.git")));
        servers.names.push(("{HTTP}".to_owned(), url));
        servers._server = Some(server);
        Ok(servers)
    }

    /// Puts real names into a text.
    pub fn name(&self, text: &str) -> String {
        self.names.iter().fold(text.to_owned(), |text, (recorded, real)| text.replace(recorded, real))
    }
}

fn answer(request: &Request, repository: &Path) -> Response {
    let ok = |body: &[u8]| Response::new(200).body(body);
    match request.path() {
        path if path.contains("/r.git") => git::answer(request, repository),
        path if path.ends_with(".tar.gz") => {
            let entry = Entry { path: "in/f".into(), content: "x".into(), ..Entry::default() };
            match archive(&[entry], context::Compression::Gzip) {
                Ok(bytes) => ok(&bytes).header("Last-Modified", TIME),
                Err(error) => Response::new(500).body(error.to_string()),
            }
        }
        "/lm.txt" => ok(b"hello").header("Last-Modified", TIME),
        "/etag.txt" => ok(b"hello").header("Last-Modified", TIME).header("ETag", "\"abc\""),
        "/cd" => ok(b"hello").header("Content-Disposition", "attachment; filename=\"named.bin\""),
        "/404" => Response::new(404).body("hello"),
        "/500" => Response::new(500).body("hello"),
        "/redir" => Response::new(302).header("Location", "/lm.txt"),
        "/gz" => {
            let mut plain = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            let packed = plain.write_all(b"plain").and_then(|()| plain.finish()).unwrap_or_default();
            ok(&packed).header("Content-Encoding", "gzip")
        }
        _ => ok(b"hello"),
    }
}

/// Makes the repository `r.git` in `root`; returns the newest commit of `main`.
fn make_repository(root: &Path) -> Result<String> {
    let source = root.join("src");
    let file = |path: &str, text: &str| Entry { path: path.into(), content: text.into(), ..Entry::default() };
    let link = Entry { path: "lnk".into(), kind: Kind::Symlink, link: "f".into(), ..Entry::default() };
    let script = Entry { mode: Some("755".into()), ..file("run.sh", "#!/bin/sh\n") };
    let files = [file(".gitignore", "*.log\n"), file("f", "one\n"), link, script, file("sub/deep/g", "x\n")];
    context::make(&source, &files)?;
    let run = |words: &[&str]| git::git(&source, words);
    run(&["init", "-q", "-b", "main"]);
    run(&["add", "-A"]);
    run(&["commit", "-qm", "one"]);
    run(&["tag", "v1"]);
    run(&["tag", "-am", "v1a", "v1a"]);
    let commit = run(&["rev-parse", "HEAD"]);
    run(&["checkout", "-qb", "feat"]);
    fs::write(source.join("f"), "two\n")?;
    run(&["commit", "-qam", "two"]);
    run(&["checkout", "-q", "main"]);
    run(&["clone", "-q", "--bare", ".", "../r.git"]);
    for key in ["uploadpack.allowAnySHA1InWant", "uploadpack.allowFilter"] {
        run(&["-C", "../r.git", "config", key, "true"]);
    }
    Ok(commit)
}
