//! Images as sources: from kiln's own store, a registry or a layout, to a config and a chain
//! of layers. Layers themselves stay where they are until somebody needs them.

use std::collections::BTreeMap;
use std::sync::Arc;

use kiln_cache::{BlobError, Store};
use kiln_frontend::lower::{ImageFact, ImageName, ImageQuery};
use kiln_oci::{
    Descriptor, Digest, Document, ImageConfig, Index, Manifest, Platform, PlatformMatcher, Reference, media_type,
};
use kiln_registry_client::{Client as Registry, Error as RegistryError, Repository};

use super::layout::{self, LayoutName};
use crate::error::{BuildError, Kind, chain};

/// Documents larger than this are not read (registries stop at 4 MiB).
const MAX_DOCUMENT: u64 = 20 << 20;
/// How deep an index may lie in an index.
const MAX_DEPTH: usize = 8;

/// An image that was found.
#[derive(Debug, Clone)]
pub struct FoundImage {
    /// What the name points to: manifest or index.
    pub digest: Digest,
    /// The manifest of the image for the platform.
    pub descriptor: Descriptor,
    /// Its config.
    pub config: ImageConfig,
}

/// Finds images.
pub struct Images<'a> {
    /// Where documents are kept.
    pub store: &'a Store,
    /// Where others come from.
    pub registry: &'a Arc<Registry>,
    /// Ask the registry again.
    pub pull: bool,
}

impl Images<'_> {
    /// Whether an answer needs nothing from outside.
    pub fn is_known(&self, query: &ImageQuery) -> bool {
        match &query.image {
            ImageName::OciLayout(_) => true,
            ImageName::Reference(name) => {
                !self.pull && name.parse().is_ok_and(|reference| self.known(name, &reference).is_some())
            }
        }
    }

    /// Finds an image for a platform.
    ///
    /// # Errors
    /// When it does not exist, cannot be reached, or is malformed.
    pub fn find(&self, query: &ImageQuery) -> Result<FoundImage, BuildError> {
        match &query.image {
            ImageName::Reference(name) => self.find_reference(name, &query.platform),
            ImageName::OciLayout(name) => {
                let layout = LayoutName::parse(name)?;
                let descriptor = layout.find()?;
                let source = Place::Layout(&layout);
                self.complete(&descriptor, &source, &query.platform)
            }
        }
    }

    /// What a name points to, as far as the store knows.
    fn known<'a>(&self, name: &'a str, reference: &'a Reference) -> Option<(Descriptor, Place<'a>)> {
        if let Ok(Some(own)) = self.store.image(&reference.familiar()) {
            // Its layers are here or nowhere; what was pulled has its sources noted already.
            return Some((own, Place::Store(name)));
        }
        Some((self.store.resolution(name)?, Place::Registry(reference)))
    }

    fn find_reference(&self, name: &str, platform: &Platform) -> Result<FoundImage, BuildError> {
        let reference: Reference =
            name.parse().map_err(|error| BuildError::input(format!("invalid image name {name:?}: {error}")))?;
        if !self.pull
            && let Some((descriptor, place)) = self.known(name, &reference)
        {
            match self.complete(&descriptor, &place, platform) {
                Ok(found) => return Ok(found),
                // Something of it was pruned or damaged: ask again.
                Err(error) => tracing::debug!(%error, name, "the store's copy of an image is not complete"),
            }
        }
        let place = Place::Registry(&reference);
        let resolved = self.registry.resolve(&reference).map_err(registry)?;
        self.store.put_blob(&resolved.bytes).map_err(|error| environment(&error))?;
        let found = self.complete(&resolved.descriptor, &place, platform)?;
        self.store.set_resolution(name, &resolved.descriptor).map_err(|error| environment(&error))?;
        Ok(found)
    }

    /// From what a name points to, to the image of a platform. Documents that the store does
    /// not have come from `place`; layers are noted as being there.
    fn complete(&self, top: &Descriptor, place: &Place, platform: &Platform) -> Result<FoundImage, BuildError> {
        let mut descriptor = top.clone();
        for _ in 0..MAX_DEPTH {
            let bytes = self.document(&descriptor, place)?;
            let announced = Some(&*descriptor.media_type).filter(|text| !text.is_empty());
            let document = Document::parse(&bytes, announced)
                .map_err(|error| BuildError::environment(format!("{place}: {error}")))?;
            match document {
                Document::Index(index) => descriptor = self.choose(&index, place, platform)?,
                Document::Manifest(manifest) => {
                    descriptor.media_type = manifest.media_type.clone().unwrap_or(descriptor.media_type);
                    return self.image(top.digest, descriptor, manifest, place);
                }
            }
        }
        Err(BuildError::environment(format!("{place}: indexes are nested more than {MAX_DEPTH} deep")))
    }

    /// Picks the manifest for a platform from an index (spec: oci-image.md §6).
    fn choose(&self, index: &Index, place: &Place, platform: &Platform) -> Result<Descriptor, BuildError> {
        let usable: Vec<&Descriptor> = index.manifests.iter().filter(|manifest| is_image(manifest)).collect();
        if let [only] = usable[..]
            && only.platform.is_none()
        {
            return Ok(only.clone());
        }
        let platforms: Vec<Platform> =
            usable.iter().map(|manifest| manifest.platform.clone().unwrap_or_default()).collect();
        let best = PlatformMatcher::only(platform).match_order(&platforms).first().copied();
        best.map(|at| usable[at].clone()).ok_or_else(|| {
            let has: Vec<String> = platforms.iter().map(ToString::to_string).collect();
            BuildError::input(format!("{place}: no match for platform in manifest: not found"))
                .hint(format!("wanted {platform}, the image has {}", has.join(", ")))
        })
    }

    fn image(
        &self,
        digest: Digest,
        descriptor: Descriptor,
        manifest: Manifest,
        place: &Place,
    ) -> Result<FoundImage, BuildError> {
        let bytes = self.document(&manifest.config, place)?;
        let config: ImageConfig = serde_json::from_slice(&bytes)
            .map_err(|error| BuildError::environment(format!("{place}: the image's config is malformed: {error}")))?;
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            return Err(BuildError::environment(format!(
                "{place}: the manifest has {} layers and the config {}",
                manifest.layers.len(),
                diff_ids.len()
            )));
        }
        if let Some(source) = place.source() {
            for (diff_id, layer) in diff_ids.iter().zip(&manifest.layers) {
                self.store.layer(diff_id).add_blob(layer, Some(&source)).map_err(|error| environment(&error))?;
            }
        }
        Ok(FoundImage { digest, descriptor, config })
    }

    fn document(&self, descriptor: &Descriptor, place: &Place) -> Result<Vec<u8>, BuildError> {
        if descriptor.size > MAX_DOCUMENT {
            return Err(BuildError::environment(format!(
                "{place}: a document of {} bytes is refused",
                descriptor.size
            )));
        }
        if self.store.has_blob(&descriptor.digest)
            && let Ok(bytes) = self.store.read_blob(&descriptor.digest, MAX_DOCUMENT)
        {
            return Ok(bytes);
        }
        let bytes = match place {
            Place::Store(_) => {
                return Err(BuildError::environment(format!(
                    "{place}: {} is not in the store any more",
                    descriptor.digest
                )));
            }
            Place::Layout(layout) => layout::document(&layout.path, &descriptor.digest)?,
            Place::Registry(reference) => {
                let repository = Repository::from(*reference);
                let is_blob =
                    !media_type::is_manifest(&descriptor.media_type) && !media_type::is_index(&descriptor.media_type);
                if is_blob {
                    let mut bytes = Vec::new();
                    let mut stream = self.registry.blob(&repository, descriptor).map_err(registry)?;
                    std::io::Read::read_to_end(&mut stream, &mut bytes)
                        .map_err(|error| BuildError::environment(format!("{place}: {error}")))?;
                    bytes
                } else {
                    self.registry.manifest(&repository, descriptor).map_err(registry)?
                }
            }
        };
        self.store.put_blob(&bytes).map_err(|error| environment(&error))?;
        Ok(bytes)
    }
}

