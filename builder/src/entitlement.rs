//! Entitlements: what a Dockerfile may only do where the user has allowed it.
//!
//! They are checked before anything runs, for every step that the target needs, whether it is in the cache or not.

use std::collections::BTreeSet;
use std::str::FromStr;

use kiln_frontend::graph::{Exec, Network, Op, Security};

use crate::error::BuildError;
use crate::plan::Planned;

/// One thing that `--allow` can allow.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entitlement {
    /// `network.host`: `RUN --network=host`.
    NetworkHost,
    /// `security.insecure`: `RUN --security=insecure`.
    SecurityInsecure,
    /// `device`: every device; `device=NAME`: this one.
    Device(Option<String>),
}

impl FromStr for Entitlement {
    type Err = BuildError;

    fn from_str(text: &str) -> Result<Self, BuildError> {
        match text {
            "network.host" => Ok(Self::NetworkHost),
            "security.insecure" => Ok(Self::SecurityInsecure),
            "device" => Ok(Self::Device(None)),
            // `device=vendor/class=name,alias=other`: an alias renames what CDI knows, and kiln knows none.
            _ => match text.strip_prefix("device=").and_then(|rest| rest.split(',').next()) {
                Some(name) if !name.is_empty() => Ok(Self::Device(Some(name.to_owned()))),
                _ => Err(BuildError::input(format!("unknown entitlement {text}"))
                    .hint("`--allow` takes `network.host`, `security.insecure`, `device` and `device=NAME`")),
            },
        }
    }
}

/// Says whether everything that is planned is allowed.
///
/// # Errors
/// Names the first thing that is not, with its lines.
pub fn check(planned: &Planned, allowed: &BTreeSet<Entitlement>) -> Result<(), BuildError> {
    for id in planned.graph.needed(planned.roots()) {
        let vertex = planned.graph.vertex(id);
        let Op::Exec(exec) = &vertex.op else { continue };
        if let Some(mut error) = refusal(exec, allowed) {
            error.location.clone_from(&vertex.location);
            error.step = Some(vertex.name.clone());
            return Err(error);
        }
    }
    Ok(())
}

fn refusal(exec: &Exec, allowed: &BTreeSet<Entitlement>) -> Option<BuildError> {
    let grant = |flag: &str| format!("if you trust the Dockerfile with that, add `--allow {flag}`");
    if exec.network == Network::Host && !allowed.contains(&Entitlement::NetworkHost) {
        return Some(BuildError::input("network.host is not allowed").hint(grant("network.host")));
    }
    if exec.security == Security::Insecure && !allowed.contains(&Entitlement::SecurityInsecure) {
        return Some(BuildError::input("security.insecure is not allowed").hint(grant("security.insecure")));
    }
    let may_use = |name: &str| {
        allowed.contains(&Entitlement::Device(None)) || allowed.contains(&Entitlement::Device(Some(name.to_owned())))
    };
    let (name, _) = exec.devices.iter().find(|(name, _)| !may_use(name))?;
    let message = format!("device {name} is requested by the build but not allowed");
    Some(BuildError::input(message).hint(grant(&format!("device={name}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_unknown_ones_are_refused() {
        let read = |text: &str| text.parse::<Entitlement>().map_err(|error| error.message);
        assert_eq!(read("network.host"), Ok(Entitlement::NetworkHost));
        assert_eq!(read("security.insecure"), Ok(Entitlement::SecurityInsecure));
        assert_eq!(read("device"), Ok(Entitlement::Device(None)));
        assert_eq!(read("device=v.com/gpu=all"), Ok(Entitlement::Device(Some("v.com/gpu=all".to_owned()))));
        for wrong in ["", "network", "network.none", "security.sandbox", "NETWORK.HOST", "device=", "devices"] {
            assert_eq!(read(wrong), Err(format!("unknown entitlement {wrong}")));
        }
    }
}
