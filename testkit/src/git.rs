//! Git repositories, and git's own server program behind a web server of this process.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::wire::{Request, Response};

/// Has `git http-backend` answer for the repositories below `root`.
pub fn answer(request: &Request, root: &Path) -> Response {
    backend(request, root).unwrap_or_else(|error| Response::new(500).body(error.to_string()))
}

/// The protocol of CGI (RFC 3875).
fn backend(request: &Request, root: &Path) -> io::Result<Response> {
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let header = |name: &str| request.header(name).unwrap_or_default();
    let mut child = command(root)
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
        .stderr(Stdio::null())
        .spawn()?;
    let piped = || io::Error::other("a stream is not piped");
    child.stdin.take().ok_or_else(piped)?.write_all(&request.body)?;
    let mut output = Vec::new();
    child.stdout.take().ok_or_else(piped)?.read_to_end(&mut output)?;
    child.wait()?;
    let end = output.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let body = output.split_off(end.ok_or_else(|| io::Error::other("git wrote no header"))? + 4);
    let mut response = Response::new(200).body(body);
    for (name, value) in String::from_utf8_lossy(&output).lines().filter_map(|line| line.split_once(": ")) {
        match name {
            "Status" => {
                let status = value.split(' ').next().unwrap_or_default();
                response.status = status.parse().map_err(io::Error::other)?;
            }
            "Content-Length" => {}
            _ => response = response.header(name, value),
        }
    }
    Ok(response)
}

/// Runs git in a folder and returns what it wrote.
///
/// # Panics
/// When it is not there or fails.
#[track_caller]
pub fn git(folder: &Path, words: &[&str]) -> String {
    let output = command(folder).arg("-C").arg(folder).args(words).output().expect("git is installed");
    assert!(output.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Git with an identity and a time of its own, and nothing of the machine's settings.
pub fn command(home: &Path) -> Command {
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
