//! The process that answers calls which the kernel would refuse in a user namespace.
//!
//! It stands outside the command's pid namespace, where the command can neither see nor end it, but in its mount namespace
//! and root, so that the kernel resolves a caller's paths as it would for the caller. The caller is stopped meanwhile; what
//! was found by its number counts only if it then still waits.
//!
//! Whoever asks for the owner of a file gets the one that was noted, so that what copies owners, or looks before it changes
//! them, does as it would for root.
//!
//! What the kernel can do is done by the kernel: taking set-id bits away, copying up, refusing on a read-only mount. Owners
//! are then written into an attribute, which goes where the file goes; what can have no attribute is noted by inode.
//!
//! A process that becomes another is one for as long as it lives, to itself and to what it makes (see `identity`); to the
//! kernel it stays root.

mod caller;
mod identity;
mod make;
mod show;

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, StatxFlags, Uid, XattrFlags, chownat, fstat, openat, readlinkat, statx,
};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use rustix::process::{Pid, Signal, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use self::caller::Caller;
use self::identity::{Credentials, Table};
use crate::OWNER_MARK;
use crate::error::{Doing, SetupError};
use crate::init::user::Identity;
use crate::isolation::Isolation;
use crate::seccomp::answers::{self, Call};
use crate::spec::Spec;
use crate::sys::{self, Answer, Question};
use crate::wire::{self, Message, Note};

/// A user and group, and at most as many groups as a process can be in.
const MOST_IDS: usize = 2 + 65536;

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
    let ids: Vec<u8> =
        [identity.uid, identity.gid].iter().chain(&identity.groups).flat_map(|id| id.to_le_bytes()).collect();
    let ids = &ids[..ids.len().min(4 * MOST_IDS)];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [listener.as_fd(), mounts.as_fd(), changes.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    rustix::net::sendmsg(door, &[io::IoSlice::new(ids)], &mut ancillary, SendFlags::NOSIGNAL).doing(doing)?;
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
    /// Who the command's processes are.
    table: Table,
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
        sys::take_turns(&listener);
        move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount))?;
        rustix::process::fchdir(&own)?;
        rustix::process::umask(Mode::empty());
        let root = openat(CWD, "/", HANDLE | OFlags::DIRECTORY, Mode::empty())?;
        let mount = statx(&root, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id;
        let isolation = spec.isolation;
        let table = Table::new(Credentials::of(&identity));
        Ok(Some(Self { engine, listener, processes, own, changes, root, mount, isolation, table }))
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
            Call::Become(change) => caller.change(change, [a, b, c].map(id), b),
            Call::Who(who) => caller.tell(who, [a, b, c]),
            Call::Make(make) => caller.make(make, &data.args),
            Call::Execve => caller.execute(CWD.as_raw_fd(), a, 0),
            Call::Execveat => caller.execute(a as i32, b, e),
            Call::Look(look) => Ok(caller.show(look, &data.args).unwrap_or(Answer::Continue)),
            Call::Mknod => caller.make_node(CWD.as_raw_fd(), a, b as u32, c as u32),
            Call::Mknodat => caller.make_node(a as i32, b, c as u32, d as u32),
        }
    }

    /// Writes down who something belongs to.
    fn note_owner(&self, fd: &OwnedFd, (uid, gid): (Option<u32>, Option<u32>)) -> Result<(), Errno> {
        let kind = FileType::from_raw_mode(fstat(fd)?.st_mode);
        if !kind.is_file() && !kind.is_dir() {
            let owner = (uid.unwrap_or(0), gid.unwrap_or(0));
            return self.note(fd, |note| note.owner = Some(owner));
        }
        let known = noted_owner(fd).unwrap_or_default();
        let text = format!("{}:{}", uid.unwrap_or(known.0), gid.unwrap_or(known.1));
        match rustix::fs::setxattr(&*fd.as_raw_fd().to_string(), OWNER_MARK, text.as_bytes(), XattrFlags::empty()) {
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

impl Caller<'_> {
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
        let credentials = self.desk.table.of(self.question);
        if !credentials.may_give(noted_owner(&fd).unwrap_or_default(), owner) {
            return Err(Errno::PERM);
        }
        let (uid, gid) = (owner.0.map(|_| Uid::ROOT), owner.1.map(|_| Gid::ROOT));
        chownat(&fd, "", uid, gid, AtFlags::EMPTY_PATH)?;
        if owner != (None, None) {
            self.desk.note_owner(&fd, owner)?;
        }
        Ok(Answer::Done)
    }
}

/// Reads who a file or directory was noted to belong to. The working directory must be that of our descriptors.
fn noted_owner(fd: &OwnedFd) -> Option<(u32, u32)> {
    let mut buffer = [0; 32];
    let length = rustix::fs::getxattr(&*fd.as_raw_fd().to_string(), OWNER_MARK, &mut buffer).ok()?;
    let (uid, gid) = std::str::from_utf8(&buffer[..length]).ok()?.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}

/// Whether a path leads into the descriptors of whoever looks, which are not ours.
fn leads_to_descriptors(path: &CStr) -> bool {
    let path = path.to_bytes();
    [&b"/proc/self/"[..], b"/proc/thread-self/", b"/dev/fd/", b"/dev/std"].iter().any(|start| path.starts_with(start))
}

/// What the command's process hands over.
struct Handed {
    listener: OwnedFd,
    mounts: OwnedFd,
    changes: OwnedFd,
    identity: Identity,
}

/// Receives what is handed over; none when the other side is gone.
fn receive(door: &UnixStream) -> io::Result<Option<Handed>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0; 4 * MOST_IDS];
    let received =
        rustix::net::recvmsg(door, &mut [io::IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let mut fds = fds.next().into_iter().flatten();
    let (Some(listener), Some(mounts), Some(changes)) = (fds.next(), fds.next(), fds.next()) else { return Ok(None) };
    let ids = bytes[..received.bytes].as_chunks().0.iter().map(|id| u32::from_le_bytes(*id)).collect::<Vec<_>>();
    let [uid, gid, groups @ ..] = &ids[..] else { return Ok(None) };
    let identity = Identity { uid: *uid, gid: *gid, groups: groups.to_vec() };
    Ok(Some(Handed { listener, mounts, changes, identity }))
}
