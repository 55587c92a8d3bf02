//! Layers of cached steps that turned out not to be had where the cache said.
//!
//! A result that came from elsewhere is only as good as the place it is in: blobs are deleted there, or
//! damaged. When that shows, the layer is taken for one that nobody has, for as long as the build lasts,
//! and the build is tried again: what was finished is found again, and the step that made the layer runs.

use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;

use kiln_oci::Digest;

/// What one build, however often it is tried, could not get.
#[derive(Debug, Default)]
pub struct Lost(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// And why not.
    layers: BTreeMap<Digest, String>,
    /// What no step makes.
    kept: HashSet<Digest>,
}

impl Lost {
    /// Notes layers that cannot be made again: without them there is no build.
    pub fn keep(&self, layers: &[Digest]) {
        self.0.lock().expect("no panic under the lock").kept.extend(layers);
    }

    /// Notes that a layer cannot be had. Returns false when it is one that cannot be made either.
    pub fn add(&self, diff_id: &Digest, why: &str) -> bool {
        let mut inner = self.0.lock().expect("no panic under the lock");
        if inner.kept.contains(diff_id) {
            return false;
        }
        inner.layers.entry(*diff_id).or_insert_with(|| why.to_owned());
        true
    }

    /// Whether a layer cannot be had.
    pub fn has(&self, diff_id: &Digest) -> bool {
        self.0.lock().expect("no panic under the lock").layers.contains_key(diff_id)
    }

    /// Returns the reasons, each once.
    pub fn reasons(&self) -> Vec<String> {
        let inner = self.0.lock().expect("no panic under the lock");
        let mut reasons: Vec<String> = inner.layers.values().cloned().collect();
        reasons.sort();
        reasons.dedup();
        reasons
    }
}
