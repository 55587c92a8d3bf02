//! One test's own world, and the program run in it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::leftovers;

/// A state directory, a home and a folder for files, gone with this value.
///
/// When it is dropped nothing may be left of the builds that ran in it: no mount, no process,
/// no half-written file.
#[derive(Debug)]
pub struct Bed {
    folder: Option<tempfile::TempDir>,
    path: PathBuf,
    kiln: PathBuf,
}

impl Bed {
    /// Makes a bed for the program at `kiln`, which is `env!("CARGO_BIN_EXE_kiln")` in tests.
    ///
    /// # Panics
    /// When the machine has no room for a folder.
    pub fn new(kiln: impl Into<PathBuf>) -> Self {
        let folder = tempfile::Builder::new().prefix("kiln-bed-").tempdir().expect("a folder");
        let path = folder.path().canonicalize().expect("the folder just made");
        for name in ["root", "home", "work"] {
            fs::create_dir(path.join(name)).expect("a folder");
        }
        Self { folder: Some(folder), path, kiln: kiln.into() }
    }

    /// The state directory, `$KILN_ROOT` of the program.
    pub fn root(&self) -> PathBuf {
        self.path.join("root")
    }

    /// Returns the path `name` in the folder for files.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join("work").join(name)
    }

    /// The program's home, where it looks for credentials.
    pub fn home(&self) -> PathBuf {
        self.path.join("home")
    }

    /// Writes a file below the folder for files, with the folders it needs.
    ///
    /// # Panics
    /// When the disk is full.
    pub fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a file has a folder")).expect("a folder");
        fs::write(&path, content).expect("a file");
        path
    }

    /// Copies the folder `from` to `name` below the folder for files.
    ///
    /// # Panics
    /// When `from` is not there.
    pub fn copy(&self, from: &Path, name: &str) -> PathBuf {
        let to = self.path(name);
        copy_tree(from, &to);
        to
    }

    /// Forgets everything built so far: the next build is a clean one.
    ///
    /// # Panics
    /// When the state directory cannot be removed, which something mounted in it would cause.
    pub fn forget(&self) {
        fs::remove_dir_all(self.root()).expect("a state directory without mounts");
        fs::create_dir(self.root()).expect("a folder");
    }

    /// Prepares a run of `kiln ARGUMENTS`.
    pub fn kiln<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Kiln {
        let mut kiln = Kiln {
            program: self.kiln.clone(),
            arguments: Vec::new(),
            environment: Vec::new(),
            folder: self.path("."),
            input: None,
            limit: Duration::from_secs(300),
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        kiln = kiln.env("PATH", path).env("HOME", self.home()).env("KILN_ROOT", self.root());
        for name in ["TMPDIR", "RUST_BACKTRACE", "LLVM_PROFILE_FILE"] {
            if let Some(value) = std::env::var_os(name) {
                kiln = kiln.env(name, value);
            }
        }
        kiln.args(arguments)
    }

    /// Returns what the builds have left behind; see [`leftovers`].
    pub fn leftovers(&self) -> Vec<String> {
        leftovers(&self.root())
    }

    /// Fails the test unless, within a few seconds, nothing is left behind.
    ///
    /// # Panics
    /// When something is.
    #[track_caller]
    pub fn assert_tidy(&self) {
        self.wait_until_gone(|_| true);
    }

    /// Fails the test unless, within a few seconds, no process and no mount is left behind.
    /// Right after a kill that is all that can be asked for: half-written files go with the
    /// next build.
    ///
    /// # Panics
    /// When one is.
    #[track_caller]
    pub fn assert_idle(&self) {
        self.wait_until_gone(|line| !line.starts_with("half-written"));
    }

    #[track_caller]
    fn wait_until_gone(&self, counts: impl Fn(&str) -> bool) {
        let end = Instant::now() + Duration::from_secs(5);
        // The kernel takes a moment to take apart the namespaces of a killed process.
        loop {
            let mut found = self.leftovers();
            found.retain(|line| counts(line));
            if found.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "left behind:\n{}", found.join("\n"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Leaves everything where it is, for a look, and says where.
    pub fn keep(&mut self) {
        if let Some(folder) = self.folder.take() {
            eprintln!("the bed is kept at {}", folder.keep().display());
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if self.folder.is_none() {
            return;
        }
        let found = self.leftovers();
        // Whatever went wrong, the folder below must not be removed through a mount.
        for line in found.iter().filter(|line| line.starts_with("mount: ")) {
            if let Some(target) = line.split(' ').nth(5) {
                let _ = Command::new("umount").args(["--lazy", target]).stderr(Stdio::null()).status();
            }
        }
        let mounts: Vec<_> = found.iter().filter(|line| line.starts_with("mount: ")).collect();
        if !std::thread::panicking() {
            assert!(mounts.is_empty(), "left behind: {mounts:?}");
        }
    }
}

/// A run of the program that is being prepared.
#[derive(Debug, Clone)]
pub struct Kiln {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    folder: PathBuf,
    input: Option<Vec<u8>>,
    limit: Duration,
}

impl Kiln {
    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(self, argument: impl AsRef<OsStr>) -> Self {
        self.args([argument])
    }

    /// Sets a variable. The environment is otherwise empty but for `PATH`, `HOME` and `KILN_ROOT`.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Runs in another folder than the bed's folder for files.
    #[must_use]
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = folder.into();
        self
    }

    /// Gives the program something to read.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// Has `script` (Debian: bsdutils) run it at a terminal. What it reads there is its input, which comes back as an echo, and
    /// all that it writes comes on both outputs.
    #[must_use]
    pub fn at_terminal(mut self) -> Self {
        let program = std::mem::replace(&mut self.program, "script".into());
        let words = [program.into_os_string()].into_iter().chain(std::mem::take(&mut self.arguments));
        let quoted: Vec<_> = words.map(|word| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"))).collect();
        self.args(["-qefc", &quoted.join(" "), "/proc/self/fd/2"])
    }

    /// Gives up after `limit` instead of five minutes.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs to the end.
    ///
    /// # Panics
    /// When the program cannot be started or does not end in time.
    #[track_caller]
    pub fn run(self) -> Outcome {
        self.start().wait()
    }

    /// Starts the program in a process group of its own, as a shell does, and lets it run.
    ///
    /// # Panics
    /// When the program cannot be started.
    #[track_caller]
    pub fn start(self) -> Running {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env_clear().envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.current_dir(&self.folder).process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.stdin(if self.input.is_some() { Stdio::piped() } else { Stdio::null() });
        let started = Instant::now();
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("cannot start {}: {error}", self.program.display()));
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), self.input.clone()) {
            // A program that fails early closes its input; that is its right.
            std::thread::spawn(move || stdin.write_all(&input));
        }
        let (stdout, stdout_reader) = collect(child.stdout.take().expect("it is piped"));
        let (stderr, stderr_reader) = collect(child.stderr.take().expect("it is piped"));
        let words: Vec<_> = self.arguments.iter().map(|word| word.to_string_lossy()).collect();
        Running {
            child,
            command: format!("kiln {}", words.join(" ")),
            stdout,
            stderr,
            readers: vec![stdout_reader, stderr_reader],
            started,
            limit: self.limit,
        }
    }
}

type Collected = Arc<Mutex<Vec<u8>>>;

fn collect(mut from: impl Read + Send + 'static) -> (Collected, JoinHandle<()>) {
    let collected = Collected::default();
    let target = Arc::clone(&collected);
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            target.lock().expect("no reader panics").extend_from_slice(&buffer[..length]);
        }
    });
    (collected, reader)
}

