//! The helper: a fresh process with one thread that makes a sandbox around one command.
//!
//! It stays outside as the command's parent: it forks into a new pid namespace, waits, and ends the command when it is told
//! to or when the engine is gone (its socket closes). The child (`child`) builds the sandbox around itself and becomes the
//! command.

mod answer;
mod child;
mod chroot;
mod devices;
mod emulate;
mod environment;
mod exec;
mod kernel_files;
pub(crate) mod mount;
mod oom;
pub(crate) mod orphans;
pub(crate) mod overlay;
mod privilege;
mod pty;
mod source;
mod tether;
mod user;
mod walk;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, pidfd_open, pidfd_send_signal, waitpid};
use rustix::thread::UnshareFlags;

use crate::cancel::timespec;
use crate::cgroup::{self, Group, Wish};
use crate::error::{Doing, SetupError};
use crate::init::answer::Answerer;
use crate::isolation::Isolation;
use crate::spec::{Security, Spec};
use crate::sys;
use crate::wire::{self, Message, Plan};

pub(crate) use tether::tether;

/// The first argument that makes a program the helper: it must then call [`main`] before anything else.
pub const ARGUMENT: &str = "sandbox-init";

/// How long the command's processes have between SIGTERM and SIGKILL.
const POLITE: Duration = Duration::from_millis(500);

/// Runs as the helper; everything it needs comes over its standard input. With more arguments it becomes the program that
/// they name instead, tied to the engine's life.
pub fn main() -> ! {
    let mut more = std::env::args_os().skip(2);
    if let Some(parent) = more.next() {
        tether::become_program(&parent, more);
    }
    // What cannot be reported is seen by the engine as a socket that closed.
    let code = if helper().is_ok() { 0 } else { 1 };
    sys::exit_now(code)
}

fn helper() -> io::Result<()> {
    // Above the standard descriptors, and closed by `execve`.
    let socket = UnixStream::from(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?);
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    let plan: Plan = wire::receive(&socket)?;
    if Reach::of(plan.spec.isolation) == Reach::Descent {
        leave_a_guard(&null)?;
    }
    let group = make_group(&socket, &plan.spec);
    let oom_kills = oom::kills();
    let answering = match plan.answers.as_ref().map(|_| Answerer::start(&socket, &plan.spec)).transpose() {
        Ok(answering) => answering,
        Err(error) => {
            let failed = Err::<(), _>(error).doing(|| "start the process that answers calls".to_owned());
            return failed.or_else(|error| wire::send(&socket, &Message::Failed(error)));
        }
    };
    let (answerer, door) = answering.unzip();
    let reach = Reach::of(plan.spec.isolation);
    let child = match reach.fork() {
        Ok(Some(child)) => child,
        Ok(None) => {
            let error = child::run(&socket, plan, &group, door.as_ref());
            let _ = wire::send(&socket, &Message::Failed(error));
            sys::exit_now(1)
        }
        Err(error) => return wire::send(&socket, &Message::Failed(error)),
    };
    drop((plan, door));
    // The pipes must end when the command's processes have: not one descriptor of them stays here.
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    let status = watch(&socket, child, reach)?;
    if let Err(error) = reach.finish() {
        return wire::send(&socket, &Message::Failed(error));
    }
    const KILL: i32 = 9;
    let (code, signal) = (status.exit_status(), status.terminating_signal());
    let oom = match group.oom_kills() {
        // Nobody else is in there: whatever was killed, the command has missed it.
        Some(kills) => code != Some(0) && kills > 0,
        None => (signal == Some(KILL) || code == Some(128 + KILL)) && oom::kills() > oom_kills,
    };
    drop((group, answerer));
    wire::send(&socket, &Message::Ended { code, signal, oom })
}

/// Goes on in a child. The parent does nothing but wait, and ends what the command left behind should the child be killed, also
/// together with the engine: whoever loses its parent then becomes its own.
fn leave_a_guard(null: &OwnedFd) -> io::Result<()> {
    orphans::adopt()?;
    let Some(child) = sys::fork()? else { return Ok(()) };
    rustix::stdio::dup2_stdout(null)?;
    rustix::stdio::dup2_stderr(null)?;
    let status = reap(child)?;
    let ended = orphans::end();
    sys::exit_now(status.exit_status().filter(|_| ended.is_ok()).unwrap_or(1));
}

