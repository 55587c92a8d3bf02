//! `--ssh`: the agents that are forwarded.
//!
//! ```text
//! --ssh default                      the agent of SSH_AUTH_SOCK
//! --ssh work=/run/agent.sock         the agent at this socket
//! --ssh work=~/.ssh/id,other.pem     these keys, in an agent of kiln's own
//! --ssh work=/run/x.sock,raw=true    the socket, whatever is spoken on it
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use kiln_builder::BuildError;
use kiln_builder::seam::Agent;
use kiln_frontend::dockerfile::csv;

/// The largest key file, as with BuildKit.
const LARGEST: u64 = 100 << 10;

/// The agents that the command line names.
#[derive(Debug, Default)]
pub struct NamedAgents {
    agents: BTreeMap<String, Agent>,
    /// Those of our own: they end with this value.
    own: Vec<KeyAgent>,
}

/// What one `--ssh` names.
#[derive(Debug, PartialEq, Eq)]
struct Forward {
    id: String,
    paths: Vec<PathBuf>,
    is_raw: bool,
}

impl NamedAgents {
    /// Reads the values of all `--ssh` flags, and starts an agent where keys are given. `usual` is the value of
    /// SSH_AUTH_SOCK; relative paths are taken from `current`.
    ///
    /// # Errors
    /// When one is malformed, names something that is neither a socket nor a key, or when the agent cannot be started.
    pub fn parse(texts: &[String], usual: Option<PathBuf>, current: &Path) -> Result<Self, BuildError> {
        let mut named = Self::default();
        for text in texts {
            let wrong = |error: BuildError| error.context(format!("invalid value `{text}` for `--ssh`"));
            let forward = parse(text).map_err(wrong)?;
            if named.agents.contains_key(&forward.id) {
                return Err(wrong(BuildError::input(format!("`{}` is given twice", forward.id))));
            }
            let agent = named.agent(&forward, usual.as_deref(), current).map_err(wrong)?;
            named.agents.insert(forward.id, agent);
        }
        Ok(named)
    }

    /// Returns an agent by its name.
    pub fn get(&self, id: &str) -> Option<&Agent> {
        self.agents.get(id)
    }

    fn agent(&mut self, forward: &Forward, usual: Option<&Path>, current: &Path) -> Result<Agent, BuildError> {
        let is_raw = forward.is_raw;
        if forward.paths.is_empty() {
            let socket = usual.filter(|path| !path.as_os_str().is_empty()).ok_or_else(|| {
                BuildError::input("invalid empty ssh agent socket, make sure SSH_AUTH_SOCK is set").hint(format!(
                    "start an agent with `eval $(ssh-agent)`, or name a key: `--ssh {}=FILE`",
                    forward.id
                ))
            })?;
            let socket = current.join(socket);
            if !is_socket(&socket)? {
                return Err(BuildError::input(format!(
                    "SSH_AUTH_SOCK names `{}`, which is no socket",
                    socket.display()
                )));
            }
            return Ok(Agent { socket, is_raw });
        }
        let paths: Vec<PathBuf> = forward.paths.iter().map(|path| current.join(path)).collect();
        let sockets = paths.iter().map(|path| is_socket(path)).collect::<Result<Vec<bool>, _>>()?;
        match (&paths[..], sockets.iter().filter(|is_socket| **is_socket).count()) {
            ([socket], 1) => Ok(Agent { socket: socket.clone(), is_raw }),
            (_, 0) if is_raw => Err(BuildError::input("raw mode only supported with socket paths")),
            (_, 0) => {
                let own = KeyAgent::start(&paths)?;
                let socket = own.socket.clone();
                self.own.push(own);
                Ok(Agent { socket, is_raw })
            }
            (_, count) if count == paths.len() => Err(BuildError::input("only single socket allowed")),
            _ => Err(BuildError::input("invalid combination of agent socket and key files")),
        }
    }
}

fn parse(text: &str) -> Result<Forward, BuildError> {
    let (id, rest) = text.split_once('=').unwrap_or((text, ""));
    if id.is_empty() {
        return Err(BuildError::input("the name is missing").hint("for example `--ssh default`"));
    }
    let (mut paths, mut is_raw) = (Vec::new(), false);
    for field in rest.split(',').filter(|field| !field.is_empty()) {
        match field.strip_prefix("raw=") {
            Some(value) => {
                is_raw = csv::boolean(value)
                    .ok_or_else(|| BuildError::input(format!("`raw={value}` is neither true nor false")))?;
            }
            None => paths.push(field.into()),
        }
    }
    Ok(Forward { id: id.to_owned(), paths, is_raw })
}

fn is_socket(path: &Path) -> Result<bool, BuildError> {
    let kind = std::fs::metadata(path).map_err(|error| unreadable(path, &error))?.file_type();
    if kind.is_dir() {
        return Err(BuildError::input(format!("`{}` is a directory", path.display())));
    }
    Ok(kind.is_socket())
}

