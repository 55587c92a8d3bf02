//! Everything that stays on disk, and nothing that runs.
//!
//! ```text
//! <root>/                  mode 0700
//!   oci-layout, index.json   the tagged images; with blobs/ a valid OCI image layout at all times
//!   blobs/sha256/<hex>       blobs, complete and checked
//!   ingest/                  files and directories being written; each writer holds a lock
//!   layers/v1/<diff id>/     a layer: fs/ (directory form), index, blobs/ (where its tar may be had)
//!   records/v1/              cache keys and what they lead to; what references were resolved to
//!   context/v1/              digests of local files, by inode and change time
//!   mounts/v1/               cache mounts
//!   failed/v1/               what failed commands left, for who wants to look
//!   run/                     locks and working directories of running builds
//! ```
//!
//! Nothing is changed in place: a file or directory is written in `ingest`, then renamed to its
//! name. So readers need no locks, a killed writer leaves only what [`Store::sweep`] deletes, and
//! two writers of the same thing end with one of two equal results. Damage is detected by the
//! digest or checksum that everything carries, and is a cache miss, never a failed build.

mod blob;
pub mod context;
mod failed;
mod file;
pub mod gc;
mod image;
pub mod layer;
mod lock;
pub mod mount;
pub mod record;
pub mod remote;
mod remove;
mod store;
pub mod tree;

pub use blob::{BlobError, BlobReader, Ingest};
pub use failed::Failed;
pub use file::FileError;
pub use layer::{Layer, LayerBlob, LayerError, LayerIndex};
pub use record::{Known, NamedInput, Record};
pub use store::{Scratch, Store, StoreError, StoreLock};