/// A program that is running.
#[derive(Debug)]
pub struct Running {
    child: Child,
    command: String,
    stdout: Collected,
    stderr: Collected,
    readers: Vec<JoinHandle<()>>,
    started: Instant,
    limit: Duration,
}

impl Running {
    /// The program's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the program has written `text` to stderr.
    ///
    /// # Panics
    /// When it ends or the time is up before that.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        loop {
            let ended = matches!(self.child.try_wait(), Ok(Some(_)));
            let said = String::from_utf8_lossy(&self.stderr.lock().expect("no reader panics")).into_owned();
            if said.contains(text) {
                return;
            }
            if ended || self.started.elapsed() > self.limit {
                self.kill();
                panic!("`{}` never said {text:?}; it said:\n{said}", self.command);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends SIGINT to the whole process group, as a terminal does for Ctrl-C.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn interrupt(&self) {
        kill_process_group(self.process(), Signal::INT).expect("the group is there");
    }

    /// Sends SIGTERM to the program alone, as `kill` does.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn terminate(&self) {
        kill_process(self.process(), Signal::TERM).expect("our child is there until we wait for it");
    }

    /// Sends SIGKILL to the program, or nothing if it has ended.
    pub fn kill_if_alive(&self) {
        // Until we wait for it, its id belongs to nobody else.
        let _ = kill_process(self.process(), Signal::KILL);
    }

