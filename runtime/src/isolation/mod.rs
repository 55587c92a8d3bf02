//! How far a sandbox can be shut in here: the rungs of a ladder, the strongest first.
//!
//! A process stands on one rung for its whole life. [`Footing::take`] finds it, before any thread is started: an ordinary
//! user's process moves into a user namespace of its own, in which it may do to the store and to mounts what root does, and
//! in which the ids of an image are real. From then on everything works as for root; what differs is in
//! [`init`](crate::init).

mod enter;
mod subordinate;

use std::fmt;
use std::str::FromStr;

use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use crate::init::orphans;

/// A rung. The order is that of the ladder: what is less is weaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Isolation {
    /// Another root directory, in whatever namespaces there are; only where asked for by name.
    Chroot,
    /// A user namespace with one id: others are remembered instead of given.
    SingleId,
    /// A user namespace with ranges of ids.
    UserNamespace,
    /// Root, with namespaces of all kinds but that of users.
    Root,
}

/// All rungs, the strongest first.
const LADDER: [Isolation; 4] = [Isolation::Root, Isolation::UserNamespace, Isolation::SingleId, Isolation::Chroot];

/// What [`Isolation::Chroot`] takes.
const CHROOT_RIGHTS: [(CapabilitySet, &str); 8] = [
    (CapabilitySet::SYS_CHROOT, "CAP_SYS_CHROOT"),
    (CapabilitySet::CHOWN, "CAP_CHOWN"),
    (CapabilitySet::DAC_OVERRIDE, "CAP_DAC_OVERRIDE"),
    (CapabilitySet::FOWNER, "CAP_FOWNER"),
    (CapabilitySet::KILL, "CAP_KILL"),
    (CapabilitySet::SETGID, "CAP_SETGID"),
    (CapabilitySet::SETUID, "CAP_SETUID"),
    (CapabilitySet::SETPCAP, "CAP_SETPCAP"),
];

impl Isolation {
    /// Returns the name that `--isolation` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::UserNamespace => "userns",
            Self::SingleId => "userns-single",
            Self::Chroot => "chroot",
        }
    }

    /// Says whether the process is in a user namespace that does not have all ids of the host.
    pub(crate) fn is_confined(self) -> bool {
        matches!(self, Self::UserNamespace | Self::SingleId)
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isolation {
    type Err = IsolationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = LADDER.into_iter().find(|rung| rung.name() == text);
        found.ok_or_else(|| IsolationError::Unknown(text.to_owned()))
    }
}

/// Why a process does not stand where it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IsolationError {
    /// There is no rung of that name.
    #[error("`{0}` is no isolation: there are root, userns, userns-single and chroot")]
    Unknown(String),
    /// The rung cannot be had here.
    #[error("isolation `{wanted}` cannot be had: {reason}")]
    Refused {
        /// What was asked for.
        wanted: Isolation,
        /// Why not.
        reason: String,
    },
    /// What there is, is weaker than required.
    #[error("isolation `{least}` is required, and {} is possible: {reason}", found.map_or("none".to_owned(), |found| format!("only `{found}`")))]
    TooWeak {
        /// What was required.
        least: Isolation,
        /// What there is.
        found: Option<Isolation>,
        /// Why there is no more.
        reason: String,
    },
}

/// How ids of the inside relate to those of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ids {
    /// They are the same.
    Host,
    /// Those after the first begin at this id of the host.
    Mapped {
        /// The id of the host that is 1 inside.
        first: u32,
    },
    /// There is only one.
    Single,
    /// There is no namespace, and this process cannot give files away.
    Lost,
}

/// Where this process stands, and why not higher.
#[derive(Debug, Clone)]
pub struct Footing {
    /// The rung; none where commands cannot be run at all.
    pub isolation: Option<Isolation>,
    /// The stronger rungs, and why they cannot be had.
    pub refused: Vec<(Isolation, String)>,
    /// How many ids there are.
    pub count: u64,
    /// What they are on the host.
    pub ids: Ids,
}

impl Footing {
    /// Finds the strongest rung that can be had, or the one wished for, and steps on it. To be called before any thread is
    /// started: this process may move into a user namespace, and stays there.
    ///
    /// # Errors
    /// [`IsolationError::Refused`] when the rung wished for cannot be had. Without a wish there is always an answer.
    pub fn take(wish: Option<Isolation>) -> Result<Self, IsolationError> {
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let mut refused = Vec::new();
        for rung in LADDER {
            if wish.map_or(rung == Isolation::Chroot, |wish| wish != rung) {
                continue;
            }
            match step(rung, own) {
                Ok(()) => return Ok(Self::here(Some(rung), refused)),
                Err(reason) if wish.is_some() => return Err(IsolationError::Refused { wanted: rung, reason }),
                Err(reason) => refused.push((rung, reason)),
            }
        }
        Ok(Self::here(None, refused))
    }

