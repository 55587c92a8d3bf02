//! Images in the store: listing, naming, moving.

use kiln_cache::gc;
use kiln_frontend::lower::{ImageName, ImageQuery};
use kiln_oci::{Descriptor, Digest, Document, ImageConfig, Manifest, Platform, Reference};

use crate::engine::{Client, Engine, malformed};
use crate::error::BuildError;
use crate::export::image::Image;
use crate::export::push;
use crate::source::image::{Images, environment};

/// One line of a list of images.
#[derive(Debug, Clone)]
pub struct ImageSummary {
    /// Its name, with tag.
    pub name: String,
    /// Manifest or index.
    pub digest: Digest,
    /// The config's digest; `None` for an index.
    pub id: Option<Digest>,
    /// When it was made, RFC 3339.
    pub created: Option<String>,
    /// Bytes of all layers, compressed.
    pub size: u64,
    /// What it runs on.
    pub platform: Option<Platform>,
}

/// Everything about one image.
#[derive(Debug, Clone)]
pub struct ImageDetails {
    /// The name it was asked for by.
    pub name: String,
    /// Its manifest.
    pub descriptor: Descriptor,
    /// The same, its digest.
    pub digest: Digest,
    /// The manifest.
    pub manifest: Manifest,
    /// The config.
    pub config: ImageConfig,
    /// Bytes of all layers, compressed.
    pub size: u64,
}

/// What to prune.
#[derive(Debug, Clone, Copy, Default)]
pub struct PruneOptions {
    /// Also everything that a build could reuse.
    pub all: bool,
}

/// What was pruned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Cache entries.
    pub records: usize,
    /// Layers.
    pub layers: usize,
    /// Blobs.
    pub blobs: usize,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// Documents larger than this are not read.
const MAX_DOCUMENT: u64 = 20 << 20;
/// Cache entries younger than this survive a plain prune.
const KEEP: std::time::Duration = std::time::Duration::from_secs(48 * 3_600);
/// The shortest beginning of an id that is taken for one.
const MIN_ID: usize = 4;

