//! Stages to graph, image config and history.
//!
//! Lowering is pure and resumable: where it needs a fact from outside, it says so in
//! [`Lowered::Needs`]; the caller finds out, adds the fact to [`Facts`] and asks again.

use std::collections::BTreeMap;

use kiln_oci::{Digest, ImageConfig, Platform};

use crate::graph::{Edge, Graph};

/// What the user asked for.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// `--target`.
    pub target: Option<String>,
    /// `--build-arg`, in order.
    pub build_args: BTreeMap<String, String>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--platform`; `None` when not given (the build platform, "implicit").
    pub platform: Option<Platform>,
    /// The platform of this machine.
    pub build_platform: Platform,
    /// Whether several platforms are built (names get a prefix).
    pub multi_platform: bool,
    /// `--build-context`: name as given → value as given (`docker-image://…`, `oci-layout://…`,
    /// a URL, or `local:NAME` for a directory of the client).
    pub contexts: BTreeMap<String, String>,
    /// `--no-cache`.
    pub no_cache: bool,
    /// `--no-cache-filter`.
    pub no_cache_filter: Vec<String>,
    /// `--network`.
    pub network: crate::graph::Network,
    /// `--add-host`.
    pub extra_hosts: Vec<(String, String)>,
    /// `--shm-size`.
    pub shm_size: Option<u64>,
    /// `--ulimit`.
    pub ulimits: Vec<String>,
    /// The name of the build file, for messages.
    pub filename: String,
}

/// An image that lowering asks about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageQuery {
    /// Which: a normalised reference, or an OCI layout.
    pub image: ImageName,
    /// For what.
    pub platform: Platform,
}

/// How an image is named.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ImageName {
    /// Fully qualified, with tag or digest.
    Reference(String),
    /// An OCI layout directory of the client, with what stands after `oci-layout://`:
    /// `path[:tag][@digest]`.
    OciLayout(String),
}

/// What was found out about an image.
#[derive(Debug, Clone)]
pub enum ImageFact {
    /// It is there.
    Found {
        /// The manifest or index that the name points to.
        digest: Digest,
        /// The config of the image for the platform.
        config: Box<ImageConfig>,
    },
    /// It is not, and why (`docker.io/library/nope:latest: not found`).
    Missing(String),
}

/// What is known of the outside.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The images asked for so far.
    pub images: BTreeMap<ImageQuery, ImageFact>,
}

/// What lowering came to.
#[derive(Debug)]
pub enum Lowered {
    /// A graph.
    Done(Box<Plan>),
    /// More facts are needed first.
    Needs(Vec<ImageQuery>),
}

/// A graph and what its result is.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What to make.
    pub graph: Graph,
    /// The result; `None` is an empty image.
    pub root: Option<Edge>,
    /// Its config, complete but for `rootfs.diff_ids` and missing times. History entries of
    /// the base image come first, unchanged.
    pub config: ImageConfig,
    /// How many of the config's history entries are the base image's.
    pub base_history: usize,
    /// For each new history entry that makes a layer, in order, the edge that made it.
    pub layer_edges: Vec<Option<Edge>>,
}
