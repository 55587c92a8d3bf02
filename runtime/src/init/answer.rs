//! The process that answers calls which the kernel would refuse in a user namespace.
//!
//! It stands outside the command's pid namespace, where the command can neither see nor end it, but in its mount namespace
//! and root, so that the kernel resolves a caller's paths as it would for the caller. The caller is stopped meanwhile; what
//! was found by its number counts only if it then still waits.
//!
//! What the kernel can do is done by the kernel: taking set-id bits away, copying up, refusing on a read-only mount. Owners
//! are then written into an attribute, which goes where the file goes; what can have no attribute is noted by inode.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, StatxFlags, Uid, XattrFlags, chownat, fstat, mknodat, openat,
    readlinkat, statx,
};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use rustix::process::{Pid, Signal, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::OWNER_MARK;
use crate::error::{Doing, SetupError};
use crate::init::user::Identity;
use crate::isolation::Isolation;
use crate::seccomp::answers::{self, Call};
use crate::spec::Spec;
use crate::sys::{self, Answer, Question};
use crate::wire::{self, Message, Note};

/// The longest path that the kernel takes, with the NUL at its end.
const LONGEST: usize = 4096;

const HANDLE: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// The process, as the helper sees it; it ends with this value.
pub struct Answerer(Pid);

impl Answerer {
    /// Starts the process. The command's own process hands over what it needs through the socket returned.
    pub fn start(engine: &UnixStream, spec: &Spec) -> io::Result<(Self, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        match sys::fork()? {
            Some(child) => Ok((Self(child), theirs)),
            None => {
                drop(theirs);
                let served = Desk::open(ours, engine, spec).and_then(|desk| desk.map_or(Ok(()), |desk| desk.serve()));
                sys::exit_now(served.is_err().into());
            }
        }
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        // Until it is reaped, its id belongs to nobody else.
        let _ = rustix::process::kill_process(self.0, Signal::KILL);
        let _ = super::reap(self.0);
    }
}

/// Loads the filter, and hands the process everything. Called in the finished sandbox, with all rights still there.
pub fn hand_over(door: &UnixStream, filter: &[u64], changes: &OwnedFd, identity: &Identity) -> Result<(), SetupError> {
    let doing = || "have calls answered".to_owned();
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mounts = openat(CWD, "/proc/self/ns/mnt", flags, Mode::empty()).doing(doing)?;
    let listener = sys::load_asking_filter(filter).doing(doing)?;
    let owner = [identity.uid.to_le_bytes(), identity.gid.to_le_bytes()].concat();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [listener.as_fd(), mounts.as_fd(), changes.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    rustix::net::sendmsg(door, &[io::IoSlice::new(&owner)], &mut ancillary, SendFlags::NOSIGNAL).doing(doing)?;
    Ok(())
}

/// Everything that is needed to answer.
struct Desk<'a> {
    engine: &'a UnixStream,
    listener: OwnedFd,
    /// The host's `/proc`, in which callers have the numbers that the kernel names.
    processes: OwnedFd,
    /// Our own descriptors there, which is also the working directory: `setxattr("3")` means descriptor 3.
    own: OwnedFd,
    /// The directory that changes of the root file system go to.
    changes: OwnedFd,
    /// The root of the sandbox, and the number of its mount.
    root: OwnedFd,
    mount: u64,
    isolation: Isolation,
    /// Who makes what has no owner noted.
    identity: (u32, u32),
}

impl<'a> Desk<'a> {
    /// Waits for the command's process to be ready; none when it never is.
    fn open(door: UnixStream, engine: &'a UnixStream, spec: &Spec) -> io::Result<Option<Self>> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The command's pipes must end with the command.
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        let processes = openat(CWD, "/proc", HANDLE | OFlags::DIRECTORY, Mode::empty())?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let own = openat(CWD, "/proc/self/fd", flags, Mode::empty())?;
        let Some(Handed { listener, mounts, changes, identity }) = receive(&door)? else { return Ok(None) };
        move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount))?;
        rustix::process::fchdir(&own)?;
        rustix::process::umask(Mode::empty());
        let root = openat(CWD, "/", HANDLE | OFlags::DIRECTORY, Mode::empty())?;
        let mount = statx(&root, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id;
        let isolation = spec.isolation;
        Ok(Some(Self { engine, listener, processes, own, changes, root, mount, isolation, identity }))
    }

    /// Answers until nobody can ask any more.
    fn serve(&self) -> io::Result<()> {
        loop {
            let mut fds = [PollFd::new(&self.listener, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            if !fds[0].revents().contains(PollFlags::IN) {
                return Ok(());
            }
            let Some(question) = sys::next_question(&self.listener)? else { continue };
            let answer = match self.consider(&question) {
                Ok(answer) => answer,
                Err(error) => Answer::Failed(error.raw_os_error()),
            };
            sys::answer(&self.listener, &question, &answer);
        }
    }

    fn consider(&self, question: &Question) -> Result<Answer, Errno> {
        let data = &question.data;
        let [a, b, c, d, e, _] = data.args;
        // A call that no filter of ours asks about: the kernel knows best.
        let Some(call) = answers::call(data.arch, data.nr as u32) else { return Ok(Answer::Continue) };
        let caller = Caller { desk: self, question };
        // The old calls of 32-bit machines have short ids.
        let id =
            |raw: u64| Some(raw as u32).filter(|id| *id != u32::MAX && !(data.arch < 0xc000_0000 && *id == 0xffff));
        match call {
            Call::Chown | Call::Lchown => {
                let path = caller.string(a)?;
                caller.give(CWD.as_raw_fd(), &path, call == Call::Chown, (id(b), id(c)))
            }
            Call::Fchown => caller.give(a as i32, c"", true, (id(b), id(c))),
            Call::Fchownat => {
                let flags = AtFlags::from_bits_retain(e as u32);
                let path = caller.string(b)?;
                if path.is_empty() && !flags.contains(AtFlags::EMPTY_PATH) {
                    return Err(Errno::NOENT);
                }
                caller.give(a as i32, &path, !flags.contains(AtFlags::SYMLINK_NOFOLLOW), (id(c), id(d)))
            }
            Call::Mknod => caller.make(CWD.as_raw_fd(), a, b as u32, c as u32),
            Call::Mknodat => caller.make(a as i32, b, c as u32, d as u32),
        }
    }

    /// Writes down who something belongs to.
    fn note_owner(&self, fd: &OwnedFd, (uid, gid): (Option<u32>, Option<u32>)) -> Result<(), Errno> {
        let kind = FileType::from_raw_mode(fstat(fd)?.st_mode);
        if !kind.is_file() && !kind.is_dir() {
            let owner = (uid.unwrap_or(self.identity.0), gid.unwrap_or(self.identity.1));
            return self.note(fd, |note| note.owner = Some(owner));
        }
        let name = fd.as_raw_fd().to_string();
        let mut buffer = [0; 32];
        let known = rustix::fs::getxattr(&*name, OWNER_MARK, &mut buffer).ok();
        let known = known.and_then(|length| std::str::from_utf8(&buffer[..length]).ok()?.split_once(':'));
        let known = known.and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?))).unwrap_or(self.identity);
        let text = format!("{}:{}", uid.unwrap_or(known.0), gid.unwrap_or(known.1));
        match rustix::fs::setxattr(&*name, OWNER_MARK, text.as_bytes(), XattrFlags::empty()) {
            // A file system without attributes, which is no part of the layer.
            Err(Errno::OPNOTSUPP) => Ok(()),
            result => result,
        }
    }

    /// Notes something of a file of the root file system by its inode; files elsewhere are in no layer.
    fn note(&self, fd: &OwnedFd, set: impl FnOnce(&mut Note)) -> Result<(), Errno> {
        if statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id != self.mount {
            return Ok(());
        }
        let path = readlinkat(&self.own, fd.as_raw_fd().to_string(), Vec::new())?;
        let path = path.to_bytes().strip_prefix(b"/").unwrap_or(b"");
        let path = std::path::Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(path));
        let wanted = StatxFlags::INO | StatxFlags::BTIME;
        let found = statx(&self.changes, path, AtFlags::SYMLINK_NOFOLLOW, wanted)?;
        let is_known = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
        let born = is_known.then_some((found.stx_btime.tv_sec, found.stx_btime.tv_nsec));
        let mut note = Note { inode: found.stx_ino, born, owner: None, device: None };
        set(&mut note);
        wire::send(self.engine, &Message::Note(note)).map_err(|_| Errno::IO)
    }
}

