//! The engine's side of one command: start the helper, pass the output on, hear how it ended.
//!
//! One thread waits for four things at once: both pipes, the helper's socket, and the cancellation. The socket's end means
//! that the pid namespace is gone; after that the pipes get a moment to be emptied, because a descriptor that leaked to
//! the outside must not hold up the build.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::SendFlags;

use crate::cancel::{Cancel, timespec};
use crate::cover::Cover;
use crate::error::{RunError, SetupError};
use crate::isolation::Isolation;
use crate::program::Program;
use crate::spec::{MountKind, Security, Spec};
use crate::terminal::Terminal;
use crate::wire::{self, Inbox, Message, Note, Plan, Stub};
use crate::{cover, hosts, init, plain, resolv, seccomp, stub};

/// How long the pipes are read after the command's last process has ended.
const GRACE: Duration = Duration::from_secs(1);
/// How long the helper has to end everything after a cancellation; it needs 500 ms for the polite part.
const CANCEL_DEADLINE: Duration = Duration::from_millis(1700);
/// How often cancellation is looked at where it has no descriptor, and a terminal at the size of its window.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// One of the two outputs of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What is heard of a command while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// It wrote something.
    Output(Stream, &'a [u8]),
    /// The host refused something that was asked for, and the command runs without it.
    Warning(&'a str),
    /// Something in `upper` is to be something else in the layer.
    Note(Note),
    /// The user and group that it runs as; where there is one id, what it makes anew belongs to them.
    Identity(u32, u32),
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It exited with this code.
    Exited(i32),
    /// A signal ended it.
    Killed {
        /// The signal.
        signal: i32,
    },
    /// It failed, and the kernel had killed it or one of its children for want of memory.
    OutOfMemory {
        /// The exit code, as of [`Outcome::code`].
        code: i32,
    },
}

impl Outcome {
    /// Returns the exit code as a shell would give it: 128 and the signal's number for a signal.
    pub fn code(self) -> i32 {
        match self {
            Self::Exited(code) | Self::OutOfMemory { code } => code,
            Self::Killed { signal } => 128 + signal,
        }
    }

    /// Says whether the command was killed: by a signal, for want of memory, or, where it was a shell, by what that says of a
    /// program that it ran. Any other program means its exit code.
    pub fn is_killed(self, args: &[String]) -> bool {
        const LAST_SIGNAL: i32 = 64;
        match self {
            Self::Killed { .. } | Self::OutOfMemory { .. } => true,
            Self::Exited(code) => is_shell(args) && (128 + 1..=128 + LAST_SIGNAL).contains(&code),
        }
    }

    /// Says whether the command succeeded.
    pub fn is_success(self) -> bool {
        self == Self::Exited(0)
    }
}

/// Says whether a command is a shell with a script, as `-c` gives it, alone or together with other letters: `-ec`.
pub fn is_shell(args: &[String]) -> bool {
    matches!(args, [_, .., flag, _] if flag.starts_with('-') && flag.ends_with('c'))
}

/// Runs the command of `spec` and waits for its end, telling the listener what it writes as it comes.
///
/// When this returns, every process of the command is gone, nothing is mounted, and `upper` holds the changes. After an
/// error it may hold part of them. Must be called where it may block; several may run at once in different threads.
pub fn run(
    program: &Program,
    spec: &Spec,
    listener: &mut dyn FnMut(Event<'_>),
    cancel: &Cancel,
) -> Result<Outcome, RunError> {
    execute(program, spec, None, listener, cancel)
}

/// Runs a command that the user talks to, as [`run`]; all its output counts as standard output.
pub fn run_at_terminal(
    program: &Program,
    spec: &Spec,
    terminal: Terminal,
    listener: &mut dyn FnMut(Event<'_>),
    cancel: &Cancel,
) -> Result<Outcome, RunError> {
    execute(program, spec, Some(terminal), listener, cancel)
}

fn execute(
    program: &Program,
    spec: &Spec,
    terminal: Option<Terminal>,
    listener: &mut dyn FnMut(Event<'_>),
    cancel: &Cancel,
) -> Result<Outcome, RunError> {
    if cancel.is_cancelled() {
        return Err(RunError::Cancelled);
    }
    let plan = Plan { at_terminal: terminal.is_some(), ..plan(spec)? };
    let mut helper = Helper::spawn(program, terminal)?;
    let sent = wire::send(Quiet(&helper.socket), &plan);
    drop(plan);
    let mut ended = Ended::default();
    let watched = helper.watch(&mut ended, listener, &Limits { cancel, timeout: spec.timeout });
    helper.finish();
    let collected = ended
        .give_back(spec)
        .and_then(|()| plain::collect(&spec.root.work, &spec.root.lowers, &spec.root.upper, &ended.covers));
    stub::remove(&spec.root.upper, &ended.stubs);
    stub::sweep(&spec.root.work);
    for mount in &spec.mounts {
        if let MountKind::Bind { upper: Some((_, work)), .. } = &mount.kind {
            stub::sweep(work);
        }
    }
    watched.map_err(|error| RunError::Lost(error.to_string()))?;
    collected.map_err(RunError::Collect)?;
    if ended.is_cancelled {
        return Err(match spec.timeout.filter(|_| ended.is_late) {
            Some(timeout) => RunError::TimedOut(timeout),
            None => RunError::Cancelled,
        });
    }
    if let Some(error) = ended.failure {
        return Err(error.into());
    }
    match (ended.outcome, sent) {
        (Some(outcome), _) => Ok(outcome),
        (None, Err(error)) => Err(RunError::Lost(error.to_string())),
        (None, Ok(())) => Err(RunError::Lost("its socket closed".to_owned())),
    }
}

fn plan(spec: &Spec) -> Result<Plan, RunError> {
    let invalid = |what, value: &str, reason: &str| RunError::Invalid {
        what,
        value: value.to_owned(),
        reason: reason.to_owned(),
    };
    if spec.args.is_empty() {
        return Err(invalid("command", "", "it has no words"));
    }
    for (what, texts) in [("argument", &spec.args), ("variable", &spec.env)] {
        if let Some(text) = texts.iter().find(|text| text.contains('\0')) {
            // The value may be a secret; its name is not.
            let shown = if what == "variable" { text.split(['=', '\0']).next().unwrap_or("") } else { text };
            return Err(invalid(what, shown, "it holds a NUL"));
        }
    }
    for path in std::iter::once(&spec.cwd).chain(spec.mounts.iter().map(|mount| &mount.target)) {
        if !path.starts_with('/') || path.contains('\0') {
            return Err(invalid("path", path, "it must be absolute"));
        }
    }
    let hosts = hosts::text(&spec.hostname, &spec.extra_hosts)?;
    let filter = match spec.security {
        Security::Sandbox => Some(seccomp::default_filter(seccomp::Params::host(seccomp::DEFAULT_CAPABILITIES))),
        Security::Insecure => None,
    };
    let filter = match filter {
        Some(Some(filter)) => Some(filter.to_vec()),
        Some(None) => return Err(invalid("architecture", std::env::consts::ARCH, "it has no seccomp table")),
        None => None,
    };
    let answers = match spec.isolation {
        Isolation::SingleId => seccomp::answers::filter(true),
        Isolation::UserNamespace => seccomp::answers::filter(false),
        Isolation::Root | Isolation::Chroot => None,
    };
    Ok(Plan { spec: spec.clone(), hosts, resolv: resolv::load(&spec.network), filter, answers, at_terminal: false })
}

/// What ends a command from outside.
struct Limits<'a> {
    cancel: &'a Cancel,
    timeout: Option<Duration>,
}

/// Writes a time as people give it: `1h30m`, `90s`, `250ms`.
pub(crate) fn shown(time: Duration) -> String {
    let (seconds, millis) = (time.as_secs(), time.subsec_millis());
    let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s"), (millis.into(), "ms")];
    let text: String =
        parts.iter().filter(|(value, _)| *value > 0).map(|(value, unit)| format!("{value}{unit}")).collect();
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// What was heard from the helper.
#[derive(Default)]
struct Ended {
    stubs: Vec<Stub>,
    covers: Vec<Cover>,
    failure: Option<SetupError>,
    outcome: Option<Outcome>,
    is_cancelled: bool,
    /// Nobody cancelled it: its time was over.
    is_late: bool,
}

impl Ended {
    /// Where directories of the host were copied for the command, keeps what it wrote, unless it was killed.
    fn give_back(&self, spec: &Spec) -> io::Result<()> {
        match self.outcome {
            Some(outcome) if !outcome.is_killed(&spec.args) && !self.is_cancelled => {
                cover::give_back(&spec.root.work.join(plain::COPIES).join(plain::ROOT), &self.covers)
            }
            _ => Ok(()),
        }
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Stub(stub) => self.stubs.push(stub),
            Message::Cover(cover) => self.covers.push(cover),
            // Passed on at once.
            Message::Warning(_) | Message::Note(_) | Message::Identity(..) => {}
            Message::Failed(error) => self.failure = Some(error),
            Message::Ended { code, signal, oom } => {
                let outcome = match (code, signal) {
                    (Some(code), _) => Outcome::Exited(code),
                    (None, Some(signal)) => Outcome::Killed { signal },
                    (None, None) => Outcome::Exited(255),
                };
                self.outcome = Some(if oom { Outcome::OutOfMemory { code: outcome.code() } } else { outcome });
            }
        }
    }
}

/// The helper process. Dropping it ends the command.
struct Helper {
    child: Child,
    socket: UnixStream,
    terminal: Option<Terminal>,
    /// By which the terminal comes.
    door: Option<OwnedFd>,
    is_finished: bool,
}

impl Helper {
    fn spawn(program: &Program, terminal: Option<Terminal>) -> Result<Self, RunError> {
        let (stdout, stderr, door) = match &terminal {
            None => (Stdio::piped(), Stdio::piped(), None),
            Some(_) => {
                let (ours, theirs) = UnixStream::pair().map_err(RunError::Spawn)?;
                let theirs = OwnedFd::from(theirs);
                (theirs.try_clone().map_err(RunError::Spawn)?.into(), theirs.into(), Some(OwnedFd::from(ours)))
            }
        };
        let (ours, theirs) = UnixStream::pair().map_err(RunError::Spawn)?;
        let child = Command::new(program.path())
            .arg0("kiln-sandbox")
            .arg(init::ARGUMENT)
            .env_clear()
            // A Ctrl-C at the terminal goes to the engine alone, which then decides.
            .process_group(0)
            .stdin(OwnedFd::from(theirs))
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .map_err(RunError::Spawn)?;
        Ok(Self { child, socket: ours, terminal, door, is_finished: false })
    }

    fn watch(&mut self, ended: &mut Ended, listener: &mut dyn FnMut(Event<'_>), limits: &Limits<'_>) -> io::Result<()> {
        let cancel = limits.cancel;
        let end = limits.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut stdout = self.door.take().or_else(|| self.child.stdout.take().map(OwnedFd::from));
        let mut stderr = self.child.stderr.take().map(OwnedFd::from);
        let mut inbox = Inbox::default();
        let mut buffer = vec![0; 64 << 10];
        let mut is_open = true;
        let mut deadline: Option<Instant> = None;
        self.socket.set_nonblocking(true)?;
        while is_open || stdout.is_some() || stderr.is_some() {
            let is_late = end.is_some_and(|end| end <= Instant::now());
            if is_open && !ended.is_cancelled && (is_late || cancel.is_cancelled()) {
                ended.is_cancelled = true;
                ended.is_late = !cancel.is_cancelled();
                deadline = Some(Instant::now() + CANCEL_DEADLINE);
                // A helper that is gone already needs no telling.
                let _ = Quiet(&self.socket).write_all(&[wire::CANCEL]);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(());
            }
            let watches_cancel = is_open && !ended.is_cancelled;
            let timeout = match (left, watches_cancel && cancel.fd().is_none()) {
                (None, true) => Some(LOOK_AGAIN),
                (left, true) => left.map(|left| left.min(LOOK_AGAIN)),
                (left, false) => left,
            };
            let until_late = end.filter(|_| watches_cancel).map(|end| end.saturating_duration_since(Instant::now()));
            let look_again = self.terminal.as_ref().filter(|_| is_open).map(|_| LOOK_AGAIN);
            let timeout = timeout.into_iter().chain(until_late).chain(look_again).min();
            let ready = wait(
                [
                    stdout.as_ref().map(AsFd::as_fd),
                    stderr.as_ref().map(AsFd::as_fd),
                    is_open.then(|| self.socket.as_fd()),
                    watches_cancel.then(|| cancel.fd()).flatten(),
                    self.terminal.as_ref().filter(|_| is_open).and_then(Terminal::input),
                ],
                timeout,
            )?;
            if let Some(terminal) = &mut self.terminal {
                if ready[4] {
                    terminal.read(&mut buffer);
                }
                terminal.pass_on();
            }
            if let (true, Some(terminal), Some(door)) = (ready[0], &mut self.terminal, &stdout)
                && terminal.is_awaited()
            {
                stdout = terminal.receive(door)?;
            } else if ready[0] {
                pass(&mut stdout, &mut buffer, |bytes| listener(Event::Output(Stream::Stdout, bytes)))?;
            }
            if ready[1] {
                pass(&mut stderr, &mut buffer, |bytes| listener(Event::Output(Stream::Stderr, bytes)))?;
            }
            if ready[2] {
                match rustix::io::read(&self.socket, &mut buffer[..]) {
                    // A reset is an end too: the helper died with something of ours unread.
                    Ok(0) | Err(Errno::CONNRESET) => {
                        is_open = false;
                        deadline = Some(Instant::now() + GRACE);
                    }
                    Ok(n) => {
                        inbox.push(&buffer[..n]);
                        while let Some(message) = inbox.next()? {
                            match message {
                                Message::Warning(text) => listener(Event::Warning(&text)),
                                Message::Note(note) => listener(Event::Note(note)),
                                Message::Identity(uid, gid) => listener(Event::Identity(uid, gid)),
                                message => ended.hear(message),
                            }
                        }
                    }
                    Err(Errno::INTR | Errno::AGAIN) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// Makes sure that the helper is gone.
    fn finish(&mut self) {
        if self.is_finished {
            return;
        }
        self.is_finished = true;
        // The helper kills the command when the socket closes. If it does not manage to, the command dies with it.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        let deadline = Instant::now() + Duration::from_millis(300);
        let mut pause = Duration::from_micros(20);
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Waits until something can be read from one of the descriptors, or for the timeout.
pub(crate) fn wait<const N: usize>(
    fds: [Option<BorrowedFd<'_>>; N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut polled: Vec<PollFd<'_>> =
        fds.iter().flatten().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    match poll(&mut polled, timeout.map(timespec).as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let mut results = polled.iter().map(|fd| !fd.revents().is_empty());
    Ok(fds.map(|fd| fd.is_some() && results.next().unwrap_or(false)))
}

/// Reads once and passes on what came; at the end of the stream the descriptor is closed.
fn pass(fd: &mut Option<OwnedFd>, buffer: &mut [u8], mut output: impl FnMut(&[u8])) -> io::Result<()> {
    let Some(open) = fd else { return Ok(()) };
    match rustix::io::read(open, &mut *buffer) {
        // A terminal says it with an error.
        Ok(0) | Err(Errno::IO) => *fd = None,
        Ok(n) => output(&buffer[..n]),
        Err(Errno::INTR | Errno::AGAIN) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Writes to a socket without the signal that a closed one sends.
struct Quiet<'a>(&'a UnixStream);

impl Write for Quiet<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
