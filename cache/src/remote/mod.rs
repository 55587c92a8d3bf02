//! Caches that are elsewhere: in an image, a registry, a directory.
//!
//! All of them hold one *document*: a table of layers, and records that say which keys lead to which
//! of them ([`Document`]). What differs is the container that the document and its blobs are in;
//! [`inline`] is the one inside an image. The shape is that of other builders, so that registries
//! and tools know it; the digests in the records are kiln's own keys, which no other builder's are
//! equal to, so that a cache of theirs is read and has nothing for us.
//!
//! An [`Entry`] is what kiln means by a record and those it is linked to.

mod document;
mod entry;
pub mod inline;
mod order;

pub use document::{
    Annotations, CacheLayer, CacheRecord, CacheResult, Document, DocumentError, Link, MAX_BYTES, ResultLayers,
};
pub use entry::Entry;