/// Whoever asks.
struct Caller<'a> {
    desk: &'a Desk<'a>,
    question: &'a Question,
}

impl Caller<'_> {
    /// Opens something of the caller's below the host's `/proc`; it is sure to be the caller's.
    fn open(&self, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = format!("{}/{name}", self.question.pid);
        let opened = openat(&self.desk.processes, path, flags | OFlags::CLOEXEC, Mode::empty());
        if sys::is_asking(&self.desk.listener, self.question) { opened } else { Err(Errno::SRCH) }
    }

    /// Reads a string out of the caller's memory.
    fn string(&self, address: u64) -> Result<CString, Errno> {
        let memory = self.open("mem", OFlags::RDONLY).map_err(|_| Errno::FAULT)?;
        let mut bytes = Vec::new();
        while bytes.len() < LONGEST {
            // Never across the end of a page: the next one may not be there.
            let at = address.checked_add(bytes.len() as u64).ok_or(Errno::FAULT)?;
            let mut piece = [0; 256];
            let room = (256 - at % 256) as usize;
            let length = rustix::io::pread(&memory, &mut piece[..room], at).map_err(|_| Errno::FAULT)?;
            if length == 0 {
                return Err(Errno::FAULT);
            }
            match piece[..length].iter().position(|byte| *byte == 0) {
                Some(end) => {
                    bytes.extend_from_slice(&piece[..end]);
                    return CString::new(bytes).map_err(|_| Errno::INVAL);
                }
                None => bytes.extend_from_slice(&piece[..length]),
            }
        }
        Err(Errno::NAMETOOLONG)
    }

    /// Finds what the caller means; nothing is opened but a handle. An empty path means the descriptor itself.
    fn find(&self, directory: i32, path: &CStr, follow: bool) -> Result<OwnedFd, Errno> {
        let base = || match directory {
            libc::AT_FDCWD => self.open("cwd", OFlags::PATH),
            fd => self.open(&format!("fd/{fd}"), OFlags::PATH).map_err(|_| Errno::BADF),
        };
        if path.is_empty() {
            return base();
        }
        let base = if path.to_bytes().starts_with(b"/") {
            self.desk.root.try_clone().map_err(|_| Errno::MFILE)?
        } else {
            base()?
        };
        let flags = if follow { HANDLE } else { HANDLE | OFlags::NOFOLLOW };
        self.in_its_root(|| openat(&base, path, flags, Mode::empty()))
    }

    /// Does something where the caller's `/` is ours, too: it may have changed its root.
    fn in_its_root<T>(&self, work: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        let theirs = self.open("root", OFlags::PATH | OFlags::DIRECTORY)?;
        let (one, two) = (fstat(&theirs)?, fstat(&self.desk.root)?);
        if (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino) {
            return work();
        }
        let enter = |root: &OwnedFd| rustix::process::fchdir(root).and_then(|()| rustix::process::chroot("."));
        enter(&theirs)?;
        let result = work();
        enter(&self.desk.root)?;
        rustix::process::fchdir(&self.desk.own)?;
        result
    }

    fn give(
        &self,
        directory: i32,
        path: &CStr,
        follow: bool,
        owner: (Option<u32>, Option<u32>),
    ) -> Result<Answer, Errno> {
        let fd = match self.find(directory, path, follow) {
            // A process's own descriptors: pipes and the like, whose owner nobody asks for.
            Err(Errno::NOENT) if leads_to_descriptors(path) => return Ok(Answer::Done),
            found => found?,
        };
        let (uid, gid) = (owner.0.map(|_| Uid::ROOT), owner.1.map(|_| Gid::ROOT));
        chownat(&fd, "", uid, gid, AtFlags::EMPTY_PATH)?;
        if owner != (None, None) {
            self.desk.note_owner(&fd, owner)?;
        }
        Ok(Answer::Done)
    }

    /// Makes an empty file in place of a device, which becomes one in the layer.
    fn make(&self, directory: i32, path: u64, mode: u32, device: u32) -> Result<Answer, Errno> {
        let kind = FileType::from_raw_mode(mode);
        // Whiteouts are allowed, and everything else but devices.
        if !(kind.is_block_device() || kind.is_char_device() && device != 0) {
            return Ok(Answer::Continue);
        }
        let path = self.string(path)?;
        let status = Status::read(self.open("status", OFlags::RDONLY)?);
        if !status.may_make_devices {
            return Err(Errno::PERM);
        }
        let bytes = path.to_bytes();
        let split = bytes.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let (parent, name) = bytes.split_at(split);
        let parent = CString::new(if parent.is_empty() { b"." } else { parent }).map_err(|_| Errno::INVAL)?;
        let parent = self.find(directory, &parent, true)?;
        let mode = Mode::from_raw_mode(mode & 0o7777 & !status.umask);
        mknodat(&parent, name, FileType::RegularFile, mode, 0)?;
        let fd = openat(&parent, name, HANDLE | OFlags::NOFOLLOW, Mode::empty())?;
        if self.desk.isolation != Isolation::SingleId {
            let (uid, gid) = status.owner;
            chownat(&fd, "", Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::EMPTY_PATH)?;
        }
        let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xf_ff00));
        self.desk.note(&fd, |note| note.device = Some((kind.is_block_device(), major, minor)))?;
        Ok(Answer::Done)
    }
}

