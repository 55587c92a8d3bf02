//! Who a process is, where the kernel knows only one id.
//!
//! What a process has become must go with it through `fork` and `execve`, however its parents end. So it is held by the process
//! itself, in a limit that the kernel keeps for each and has long stopped looking at: that of file locks. There stands the
//! number of an entry in a table here.

use std::cell::RefCell;

use rustix::io::Errno;

use crate::init::user::Identity;
use crate::seccomp::answers::{Become, Who};
use crate::sys::{self, Question};

/// The limit of a process that has become the first one in the table.
const FIRST: u64 = 1 << 62;

/// More than any build needs, and less than would cost much memory.
const MOST: usize = 4096;

/// Real, effective and saved ids, and further groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    uids: [u32; 3],
    gids: [u32; 3],
    pub(super) groups: Vec<u32>,
    /// Whether it may become another group although it is no longer root: until it starts another program.
    pub(super) is_keeping: bool,
}

impl Credentials {
    /// Returns those of a user.
    pub(super) fn of(identity: &Identity) -> Self {
        let mut one = Self { uids: [identity.uid; 3], gids: [identity.gid; 3], groups: Vec::new(), is_keeping: false };
        one.join(identity.groups.clone());
        one
    }

    /// Makes these its groups; the kernel keeps them in order.
    pub(super) fn join(&mut self, mut groups: Vec<u32>) {
        groups.sort_unstable();
        self.groups = groups;
    }

    /// Says whether it may make something in a directory of this owner and mode.
    pub(super) fn may_make_in(&self, (uid, gid): (u32, u32), mode: u32) -> bool {
        const WRITE_AND_SEARCH: u32 = 0o3;
        let is_member = gid == self.gids[1] || self.groups.contains(&gid);
        let bits = if uid == self.uids[1] {
            mode >> 6
        } else if is_member {
            mode >> 3
        } else {
            mode
        };
        self.is_root() || bits & WRITE_AND_SEARCH == WRITE_AND_SEARCH
    }

    /// Says whether it may do what only root may.
    pub(super) fn is_root(&self) -> bool {
        self.uids[1] == 0
    }

    /// Returns who owns what it makes.
    pub(super) fn owner(&self) -> (u32, u32) {
        (self.uids[1], self.gids[1])
    }

    /// Says whether it may give a file of `from` to these.
    pub(super) fn may_give(&self, from: (u32, u32), (uid, gid): (Option<u32>, Option<u32>)) -> bool {
        let is_group = |gid| gid == from.1 || gid == self.gids[1] || self.groups.contains(&gid);
        let is_own = from.0 == self.uids[1] && uid.is_none_or(|uid| uid == from.0) && gid.is_none_or(is_group);
        self.is_root() || is_own || (uid, gid) == (None, None)
    }

    /// Returns the one id that a call wants to know.
    pub(super) fn tell(&self, who: Who) -> Option<u32> {
        match who {
            Who::Uid => Some(self.uids[0]),
            Who::EffectiveUid => Some(self.uids[1]),
            Who::Gid => Some(self.gids[0]),
            Who::EffectiveGid => Some(self.gids[1]),
            Who::ResUid | Who::ResGid | Who::Groups => None,
        }
    }

    /// Returns all three ids of a kind.
    pub(super) fn all(&self, who: Who) -> [u32; 3] {
        if who == Who::ResUid { self.uids } else { self.gids }
    }

    /// Changes ids by the rules of the kernel; `None` leaves one alone.
    ///
    /// # Errors
    /// `EPERM` where only root may, and `EINVAL` for what is no id.
    pub(super) fn change(&mut self, call: Become, ids: [Option<u32>; 3]) -> Result<(), Errno> {
        let [one, two, _] = ids;
        let mut is_root = self.is_root();
        let kind = match call {
            Become::Uid | Become::ReUid | Become::ResUid => &mut self.uids,
            _ => {
                is_root |= self.is_keeping;
                &mut self.gids
            }
        };
        let [real, effective, saved] = *kind;
        let may = |wanted: Option<u32>, from: &[u32]| wanted.is_none_or(|id| is_root || from.contains(&id));
        let allowed = match call {
            Become::Uid | Become::Gid => {
                let id = one.ok_or(Errno::INVAL)?;
                *kind = if is_root { [id; 3] } else { [real, id, saved] };
                may(one, &[real, saved])
            }
            Become::ReUid | Become::ReGid => {
                let new = two.unwrap_or(effective);
                let is_saved = one.is_some() || two.is_some_and(|id| id != real);
                *kind = [one.unwrap_or(real), new, if is_saved { new } else { saved }];
                may(one, &[real, effective]) && may(two, &[real, effective, saved])
            }
            Become::ResUid | Become::ResGid => {
                *kind = [one.unwrap_or(real), two.unwrap_or(effective), ids[2].unwrap_or(saved)];
                ids.iter().all(|id| may(*id, &[real, effective, saved]))
            }
            Become::Groups => is_root,
            Become::Keeping => true,
        };
        if allowed { Ok(()) } else { Err(Errno::PERM) }
    }

