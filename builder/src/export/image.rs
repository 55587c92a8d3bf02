//! The documents of an image: config and manifest, from a plan and its layers.

use std::collections::BTreeMap;

use kiln_cache::Store;
use kiln_cache::remote::{Entry, inline};
use kiln_frontend::lower::Plan;
use kiln_oci::{Descriptor, Digest, Index, Manifest, media_type, rfc3339};
use rayon::prelude::*;

use super::history::{self, Times};
use crate::error::{BuildError, chain};
use crate::layers::Layers;
use crate::request::LayerOptions;
use crate::solver::Solution;
use crate::source::image::environment;

/// What a build makes: one image, or an index with one for each platform.
#[derive(Debug, Clone)]
pub struct ImageSet {
    /// The images.
    pub images: Vec<Image>,
    /// The index and its bytes, where there is one.
    pub index: Option<(Descriptor, Vec<u8>)>,
}

impl ImageSet {
    /// Makes the index of `images`, and puts it into the store.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn with_index(store: &Store, images: Vec<Image>) -> Result<Self, BuildError> {
        let index = Index {
            schema_version: 2,
            media_type: Some(media_type::INDEX.to_owned()),
            artifact_type: None,
            manifests: images.iter().map(|image| image.descriptor.clone()).collect(),
            subject: None,
            annotations: Default::default(),
        };
        let bytes = serde_json::to_vec_pretty(&index).map_err(|error| BuildError::bug(error.to_string()))?;
        keep(store, &bytes)?;
        Ok(Self { images, index: Some((Descriptor::of(media_type::INDEX, &bytes), bytes)) })
    }

    /// Returns the index, or the manifest of the one image.
    pub fn root(&self) -> Option<&Descriptor> {
        self.index.as_ref().map(|(descriptor, _)| descriptor).or(self.images.first().map(|image| &image.descriptor))
    }

    /// Returns the config's digest of the one image.
    pub fn config(&self) -> Option<Digest> {
        self.images.first().filter(|_| self.index.is_none()).map(|image| image.config.digest)
    }

    /// Returns the bytes of all layers as a registry counts them.
    pub fn size(&self) -> u64 {
        let layers: BTreeMap<_, _> =
            self.layers().map(|(_, descriptor)| (descriptor.digest, descriptor.size)).collect();
        layers.values().sum()
    }

    /// Returns the layers of all images: identity and blob.
    pub fn layers(&self) -> impl Iterator<Item = &(Digest, Descriptor)> {
        self.images.iter().flat_map(|image| &image.layers)
    }
}

/// An image whose documents are in the store.
#[derive(Debug, Clone)]
pub struct Image {
    /// The manifest.
    pub descriptor: Descriptor,
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// The config.
    pub config: Descriptor,
    /// The layers, lowest first: identity and blob.
    pub layers: Vec<(Digest, Descriptor)>,
}

/// Makes config and manifest and puts them into the store. Layers get blobs, those of base
/// images keep theirs wherever they are. `cache` goes into the config.
///
/// # Errors
/// When a blob cannot be made or the store not be written.
pub fn make(
    store: &Store,
    layers: &Layers,
    plan: &Plan,
    solution: &Solution,
    options: LayerOptions,
    cache: &[Entry],
) -> Result<Image, BuildError> {
    let epoch = plan.epoch;
    let mut diff_ids = solution.chain(plan.root);
    if let (true, Some(epoch)) = (options.clamp, epoch) {
        // The lowest layers are the base's, as many as the new history does not account for.
        let new = plan.config.history.iter().skip(plan.base_history).filter(|entry| !entry.empty_layer).count();
        let base = diff_ids.len().saturating_sub(new);
        for diff_id in &mut diff_ids[base..] {
            *diff_id = layers.clamped(diff_id, epoch, options.compression)?;
        }
    }
    let mut config = plan.config.clone();
    config.rootfs.diff_ids.clone_from(&diff_ids);
    let new: Vec<Option<u64>> = plan
        .layer_edges
        .iter()
        .map(|edge| edge.and_then(|edge| solution.solved.get(&edge.vertex)).and_then(|solved| solved.created))
        .collect();
    history::complete(
        &mut config.history,
        &Times { layers: diff_ids.len(), base: plan.base_history, new: &new, epoch },
    );
    if config.created.is_none() {
        config.created = config.history.iter().rev().find_map(|entry| entry.created.clone());
    }
    if let Some(epoch) = epoch {
        let epoch = rfc3339(epoch, 0);
        if config.created.as_ref().is_none_or(|created| *created > epoch) {
            config.created = Some(epoch);
        }
    }
    // What the base has there is about other layers.
    inline::write(&mut config, cache).map_err(|error| BuildError::bug(chain(&error)))?;
    let config_bytes = serde_json::to_vec(&config).map_err(|error| BuildError::bug(error.to_string()))?;
    let blobs: Vec<Descriptor> =
        diff_ids.par_iter().map(|diff_id| layers.descriptor(diff_id, options)).collect::<Result<_, _>>()?;
    let config = Descriptor::of(media_type::CONFIG, &config_bytes);
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::MANIFEST.to_owned()),
        artifact_type: None,
        config: config.clone(),
        layers: blobs.iter().map(oci_layer).collect(),
        subject: None,
        annotations: Default::default(),
    };
    let manifest_bytes = serde_json::to_vec_pretty(&manifest).map_err(|error| BuildError::bug(error.to_string()))?;
    keep(store, &config_bytes)?;
    keep(store, &manifest_bytes)?;
    let mut descriptor = Descriptor::of(media_type::MANIFEST, &manifest_bytes);
    descriptor.platform = Some(plan.config.platform.clone());
    Ok(Image {
        descriptor,
        manifest: manifest_bytes,
        config,
        layers: diff_ids.into_iter().zip(manifest.layers).collect(),
    })
}

/// Puts a document into the store.
fn keep(store: &Store, bytes: &[u8]) -> Result<(), BuildError> {
    if !store.has_blob(&Digest::of(bytes)) {
        store.put_blob(bytes).map_err(|error| environment(&error))?;
    }
    Ok(())
}

/// Names a layer as OCI does; the bytes are the same (spec: oci-image.md §2).
fn oci_layer(descriptor: &Descriptor) -> Descriptor {
    let kind = match &*descriptor.media_type {
        media_type::DOCKER_LAYER => media_type::LAYER,
        media_type::DOCKER_LAYER_GZIP => media_type::LAYER_GZIP,
        media_type::DOCKER_LAYER_ZSTD => media_type::LAYER_ZSTD,
        other => other,
    };
    Descriptor::new(kind, descriptor.digest, descriptor.size)
}
