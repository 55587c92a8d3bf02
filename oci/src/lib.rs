//! The vocabulary of images: digests, descriptors, manifests, image configs, platforms and
//! references. Values only: nothing here touches a file, a socket or a clock.
//!
//! Documents that others hash are written with fixed field order, sorted maps and without
//! absent members, so equal values always give equal bytes (OCI image spec; order as the Go
//! types that other builders use).

pub mod base64;
mod chain;
mod config;
mod descriptor;
mod digest;
mod manifest;
mod platform;
mod reference;
mod time;

pub use chain::chain_id;
pub use config::{Healthcheck, History, ImageConfig, RootFs, RunConfig};
pub use descriptor::{Descriptor, media_type};
pub use digest::{Digest, DigestError, Hasher};
pub use manifest::{Document, DocumentError, Index, LayoutMarker, Manifest, REF_NAME};
pub use platform::{Platform, PlatformError, PlatformMatcher};
pub use reference::{Reference, ReferenceDigest, ReferenceError};
pub use time::{parse_rfc3339, parse_rfc3339_fraction, rfc3339};
