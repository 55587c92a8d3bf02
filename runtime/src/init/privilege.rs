//! What the command may do: limits, capabilities, the system calls it can make, and who it is.

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, configure_capability_in_ambient_set, set_capabilities,
    set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use crate::error::{Doing, SetupError, reason};
use crate::init::user::Identity;
use crate::isolation::Isolation;
use crate::seccomp::DEFAULT_CAPABILITIES;
use crate::spec::{Limit, Rlimit, Security};
use crate::sys;

/// With more, programs that close all descriptors one by one take minutes.
const MOST_FILES: u64 = 1024 * 1024;

/// Sets limits; what the host refuses is only said.
pub fn set_limits(limits: &[Rlimit], warn: &dyn Fn(String)) {
    let unlimited = |value: Option<u64>| value.unwrap_or(libc::RLIM64_INFINITY);
    for Rlimit { limit, soft, hard } in limits {
        let (number, soft, hard) = (resource(*limit), unlimited(*soft), unlimited(*hard));
        let Err(error) = sys::set_limit(number, soft, hard) else { continue };
        // Above what the host allows: then as much as that.
        match sys::hard_limit(number).map(|most| (most, sys::set_limit(number, soft.min(most), hard.min(most)))) {
            Ok((most, Ok(()))) => {
                warn(format!("the limit `{}` is above the host's, and is {most} instead of {hard}", limit.name()));
            }
            _ => warn(format!("the host refused the limit `{}`: {}", limit.name(), reason(&error))),
        }
    }
    let files = getrlimit(Resource::Nofile);
    if unlimited(files.current) > MOST_FILES && !limits.iter().any(|limit| limit.limit == Limit::Nofile) {
        // Lowering a soft limit is never refused.
        let _ = sys::set_limit(resource(Limit::Nofile), MOST_FILES, unlimited(files.maximum));
    }
}

#[allow(clippy::useless_conversion, reason = "the constants are signed in some C libraries")]
fn resource(limit: Limit) -> u32 {
    match limit {
        Limit::Core => libc::RLIMIT_CORE,
        Limit::Cpu => libc::RLIMIT_CPU,
        Limit::Data => libc::RLIMIT_DATA,
        Limit::Fsize => libc::RLIMIT_FSIZE,
        Limit::Locks => libc::RLIMIT_LOCKS,
        Limit::Memlock => libc::RLIMIT_MEMLOCK,
        Limit::Msgqueue => libc::RLIMIT_MSGQUEUE,
        Limit::Nice => libc::RLIMIT_NICE,
        Limit::Nofile => libc::RLIMIT_NOFILE,
        Limit::Nproc => libc::RLIMIT_NPROC,
        Limit::Rss => libc::RLIMIT_RSS,
        Limit::Rtprio => libc::RLIMIT_RTPRIO,
        Limit::Rttime => libc::RLIMIT_RTTIME,
        Limit::Sigpending => libc::RLIMIT_SIGPENDING,
        Limit::Stack => libc::RLIMIT_STACK,
    }
    .try_into()
    .unwrap_or(u32::MAX)
}

/// Gives capabilities up for good.
pub fn withhold(withheld: CapabilitySet) -> Result<(), SetupError> {
    for capability in withheld.iter() {
        rustix::thread::remove_capability_from_bounding_set(capability)
            .doing(|| format!("drop capability {:#x}", capability.bits()))?;
    }
    let ours = capabilities(None).doing(|| "read capabilities".to_owned())?;
    let sets = CapabilitySets {
        effective: ours.effective - withheld,
        permitted: ours.permitted - withheld,
        inheritable: ours.inheritable - withheld,
    };
    set_capabilities(None, sets).doing(|| "set capabilities".to_owned())
}

/// Becomes the user with the rights of this mode.
///
/// Where there is one id, everybody is root to the kernel.
pub fn drop_to(
    identity: &Identity,
    security: Security,
    isolation: Isolation,
    filter: Option<&[u64]>,
) -> Result<(), SetupError> {
    let is_single = isolation == Isolation::SingleId;
    let bounding = limit_bounding_set(security)?;
    if let Some(filter) = filter {
        // While we still have the right to: without it the filter would need `no_new_privs`, and sudo would not work.
        sys::load_filter(filter).doing(|| "load the seccomp filter".to_owned())?;
    }
    if security == Security::Insecure {
        set_keep_capabilities(true).doing(|| "keep capabilities".to_owned())?;
    }
    if !is_single {
        become_user(identity)?;
    }
    let inheritable = match security {
        Security::Sandbox => CapabilitySet::empty(),
        Security::Insecure => bounding,
    };
    // Becoming a user other than root has taken all of them, which is as it should be.
    let allowed = match security {
        Security::Sandbox if identity.uid != 0 && !is_single => CapabilitySet::empty(),
        _ => bounding,
    };
    let sets = CapabilitySets { effective: allowed, permitted: allowed, inheritable };
    set_capabilities(None, sets).doing(|| "set capabilities".to_owned())?;
    if security == Security::Insecure {
        for capability in bounding.iter() {
            configure_capability_in_ambient_set(capability, true).doing(|| "set ambient capabilities".to_owned())?;
        }
    }
    Ok(())
}

/// Takes from the bounding set what the mode does not allow; returns what is left of what we have.
fn limit_bounding_set(security: Security) -> Result<CapabilitySet, SetupError> {
    use rustix::thread::{capability_is_in_bounding_set, remove_capability_from_bounding_set};
    let ours = capabilities(None).doing(|| "read capabilities".to_owned())?;
    let mut left = CapabilitySet::empty();
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        // The first number that the kernel does not know ends the list.
        let Ok(is_bounding) = capability_is_in_bounding_set(capability) else { break };
        let is_allowed = security == Security::Insecure || DEFAULT_CAPABILITIES & (1 << number) != 0;
        if is_bounding && !is_allowed {
            remove_capability_from_bounding_set(capability).doing(|| format!("drop capability {number}"))?;
        } else if is_bounding && ours.permitted.contains(capability) {
            left |= capability;
        }
    }
    Ok(left)
}

fn become_user(identity: &Identity) -> Result<(), SetupError> {
    use rustix::thread::{Gid, Uid};
    let groups: Vec<Gid> = identity.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    let refused = |error: Errno, kind: &str, id: u32| match error {
        Errno::INVAL => SetupError::ForeignId { kind: kind.to_owned(), id },
        error => {
            let what = format!("become {kind} {id}");
            SetupError::System { what, reason: reason(&error.into()), errno: error.raw_os_error() }
        }
    };
    // One thread, so the calls for a thread are enough.
    set_thread_groups(&groups)
        .map_err(|error| refused(error, "group", identity.groups.iter().copied().max().unwrap_or(0)))?;
    set_thread_res_gid(gid, gid, gid).map_err(|error| refused(error, "group", identity.gid))?;
    set_thread_res_uid(uid, uid, uid).map_err(|error| refused(error, "user", identity.uid))
}