/// Whether what an index names is an image, or an index of images, rather than something said about one.
pub fn is_image(manifest: &Descriptor) -> bool {
    let is_document = media_type::is_manifest(&manifest.media_type) || media_type::is_index(&manifest.media_type);
    let is_attestation = manifest.annotations.contains_key("vnd.docker.reference.type")
        || manifest.platform.as_ref().is_some_and(|platform| platform.os == "unknown");
    is_document && !is_attestation
}

/// Where an image's parts may be had.
enum Place<'a> {
    /// In kiln's own store, under this name.
    Store(&'a str),
    Registry(&'a Reference),
    Layout(&'a LayoutName),
}

impl Place<'_> {
    /// How a layer's note says that it may be had here.
    fn source(&self) -> Option<String> {
        match self {
            Self::Store(_) => None,
            Self::Registry(reference) => Some(reference.name()),
            Self::Layout(layout) => Some(layout.source()),
        }
    }
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Store(name) => f.write_str(name),
            Self::Registry(reference) => write!(f, "{reference}"),
            Self::Layout(layout) => write!(f, "oci-layout://{}", layout.path.display()),
        }
    }
}

/// The images of one build: what each query came to.
#[derive(Debug, Default)]
pub struct Resolved {
    found: BTreeMap<ImageQuery, FoundImage>,
}

impl Resolved {
    /// Keeps an answer.
    pub fn insert(&mut self, query: ImageQuery, found: FoundImage) {
        self.found.insert(query, found);
    }

    /// Returns the fact that lowering gets to see.
    pub fn fact(found: &FoundImage) -> ImageFact {
        ImageFact::Found { digest: found.digest, config: Box::new(found.config.clone()) }
    }

    /// Returns the chain of an image source.
    pub fn chain(&self, digest: &Digest, platform: Option<&Platform>) -> Option<Vec<Digest>> {
        let matching =
            |query: &&ImageQuery| platform.is_none_or(|platform| query.platform.normalized() == platform.normalized());
        let mut found = self.found.iter().filter(|(_, found)| found.digest == *digest);
        let exact = found.clone().find(|(query, _)| matching(query));
        exact.or_else(|| found.next()).map(|(_, found)| found.config.rootfs.diff_ids.clone())
    }
}

/// Sorts an error of the registry client.
pub fn registry(error: RegistryError) -> BuildError {
    let hint = error.hint();
    let kind = match &error {
        RegistryError::Cancelled => Kind::Cancelled,
        RegistryError::NotFound { .. } => Kind::Input,
        _ => Kind::Environment,
    };
    let mut built = BuildError::new(kind, chain(&error));
    built.hint = hint;
    built
}

/// An error of the store.
pub fn environment(error: &(dyn std::error::Error + 'static)) -> BuildError {
    let mut built = BuildError::environment(chain(error));
    let mut cause = Some(error);
    while let Some(error) = cause {
        built.is_damage |= matches!(error.downcast_ref(), Some(BlobError::Damaged { .. } | BlobError::Missing(_)));
        cause = error.source();
    }
    built
}
