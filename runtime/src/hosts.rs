//! The content of `/etc/hosts`, and the check of names that end up in it.

use std::fmt::Write;
use std::net::IpAddr;

use crate::error::RunError;

/// The longest host name the kernel takes.
const LONGEST: usize = 64;

/// Returns the hosts file of a sandbox.
///
/// Names and addresses come from the Dockerfile and the command line: one that could start a line of its own is refused.
pub fn text(hostname: &str, extra: &[(String, String)]) -> Result<String, RunError> {
    check("hostname", hostname)?;
    if hostname.len() > LONGEST {
        let reason = format!("longer than {LONGEST} bytes");
        return Err(RunError::Invalid { what: "hostname", value: hostname.to_owned(), reason });
    }
    let mut text = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, address) in extra {
        check("host name", name)?;
        if address.parse::<IpAddr>().is_err() {
            let reason = "not an IP address".to_owned();
            return Err(RunError::Invalid { what: "address of a host", value: address.clone(), reason });
        }
        // A string takes it.
        let _ = writeln!(text, "{address}\t{}", name.to_lowercase());
    }
    Ok(text)
}

fn check(what: &'static str, name: &str) -> Result<(), RunError> {
    let reason = if name.is_empty() {
        "empty"
    } else if name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '#') {
        "holds a blank, a control character or `#`"
    } else {
        return Ok(());
    };
    Err(RunError::Invalid { what, value: name.to_owned(), reason: reason.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_hosts_follow_in_order_and_lower_case() {
        let extra = [("Db".to_owned(), "10.0.0.1".to_owned()), ("v6".to_owned(), "fe80::1".to_owned())];
        let expected =
            "127.0.0.1\tlocalhost box\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.1\tdb\nfe80::1\tv6\n";
        assert_eq!(text("box", &extra).expect("good names"), expected);
    }

    #[test]
    fn nothing_can_start_a_line_of_its_own() {
        for name in ["", "a b", "a\n1.2.3.4 evil", "a\tb", "a\u{b}b", "a\0", "#"] {
            assert!(text(name, &[]).is_err(), "{name:?} as hostname");
            assert!(text("ok", &[(name.to_owned(), "1.2.3.4".to_owned())]).is_err(), "{name:?} as extra name");
        }
        for address in ["", "host-gateway", "1.2.3.4\n6.6.6.6 x", "1.2.3"] {
            assert!(text("ok", &[("a".to_owned(), address.to_owned())]).is_err(), "{address:?}");
        }
        assert!(text(&"a".repeat(65), &[]).is_err());
    }
}
