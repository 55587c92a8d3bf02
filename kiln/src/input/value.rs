//! The values of simple flags.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use kiln_builder::BuildError;
use kiln_frontend::dockerfile::duration::{DurationError, Nanoseconds};
use kiln_frontend::graph::{HOST_GATEWAY, Network};
use kiln_oci::{Platform, Reference};
use kiln_runtime::{Isolation, IsolationError};

/// Reads the name of an image to be made; without a tag it is `latest`.
///
/// # Errors
/// When it is not a name, or names a digest, which nobody can choose.
pub fn tag(text: &str) -> Result<Reference, BuildError> {
    let reference: Reference =
        text.parse().map_err(|error| BuildError::input(format!("invalid tag `{text}`: {error}")))?;
    if reference.digest.is_some() {
        return Err(BuildError::input(format!("invalid tag `{text}`: a digest cannot be given to an image"))
            .hint("use `name:tag`"));
    }
    Ok(reference.with_default_tag())
}

/// Reads the name of what commands are shut in by.
///
/// # Errors
/// When there is no such thing.
pub fn isolation(text: &str) -> Result<Isolation, BuildError> {
    text.parse().map_err(|error: IsolationError| BuildError::input(error.to_string()))
}

/// Reads the name of an existing image; without tag and digest it is `latest`.
///
/// # Errors
/// When it is not a name.
pub fn reference(text: &str) -> Result<Reference, BuildError> {
    let reference: Reference =
        text.parse().map_err(|error| BuildError::input(format!("invalid name `{text}`: {error}")))?;
    Ok(if reference.digest.is_some() { reference } else { reference.with_default_tag() })
}

/// Reads `--label`.
///
/// # Errors
/// When the name is missing.
pub fn labels(texts: &[String]) -> Result<BTreeMap<String, String>, BuildError> {
    let mut labels = BTreeMap::new();
    for text in texts {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        if name.is_empty() {
            return Err(BuildError::input(format!("invalid label `{text}`: the name is missing")));
        }
        labels.insert(name.to_owned(), value.to_owned());
    }
    Ok(labels)
}

/// Reads `--platform`, which may hold several, separated by commas.
///
/// # Errors
/// When one is not a platform.
pub fn platforms(texts: &[String]) -> Result<Vec<Platform>, BuildError> {
    let mut platforms = Vec::new();
    for text in texts.iter().flat_map(|text| text.split(',')).filter(|text| !text.is_empty()) {
        let platform = match text {
            "local" => Platform::host(),
            _ => text.parse().map_err(|error| BuildError::input(format!("invalid platform `{text}`: {error}")))?,
        };
        let platform = platform.normalized();
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    Ok(platforms)
}

/// Reads `--network`.
///
/// # Errors
/// When it is not one of the three.
pub fn network(text: &str) -> Result<Network, BuildError> {
    match text {
        "" | "default" => Ok(Network::Default),
        "none" => Ok(Network::None),
        "host" => Ok(Network::Host),
        other => Err(BuildError::input(format!("network mode `{other}` is not supported by kiln"))
            .hint("use `default`, `none` or `host`")),
    }
}

/// Reads `--add-host`: `name:address` or `name=address`, IPv6 with or without brackets.
///
/// # Errors
/// When the name is missing or the address is none.
pub fn hosts(texts: &[String]) -> Result<Vec<(String, String)>, BuildError> {
    texts.iter().map(|text| host(text)).collect()
}

fn host(text: &str) -> Result<(String, String), BuildError> {
    let wrong = |why: &str| BuildError::input(format!("invalid host `{text}` for `--add-host`: {why}"));
    let (name, address) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .ok_or_else(|| wrong("it is not of the form `name:address`"))?;
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(wrong("the name is missing or has blanks in it"));
    }
    if address == HOST_GATEWAY {
        return Ok((name.to_owned(), address.to_owned()));
    }
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    let address: IpAddr = bare.parse().map_err(|_| wrong(&format!("`{bare}` is not an IP address")))?;
    Ok((name.to_owned(), address.to_string()))
}

