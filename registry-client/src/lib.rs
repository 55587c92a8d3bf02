//! The distribution protocol: pull, push, credentials, mirrors, retries; and a plain
//! download for `ADD` of URLs.
//!
//! The surface is blocking: a [`Client`] can be cloned and used from many threads. Inside, two
//! tokio workers and one HTTP client per kind of trust are started when the first request is
//! made, so that a build which asks the network nothing pays nothing.
//!
//! What holds everywhere:
//! - No bytes count as content before their sha256 was compared with the digest asked for.
//! - `Authorization` goes to the host it was made for and nowhere else.
//! - Every wait is bounded, and notices within 200 ms that the client was cancelled.
//! - Tokens, passwords and the signatures in redirected URLs stay out of messages.

mod auth;
mod blob;
mod body;
mod challenge;
mod client;
mod credentials;
mod docker_config;
mod error;
mod fetch;
mod host;
mod push;
mod redact;
mod resolve;
mod retry;
mod transport;

pub use auth::basic;
pub use blob::BlobStream;
pub use client::{Client, Options, Repository};
pub use credentials::{Anonymous, Credential, Credentials};
pub use docker_config::DockerConfig;
pub use error::{Error, Unreachable};
pub use fetch::{Fetch, Fetched};
pub use push::Pushed;
pub use resolve::Resolved;
