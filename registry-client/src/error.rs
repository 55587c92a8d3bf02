//! What can go wrong between here and a registry, sorted by what a person can do about it.

use std::io;

use kiln_oci::Digest;

/// Why a request to a registry failed. Plain data, so that one failure can be told to
/// everybody who waited for the same thing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The registry does not have it.
    #[error("{0}: not found")]
    NotFound(String),
    /// The registry wants a login, another one, or does not tell strangers what it has.
    #[error("{what}: {host} refuses access{}{said}", account(*known))]
    Unauthorized {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// Whether credentials were sent.
        known: bool,
        /// What the registry said, with a colon in front; or nothing.
        said: String,
    },
    /// There is no talking to the host.
    #[error("cannot reach {host}: {cause}")]
    Unreachable {
        /// The host, with its port.
        host: String,
        /// Why.
        cause: Unreachable,
    },
    /// The registry asks to come back later, and kept asking.
    #[error("{what}: {host} answered 429 Too Many Requests{said}")]
    RateLimited {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// What the registry said about its limit, with a colon in front; or nothing.
        said: String,
    },
    /// The registry answered, but with a status that is no success.
    #[error("{what}: {host} answered {status}{said}")]
    Status {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// The HTTP status.
        status: u16,
        /// What the registry said, with a colon in front; or nothing.
        said: String,
    },
    /// The bytes are not those that were asked for.
    #[error("{what} from {host} is damaged: it hashes to {found}, not {wanted}")]
    Digest {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// The digest asked for.
        wanted: Digest,
        /// The digest of what came.
        found: Digest,
    },
    /// There are more or fewer bytes than announced.
    #[error("{what} from {host} has {found} bytes, not {wanted}")]
    Size {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// The length asked for.
        wanted: u64,
        /// The length of what came, as far as it was read.
        found: u64,
    },
    /// The answer breaks the protocol.
    #[error("{host}: {what}")]
    Protocol {
        /// The host.
        host: String,
        /// What is wrong.
        what: String,
    },
    /// The name cannot be asked for.
    #[error("{0}")]
    Name(String),
    /// What is to be pushed cannot be read.
    #[error("cannot read {what} to push it: {cause}")]
    Local {
        /// The blob.
        what: String,
        /// What the system said.
        cause: String,
    },
    /// The build was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// This process cannot make requests at all.
    #[error("cannot start the HTTP client: {0}")]
    Setup(String),
}

/// Why a host cannot be talked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// Nobody listens there.
    #[error("connection refused")]
    Refused,
    /// The name means nothing.
    #[error("the host name cannot be resolved")]
    Dns,
    /// The other side is not trusted, or does not speak TLS.
    #[error("TLS: {0}")]
    Tls(String),
    /// No answer came.
    #[error("no answer within {0} seconds")]
    Timeout(u64),
    /// The connection broke.
    #[error("{0}")]
    Broken(String),
}

impl Error {
    /// Says what a person can try, where there is something.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotFound(_) => "check the spelling of the name and the tag".to_owned(),
            Self::Unauthorized { host, known: false, .. } => {
                format!(
                    "the image may not exist, or {host} wants a login: `docker login {host}` writes one that kiln reads"
                )
            }
            Self::Unauthorized { host, known: true, .. } => {
                format!("the image may not exist, or the login for {host} has no right to it")
            }
            Self::Unreachable { host, cause: Unreachable::Refused } => format!("is a server running at {host}?"),
            Self::Unreachable { cause: Unreachable::Dns, .. } => {
                "check the spelling of the host name, and that this machine has a network".to_owned()
            }
            Self::Unreachable { host, cause: Unreachable::Tls(_) } => {
                format!("if {host} runs on http or with its own certificate, name it as an insecure registry")
            }
            Self::Unreachable { .. } => "check the network, or try again".to_owned(),
            Self::RateLimited { host, .. } => format!("wait, or log in to {host} to raise the limit"),
            Self::Status { status: 500.., host, .. } => format!("{host} has a problem of its own: try again later"),
            Self::Digest { .. } | Self::Size { .. } => {
                "the registry, or something between here and there, changes content: try again, or another mirror"
                    .to_owned()
            }
            _ => return None,
        })
    }

    /// Finds the error inside an [`io::Error`] that a [`crate::BlobStream`] or a download gave.
    pub fn from_io(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// Whether another source of the same content may do better.
    pub(crate) fn is_about_the_host(&self) -> bool {
        !matches!(self, Self::Cancelled | Self::Name(_) | Self::Local { .. } | Self::Setup(_))
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::NotFound(_) => io::ErrorKind::NotFound,
            Error::Unauthorized { .. } => io::ErrorKind::PermissionDenied,
            Error::Digest { .. } | Error::Size { .. } => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

fn account(known: bool) -> &'static str {
    if known { " to this account" } else { "" }
}