/// The limits that `--ulimit` knows.
const LIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// Checks `--ulimit`: `name=soft[:hard]`, -1 for no limit.
///
/// # Errors
/// When the name is unknown, a number is none, or the soft limit is above the hard one.
pub fn ulimits(texts: &[String]) -> Result<Vec<String>, BuildError> {
    for text in texts {
        let wrong = |why: String| BuildError::input(format!("invalid limit `{text}` for `--ulimit`: {why}"));
        let (name, limits) =
            text.split_once('=').ok_or_else(|| wrong("it is not of the form `name=soft[:hard]`".to_owned()))?;
        if !LIMITS.contains(&name) {
            return Err(wrong(format!("there is no limit `{name}`")).hint(format!("known: {}", LIMITS.join(", "))));
        }
        let number = |text: &str| match text.parse::<i64>() {
            Ok(-1) => Ok(u64::MAX),
            Ok(number) if number >= 0 => Ok(number as u64),
            _ => Err(wrong(format!("`{text}` is not a number"))),
        };
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        if number(soft)? > number(hard)? {
            return Err(wrong("the soft limit is above the hard limit".to_owned()));
        }
    }
    Ok(texts.to_vec())
}

/// Reads `--shm-size`.
///
/// # Errors
/// When it is not a size.
pub fn shm_size(text: &str) -> Result<u64, BuildError> {
    crate::units::parse_bytes(text).ok_or_else(|| {
        BuildError::input(format!("invalid size `{text}` for `--shm-size`")).hint("for example `64m` or `1g`")
    })
}

/// Reads `--step-timeout`.
///
/// # Errors
/// When it is not a duration, or none at all.
pub fn step_timeout(text: &str) -> Result<Duration, BuildError> {
    let wrong = |reason: String| {
        BuildError::input(format!("invalid value for `--step-timeout`: {reason}")).hint("for example `90s` or `1h30m`")
    };
    let Nanoseconds(time) = text.parse().map_err(|error: DurationError| wrong(error.to_string()))?;
    match u64::try_from(time) {
        Ok(time @ 1..) => Ok(Duration::from_nanos(time)),
        _ => Err(wrong(format!("`{text}` is not more than nothing"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn tags_are_completed_and_checked() {
        assert_eq!(tag("app").unwrap().to_string(), "docker.io/library/app:latest");
        assert_eq!(tag("127.0.0.1:5000/app:dev").unwrap().to_string(), "127.0.0.1:5000/app:dev");
        assert!(tag("App").unwrap_err().message.contains("invalid tag `App`"));
        assert!(tag("").is_err());
        let digest = format!("app@sha256:{}", "0".repeat(64));
        assert!(tag(&digest).is_err());
        assert_eq!(reference(&digest).unwrap().tag, None);
    }

    #[test]
    fn labels_may_be_empty_but_not_nameless() {
        assert_eq!(
            labels(&texts(&["a=b=c", "d"])).unwrap(),
            BTreeMap::from([("a".into(), "b=c".into()), ("d".into(), String::new())])
        );
        assert!(labels(&texts(&["=c"])).is_err());
    }

    #[test]
    fn hosts_have_addresses() {
        let hosts = hosts(&texts(&["a:1.2.3.4", "b=::1", "c:[fe80::1]", "d:::2", "e:host-gateway"])).unwrap();
        let shown: Vec<_> = hosts.iter().map(|(name, address)| format!("{name} {address}")).collect();
        assert_eq!(shown, ["a 1.2.3.4", "b ::1", "c fe80::1", "d ::2", "e host-gateway"]);
        for wrong in ["a", "a:", ":1.2.3.4", "a b:1.2.3.4", "a:1.2.3.4\nb", "a:example.com"] {
            assert!(super::hosts(&texts(&[wrong])).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn limits_are_checked() {
        assert!(ulimits(&texts(&["nofile=1024:2048", "core=-1", "nproc=5:-1"])).is_ok());
        for wrong in ["nofile", "files=1", "nofile=x", "nofile=2:1", "nofile=-2", "nofile=1:2:3"] {
            assert!(ulimits(&texts(&[wrong])).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn platforms_are_listed_once() {
        let shown: Vec<_> = platforms(&texts(&["linux/amd64,linux/x86_64", "linux/arm64"]))
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(shown, ["linux/amd64", "linux/arm64"]);
        assert!(platforms(&texts(&["linux/"])).is_err());
        assert_eq!(platforms(&texts(&["local"])).unwrap(), [Platform::host().normalized()]);
    }
}
