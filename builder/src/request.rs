//! What a client asks of the engine.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use kiln_frontend::lower;
use kiln_oci::{Descriptor, Digest, Platform, Reference};
use kiln_runtime::Resources;

use crate::entitlement::Entitlement;

/// One build.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// The build file.
    pub build_file: BuildFile,
    /// The context, where it is not a directory of the client.
    pub context: Option<crate::FetchedContext>,
    /// Everything that shapes the graph. Its `platform` is set by the engine from `platforms`.
    pub options: lower::Request,
    /// The platforms to build for, in order; empty for this machine's.
    pub platforms: Vec<Platform>,
    /// The names that the image gets, with tag.
    pub names: Vec<Reference>,
    /// What is to be made of the result. Empty: the image goes to the store.
    pub outputs: Vec<Output>,
    /// Caches elsewhere that are looked in for what the store does not have, in this order.
    pub cache_from: Vec<CacheSource>,
    /// What others are given to find what was built here.
    pub cache_to: BTreeSet<CacheTarget>,
    /// Ask the registries again what the tags of base images point to.
    pub pull: bool,
    /// What the build file may do beyond the ordinary.
    pub allowed: BTreeSet<Entitlement>,
    /// What each command may use; never part of a key.
    pub resources: Resources,
    /// How many commands may run at the same time; `None` for as many as are ready.
    pub jobs: Option<usize>,
    /// How long one command may take.
    pub step_timeout: Option<Duration>,
    /// Whether what a failed command leaves is kept, for [`Engine::shell`](crate::Engine::shell).
    pub keeps_failed: bool,
}

/// A build file and what to call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildFile {
    /// As the user knows it: `Dockerfile`, `docker/prod.Dockerfile`, `-`.
    pub name: String,
    /// Its bytes.
    pub text: Vec<u8>,
}

/// A cache elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheSource {
    /// Under this name in a registry: an image with its cache in it.
    Registry(Reference),
}

/// Where a cache is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CacheTarget {
    /// Into the config of the image.
    Inline,
}

/// What is to be made of the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// The image goes to kiln's store, under all names, and to their registries if `push`.
    Image {
        /// Push every name.
        push: bool,
        /// Of the image.
        layers: LayerOptions,
    },
    /// An OCI layout, as an archive or (`tar: false`) a directory.
    Oci {
        /// Where.
        destination: Destination,
        /// One file rather than a directory.
        tar: bool,
        /// Of the image.
        layers: LayerOptions,
    },
    /// The archive that `docker load` reads.
    Docker {
        /// Where.
        destination: Destination,
        /// Of the image.
        layers: LayerOptions,
    },
    /// The files, as a tar stream.
    Tar {
        /// Where.
        destination: Destination,
    },
    /// The files, in a directory.
    Local {
        /// Where.
        directory: PathBuf,
        /// Whether each platform has a folder of its own; `None`: where there may be several.
        split: Option<bool>,
    },
    /// Nothing but what the cache keeps.
    CacheOnly,
}

impl Output {
    /// How the layers of the image are written, where the output is one.
    pub fn layers(&self) -> Option<LayerOptions> {
        match self {
            Self::Image { layers, .. } | Self::Oci { layers, .. } | Self::Docker { layers, .. } => Some(*layers),
            Self::Tar { .. } | Self::Local { .. } | Self::CacheOnly => None,
        }
    }
}

/// How the layers of an image are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerOptions {
    /// Of new layers.
    pub compression: Compression,
    /// Layers of base images are compressed in that way, too.
    pub force: bool,
    /// Nothing in new layers is later than SOURCE_DATE_EPOCH.
    pub clamp: bool,
}

impl Default for LayerOptions {
    fn default() -> Self {
        Self { compression: Compression::Gzip, force: false, clamp: false }
    }
}

/// Where a stream goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// To a file, which appears complete or not at all.
    File(PathBuf),
    /// To the client's standard output.
    Stdout,
}

pub use kiln_cache::layer::Compression;

/// What a build came to.
#[derive(Debug, Clone)]
pub struct BuildResult {
    /// The root document: the manifest, or the index of several platforms. `None` when no
    /// output needed an image (`local`, `tar`).
    pub image: Option<BuiltImage>,
    /// How many steps were found in the cache, and how many there were.
    pub cached: usize,
    /// Steps in all: commands, copies, and base images.
    pub steps: usize,
    /// Warnings of the build file's checks and of the engine, in order.
    pub warnings: Vec<kiln_frontend::dockerfile::Diagnostic>,
}

/// The image that was built.
#[derive(Debug, Clone)]
pub struct BuiltImage {
    /// Manifest or index.
    pub descriptor: Descriptor,
    /// The config's digest, which is the image id; `None` for an index.
    pub config: Option<Digest>,
    /// Bytes of all layers, compressed, as a registry counts them.
    pub size: u64,
    /// The names it has now.
    pub names: Vec<String>,
    /// Names that were pushed.
    pub pushed: Vec<String>,
}
