//! Images in the store: listing, naming, moving.

use std::collections::BTreeMap;

use kiln_cache::gc;
use kiln_frontend::lower::{ImageName, ImageQuery};
use kiln_oci::{Descriptor, Digest, Document, ImageConfig, Index, Manifest, Platform, PlatformMatcher, Reference};

use crate::engine::{Client, Engine, malformed};
use crate::error::BuildError;
use crate::export::image::{Image, ImageSet};
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
    /// What it runs on; several for an index.
    pub platforms: Vec<Platform>,
}

/// Everything about one name.
#[derive(Debug, Clone)]
pub struct ImageDetails {
    /// The name it was asked for by.
    pub name: String,
    /// What the name points to: a manifest or an index.
    pub descriptor: Descriptor,
    /// The images: one, or those of the index.
    pub images: Vec<PlatformImage>,
    /// The index, where there is one.
    pub index: Option<Index>,
    /// Bytes of all layers, compressed.
    pub size: u64,
}

/// An image for one platform.
#[derive(Debug, Clone)]
pub struct PlatformImage {
    /// Its manifest.
    pub descriptor: Descriptor,
    /// The manifest.
    pub manifest: Manifest,
    /// The config.
    pub config: ImageConfig,
}

impl ImageDetails {
    /// Returns the config's digest, which is the image's id; none for an index.
    pub fn id(&self) -> Option<Digest> {
        self.images.first().filter(|_| self.index.is_none()).map(|image| image.manifest.config.digest)
    }

    /// Returns the image for a platform, or of the only one there is.
    pub fn image(&self, platform: &Platform) -> Option<&PlatformImage> {
        let matcher = PlatformMatcher::only(platform);
        let fits = |image: &&PlatformImage| matcher.rank(&image.config.platform).is_some();
        let best = self.images.iter().filter(fits).min_by_key(|image| matcher.rank(&image.config.platform));
        best.or(self.images.first().filter(|_| self.images.len() == 1))
    }
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
            let images = details.iter().flat_map(|details| &details.images);
            summaries.push(ImageSummary {
                name,
                digest: descriptor.digest,
                id: details.as_ref().and_then(ImageDetails::id),
                created: images.clone().filter_map(|image| image.config.created.clone()).max(),
                size: details.as_ref().map_or(0, |details| details.size),
                platforms: images.map(|image| image.config.platform.clone()).collect(),
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
                let of_image =
                    |(name, image): (String, Descriptor)| (image.digest == descriptor.digest).then_some(name);
                images.into_iter().filter_map(of_image).collect::<Vec<_>>()
            }
        };
        if names.is_empty() {
            return Err(BuildError::input(format!("{name} has no name to take away"))
                .hint("`kiln prune` deletes what has no name"));
        }
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
        let set = self.image_set(&self.details(&name.familiar(), &descriptor)?)?;
        let step = work.steps.start(format!("pushing {name}"));
        let result = push::push(&work.registry, &self.store, &work.layers, &set, name, &step);
        step.end(result)?;
        Ok(descriptor)
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