impl Engine {
    /// Lists the named images, by name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn images(&self) -> Result<Vec<ImageSummary>, BuildError> {
        let mut summaries = Vec::new();
        for (name, descriptor) in self.store.images().map_err(|error| environment(&error))? {
            // An image whose documents are damaged is still listed, so that it can be removed.
            let details = self.details(&name, &descriptor).ok();
            summaries.push(ImageSummary {
                name,
                digest: descriptor.digest,
                id: details.as_ref().map(|details| details.manifest.config.digest),
                created: details.as_ref().and_then(|details| details.config.created.clone()),
                size: details.as_ref().map_or(0, |details| details.size),
                platform: details.map(|details| details.config.platform),
            });
        }
        summaries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(summaries)
    }

    /// Returns everything about the image of a name, a digest, or the beginning of an id.
    ///
    /// # Errors
    /// When there is none, several, or its documents cannot be read.
    pub fn inspect(&self, name: &str) -> Result<ImageDetails, BuildError> {
        let (_, descriptor) = self.find(name)?;
        self.details(name, &descriptor)
    }

    /// Gives an image one more name.
    ///
    /// # Errors
    /// When there is no such image, or the store cannot be written.
    pub fn tag(&self, source: &str, target: &Reference) -> Result<(), BuildError> {
        let (_, descriptor) = self.find(source)?;
        self.store.tag(&[target.familiar()], &descriptor).map_err(|error| environment(&error))
    }

    /// Takes a name away, or every name of an image that is given by digest or id. Returns the
    /// names. What no name and no cache entry needs goes with the next prune.
    ///
    /// # Errors
    /// When there is no such image, or the store cannot be written.
    pub fn remove(&self, name: &str) -> Result<Vec<String>, BuildError> {
        let (by_name, descriptor) = self.find(name)?;
        let names = match by_name {
            Some(name) => vec![name],
            None => {
                let images = self.store.images().map_err(|error| environment(&error))?;
                images
                    .into_iter()
                    .filter(|(_, image)| image.digest == descriptor.digest)
                    .map(|(name, _)| name)
                    .collect()
            }
        };
        for name in &names {
            self.store.untag(name).map_err(|error| environment(&error))?;
        }
        Ok(names)
    }

    /// Pushes a named image.
    ///
    /// # Errors
    /// When there is no such image, or the registry refuses.
    pub fn push(&self, name: &Reference, client: &Client) -> Result<Descriptor, BuildError> {
        let _lock = self.store.lock_shared().map_err(|error| environment(&error))?;
        let work = self.work(client.steps.clone(), client.cancel.clone());
        let (_, descriptor) = self.find(&name.familiar())?;
        let details = self.details(&name.familiar(), &descriptor)?;
        let manifest = self.store.read_blob(&descriptor.digest, MAX_DOCUMENT).map_err(|error| environment(&error))?;
        let layers = details.config.rootfs.diff_ids.iter().copied().zip(details.manifest.layers.clone()).collect();
        let image = Image { descriptor: details.descriptor.clone(), manifest, config: details.manifest.config, layers };
        let step = work.steps.start(format!("pushing {name}"));
        let result = push::push(&work.registry, &self.store, &work.layers, &image, name, &step);
        step.end(result)?;
        Ok(details.descriptor)
    }

    /// Pulls an image and names it.
    ///
    /// # Errors
    /// When it does not exist, or the registry cannot be reached.
    pub fn pull(
        &self,
        name: &Reference,
        platform: Option<&Platform>,
        client: &Client,
    ) -> Result<Descriptor, BuildError> {
        let _lock = self.store.lock_shared().map_err(|error| environment(&error))?;
        let work = self.work(client.steps.clone(), client.cancel.clone());
        let images = Images { store: &self.store, registry: &work.registry, pull: true };
        let query = ImageQuery {
            image: ImageName::Reference(name.to_string()),
            platform: platform.cloned().unwrap_or_else(Platform::host),
        };
        let step = work.steps.start(format!("[internal] load metadata for {name}"));
        let found = step.end(images.find(&query))?;
        work.layers.blobs(&found.config.rootfs.diff_ids)?;
        self.store.tag(&[name.familiar()], &found.descriptor).map_err(|error| environment(&error))?;
        Ok(found.descriptor)
    }

    /// Removes what nothing needs: layers and blobs that no named image and no cache entry
    /// uses; with `all` the cache entries, too.
    ///
    /// # Errors
    /// When a build is running, or the store cannot be read.
    pub fn prune(&self, options: PruneOptions) -> Result<Pruned, BuildError> {
        let freed = gc::prune(&self.store, &gc::Prune { all: options.all, keep: KEEP })
            .map_err(|error| environment(&error).hint("when a build is running, wait until it has ended"))?;
        Ok(Pruned { records: freed.records, layers: freed.layers, blobs: freed.blobs, bytes: freed.bytes })
    }

    /// Finds an image; also returns its name if it was found by that.
    fn find(&self, name: &str) -> Result<(Option<String>, Descriptor), BuildError> {
        let images = self.store.images().map_err(|error| environment(&error))?;
        let normal = name.parse::<Reference>().map(|reference| reference.with_default_tag().familiar());
        if let Ok(normal) = &normal
            && let Some((name, descriptor)) = images.iter().find(|(image, _)| image == normal)
        {
            return Ok((Some(name.clone()), descriptor.clone()));
        }
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        let is_id = hex.len() >= MIN_ID && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut found: Vec<Descriptor> = Vec::new();
        for (_, descriptor) in images.iter().filter(|_| is_id) {
            let id = self.details(name, descriptor).ok().map(|details| details.manifest.config.digest);
            let starts = |digest: Digest| digest.hex().starts_with(hex);
            let is_new = found.iter().all(|known| known.digest != descriptor.digest);
            if is_new && (starts(descriptor.digest) || id.is_some_and(starts)) {
                found.push(descriptor.clone());
            }
        }
        match &found[..] {
            [only] => Ok((None, only.clone())),
            [] => Err(BuildError::input(format!("no such image: {name}")).hint("`kiln images` lists what there is")),
            _ => {
                Err(BuildError::input(format!("{name} is the beginning of several images' ids"))
                    .hint("write more of it"))
            }
        }
    }

    fn details(&self, name: &str, descriptor: &Descriptor) -> Result<ImageDetails, BuildError> {
        let read =
            |digest: &Digest| self.store.read_blob(digest, MAX_DOCUMENT).map_err(|error| malformed(name, &error));
        let document = Document::parse(&read(&descriptor.digest)?, Some(&descriptor.media_type))
            .map_err(|error| malformed(name, &error))?;
        let Document::Manifest(manifest) = document else {
            return Err(BuildError::environment(format!("{name} is an index of several images")));
        };
        let config: ImageConfig =
            serde_json::from_slice(&read(&manifest.config.digest)?).map_err(|error| malformed(name, &error))?;
        let size = manifest.layers.iter().map(|layer| layer.size).sum();
        Ok(ImageDetails {
            name: name.to_owned(),
            digest: descriptor.digest,
            descriptor: descriptor.clone(),
            manifest,
            config,
            size,
        })
    }
}