/// Whether a path leads into the descriptors of whoever looks, which are not ours.
fn leads_to_descriptors(path: &CStr) -> bool {
    let path = path.to_bytes();
    [&b"/proc/self/"[..], b"/proc/thread-self/", b"/dev/fd/", b"/dev/std"].iter().any(|start| path.starts_with(start))
}

/// What counts of a caller when it makes a file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Status {
    umask: u32,
    owner: (u32, u32),
    may_make_devices: bool,
}

impl Status {
    fn read(file: OwnedFd) -> Self {
        let mut text = String::new();
        // What cannot be read grants nothing.
        let _ = io::Read::read_to_string(&mut std::fs::File::from(file), &mut text);
        Self::parse(&text)
    }

    fn parse(text: &str) -> Self {
        const MKNOD: u32 = 27;
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map_or("", str::trim);
        // Real, effective, saved, and that for files.
        let id = |name| field(name).split_ascii_whitespace().nth(3).and_then(|id| id.parse().ok()).unwrap_or(0);
        let capabilities = u64::from_str_radix(field("CapEff:"), 16).unwrap_or(0);
        Self {
            umask: u32::from_str_radix(field("Umask:"), 8).unwrap_or(0o22),
            owner: (id("Uid:"), id("Gid:")),
            may_make_devices: capabilities & (1 << MKNOD) != 0,
        }
    }
}

/// What the command's process hands over.
struct Handed {
    listener: OwnedFd,
    mounts: OwnedFd,
    changes: OwnedFd,
    identity: (u32, u32),
}

/// Receives what is handed over; none when the other side is gone.
fn receive(door: &UnixStream) -> io::Result<Option<Handed>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 8];
    let received =
        rustix::net::recvmsg(door, &mut [io::IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let mut fds = fds.next().into_iter().flatten();
    let (Some(listener), Some(mounts), Some(changes), 8) = (fds.next(), fds.next(), fds.next(), received.bytes) else {
        return Ok(None);
    };
    let [a, b, c, d, e, f, g, h] = bytes;
    let identity = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
    Ok(Some(Handed { listener, mounts, changes, identity }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_what_counts() {
        let text = "Name:\tx\nUmask:\t0027\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nCapEff:\t0000000008000000\n";
        assert_eq!(Status::parse(text), Status { umask: 0o27, owner: (4, 8), may_make_devices: true });
        assert_eq!(Status::parse(""), Status { umask: 0o22, owner: (0, 0), may_make_devices: false });
    }
}