    /// Fails where this is weaker than `least`.
    ///
    /// # Errors
    /// [`IsolationError::TooWeak`], with the reason.
    pub fn require(&self, least: Isolation) -> Result<(), IsolationError> {
        if self.isolation.is_some_and(|found| found >= least) {
            return Ok(());
        }
        let reason = match self.refused.iter().find(|(rung, _)| *rung == least) {
            Some((_, reason)) => reason.clone(),
            None => "that is what was asked for".to_owned(),
        };
        Err(IsolationError::TooWeak { least, found: self.isolation, reason })
    }

    fn here(isolation: Option<Isolation>, refused: Vec<(Isolation, String)>) -> Self {
        let map = enter::map();
        let count = map.iter().map(|range| u64::from(range.count)).sum();
        let ids = if isolation.is_none() && !rustix::process::geteuid().is_root() {
            Ids::Lost
        } else if count == 1 {
            Ids::Single
        } else {
            match map.iter().find(|range| range.inside != range.outside) {
                Some(_) => Ids::Mapped { first: map.iter().find_map(|range| range.outside_of(1)).unwrap_or(0) },
                None => Ids::Host,
            }
        };
        Self { isolation, refused, count, ids }
    }
}

/// Says in a few words what a command is shut in by.
impl fmt::Display for Footing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.isolation {
            Some(Isolation::Root) => f.write_str("root with namespaces of its own"),
            Some(Isolation::UserNamespace) => write!(f, "user namespace with {} ids", self.count),
            Some(Isolation::SingleId) => f.write_str("user namespace with one id"),
            Some(Isolation::Chroot) => f.write_str("chroot, without namespaces"),
            None => f.write_str("none"),
        }
    }
}

/// Gets this process onto a rung, or says why it cannot.
fn step(rung: Isolation, own: enter::Own) -> Result<(), String> {
    let is_root = rustix::process::geteuid().is_root();
    let capabilities = rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    let is_mighty = is_root && capabilities.contains(CapabilitySet::SYS_ADMIN);
    let count: u64 = enter::map().iter().map(|range| u64::from(range.count)).sum();
    let is_inside = count < u64::from(u32::MAX);
    match rung {
        Isolation::Root if !is_root => Err("this is not root".to_owned()),
        Isolation::Root if is_inside => Err("this process is inside a user namespace".to_owned()),
        Isolation::Root if !is_mighty => Err("root lacks the capability CAP_SYS_ADMIN here".to_owned()),
        Isolation::Root => Ok(()),
        Isolation::UserNamespace if is_mighty && is_inside && count > 1 => Ok(()),
        Isolation::UserNamespace if is_inside && count == 1 => {
            Err("this process is inside a user namespace with one id".to_owned())
        }
        Isolation::UserNamespace => enter::with_ranges(own),
        Isolation::SingleId if is_mighty && count == 1 => Ok(()),
        Isolation::SingleId => enter::with_one_id(own),
        Isolation::Chroot if !is_root => Err("only root may change the root directory".to_owned()),
        Isolation::Chroot if count == 1 => Err("this process has one id, and cannot give files away".to_owned()),
        Isolation::Chroot if !std::path::Path::new(orphans::CHILDREN).exists() => Err(format!(
            "{} is missing, and without it processes that a command leaves behind cannot be found",
            orphans::CHILDREN
        )),
        Isolation::Chroot => match CHROOT_RIGHTS.iter().find(|(right, _)| !capabilities.contains(*right)) {
            Some((_, name)) => Err(format!("root lacks the capability {name} here")),
            None => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_in_the_order_of_the_ladder() {
        for rung in LADDER {
            assert_eq!(rung.name().parse(), Ok(rung));
        }
        assert!(LADDER.is_sorted_by(|strong, weak| strong > weak));
        let error = "jail".parse::<Isolation>().expect_err("no such rung").to_string();
        assert!(error.contains("jail") && error.contains("userns-single"), "{error}");
    }

    #[test]
    fn what_is_weaker_than_required_names_the_reason() {
        let refused = vec![(Isolation::Root, "this is not root".to_owned())];
        let footing = Footing { isolation: Some(Isolation::SingleId), refused, count: 1, ids: Ids::Single };
        assert_eq!(footing.require(Isolation::SingleId), Ok(()));
        assert_eq!(footing.require(Isolation::Chroot), Ok(()));
        let error = footing.require(Isolation::Root).expect_err("it is weaker").to_string();
        assert_eq!(error, "isolation `root` is required, and only `userns-single` is possible: this is not root");
    }
}
