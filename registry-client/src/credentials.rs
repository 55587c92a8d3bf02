//! Who we are for a registry.

/// What a registry is shown.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A user and a password, or a token in its place.
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// A token that the registry takes as it is.
    Bearer(String),
    /// A refresh token: the token server gives others for it.
    IdentityToken(String),
}

/// Where credentials come from.
pub trait Credentials: Send + Sync {
    /// Returns what to show `host`, which is a registry's name as references have it
    /// (`docker.io`, `localhost:5000`). Asked when a registry demands it, and may take its time.
    fn get(&self, host: &str) -> Option<Credential>;
}

/// No credentials for anybody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Anonymous;

impl Credentials for Anonymous {
    fn get(&self, _host: &str) -> Option<Credential> {
        None
    }
}

/// Shows the kind and the user, never the secret.
impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Basic { user, .. } => f.debug_struct("Basic").field("user", user).finish_non_exhaustive(),
            Self::Bearer(_) => f.write_str("Bearer(…)"),
            Self::IdentityToken(_) => f.write_str("IdentityToken(…)"),
        }
    }
}