    /// Becomes what a program makes of whoever starts it, which may have rights of its own.
    pub(super) fn elevate(&mut self, uid: Option<u32>, gid: Option<u32>) {
        self.uids[1] = uid.unwrap_or(self.uids[1]);
        self.gids[1] = gid.unwrap_or(self.gids[1]);
        (self.uids[2], self.gids[2]) = self.owner();
        self.is_keeping = false;
    }
}

/// All that processes of the command have become; the first is what they are from the start.
pub(super) struct Table(RefCell<Vec<Credentials>>);

impl Table {
    /// Begins with what the command is.
    pub(super) fn new(command: Credentials) -> Self {
        Self(RefCell::new(vec![command]))
    }

    /// Returns what a process is.
    pub(super) fn of(&self, question: &Question) -> Credentials {
        let table = self.0.borrow();
        let limit = sys::lock_limits(question.pid).map_or(FIRST, |(soft, _)| soft);
        let place = limit.checked_sub(FIRST).and_then(|place| usize::try_from(place).ok());
        place.and_then(|place| table.get(place)).unwrap_or(&table[0]).clone()
    }

    /// Says that a process has become another. Where its limit cannot be changed, that is forgotten.
    pub(super) fn set(&self, question: &Question, credentials: Credentials) {
        let mut table = self.0.borrow_mut();
        let known = table.iter().position(|known| *known == credentials);
        if known.is_none() && table.len() < MOST {
            table.push(credentials);
        }
        let place = known.unwrap_or(table.len() - 1);
        let limits = sys::lock_limits(question.pid).map(|(_, hard)| (FIRST + place as u64, hard));
        let _ = limits.and_then(|limits| sys::set_lock_limits(question.pid, limits));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32) -> Credentials {
        Credentials::of(&Identity { uid, gid: uid, groups: vec![uid, 50] })
    }

    #[test]
    fn root_becomes_anybody_and_nobody_comes_back() {
        let mut one = user(0);
        assert_eq!(one.change(Become::ResGid, [Some(7); 3]), Ok(()));
        assert_eq!(one.change(Become::Uid, [Some(7), None, None]), Ok(()));
        assert_eq!((one.all(Who::ResUid), one.owner()), ([7; 3], (7, 7)));
        for (call, ids) in [
            (Become::Uid, [Some(0), None, None]),
            (Become::ReUid, [None, Some(0), None]),
            (Become::ResUid, [None, Some(0), None]),
            (Become::Gid, [Some(0), None, None]),
            (Become::Groups, [None; 3]),
        ] {
            assert_eq!(one.clone().change(call, ids), Err(Errno::PERM), "{call:?}");
        }
        assert_eq!(one.change(Become::Uid, [None; 3]), Err(Errno::INVAL));
        one.is_keeping = true;
        assert_eq!(one.change(Become::ResGid, [Some(9); 3]), Ok(()));
        assert_eq!(one.clone().change(Become::Uid, [Some(9); 3]), Err(Errno::PERM));
        one.elevate(None, None);
        assert_eq!((one.clone().change(Become::Gid, [Some(0); 3]), one.owner()), (Err(Errno::PERM), (7, 9)));
    }

    #[test]
    fn a_saved_id_can_be_taken_up_again() {
        let mut one = user(0);
        assert_eq!(one.change(Become::ResUid, [None, Some(7), None]), Ok(()));
        assert!(!one.is_root());
        assert_eq!(one.change(Become::Uid, [Some(0), None, None]), Ok(()));
        assert_eq!(one.all(Who::ResUid), [0, 0, 0]);
        assert_eq!(one.change(Become::ReUid, [Some(7), Some(8), None]), Ok(()));
        assert_eq!(one.all(Who::ResUid), [7, 8, 8]);
        one.elevate(Some(0), None);
        assert_eq!((one.all(Who::ResUid), one.tell(Who::EffectiveUid)), ([7, 0, 0], Some(0)));
    }

    #[test]
    fn who_may_make_something() {
        let one = user(7);
        let may = |owner, mode| one.may_make_in(owner, mode);
        assert!(may((7, 0), 0o300) && may((0, 50), 0o030) && may((0, 0), 0o1777) && user(0).may_make_in((7, 7), 0));
        assert!(!may((7, 0), 0o077) && !may((0, 7), 0o707) && !may((0, 0), 0o755) && !may((0, 0), 0o776));
    }

    #[test]
    fn who_may_give_files_away() {
        assert!(user(0).may_give((5, 5), (Some(1), Some(2))));
        let one = user(7);
        assert!(one.may_give((7, 7), (Some(7), Some(50))) && one.may_give((7, 7), (None, Some(7))));
        assert!(!one.may_give((7, 7), (Some(8), None)) && !one.may_give((7, 7), (None, Some(8))));
        assert!(!one.may_give((0, 0), (None, Some(7))) && one.may_give((0, 0), (None, None)));
    }
}