    /// Finds an image; also returns its name if it was found by that. An id may be that of an
    /// image without a name, as long as no prune has taken it.
    fn find(&self, name: &str) -> Result<(Option<String>, Descriptor), BuildError> {
        let images = self.store.images().map_err(|error| environment(&error))?;
        let normal = name.parse::<Reference>().map(|reference| reference.with_default_tag().familiar());
        if let Ok(normal) = &normal
            && let Some((name, descriptor)) = images.iter().find(|(image, _)| image == normal)
        {
            return Ok((Some(name.clone()), descriptor.clone()));
        }
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        let mut found = Vec::new();
        if hex.len() >= MIN_ID && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            found = self.beginning_with(hex, images.into_iter().map(|(_, descriptor)| descriptor));
            if found.is_empty() {
                let documents = self.store.documents().map_err(|error| environment(&error))?;
                found = self.beginning_with(hex, documents.into_iter());
            }
        }
        match &found[..] {
            [only] => Ok((None, only.clone())),
            [] => Err(BuildError::input(format!("no such image: {name}")).hint("`kiln images` lists what there is")),
            _ => Err(BuildError::input(format!("{name} is the beginning of several images' ids"))
                .hint("write more of it, or the digest of one")),
        }
    }

    /// Returns those images, each once, whose digest or id begins with `hex`.
    fn beginning_with(&self, hex: &str, images: impl Iterator<Item = Descriptor>) -> Vec<Descriptor> {
        let mut found: Vec<Descriptor> = Vec::new();
        for descriptor in images {
            let id = self.details(hex, &descriptor).ok().and_then(|details| details.id());
            let starts = |digest: Digest| digest.hex().starts_with(hex);
            let is_new = found.iter().all(|known| known.digest != descriptor.digest);
            if is_new && (starts(descriptor.digest) || id.is_some_and(starts)) {
                found.push(descriptor);
            }
        }
        found
    }

    fn details(&self, name: &str, descriptor: &Descriptor) -> Result<ImageDetails, BuildError> {
        let mut details = ImageDetails {
            name: name.to_owned(),
            descriptor: descriptor.clone(),
            images: Vec::new(),
            index: None,
            size: 0,
        };
        match self.document(name, descriptor)? {
            Document::Manifest(manifest) => {
                details.images.push(self.platform_image(name, descriptor.clone(), manifest)?);
            }
            Document::Index(index) => {
                for descriptor in &index.manifests {
                    let Document::Manifest(manifest) = self.document(name, descriptor)? else {
                        return Err(BuildError::environment(format!("{name} is an index of indexes")));
                    };
                    details.images.push(self.platform_image(name, descriptor.clone(), manifest)?);
                }
                details.index = Some(index);
            }
        }
        let layers = details.images.iter().flat_map(|image| &image.manifest.layers);
        let sizes: BTreeMap<_, _> = layers.map(|layer| (layer.digest, layer.size)).collect();
        details.size = sizes.values().sum();
        Ok(details)
    }

    fn document(&self, name: &str, descriptor: &Descriptor) -> Result<Document, BuildError> {
        let bytes = self.blob(name, &descriptor.digest)?;
        Document::parse(&bytes, Some(&descriptor.media_type)).map_err(|error| malformed(name, &error))
    }

    fn platform_image(
        &self,
        name: &str,
        descriptor: Descriptor,
        manifest: Manifest,
    ) -> Result<PlatformImage, BuildError> {
        let config = serde_json::from_slice(&self.blob(name, &manifest.config.digest)?);
        let config = config.map_err(|error| malformed(name, &error))?;
        Ok(PlatformImage { descriptor, manifest, config })
    }

    fn blob(&self, name: &str, digest: &Digest) -> Result<Vec<u8>, BuildError> {
        self.store.read_blob(digest, MAX_DOCUMENT).map_err(|error| malformed(name, &error))
    }

    /// Returns what there is to push.
    fn image_set(&self, details: &ImageDetails) -> Result<ImageSet, BuildError> {
        let image = |image: &PlatformImage| -> Result<Image, BuildError> {
            let diff_ids = image.config.rootfs.diff_ids.iter().copied();
            Ok(Image {
                descriptor: image.descriptor.clone(),
                manifest: self.blob(&details.name, &image.descriptor.digest)?,
                config: image.manifest.config.clone(),
                layers: diff_ids.zip(image.manifest.layers.clone()).collect(),
            })
        };
        let images = details.images.iter().map(image).collect::<Result<_, _>>()?;
        let root = &details.descriptor;
        let index = match details.index {
            Some(_) => Some((root.clone(), self.blob(&details.name, &root.digest)?)),
            None => None,
        };
        Ok(ImageSet { images, index })
    }
}
