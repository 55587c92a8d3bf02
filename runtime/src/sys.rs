//! The system calls that no safe wrapper has. All of the crate's `unsafe`, one call per block.

use std::ffi::CString;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::process::Pid;
use rustix::thread::UnshareFlags;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Forks. Only for a process with one thread: the child may then do anything.
pub fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: the helper has one thread, so the child's copies of all locks are free.
    let pid = check(unsafe { libc::fork() }.into())?;
    Ok(Pid::from_raw(pid as i32))
}

/// Leaves namespaces.
pub fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: CLONE_FILES, the flag that breaks descriptors others hold, is never passed.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// Leaves namespaces with the calling thread alone, in a process that has others.
pub fn unshare_thread(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: as above; the namespaces asked for are of the thread, and change no memory or descriptor.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// Sends SIGTERM to every process this one can see except the first and itself.
pub fn terminate_all() {
    // SAFETY: sends a signal; no memory is involved. The caller is in the sandbox's pid namespace.
    unsafe { libc::kill(-1, libc::SIGTERM) };
}

/// Makes a terminal with the device `multiplexer`: what is written to one side is read from the other. The second is the one
/// for a command.
pub fn open_terminal(multiplexer: &str) -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let ours = rustix::fs::open(multiplexer, flags, Mode::empty())?;
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads an `int`, which lives through the call.
    check(unsafe { libc::ioctl(ours.as_raw_fd(), libc::TIOCSPTLCK as _, &raw const unlocked) }.into())?;
    // SAFETY: TIOCGPTPEER takes the flags themselves.
    let theirs = check(unsafe { libc::ioctl(ours.as_raw_fd(), libc::TIOCGPTPEER as _, flags.bits()) }.into())?;
    // SAFETY: the kernel just gave this descriptor to nobody but us.
    Ok((ours, unsafe { OwnedFd::from_raw_fd(theirs as i32) }))
}

/// Ends the process without running anything else.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: does not return and touches nothing.
    unsafe { libc::_exit(code) }
}

/// Changes the attributes of a mount, and with `recursive` of all below it.
pub fn mount_setattr(mount: impl AsFd, set: u64, recursive: bool) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty NUL-terminated string, the structure lives through the call and has the size passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// Loads a seccomp filter for this process and all it becomes.
pub fn load_filter(program: &[u64]) -> io::Result<()> {
    const SET_MODE_FILTER: libc::c_long = 1;
    const SPEC_ALLOW: libc::c_long = 4;
    let length = program.len().try_into().map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    let load = |flags: libc::c_long| {
        // SAFETY: `filter` describes `program`, whose elements have the size of a `sock_filter` and a stricter alignment;
        // the kernel copies it.
        check(unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &raw const filter) })
    };
    // The flag leaves speculation as it is, as other runtimes do; kernels before 4.17 do not know it.
    load(SPEC_ALLOW).or_else(|_| load(0)).map(drop)
}

/// Loads a seccomp filter that asks about calls, and returns the descriptor that it asks through.
pub fn load_asking_filter(program: &[u64]) -> io::Result<OwnedFd> {
    const SET_MODE_FILTER: libc::c_long = 1;
    const NEW_LISTENER: libc::c_long = 8;
    const WAIT_KILLABLE_RECV: libc::c_long = 32;
    let length = program.len().try_into().map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    let load = |flags: libc::c_long| {
        // SAFETY: as in `load_filter`.
        check(unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &raw const filter) })
    };
    // A signal shall not make a call start anew that was answered already; kernels before 5.19 cannot help it.
    let fd = load(NEW_LISTENER | WAIT_KILLABLE_RECV).or_else(|_| load(NEW_LISTENER))?;
    // SAFETY: the kernel just gave this descriptor to nobody but us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// A call that a filter asks about.
pub type Question = libc::seccomp_notif;

