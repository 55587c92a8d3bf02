//! What `{HTTP}` and `{GIT}` stand for: a web server and a git repository behind it.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kiln_testkit::context::{self, Entry, Kind, archive};
use kiln_testkit::{Request, Response, Server};
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
        path if path.contains("/r.git") => {
            git_backend(request, repository).unwrap_or_else(|error| Response::new(500).body(error.to_string()))
        }
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

/// Has git's own server program answer (the protocol of CGI, RFC 3875).
fn git_backend(request: &Request, root: &Path) -> Result<Response> {
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let header = |name: &str| request.header(name).unwrap_or_default();
    let mut child = git(root)
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("REQUEST_METHOD", &request.method)
        .env("REMOTE_ADDR", "127.0.0.1")
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child.stdin.take().ok_or("stdin is piped")?.write_all(&request.body)?;
    let mut output = Vec::new();
    child.stdout.take().ok_or("stdout is piped")?.read_to_end(&mut output)?;
    child.wait()?;
    let end = output.windows(4).position(|bytes| bytes == b"\r\n\r\n").ok_or("git wrote no header")?;
    let body = output.split_off(end + 4);
    let mut response = Response::new(200).body(body);
    for (name, value) in String::from_utf8(output)?.lines().filter_map(|line| line.split_once(": ")) {
        match name {
            "Status" => response.status = value.split(' ').next().unwrap_or_default().parse()?,
            "Content-Length" => {}
            _ => response = response.header(name, value),
        }
    }
    Ok(response)
}

/// Makes the repository `r.git` in `root`; returns the newest commit of `main`.
fn make_repository(root: &Path) -> Result<String> {
    let source = root.join("src");
    let file = |path: &str, text: &str| Entry { path: path.into(), content: text.into(), ..Entry::default() };
    let link = Entry { path: "lnk".into(), kind: Kind::Symlink, link: "f".into(), ..Entry::default() };
    let script = Entry { mode: Some("755".into()), ..file("run.sh", "#!/bin/sh\n") };
    let files = [file(".gitignore", "*.log\n"), file("f", "one\n"), link, script, file("sub/deep/g", "x\n")];
    context::make(&source, &files)?;
    let run = |words: &[&str]| -> Result<String> {
        let output = git(root).arg("-C").arg(&source).args(words).output()?;
        if !output.status.success() {
            return Err(format!("git {words:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    run(&["init", "-q", "-b", "main"])?;
    run(&["add", "-A"])?;
    run(&["commit", "-qm", "one"])?;
    run(&["tag", "v1"])?;
    run(&["tag", "-am", "v1a", "v1a"])?;
    let commit = run(&["rev-parse", "HEAD"])?;
    run(&["checkout", "-qb", "feat"])?;
    fs::write(source.join("f"), "two\n")?;
    run(&["commit", "-qam", "two"])?;
    run(&["checkout", "-q", "main"])?;
    run(&["clone", "-q", "--bare", ".", "../r.git"])?;
    for key in ["uploadpack.allowAnySHA1InWant", "uploadpack.allowFilter"] {
        run(&["-C", "../r.git", "config", key, "true"])?;
    }
    Ok(commit)
}

/// Git with an identity and a time of its own, and nothing of the machine's settings.
fn git(home: &Path) -> Command {
    let mut command = Command::new("git");
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", home);
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    command.env("GIT_CONFIG_COUNT", "1").env("GIT_CONFIG_KEY_0", "safe.directory").env("GIT_CONFIG_VALUE_0", "*");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "kiln").env(format!("GIT_{who}_EMAIL"), "kiln@example.com");
        command.env(format!("GIT_{who}_DATE"), "1000000000 +0000");
    }
    command
}