fn unreadable(path: &Path, error: &io::Error) -> BuildError {
    BuildError::input(format!("cannot read `{}`: {error}", path.display()))
}

/// An `ssh-agent` with keys from files, for this build alone.
///
/// It is started around a command that waits for the end of its input: when kiln ends, however it ends, so does that, and
/// the agent sees it and goes.
#[derive(Debug)]
struct KeyAgent {
    child: Child,
    agent: Option<rustix::process::Pid>,
    socket: PathBuf,
}

/// Says which process the agent is and where it listens, and waits.
const ANNOUNCE: &str = r#"echo "$SSH_AGENT_PID $SSH_AUTH_SOCK"; exec cat >/dev/null"#;

impl KeyAgent {
    fn start(keys: &[PathBuf]) -> Result<Self, BuildError> {
        let mut command = Command::new("ssh-agent");
        // A Ctrl-C at the terminal is for kiln, which ends the agent itself.
        command.args(["sh", "-c", ANNOUNCE]).process_group(0);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| cannot_run("ssh-agent", &error))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            let _ = BufReader::new(stdout).read_line(&mut line);
        }
        let (agent, socket) = line.trim_end().split_once(' ').unwrap_or_default();
        let agent = agent.parse().ok().and_then(rustix::process::Pid::from_raw);
        let own = Self { child, agent, socket: socket.into() };
        if own.agent.is_none() {
            return Err(BuildError::environment("`ssh-agent` did not start"));
        }
        for key in keys {
            own.add(key)?;
        }
        Ok(own)
    }

    fn add(&self, key: &Path) -> Result<(), BuildError> {
        let mut bytes = Vec::new();
        let read = File::open(key).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes));
        read.map_err(|error| unreadable(key, &error))?;
        if bytes.len() as u64 > LARGEST {
            return Err(BuildError::input(format!("`{}` is too large for a key", key.display())));
        }
        // Through the standard input, where the file's mode does not matter.
        let mut child = Command::new("ssh-add")
            .args(["-q", "-"])
            .env("SSH_AUTH_SOCK", &self.socket)
            .env("SSH_ASKPASS_REQUIRE", "never")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| cannot_run("ssh-add", &error))?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read says why at its end.
            let _ = stdin.write_all(&bytes);
        }
        let done = child.wait_with_output().map_err(|error| cannot_run("ssh-add", &error))?;
        if done.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&done.stderr);
        let said = said.lines().next_back().unwrap_or_default().trim();
        Err(BuildError::input(format!("`{}` is no private key that `ssh-add` takes: {said}", key.display()))
            .hint("a key with a passphrase must be in an agent already: `ssh-add FILE`, then `--ssh default`"))
    }
}

impl Drop for KeyAgent {
    fn drop(&mut self) {
        if let Some(agent) = self.agent {
            let _ = rustix::process::kill_process(agent, rustix::process::Signal::TERM);
        }
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn cannot_run(program: &str, error: &io::Error) -> BuildError {
    BuildError::environment(format!("cannot run `{program}`, which kiln needs for key files: {error}"))
        .hint("install OpenSSH's client (Debian: `openssh-client`), or forward an agent: `--ssh default`")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn agents(texts: &[&str], usual: Option<&Path>, current: &Path) -> Result<NamedAgents, BuildError> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        NamedAgents::parse(&texts, usual.map(Path::to_owned), current)
    }

    #[test]
    fn sockets_are_taken_as_they_are() {
        let directory = tempfile::tempdir().unwrap();
        let here = directory.path();
        let _listeners = ["one", "two"].map(|name| UnixListener::bind(here.join(name)).unwrap());
        let found = agents(&["default", "work=two,raw=true"], Some(&here.join("one")), here).unwrap();
        assert_eq!(found.get("default"), Some(&Agent { socket: here.join("one"), is_raw: false }));
        assert_eq!(found.get("work"), Some(&Agent { socket: here.join("two"), is_raw: true }));
        assert_eq!(found.get("other"), None);
    }

    #[test]
    fn what_is_no_agent_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let here = directory.path();
        let _listeners = ["one", "two"].map(|name| UnixListener::bind(here.join(name)).unwrap());
        std::fs::write(here.join("key"), "").unwrap();
        let cases = [
            (&["default"][..], "SSH_AUTH_SOCK"),
            (&["=one"], "name is missing"),
            (&["a=one,two"], "only single socket"),
            (&["a=one,key"], "combination"),
            (&["a=key,raw=true"], "raw mode"),
            (&["a=one,raw=perhaps"], "neither"),
            (&["a=nothing"], "cannot read"),
            (&["a=."], "directory"),
            (&["a=one", "a=two"], "twice"),
        ];
        for (texts, wanted) in cases {
            let error = agents(texts, None, here).unwrap_err();
            assert!(error.message.contains(wanted), "{texts:?}: {error}");
        }
    }
}