/// Waits for the next call that is asked about; none when the caller is gone again.
pub fn next_question(listener: impl AsFd) -> io::Result<Option<Question>> {
    // SAFETY: all-zero bytes are a valid structure, and the kernel wants them.
    let mut question: Question = unsafe { std::mem::zeroed() };
    let fd = listener.as_fd().as_raw_fd();
    // SAFETY: the kernel fills the structure, which lives through the call.
    match check(unsafe { libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_RECV as _, &raw mut question) }.into()) {
        Ok(_) => Ok(Some(question)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Says whether the caller still waits for an answer, so that what was found by its number is really its.
pub fn is_asking(listener: impl AsFd, question: &Question) -> bool {
    let id = question.id;
    // SAFETY: the kernel reads the number, which lives through the call.
    unsafe { libc::ioctl(listener.as_fd().as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID as _, &raw const id) == 0 }
}

/// What a caller is told.
pub enum Answer {
    /// The call is done, and returns zero.
    Done,
    /// The call is done, and returns this.
    Value(i64),
    /// It fails with this error.
    Failed(i32),
    /// The kernel is to look at it.
    Continue,
}

/// Answers; a caller that is gone does not mind.
pub fn answer(listener: impl AsFd, question: &Question, answer: &Answer) {
    const CONTINUE: u32 = 1;
    let (val, error, flags) = match answer {
        Answer::Done => (0, 0, 0),
        Answer::Value(value) => (*value, 0, 0),
        Answer::Failed(errno) => (0, -errno, 0),
        Answer::Continue => (0, 0, CONTINUE),
    };
    let response = libc::seccomp_notif_resp { id: question.id, val, error, flags };
    // SAFETY: the kernel reads the structure, which lives through the call.
    unsafe { libc::ioctl(listener.as_fd().as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND as _, &raw const response) };
}

/// Gives the caller a copy of a descriptor, and returns its number there.
pub fn hand_in(listener: impl AsFd, question: &Question, fd: impl AsFd, close_on_exec: bool) -> io::Result<i64> {
    let added = libc::seccomp_notif_addfd {
        id: question.id,
        flags: 0,
        srcfd: fd.as_fd().as_raw_fd() as u32,
        newfd: 0,
        newfd_flags: if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 },
    };
    let fd = listener.as_fd().as_raw_fd();
    // SAFETY: the kernel reads the structure, which lives through the call.
    check(unsafe { libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_ADDFD as _, &raw const added) }.into())
}

/// Returns the limits of file locks, soft and hard, of a process; the kernel has long stopped looking at them.
pub fn lock_limits(process: u32) -> io::Result<(u64, u64)> {
    let mut limits = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills the structure, which lives through the call.
    check(unsafe {
        libc::syscall(libc::SYS_prlimit64, process, libc::RLIMIT_LOCKS, std::ptr::null::<u8>(), &raw mut limits)
    })?;
    Ok((limits.rlim_cur, limits.rlim_max))
}

/// Sets the limits of file locks of a process.
pub fn set_lock_limits(process: u32, (soft, hard): (u64, u64)) -> io::Result<()> {
    let limits = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the kernel reads the structure, which lives through the call.
    check(unsafe {
        libc::syscall(libc::SYS_prlimit64, process, libc::RLIMIT_LOCKS, &raw const limits, std::ptr::null::<u8>())
    })
    .map(drop)
}

/// Asks the kernel to let a caller and whoever answers take turns on one processor, where it can.
pub fn take_turns(listener: impl AsFd) {
    // SECCOMP_IOCTL_NOTIF_SET_FLAGS with SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP, of Linux 6.6.
    const SET_FLAGS: u64 = 0x4008_2104;
    const SYNC_WAKE_UP: u64 = 1;
    // SAFETY: the flags are passed as they are; an older kernel refuses.
    unsafe { libc::ioctl(listener.as_fd().as_raw_fd(), SET_FLAGS as _, SYNC_WAKE_UP) };
}

/// Returns what `fstat` writes, of a machine with 64 bits, with another owner.
pub fn stat_bytes(fd: impl AsFd, (uid, gid): (u32, u32)) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; size_of::<libc::stat>()];
    // SAFETY: the kernel writes as many bytes as its structure, and the C library's is the same, has.
    check(unsafe { libc::syscall(libc::SYS_fstat, fd.as_fd().as_raw_fd(), bytes.as_mut_ptr()) })?;
    put(&mut bytes, offset_of!(libc::stat, st_uid), uid);
    put(&mut bytes, offset_of!(libc::stat, st_gid), gid);
    Ok(bytes)
}

/// Returns what `statx` writes with these flags and this mask, with another owner.
pub fn statx_bytes(fd: impl AsFd, flags: u32, mask: u32, (uid, gid): (u32, u32)) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; size_of::<libc::statx>()];
    let flags = flags & !(libc::AT_SYMLINK_NOFOLLOW as u32) | libc::AT_EMPTY_PATH as u32;
    // SAFETY: the path is an empty NUL-terminated string; the kernel writes as many bytes as its structure has.
    check(unsafe {
        libc::syscall(libc::SYS_statx, fd.as_fd().as_raw_fd(), c"".as_ptr(), flags, mask, bytes.as_mut_ptr())
    })?;
    put(&mut bytes, offset_of!(libc::statx, stx_uid), uid);
    put(&mut bytes, offset_of!(libc::statx, stx_gid), gid);
    Ok(bytes)
}

fn put(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 4].copy_from_slice(&number.to_ne_bytes());
}

