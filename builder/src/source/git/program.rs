//! Running the `git` program on input that nobody vouches for.
//!
//! It sees neither the user's configuration nor their environment, asks nobody anything, runs no
//! hooks, and speaks to other machines only: what a repository names with `file://`, `ext::` or a
//! path is refused by git itself, in submodules and after redirects too. The address is handed
//! over as configuration, so it is not in the list of processes and cannot be taken for an option.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kiln_runtime::Cancel;
use rustix::process::{Pid, Signal};

use super::super::http::DISTRUST_HINT;
use crate::error::BuildError;
use crate::progress::OutputStream;
use crate::step::Step;

/// The protocols that git may speak.
const PROTOCOLS: &str = "http:https:git:ssh";
/// The name by which git knows the repository.
pub const REMOTE: &str = "kiln";
/// How long a server may be silent.
const STALL: Duration = Duration::from_secs(120);
/// How often a running git is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// Git says no more than this.
const LONGEST: usize = 64 << 20;
/// What git may know of the user's environment: the way out.
const PASSED: [&str; 12] = [
    "PATH",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
];

/// The git program, set up for one repository.
pub struct Git<'a> {
    /// An empty directory, for want of a home.
    pub home: &'a Path,
    /// The address of the repository.
    pub remote: &'a str,
    /// A header for the host of the repository.
    pub authorization: Option<Header>,
    /// The socket of an ssh agent.
    pub agent: Option<&'a Path>,
    /// Stops it.
    pub cancel: &'a Cancel,
    /// Hears what it says.
    pub step: &'a Step,
}

/// A header that only one host gets.
pub struct Header {
    /// `https://host/`.
    pub scope: String,
    /// `Authorization: …`.
    pub line: String,
}