/// What keeps the processes of the command together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// A pid namespace: they end with its init.
    Namespace,
    /// That they descend from this process.
    Descent,
}

impl Reach {
    fn of(isolation: Isolation) -> Self {
        if isolation == Isolation::Chroot { Self::Descent } else { Self::Namespace }
    }

    /// Makes the process that becomes the command; returns twice.
    fn fork(self) -> Result<Option<Pid>, SetupError> {
        match self {
            // Only children move into the new namespace: the first one becomes its init.
            Self::Namespace => sys::unshare(UnshareFlags::NEWPID).doing(|| "make a pid namespace".to_owned())?,
            Self::Descent => orphans::adopt().doing(|| "adopt the command's processes".to_owned())?,
        }
        sys::fork().doing(|| "start the command's process".to_owned())
    }

    /// Sends SIGTERM to all of them.
    fn terminate(self, init: &OwnedFd) {
        match self {
            Self::Namespace => ask_to_end(init),
            Self::Descent => orphans::terminate(),
        }
    }

    /// Ends those that the command left behind.
    fn finish(self) -> Result<(), SetupError> {
        match self {
            Self::Namespace => Ok(()),
            Self::Descent => orphans::end().doing(|| "end the processes that the command left behind".to_owned()),
        }
    }
}

fn make_group(socket: &UnixStream, spec: &Spec) -> Group {
    let wish = Wish {
        resources: &spec.resources,
        parent: &spec.cgroup_parent,
        confines_devices: spec.security == Security::Sandbox,
    };
    Group::make(&cgroup::Host::new(), &wish, &mut |refused| {
        // A warning that nobody hears harms nobody.
        let _ = wire::send(socket, &Message::Warning(refused.to_string()));
    })
}

/// Waits for the end of the command, and brings it about when asked to.
fn watch(socket: &UnixStream, child: Pid, reach: Reach) -> io::Result<WaitStatus> {
    let pidfd = pidfd_open(child, PidfdFlags::empty())?;
    let mut is_listening = true;
    let mut deadline: Option<Instant> = None;
    loop {
        let timeout = deadline.map(|deadline| timespec(deadline.saturating_duration_since(Instant::now())));
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        if is_listening {
            fds.push(PollFd::new(socket, PollFlags::IN));
        }
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) => {
                deadline = None;
                kill(&pidfd);
                continue;
            }
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let has_ended = !fds[0].revents().is_empty();
        let has_word = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        if has_ended {
            return reap(child);
        }
        if has_word {
            let mut byte = [0];
            match rustix::io::read(socket, &mut byte) {
                Ok(1) if byte[0] == wire::CANCEL => {
                    reach.terminate(&pidfd);
                    deadline = Some(Instant::now() + POLITE);
                }
                Ok(1) | Err(Errno::INTR) => {}
                // The engine is gone: nobody waits for politeness.
                Ok(_) | Err(_) => {
                    is_listening = false;
                    kill(&pidfd);
                }
            }
        }
    }
}

/// Waits for a child. Of the init of the namespace the kernel reports the end only after that of all others in it.
fn reap(child: Pid) -> io::Result<WaitStatus> {
    loop {
        match waitpid(Some(child), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok(status),
            Ok(None) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Sends SIGTERM to every process of the namespace.
fn ask_to_end(init: &OwnedFd) {
    // A child of ours is born inside and can reach them all, the init excepted, which is ours to tell.
    match sys::fork() {
        Ok(None) => {
            sys::terminate_all();
            sys::exit_now(0);
        }
        // It must be reaped at once: the namespace does not end while one of its processes is a zombie.
        Ok(Some(child)) => drop(reap(child)),
        Err(_) => {}
    }
    let _ = pidfd_send_signal(init.as_fd(), Signal::TERM);
}

fn kill(init: &OwnedFd) {
    let _ = pidfd_send_signal(init.as_fd(), Signal::KILL);
}