/// Gives all signals their default effect, and blocks none.
pub fn reset_signals() {
    // The kernel's own structure, all zero: default handler, no flags, empty mask.
    let default = [0u64; 4];
    for signal in 1..=64 {
        // The kernel's call, since the C library keeps two signals to itself, which may have been inherited as ignored.
        // SAFETY: `default` is as large as the kernel's structure and lives through the call; nothing is written back.
        // SIGKILL and SIGSTOP are refused, harmlessly.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            )
        };
    }
    // SAFETY: an all-zero set is a valid, empty set.
    let empty: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `empty` lives through the call; nothing is written back.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, std::ptr::null_mut()) };
}

/// Blocks SIGINT, SIGTERM and SIGHUP in this thread and those it starts, and returns a descriptor that they can be read from.
pub fn interrupt_fd() -> io::Result<OwnedFd> {
    // SAFETY: a zeroed set is valid storage for `sigemptyset` to fill.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a valid set of this stack frame.
    unsafe { libc::sigemptyset(&raw mut set) };
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: `set` is an initialised set, and the signal numbers exist.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    // SAFETY: `set` is initialised; -1 asks for a new descriptor.
    let fd = check(unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC) }.into())?;
    // SAFETY: the kernel just gave this descriptor to nobody but us.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    // SAFETY: `set` is initialised; the old mask is not wanted.
    unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    Ok(fd)
}

/// Marks all descriptors from `first` on to be closed by `execve`.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: only sets a flag on descriptors; each stays open and owned as before.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) }).map(drop)
}

/// Takes a fresh, empty session keyring, so that the command does not see ours. A kernel without keyrings is fine.
pub fn new_session_keyring() {
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) };
}

/// What `bpf(BPF_PROG_LOAD)` reads of its structure: the members up to the last that is not zero.
#[repr(C)]
struct ProgramToLoad {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
}

/// What `bpf(BPF_PROG_ATTACH)` reads.
#[repr(C)]
struct ProgramToAttach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// Has the kernel check a program that decides about devices.
pub fn load_device_program(program: &[u64]) -> io::Result<OwnedFd> {
    const PROG_LOAD: libc::c_long = 5;
    const CGROUP_DEVICE: u32 = 15;
    let count = program.len().try_into().map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let attributes = ProgramToLoad {
        kind: CGROUP_DEVICE,
        count,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
    };
    // SAFETY: the structure has the size passed; the instructions, of which there are `count`, and the licence, which ends
    // with NUL, live through the call.
    let fd =
        check(unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const attributes, size_of::<ProgramToLoad>()) })?;
    // SAFETY: the kernel just gave this descriptor to nobody but us, and closes it on `execve` by itself.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Has a program asked about every device that a process of the cgroup opens, beside those of the groups above.
pub fn attach_device_program(group: impl AsFd, program: impl AsFd) -> io::Result<()> {
    const PROG_ATTACH: libc::c_long = 8;
    const DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    let raw = |fd: i32| u32::try_from(fd).unwrap_or(u32::MAX);
    let attributes = ProgramToAttach {
        target: raw(group.as_fd().as_raw_fd()),
        program: raw(program.as_fd().as_raw_fd()),
        kind: DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: the structure has the size passed and lives through the call; the kernel takes its own references.
    check(unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attributes, size_of::<ProgramToAttach>()) })
        .map(drop)
}

/// Sets the limit of a resource, by the kernel's number.
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the new limit lives through the call, the old one is not asked for, pid 0 is ourselves.
    check(unsafe {
        libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, std::ptr::null_mut::<libc::rlimit64>())
    })
    .map(drop)
}

/// Returns the most that a limit can be set to without the right to raise it.
pub fn hard_limit(resource: u32) -> io::Result<u64> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: no new limit is given, the old one is written to `limit`, pid 0 is ourselves.
    check(unsafe {
        libc::syscall(libc::SYS_prlimit64, 0, resource, std::ptr::null::<libc::rlimit64>(), &raw mut limit)
    })?;
    Ok(limit.rlim_max)
}

/// Switches the network device `lo` on.
pub fn loopback_up() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an `ifreq`, which lives through the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) }.into()).map(drop)
}

/// Asks for an option of a socket; the question stands in the buffer that gets the answer.
pub fn socket_option(socket: impl AsFd, level: i32, name: i32, buffer: &mut [u8]) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(buffer.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `length` bytes, which the buffer has; both live through the call.
    check(unsafe { libc::getsockopt(fd, level, name, buffer.as_mut_ptr().cast(), &raw mut length) }.into()).map(drop)
}

/// Becomes another program; returns only when that fails.
pub fn execve(path: &CString, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: path and strings are NUL-terminated, both arrays end with a null pointer, and all outlive the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}
