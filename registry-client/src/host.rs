//! Hosts: how each is reached, what it demanded, and how much is asked of it at a time.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Mutex, OnceCell, Semaphore};

use crate::auth::Auth;

/// Blobs in flight per host and direction; manifests do not count.
const BLOBS_AT_ONCE: usize = 4;

/// How the other side proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// By a certificate that this machine trusts.
    Verified,
    /// Not at all; plain http is good enough.
    Unverified,
    /// By being this machine. No proxy is asked.
    Loopback,
    /// By a certificate, although it is this machine: nobody said that it is a registry. No proxy is asked.
    VerifiedLoopback,
}

/// One host that requests go to.
pub(crate) struct Host {
    /// With its port, as in a URL.
    pub name: String,
    /// As references and credentials have it.
    pub domain: String,
    pub trust: Trust,
    /// `https` or `http`, once it is known.
    pub scheme: OnceCell<&'static str>,
    pub auth: Mutex<Auth>,
    /// Turns for pulling blobs.
    pub blobs: Arc<Semaphore>,
    /// Turns for pushing blobs; others, because a blob may be pulled to be pushed.
    pub uploads: Arc<Semaphore>,
    /// Whether we have something to show it.
    known: AtomicBool,
    /// Whether it gave wrong content.
    distrusted: AtomicBool,
}

impl Host {
    pub(crate) fn new(domain: &str, trust: Trust) -> Self {
        let scheme = match trust {
            Trust::Verified | Trust::VerifiedLoopback => OnceCell::new_with(Some("https")),
            Trust::Unverified | Trust::Loopback => OnceCell::new(),
        };
        Self {
            name: if domain == "docker.io" { "registry-1.docker.io" } else { domain }.to_owned(),
            domain: domain.to_owned(),
            trust,
            scheme,
            auth: Mutex::default(),
            blobs: Arc::new(Semaphore::new(BLOBS_AT_ONCE)),
            uploads: Arc::new(Semaphore::new(BLOBS_AT_ONCE)),
            known: AtomicBool::new(false),
            distrusted: AtomicBool::new(false),
        }
    }

    pub(crate) fn set_known(&self) {
        self.known.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    pub(crate) fn distrust(&self) {
        self.distrusted.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_distrusted(&self) -> bool {
        self.distrusted.load(Ordering::Relaxed)
    }
}

/// A host in its role for one registry: the registry itself, or a mirror of it.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub host: Arc<Host>,
    /// Between `/v2/` and the repository; empty, or ends with `/`.
    pub prefix: String,
    /// For a mirror: which registry's content is meant.
    pub mirrored: Option<String>,
}

impl Endpoint {
    /// Returns path and query of something below a repository.
    pub(crate) fn path(&self, repository: &str, rest: &str) -> String {
        let ns = self.mirrored.as_deref().map(|domain| {
            let mark = if rest.contains('?') { '&' } else { '?' };
            format!("{mark}ns={domain}")
        });
        format!("/v2/{}{repository}/{rest}{}", self.prefix, ns.unwrap_or_default())
    }
}

/// Whether a host, with or without a port, is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_told_by_its_name() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.8.9.1", "[::1]:80", "[::1]", "LOCALHOST"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example", "128.0.0.1", "10.0.0.1:5000", "[::2]", "[", "", "1270.0.1"] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn a_mirror_is_told_whose_content_is_meant() {
        let host = Arc::new(Host::new("mirror.local:5000", Trust::Verified));
        let endpoint = Endpoint { host, prefix: "hub/".into(), mirrored: Some("docker.io".into()) };
        assert_eq!(endpoint.path("library/a", "tags/list?n=1"), "/v2/hub/library/a/tags/list?n=1&ns=docker.io");
    }
}