impl Git<'_> {
    /// Runs git in a directory on what is on this machine, and returns what it wrote.
    ///
    /// # Errors
    /// When it is not installed, fails, or is cancelled.
    pub fn run(&self, directory: &Path, arguments: &[&str]) -> Result<String, BuildError> {
        self.run_for(directory, arguments, None)
    }

    /// Runs git in a directory where it talks to a server, and returns what it wrote.
    ///
    /// # Errors
    /// As [`Git::run`], and when the server is silent for too long.
    pub fn ask(&self, directory: &Path, arguments: &[&str]) -> Result<String, BuildError> {
        self.run_for(directory, arguments, Some(STALL))
    }

    fn run_for(&self, directory: &Path, arguments: &[&str], stall: Option<Duration>) -> Result<String, BuildError> {
        let mut command = Command::new("git");
        command.args(arguments).current_dir(directory);
        self.surround(&mut command);
        let output = run(command, stall, self.cancel).map_err(|failure| match failure {
            Failure::Cancelled => BuildError::cancelled(),
            Failure::Start(error) if error.kind() == io::ErrorKind::NotFound => {
                BuildError::environment("cannot run `git`: it is not installed")
                    .hint("sources that are git repositories need the `git` program; install it, or clone beforehand")
            }
            Failure::Start(error) => BuildError::environment(format!("cannot run `git`: {error}")),
            Failure::Stalled => BuildError::environment(format!(
                "{}: the server is silent for {} seconds",
                self.shown(),
                STALL.as_secs()
            ))
            .hint("is the address right, and the server up?"),
            Failure::Long => BuildError::environment(format!("{}: git writes more than {LONGEST} bytes", self.shown())),
        })?;
        let said = self.without_secrets(&String::from_utf8_lossy(&output.stderr));
        if output.success {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        // Progress ends its lines with a carriage return.
        let lines: Vec<&str> = said.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty()).collect();
        let complaints: Vec<&str> = lines.iter().copied().filter(|line| is_complaint(line)).collect();
        let why = if complaints.is_empty() {
            lines.last().copied().unwrap_or("git failed").to_owned()
        } else {
            complaints.join("; ")
        };
        let error = BuildError::environment(format!("{}: {why}", self.shown()));
        Err(match hint(&why, self.authorization.is_some(), self.remote) {
            Some(hint) => error.hint(hint),
            None => error,
        })
    }

    fn surround(&self, command: &mut Command) {
        command.env_clear();
        command.envs(PASSED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        if let Some(file) = std::env::var_os("SSL_CERT_FILE") {
            command.env("GIT_SSL_CAINFO", file);
        }
        command
            .env("HOME", self.home)
            .env("TMPDIR", self.home)
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TEMPLATE_DIR", "")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "/bin/false")
            .env("SSH_ASKPASS", "/bin/false")
            .env("GIT_ALLOW_PROTOCOL", PROTOCOLS)
            .env("GIT_LFS_SKIP_SMUDGE", "1")
            .env("GIT_SSH_COMMAND", self.ssh());
        if let Some(agent) = self.agent {
            command.env("SSH_AUTH_SOCK", agent);
        }
        let mut settings: Vec<(String, &str)> = vec![
            (format!("remote.{REMOTE}.url"), self.remote),
            ("core.hooksPath".to_owned(), "/dev/null"),
            ("core.fsmonitor".to_owned(), "false"),
            ("core.autocrlf".to_owned(), "false"),
            ("credential.helper".to_owned(), ""),
            ("gc.auto".to_owned(), "0"),
            ("maintenance.auto".to_owned(), "false"),
            ("advice.detachedHead".to_owned(), "false"),
            ("http.lowSpeedLimit".to_owned(), "1"),
            ("http.lowSpeedTime".to_owned(), "60"),
        ];
        if let Some(header) = &self.authorization {
            settings.push((format!("http.{}.extraHeader", header.scope), &header.line));
            // Git would show the header to whoever it is sent to.
            settings.push(("http.followRedirects".to_owned(), "false"));
        }
        command.env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (number, (name, value)) in settings.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{number}"), name).env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
    }

    /// The user's list of known hosts counts, and nothing else of their configuration.
    fn ssh(&self) -> OsString {
        let mut text =
            OsString::from("ssh -F /dev/null -o BatchMode=yes -o ConnectTimeout=30 -o ServerAliveInterval=15");
        match std::env::var_os("HOME") {
            Some(home) if !home.to_string_lossy().contains(['\'', '"', '\\', '%', ' ']) => {
                text.push(" -o 'UserKnownHostsFile=");
                text.push(home);
                text.push("/.ssh/known_hosts'");
            }
            _ => {}
        }
        text
    }

    /// The address, without what may be a password.
    fn shown(&self) -> String {
        self.without_secrets(self.remote)
    }

    fn without_secrets(&self, text: &str) -> String {
        match user_info(self.remote) {
            Some(secret) => text.replace(&format!("{secret}@"), "xxxxx@"),
            None => text.to_owned(),
        }
    }

    /// Shows a line of what git said.
    pub fn show(&self, line: &str) {
        self.step.output(OutputStream::Stdout, format!("{}\n", self.without_secrets(line)).as_bytes());
    }
}

/// Returns what stands before the host of a URL.
pub fn user_info(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    authority.rsplit_once('@').map(|(user, _)| user)
}

fn is_complaint(line: &str) -> bool {
    ["fatal: ", "error: ", "ERROR: ", "remote: "].iter().any(|start| line.starts_with(start))
        || line.contains("Permission denied")
        || line.contains("Host key verification failed")
}

fn hint(why: &str, has_authorization: bool, remote: &str) -> Option<String> {
    let asks = ["could not read Username", "Authentication failed", "terminal prompts disabled", "401", "403"];
    if why.contains("transport '") && why.contains("not allowed") || why.contains("protocol '") {
        Some("only http, https, git and ssh are spoken, also in submodules".to_owned())
    } else if why.contains("Host key verification failed") {
        Some(unknown_host(remote))
    } else if why.contains("Permission denied (") {
        Some("lend an agent with the right key: `--ssh default`".to_owned())
    } else if has_authorization && why.contains("redirect") {
        Some("credentials are not shown to where the server redirects; name that address".to_owned())
    } else if why.contains("certificate") {
        Some(DISTRUST_HINT.to_owned())
    } else if asks.iter().any(|text| why.contains(text)) {
        Some("if the repository is private: `--secret id=GIT_AUTH_TOKEN,src=FILE`".to_owned())
    } else {
        None
    }
}

/// What to do about an ssh server that nobody knows.
fn unknown_host(remote: &str) -> String {
    let rest = remote.split_once("://").map_or(remote, |(_, rest)| rest);
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let host = host.split('/').next().unwrap_or_default();
    // Behind the colon is a port, or in the short form a path.
    let (host, port) = host.split_once(':').unwrap_or((host, ""));
    let port =
        if port.parse::<u16>().is_ok() && remote.contains("://") { format!("-p {port} ") } else { String::new() };
    format!(
        "put the server's key into `~/.ssh/known_hosts`: `ssh-keyscan {port}{host}` shows it, its owner knows whether it is right"
    )
}

