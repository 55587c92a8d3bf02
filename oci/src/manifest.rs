//! Manifests, indexes and the layout marker.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::{Descriptor, media_type};

/// The annotation of a layout's `index.json` that holds a name (OCI image spec, annotations.md).
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The manifest of one image (OCI image spec, manifest.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// What this document is; absent in some old ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// For artifacts: what kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image config.
    pub config: Descriptor,
    /// The layers, lowest first.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub layers: Vec<Descriptor>,
    /// The image this one says something about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free texts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// An index of manifests, one per platform (OCI image spec, image-index.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// What this document is; absent in some old ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// For artifacts: what kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The manifests, in order of preference.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub manifests: Vec<Descriptor>,
    /// The image this one says something about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free texts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// The `oci-layout` file (OCI image spec, image-layout.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayoutMarker {
    /// `1.0.0`.
    pub image_layout_version: String,
}

impl Default for LayoutMarker {
    fn default() -> Self {
        Self { image_layout_version: "1.0.0".to_owned() }
    }
}

/// A document that a reference can point to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Several, one per platform.
    Index(Index),
}

/// Why bytes are not a manifest or index.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Not JSON, or JSON of another shape.
    #[error("not an image manifest: {0}")]
    Json(#[from] serde_json::Error),
    /// Both at once, which two readers could take for two different things (CVE-2021-41190).
    #[error("the document has both `manifests` and `layers` or `config`: refusing to guess which it is")]
    Ambiguous,
    /// The media type beside the document and the one inside do not agree.
    #[error("the document says it is {inside:?}, but was announced as {announced:?}")]
    MediaType {
        /// In the document.
        inside: String,
        /// By the descriptor or header.
        announced: String,
    },
    /// Docker's first format.
    #[error(
        "the image is in Docker's manifest schema 1, which nobody writes any more; push it again with a current tool"
    )]
    Schema1,
    /// Something else.
    #[error("unknown manifest type {0:?}")]
    Unknown(String),
}

impl Document {
    /// Reads a manifest or index. `announced` is the media type given beside it, by a
    /// descriptor or a Content-Type header, where there is one.
    ///
    /// # Errors
    /// When the bytes are neither, are ambiguous, or disagree with what was announced.
    pub fn parse(bytes: &[u8], announced: Option<&str>) -> Result<Self, DocumentError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Probe {
            schema_version: Option<u32>,
            media_type: Option<String>,
            manifests: Option<serde::de::IgnoredAny>,
            layers: Option<serde::de::IgnoredAny>,
            config: Option<serde::de::IgnoredAny>,
        }
        let probe: Probe = serde_json::from_slice(bytes)?;
        if probe.schema_version == Some(1) {
            return Err(DocumentError::Schema1);
        }
        if probe.manifests.is_some() && (probe.layers.is_some() || probe.config.is_some()) {
            return Err(DocumentError::Ambiguous);
        }
        let known = |text: &&str| media_type::is_index(text) || media_type::is_manifest(text);
        let announced = announced.filter(known);
        if let (Some(inside), Some(announced)) = (probe.media_type.as_deref(), announced)
            && inside != announced
        {
            return Err(DocumentError::MediaType { inside: inside.to_owned(), announced: announced.to_owned() });
        }
        let name = probe.media_type.as_deref().or(announced);
        match name {
            Some(name) if media_type::is_index(name) => Ok(Self::Index(serde_json::from_slice(bytes)?)),
            Some(name) if media_type::is_manifest(name) => Ok(Self::Manifest(serde_json::from_slice(bytes)?)),
            Some(name) => Err(DocumentError::Unknown(name.to_owned())),
            None if probe.manifests.is_some() => Ok(Self::Index(serde_json::from_slice(bytes)?)),
            None => Ok(Self::Manifest(serde_json::from_slice(bytes)?)),
        }
    }
}

/// Go writes an empty list that was never made as `null`.
pub(crate) fn null_is_empty<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_that_is_both_is_refused() {
        let both = br#"{"schemaVersion":2,"manifests":[],"layers":[]}"#;
        assert!(matches!(Document::parse(both, None), Err(DocumentError::Ambiguous)));
    }

    #[test]
    fn the_two_media_types_must_agree() {
        let index = format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#, media_type::INDEX);
        assert!(Document::parse(index.as_bytes(), Some(media_type::INDEX)).is_ok());
        assert!(Document::parse(index.as_bytes(), Some("application/json")).is_ok());
        let error = Document::parse(index.as_bytes(), Some(media_type::MANIFEST)).unwrap_err();
        assert!(matches!(error, DocumentError::MediaType { .. }));
    }

    #[test]
    fn null_layers_are_no_layers() {
        let config = serde_json::to_string(&Descriptor::of(media_type::CONFIG, b"{}")).unwrap();
        let text = format!(r#"{{"schemaVersion":2,"config":{config},"layers":null}}"#);
        let Document::Manifest(manifest) = Document::parse(text.as_bytes(), None).unwrap() else { panic!("an index") };
        assert!(manifest.layers.is_empty());
    }
}
