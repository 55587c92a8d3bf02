//! What EXPOSE takes: `[[ip:]hostport:]port[-port][/protocol]`.

use std::net::IpAddr;

use crate::dockerfile::hint;

/// Why a text is not a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PortError {
    /// Nothing before the protocol.
    #[error("invalid port: \"{0}\": no port specified")]
    Missing(String),
    /// Neither tcp, udp nor sctp.
    #[error("invalid port: \"{argument}\": invalid proto: {protocol}")]
    Protocol {
        /// The whole argument.
        argument: String,
        /// What stands after the slash.
        protocol: String,
    },
    /// Not a number or range.
    #[error("invalid containerPort: {0}")]
    Container(String),
    /// Not a number or range, on the side that does not count.
    #[error("invalid hostPort: {0}")]
    Host(String),
    /// Not an address.
    #[error("invalid IP address: {0}")]
    Ip(String),
    /// Two ranges of different length.
    #[error("invalid ranges specified for container and host Ports: {container} and {host}")]
    Ranges {
        /// The ports of the container.
        container: String,
        /// The ports of the host.
        host: String,
    },
}

impl PortError {
    /// Returns what to try instead of `argument`.
    pub(super) fn hint(&self, argument: &str) -> &'static str {
        match self {
            _ if hint::is_comment(argument) => hint::COMMENT,
            Self::Protocol { .. } => "the protocols are `tcp`, `udp` and `sctp`",
            _ if argument.contains(',') => "put blanks between ports, not commas",
            Self::Ip(_) | Self::Host(_) | Self::Ranges { .. } => {
                "EXPOSE names the port of the container alone; `docker run -p` connects it"
            }
            Self::Missing(_) | Self::Container(_) => {
                "a port is a number up to 65535, or a range of rising numbers such as `8000-8010`"
            }
        }
    }
}

/// The ports of one argument of EXPOSE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ports {
    /// First and last.
    range: (u16, u16),
    /// In lower case.
    protocol: String,
}

impl Ports {
    /// Returns the keys of the image config, `80/tcp`.
    pub(super) fn keys(&self) -> impl Iterator<Item = String> + '_ {
        (self.range.0..=self.range.1).map(|port| format!("{port}/{}", self.protocol))
    }
}

/// Reads one argument.
pub(super) fn parse(argument: &str) -> Result<Ports, PortError> {
    let (rest, protocol) = argument.split_once('/').unwrap_or((argument, ""));
    if rest.is_empty() {
        return Err(PortError::Missing(argument.to_owned()));
    }
    let protocol = if protocol.is_empty() { "tcp".to_owned() } else { protocol.to_lowercase() };
    if !matches!(&*protocol, "tcp" | "udp" | "sctp") {
        let protocol = argument.split_once('/').map_or("", |(_, protocol)| protocol).to_owned();
        return Err(PortError::Protocol { argument: argument.to_owned(), protocol });
    }
    let (ip, host, container) = split(rest);
    if container.is_empty() {
        return Err(PortError::Missing(argument.to_owned()));
    }
    let ip = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
    if !ip.is_empty() && ip.parse::<IpAddr>().is_err() {
        return Err(PortError::Ip(ip.to_owned()));
    }
    let container_range = range(container).ok_or_else(|| PortError::Container(container.to_owned()))?;
    if !host.is_empty() {
        let host_range = range(host).ok_or_else(|| PortError::Host(host.to_owned()))?;
        let length = |(first, last): (u16, u16)| last - first;
        if container_range.0 != container_range.1 && length(container_range) != length(host_range) {
            return Err(PortError::Ranges { container: container.to_owned(), host: host.to_owned() });
        }
    }
    Ok(Ports { range: container_range, protocol })
}

/// Splits into address, port of the host and port of the container; what is absent is empty.
fn split(text: &str) -> (&str, &str, &str) {
    let Some((rest, container)) = text.rsplit_once(':') else { return ("", "", text) };
    match rest.rsplit_once(':') {
        None => ("", rest, container),
        Some((ip, host)) => (ip, host, container),
    }
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = match text.split_once('-') {
        None => (number(text)?, number(text)?),
        Some((first, last)) => (number(first)?, number(last)?),
    };
    (first <= last).then_some((first, last))
}

fn number(text: &str) -> Option<u16> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_mistakes_the_one_buildkit_tells_is_told() {
        for (argument, expected) in [
            ("localhost:x:y", "invalid IP address: localhost"),
            ("127.0.0.1:x:y", "invalid containerPort: y"),
            ("127.0.0.1:x:80", "invalid hostPort: x"),
            ("[fe80::1%eth0]:80:80", "invalid IP address: fe80::1%eth0"),
            ("localhost:x:80/icmp", "invalid port: \"localhost:x:80/icmp\": invalid proto: icmp"),
        ] {
            assert_eq!(parse(argument).unwrap_err().to_string(), expected);
        }
    }
}