/// What a program that came to its end did.
struct Output {
    success: bool,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

/// Why there is no output.
#[derive(Debug)]
enum Failure {
    Start(io::Error),
    Stalled,
    Long,
    Cancelled,
}

/// What the readers of a program's output share.
struct Heard {
    last: Mutex<Instant>,
}

impl Heard {
    fn last(&self) -> Instant {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a program and everything that it starts. It is killed when it says nothing for `stall`.
fn run(mut command: Command, stall: Option<Duration>, cancel: &Cancel) -> Result<Output, Failure> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(Failure::Start)?;
    let heard = Arc::new(Heard { last: Mutex::new(Instant::now()) });
    let readers = [
        child.stdout.take().map(|stream| reader(stream, &heard)),
        child.stderr.take().map(|stream| reader(stream, &heard)),
    ];
    while !has_ended(&child) {
        let is_cancelled = cancel.wait(LOOK);
        if is_cancelled || stall.is_some_and(|stall| heard.last().elapsed() > stall) {
            kill_group(&child);
            let _ = child.wait();
            return Err(if is_cancelled { Failure::Cancelled } else { Failure::Stalled });
        }
    }
    // A helper that outlives git would keep its streams open. Until git is waited for, its number is its own.
    kill_group(&child);
    let status = child.wait().map_err(Failure::Start)?;
    let [stdout, stderr] = readers.map(|reader| reader.and_then(|reader| reader.join().ok()).unwrap_or_default());
    if stdout.len() > LONGEST || stderr.len() > LONGEST {
        return Err(Failure::Long);
    }
    Ok(Output { success: status.success(), stdout, stderr })
}

fn reader(mut stream: impl Read + Send + 'static, heard: &Arc<Heard>) -> std::thread::JoinHandle<Vec<u8>> {
    let heard = heard.clone();
    std::thread::spawn(move || {
        let mut all = Vec::new();
        let mut buffer = [0; 8192];
        // What is too long closes the pipe, and ends whoever writes to it.
        while all.len() <= LONGEST {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => all.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            }
            *heard.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
        all
    })
}

/// Whether a program has come to its end; it is not waited for.
fn has_ended(child: &Child) -> bool {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(waitid(WaitId::Pid(Pid::from_child(child)), options), Ok(None))
}

/// Kills a program with everything that it started.
fn kill_group(child: &Child) {
    let _ = rustix::process::kill_process_group(Pid::from_child(child), Signal::KILL);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_silent_program_is_killed_with_what_it_started() {
        let begun = Instant::now();
        let failure = run(shell("sleep 100 & sleep 100"), Some(Duration::from_millis(50)), &Cancel::new()).err();
        assert!(matches!(failure, Some(Failure::Stalled)), "{failure:?}");
        assert!(begun.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_program_that_says_something_may_go_on() {
        let output = run(
            shell("for i in 1 2 3 4 5; do echo $i >&2; sleep 0.05; done; echo end"),
            Some(Duration::from_secs(20)),
            &Cancel::new(),
        );
        let output = output.map_err(|failure| format!("{failure:?}")).unwrap();
        assert!(output.success);
        assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"end\n"[..], &b"1\n2\n3\n4\n5\n"[..]));
    }

    #[test]
    fn cancelling_ends_the_wait() {
        let cancel = Cancel::new();
        cancel.cancel();
        assert!(matches!(run(shell("sleep 100"), None, &cancel), Err(Failure::Cancelled)));
    }

    #[test]
    fn a_missing_program_is_said_to_be_missing() {
        let failure = run(Command::new("/nonexistent/git"), None, &Cancel::new()).err();
        assert!(matches!(failure, Some(Failure::Start(error)) if error.kind() == io::ErrorKind::NotFound));
    }

    #[test]
    fn a_password_is_found_before_the_host() {
        assert_eq!(user_info("https://me:pw@host/r.git"), Some("me:pw"));
        assert_eq!(user_info("https://host/a@b.git"), None);
        assert_eq!(user_info("git@host:r"), None);
    }
}
