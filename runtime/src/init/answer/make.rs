//! What a process that is not root, by what it has become, makes and starts.

use std::ffi::{CStr, CString};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, chownat, fstat, mkdirat, mknodat, openat, statat, symlinkat,
};
use rustix::io::Errno;

use super::caller::{Caller, Status};
use super::identity::Credentials;
use super::{HANDLE, noted_owner};
use crate::isolation::Isolation;
use crate::seccomp::answers::{Become, Make, Who};
use crate::sys::{self, Answer};

/// At most so many groups as a process can be in.
const MOST_GROUPS: u64 = 65536;
/// The bits that let a program run with rights of its own.
const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;

impl Caller<'_> {
    fn credentials(&self) -> Credentials {
        self.desk.table.of(self.question)
    }

    /// Makes the caller another; `list` is where it has a list of groups.
    pub(super) fn change(&self, call: Become, ids: [Option<u32>; 3], list: u64) -> Result<Answer, Errno> {
        let mut credentials = self.credentials();
        credentials.change(call, ids)?;
        if call == Become::Groups {
            let count = u64::from(ids[0].unwrap_or(u32::MAX));
            if count > MOST_GROUPS {
                return Err(Errno::INVAL);
            }
            let bytes = self.read(list, 4 * count as usize)?;
            credentials.join(bytes.as_chunks().0.iter().map(|id| u32::from_ne_bytes(*id)).collect());
        }
        if call == Become::Keeping {
            credentials.is_keeping = ids[1] == Some(1);
        }
        self.desk.table.set(self.question, credentials);
        // The capabilities themselves are the kernel's affair.
        Ok(if call == Become::Keeping { Answer::Continue } else { Answer::Done })
    }

    /// Tells the caller who it is.
    pub(super) fn tell(&self, who: Who, places: [u64; 3]) -> Result<Answer, Errno> {
        let credentials = self.credentials();
        if let Some(id) = credentials.tell(who) {
            return Ok(Answer::Value(id.into()));
        }
        if who == Who::Groups {
            let (room, groups) = (places[0] as u32 as usize, &credentials.groups);
            if room > 0 {
                if room < groups.len() {
                    return Err(Errno::INVAL);
                }
                let bytes: Vec<u8> = groups.iter().flat_map(|id| id.to_ne_bytes()).collect();
                self.write(places[1], &bytes)?;
            }
            return Ok(Answer::Value(groups.len() as i64));
        }
        for (id, place) in credentials.all(who).iter().zip(places) {
            self.write(place, &id.to_ne_bytes())?;
        }
        Ok(Answer::Done)
    }

    /// Lets a program with rights of its own have them.
    pub(super) fn execute(&self, directory: i32, path: u64, flags: u64) -> Result<Answer, Errno> {
        let mut credentials = self.credentials();
        if credentials.owner() == (0, 0) {
            return Ok(Answer::Continue);
        }
        let flags = AtFlags::from_bits_retain(flags as u32);
        let found = self.string(path).and_then(|path| {
            let found = self.find(directory, &path, !flags.contains(AtFlags::SYMLINK_NOFOLLOW))?;
            Ok((fstat(&found)?, found))
        });
        // The kernel says it better.
        let Ok((stat, program)) = found else { return Ok(Answer::Continue) };
        let has = |bit| stat.st_mode & bit != 0;
        let mut rights = (None, None);
        let is_file = FileType::from_raw_mode(stat.st_mode).is_file();
        if is_file && (has(SET_UID) || has(SET_GID)) && !self.is_script(&program) {
            let (uid, gid) = noted_owner(&program).unwrap_or_default();
            rights = (has(SET_UID).then_some(uid), has(SET_GID).then_some(gid));
        }
        let before = credentials.clone();
        credentials.elevate(rights.0, rights.1);
        if credentials != before {
            self.desk.table.set(self.question, credentials);
        }
        Ok(Answer::Continue)
    }

    /// Scripts have no rights of their own.
    fn is_script(&self, program: &OwnedFd) -> bool {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = openat(&self.desk.own, program.as_raw_fd().to_string(), flags, Mode::empty());
        let mut start = [0; 2];
        opened.is_ok_and(|file| std::fs::File::from(file).read_exact(&mut start).is_ok() && start == *b"#!")
    }

    /// Makes something that belongs to what the caller has become.
    pub(super) fn make(&self, make: Make, arguments: &[u64; 6]) -> Result<Answer, Errno> {
        let [a, b, c, d, ..] = *arguments;
        let here = CWD.as_raw_fd();
        let flags = |bits: u64| OFlags::from_bits_retain(bits as u32);
        match make {
            Make::Open => self.make_file((here, a), flags(b), c as u32),
            Make::Openat => self.make_file((a as i32, b), flags(c), d as u32),
            Make::Creat => self.make_file((here, a), OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC, b as u32),
            Make::Openat2 => {
                let how = self.read(c, 24)?;
                let word = |at: usize| how[at..at + 8].try_into().map_or(0, u64::from_ne_bytes);
                match (flags(word(0)), word(16)) {
                    (flags, 0) if flags.intersects(OFlags::CREATE | OFlags::TMPFILE) => {
                        self.make_file((a as i32, b), flags, word(8) as u32)
                    }
                    _ => Ok(Answer::Continue),
                }
            }
            Make::Mkdir => self.make_in((here, a), true, |place, name| mkdirat(place, name, self.masked(b)?)),
            Make::Mkdirat => self.make_in((a as i32, b), true, |place, name| mkdirat(place, name, self.masked(c)?)),
            Make::Symlink => self.make_in((here, b), false, |place, name| symlinkat(self.string(a)?, place, name)),
            Make::Symlinkat => {
                self.make_in((b as i32, c), false, |place, name| symlinkat(self.string(a)?, place, name))
            }
        }
    }

    /// Makes something that is not opened, unless the kernel would do the same.
    fn make_in(
        &self,
        (directory, path): (i32, u64),
        is_dir: bool,
        make: impl FnOnce(&OwnedFd, &CStr) -> Result<(), Errno>,
    ) -> Result<Answer, Errno> {
        let Some((place, name)) = self.place(directory, path, is_dir)? else { return Ok(Answer::Continue) };
        let Some((uid, gid)) = self.new_owner(&place, &name)? else { return Ok(Answer::Continue) };
        make(&place, &name)?;
        let fd = openat(&place, &name, HANDLE | OFlags::NOFOLLOW, Mode::empty())?;
        self.desk.note_owner(&fd, (Some(uid), Some(gid)))?;
        Ok(Answer::Done)
    }

    fn make_file(&self, (directory, path): (i32, u64), flags: OFlags, mode: u32) -> Result<Answer, Errno> {
        let (place, name) = if flags.contains(OFlags::TMPFILE) {
            (self.find(directory, &self.string(path)?, true)?, c".".to_owned())
        } else {
            match self.place(directory, path, false)? {
                Some(found) => found,
                None => return Ok(Answer::Continue),
            }
        };
        let Some((uid, gid)) = self.new_owner(&place, &name)? else { return Ok(Answer::Continue) };
        let is_exclusive = flags.contains(OFlags::EXCL);
        let own = if flags.contains(OFlags::TMPFILE) { flags } else { flags | OFlags::EXCL };
        let made = match openat(&place, &name, own | OFlags::CLOEXEC, self.masked(mode.into())?) {
            // The kernel opens what is there.
            Err(Errno::EXIST) if !is_exclusive => return Ok(Answer::Continue),
            made => made?,
        };
        self.desk.note_owner(&made, (Some(uid), Some(gid)))?;
        let number = sys::hand_in(&self.desk.listener, self.question, &made, flags.contains(OFlags::CLOEXEC));
        number.map(Answer::Value).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }

    /// Makes an empty file in place of a device, which becomes one in the layer.
    pub(super) fn make_node(&self, directory: i32, path: u64, mode: u32, device: u32) -> Result<Answer, Errno> {
        let kind = FileType::from_raw_mode(mode);
        let is_single = self.desk.isolation == Isolation::SingleId;
        // Whiteouts are allowed, and everything else but devices.
        if !(kind.is_block_device() || kind.is_char_device() && device != 0) {
            if !is_single {
                return Ok(Answer::Continue);
            }
            let make =
                |place: &OwnedFd, name: &CStr| mknodat(place, name, kind, self.masked(mode.into())?, device.into());
            return self.make_in((directory, path), false, make);
        }
        let status = Status::read(self.open("status", OFlags::RDONLY)?);
        if !status.may_make_devices || is_single && !self.credentials().is_root() {
            return Err(Errno::PERM);
        }
        let Some((place, name)) = self.place(directory, path, false)? else { return Ok(Answer::Continue) };
        let mode = Mode::from_raw_mode(mode & 0o7777 & !status.umask);
        mknodat(&place, &name, FileType::RegularFile, mode, 0)?;
        let fd = openat(&place, &name, HANDLE | OFlags::NOFOLLOW, Mode::empty())?;
        if !is_single {
            let (uid, gid) = status.owner;
            chownat(&fd, "", Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::EMPTY_PATH)?;
        }
        let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xf_ff00));
        self.desk.note(&fd, |note| note.device = Some((kind.is_block_device(), major, minor)))?;
        Ok(Answer::Done)
    }

    /// Returns the mode of something new.
    fn masked(&self, mode: u64) -> Result<Mode, Errno> {
        let status = Status::read(self.open("status", OFlags::RDONLY)?);
        Ok(Mode::from_raw_mode(mode as u32 & 0o7777 & !status.umask))
    }

    /// Returns the directory in which something is to be made, and its name there; none where there is no such name, which
    /// the kernel says better. Only that of a directory may end in slashes.
    fn place(&self, directory: i32, path: u64, is_dir: bool) -> Result<Option<(OwnedFd, CString)>, Errno> {
        let path = self.string(path)?;
        let bytes = path.to_bytes();
        let end = bytes.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
        let split = bytes[..end].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let (parent, name) = bytes[..end].split_at(split);
        if name.is_empty() || end < bytes.len() && !is_dir {
            return Ok(None);
        }
        let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| Errno::INVAL);
        let parent = text(if parent.is_empty() { b"." } else { parent })?;
        Ok(Some((self.find(directory, &parent, true)?, text(name)?)))
    }

    /// Returns who something new in a directory belongs to, whose group it may take over; none where that is root, or where
    /// there is something of that name.
    fn new_owner(&self, place: &OwnedFd, name: &CStr) -> Result<Option<(u32, u32)>, Errno> {
        let credentials = self.credentials();
        let mode = fstat(place)?.st_mode;
        let (uid, mut gid) = credentials.owner();
        if (uid, gid) == (0, 0) && mode & SET_GID == 0 {
            return Ok(None);
        }
        let owner = noted_owner(place).unwrap_or_default();
        if mode & SET_GID != 0 {
            gid = owner.1;
        }
        let is_there = || name != c"." && statat(place, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        if (uid, gid) == (0, 0) || is_there() {
            return Ok(None);
        }
        if credentials.may_make_in(owner, mode) { Ok(Some((uid, gid))) } else { Err(Errno::ACCESS) }
    }
}
