//! Pushing an image that the registry does not have: layers at the same time, then the config, then the manifest; and where
//! there are several images their index last.

use std::io;
use std::sync::Arc;

use kiln_cache::Store;
use kiln_oci::{Digest, Reference};
use kiln_registry_client::{Client as Registry, Pushed, Repository};

use super::image::ImageSet;
use crate::error::{BuildError, Kind};
use crate::layers::Layers;
use crate::source::image::registry as sorted;
use crate::step::Step;

/// Pushes images under `name`. Layers that the registry has, or has in another repository that
/// they came from, are not sent.
///
/// # Errors
/// When the registry refuses or cannot be reached, or a blob cannot be had.
pub fn push(
    registry: &Registry,
    store: &Store,
    layers: &Arc<Layers>,
    set: &ImageSet,
    name: &Reference,
    step: &Step,
) -> Result<(), BuildError> {
    let repository = Repository::from(name);
    let failed = |error: BuildError| error.context(format!("failed to push {name}"));
    let root = set.root().ok_or_else(|| BuildError::bug("nothing to push"))?;
    // Whoever holds a manifest holds what it refers to.
    if registry.has_manifest(&repository, name.tag.as_deref(), root).map_err(sorted).map_err(failed)? {
        return Ok(());
    }
    let results: Vec<Result<(), BuildError>> = std::thread::scope(|scope| {
        let mut seen: Vec<Digest> = Vec::new();
        let mut handles = Vec::new();
        for (diff_id, descriptor) in set.layers() {
            if seen.contains(&descriptor.digest) {
                continue;
            }
            seen.push(descriptor.digest);
            let repository = &repository;
            handles.push(scope.spawn(move || {
                let open = || layers.open_blob(diff_id, descriptor);
                let item = descriptor.digest.to_string();
                let total = Some(descriptor.size);
                let told = |current: u64| step.progress(&item, current, total, false);
                let same_host = format!("{}/", name.domain);
                let sources = layers.sources(diff_id);
                let sources: Vec<String> =
                    sources.iter().filter_map(|source| source.strip_prefix(&same_host)).map(str::to_owned).collect();
                let pushed = registry.push_blob(repository, descriptor, &open, &sources, &told).map_err(sorted)?;
                if matches!(pushed, Pushed::Uploaded) {
                    layers.pushed(diff_id, descriptor, &repository.to_string());
                }
                step.progress(&item, descriptor.size, total, true);
                Ok(())
            }));
        }
        handles
            .into_iter()
            .map(|handle| handle.join().unwrap_or_else(|_| Err(BuildError::bug("an upload panicked"))))
            .collect()
    });
    // Of several failures a cancelled one says least.
    let mut errors: Vec<BuildError> = results.into_iter().filter_map(Result::err).collect();
    errors.sort_by_key(|error| error.kind == Kind::Cancelled);
    if let Some(error) = errors.into_iter().next() {
        return Err(failed(error));
    }
    for image in &set.images {
        let config = &image.config;
        let open = || -> io::Result<Box<dyn io::Read + Send>> {
            Ok(Box::new(store.open_blob(&config.digest).map_err(io::Error::other)?))
        };
        registry.push_blob(&repository, config, &open, &[], &|_| {}).map_err(sorted).map_err(failed)?;
        // Below an index a manifest has no name but its digest.
        let tag = name.tag.as_deref().filter(|_| set.index.is_none());
        registry
            .push_manifest(&repository, tag, &image.descriptor.media_type, &image.manifest)
            .map_err(sorted)
            .map_err(failed)?;
    }
    if let Some((descriptor, bytes)) = &set.index {
        registry
            .push_manifest(&repository, name.tag.as_deref(), &descriptor.media_type, bytes)
            .map_err(sorted)
            .map_err(failed)?;
    }
    Ok(())
}