    /// Sends SIGKILL to the program alone: its children are its own business.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn kill(&self) {
        kill_process(self.process(), Signal::KILL).expect("our child is there until we wait for it");
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// When the time is up.
    #[track_caller]
    pub fn wait(mut self) -> Outcome {
        let status = loop {
            match self.child.try_wait().expect("our own child") {
                Some(status) => break status,
                None if self.started.elapsed() > self.limit => {
                    let _ = kill_process_group(self.process(), Signal::KILL);
                    let _ = self.child.wait();
                    let said = String::from_utf8_lossy(&self.stderr.lock().expect("no reader panics")).into_owned();
                    panic!("`{}` did not end within {:?}; it said:\n{said}", self.command, self.limit);
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let took = self.started.elapsed();
        // A process that the program left behind may hold the pipes open: do not wait for it.
        let end = Instant::now() + Duration::from_secs(5);
        while self.readers.iter().any(|reader| !reader.is_finished()) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        let stdout = self.stdout.lock().expect("no reader panics").clone();
        let stderr = String::from_utf8_lossy(&self.stderr.lock().expect("no reader panics")).into_owned();
        Outcome { command: self.command, status, stdout, stderr, took }
    }

    fn process(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

/// How a run ended, and what it said.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The command, for messages.
    pub command: String,
    /// Exit code or signal.
    pub status: ExitStatus,
    /// The data.
    pub stdout: Vec<u8>,
    /// Everything else.
    pub stderr: String,
    /// The time from start to end.
    pub took: Duration,
}

impl Outcome {
    /// Returns the data as text.
    ///
    /// # Panics
    /// When it is not UTF-8.
    #[track_caller]
    pub fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).expect("stdout is text")
    }

    /// Returns self.
    ///
    /// # Panics
    /// When the program failed.
    #[track_caller]
    pub fn success(self) -> Self {
        assert!(self.status.success(), "{self}");
        self
    }

    /// Returns self.
    ///
    /// # Panics
    /// When the program did not fail, or failed by panicking or by a signal nobody sent.
    #[track_caller]
    pub fn failure(self) -> Self {
        assert!(!self.status.success(), "should have failed: {self}");
        assert!(self.status.signal().is_none(), "{self}");
        assert!(self.status.code() != Some(101) && !self.stderr.contains("panicked at"), "{self}");
        self
    }

    /// Returns self.
    ///
    /// # Panics
    /// When stderr does not contain every one of `texts`.
    #[track_caller]
    pub fn says(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(self.stderr.contains(text), "should say {text:?}: {self}");
        }
        self
    }

    /// Returns the names of the steps that were `CACHED`, as plain progress shows them:
    /// `[2/4] RUN make` for a step whose number was later called cached.
    pub fn cached(&self) -> Vec<String> {
        self.steps().into_iter().filter(|(_, cached)| *cached).map(|(name, _)| name).collect()
    }

    /// Returns the names of the steps that really ran.
    pub fn ran(&self) -> Vec<String> {
        self.steps().into_iter().filter(|(_, cached)| !*cached).map(|(name, _)| name).collect()
    }

    /// Steps of the Dockerfile (`[stage 2/4] …`) in the order of their first line.
    fn steps(&self) -> Vec<(String, bool)> {
        let mut steps: Vec<(&str, String, bool)> = Vec::new();
        for line in self.stderr.lines() {
            let Some((number, rest)) = line.strip_prefix('#').and_then(|line| line.split_once(' ')) else { continue };
            if let Some(step) = steps.iter_mut().find(|(known, ..)| *known == number) {
                step.2 |= rest == "CACHED";
            } else if is_numbered(rest) {
                steps.push((number, rest.to_owned(), false));
            }
        }
        steps.into_iter().map(|(_, name, cached)| (name, cached)).collect()
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stdout = String::from_utf8_lossy(&self.stdout);
        let shown: String = stdout.chars().take(2000).collect();
        write!(f, "`{}` ended with {} after {:.1?}\n{}", self.command, self.status, self.took, self.stderr)?;
        if !shown.is_empty() {
            write!(f, "\n--- stdout:\n{shown}")?;
        }
        Ok(())
    }
}

/// Whether a name begins with its place in a stage: `[2/4] `, `[build 2/4] `.
fn is_numbered(name: &str) -> bool {
    let place = name.strip_prefix('[').and_then(|name| name.split_once(']')).map(|(place, _)| place);
    let number = place.and_then(|place| place.rsplit(' ').next()).and_then(|number| number.split_once('/'));
    number.is_some_and(|(step, steps)| step.parse::<u32>().is_ok() && steps.parse::<u32>().is_ok())
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())) {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).expect("a copy");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(bed: &Bed, script: &str) -> Kiln {
        bed.kiln(["-c", script])
    }

    #[test]
    fn a_run_has_the_beds_folders_and_nothing_of_ours() {
        let bed = Bed::new("/bin/sh");
        let outcome = shell(&bed, "echo $KILN_ROOT $HOME $CARGO_MANIFEST_DIR; pwd; cat; echo no >&2; exit 3")
            .input("in")
            .run()
            .failure()
            .says(&["no"]);
        let expected = format!(
            "{} {}\n{}\nin",
            bed.root().display(),
            bed.home().display(),
            bed.path("").display().to_string().trim_end_matches('/')
        );
        assert_eq!(outcome.text(), expected);
        assert_eq!(outcome.status.code(), Some(3));
    }

    #[test]
    fn an_interrupt_reaches_the_whole_group() {
        let bed = Bed::new("/bin/sh");
        let mut running = shell(&bed, "sleep 600 | echo ready >&2; exec sleep 600").start();
        running.wait_for("ready");
        running.interrupt();
        assert_eq!(running.wait().status.signal(), Some(2));
    }

    #[test]
    fn steps_are_read_from_plain_progress() {
        let bed = Bed::new("/bin/sh");
        let plain = "#1 [internal] load build definition\n#1 DONE 0.0s\n#2 [context a] load from /x 1/2\n#4 [1/3] FROM a\n#4 CACHED\n#5 [2/3] RUN b\n#5 0.1 out\n#5 DONE 0.2s\n#6 [x 3/3] COPY c .\n#6 CACHED";
        let outcome = shell(&bed, &format!("echo '{plain}' >&2")).run().success();
        assert_eq!(outcome.cached(), ["[1/3] FROM a", "[x 3/3] COPY c ."]);
        assert_eq!(outcome.ran(), ["[2/3] RUN b"]);
    }
}
