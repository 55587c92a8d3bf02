//! The cache inside an image (spec: remote-cache.md §2.3).
//!
//! The member `moby.buildkit.cache.v0` of an image's config holds the records of a document, as JSON
//! in base64. Its layers are those of the image, each on the one before.

use kiln_oci::{ImageConfig, Manifest, base64};
use serde_json::Value;

use super::document::{Annotations, CacheLayer, Document, DocumentError, read_time};
use super::entry::Entry;

/// The member of the config.
pub const MEMBER: &str = "moby.buildkit.cache.v0";

/// Why the cache in an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InlineError {
    /// The records.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The config's member is something else.
    #[error("`{MEMBER}` in the image's config is no base64")]
    Encoding,
    /// Nobody knows which layer is which.
    #[error("the manifest has {layers} layers and the config {diff_ids}")]
    Layers {
        /// Of the manifest.
        layers: usize,
        /// Of the config.
        diff_ids: usize,
    },
}

/// Writes `entries` into a config whose layers are known; with none, takes away what the image below
/// may have left there.
///
/// # Errors
/// When an entry names a layer that the image does not have.
pub fn write(config: &mut ImageConfig, entries: &[Entry]) -> Result<(), DocumentError> {
    config.other.remove(MEMBER);
    if entries.is_empty() {
        return Ok(());
    }
    let layers = stacked(config.rootfs.diff_ids.iter().map(|_| CacheLayer::default()));
    let document = Document::of_entries(layers, entries)?;
    let text = base64::encode(&document.records_to_json());
    config.other.insert(MEMBER.to_owned(), Value::String(text));
    Ok(())
}

/// Reads the cache in an image; `None` when there is none.
///
/// # Errors
/// When it cannot be read, or the image's documents do not fit together.
pub fn read(config: &ImageConfig, manifest: &Manifest) -> Result<Option<Document>, InlineError> {
    let text = match config.other.get(MEMBER) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text,
        Some(_) => return Err(InlineError::Encoding),
    };
    let diff_ids = &config.rootfs.diff_ids;
    if diff_ids.len() != manifest.layers.len() {
        return Err(InlineError::Layers { layers: manifest.layers.len(), diff_ids: diff_ids.len() });
    }
    let records = base64::decode(text).ok_or(InlineError::Encoding)?;
    let mut times = config.history.iter().filter(|entry| !entry.empty_layer).map(|entry| entry.created.as_deref());
    let layers = diff_ids.iter().zip(&manifest.layers).map(|(diff_id, blob)| CacheLayer {
        blob: blob.digest.to_string(),
        parent: None,
        annotations: Some(Annotations {
            media_type: blob.media_type.clone(),
            diff_id: diff_id.to_string(),
            size: blob.size,
            created: read_time(times.next().flatten()),
        }),
    });
    Ok(Some(Document::parse_records(stacked(layers), &records)?))
}

/// Puts each layer on the one before.
fn stacked(layers: impl Iterator<Item = CacheLayer>) -> Vec<CacheLayer> {
    layers.enumerate().map(|(number, layer)| CacheLayer { parent: number.checked_sub(1), ..layer }).collect()
}

#[cfg(test)]
mod tests {
    use kiln_oci::{Descriptor, Digest, History, media_type};
    use serde_json::json;

    use super::*;
    use crate::remote::{CacheResult, ResultLayers};

    fn image(layers: usize) -> (ImageConfig, Manifest) {
        let mut config = ImageConfig::default();
        for number in 0..layers {
            config.rootfs.diff_ids.push(Digest::of(format!("layer {}", number / 2)));
            let created = Some(format!("2026-01-01T00:00:0{number}.25Z"));
            config.history.push(History { empty_layer: true, ..History::default() });
            config.history.push(History { created, ..History::default() });
        }
        let blob = |diff_id: &Digest| Descriptor::of(media_type::LAYER_GZIP, diff_id.as_bytes());
        let layers: Vec<_> = config.rootfs.diff_ids.iter().map(blob).collect();
        let manifest =
            json!({"schemaVersion": 2, "config": Descriptor::of(media_type::CONFIG, b"{}"), "layers": layers});
        (config, serde_json::from_value(manifest).unwrap())
    }

    fn entry(name: &str, layers: Option<ResultLayers>) -> Entry {
        let result = layers.map(|layers| CacheResult { layers, created: None });
        Entry { class: Digest::of(name), definitions: Vec::new(), contents: vec![Digest::of("content")], result }
    }

    #[test]
    fn what_is_written_reads_back_by_position() {
        let (mut config, manifest) = image(4);
        let entries = [entry("a", Some(ResultLayers::Top(2))), entry("b", Some(ResultLayers::Chain(vec![3])))];
        write(&mut config, &entries).unwrap();
        let text = serde_json::to_string(&config).unwrap();
        let again: ImageConfig = serde_json::from_str(&text).unwrap();
        let document = read(&again, &manifest).unwrap().unwrap();
        let mut found = document.entries();
        found.sort_by_key(|found| found.result.as_ref().map(|result| document.chain(&result.layers).len() == 1));
        assert_eq!(found, entries);
        assert_eq!(document.chain(&ResultLayers::Top(2)), [0, 1, 2]);
        let annotations = document.layers()[3].annotations.as_ref().unwrap();
        // Two layers may be the same one.
        assert_eq!(annotations.diff_id, config.rootfs.diff_ids[2].to_string());
        assert_eq!(annotations.created, Some(1_767_225_603_250_000_000));
        assert_eq!(document.layers()[3].blob, manifest.layers[3].digest.to_string());
    }

    #[test]
    fn nothing_of_the_image_below_is_left() {
        let (mut config, manifest) = image(1);
        write(&mut config, &[entry("a", None)]).unwrap();
        assert!(config.other.contains_key(MEMBER));
        write(&mut config, &[]).unwrap();
        assert!(config.other.is_empty());
        assert!(read(&config, &manifest).unwrap().is_none());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (mut config, manifest) = image(2);
        assert!(write(&mut config, &[entry("a", Some(ResultLayers::Top(2)))]).is_err());
        let mut reads = |value: Value| {
            config.other.insert(MEMBER.to_owned(), value);
            read(&config, &manifest).map(|document| document.map(|document| document.records().len()))
        };
        assert!(matches!(reads(Value::Null), Ok(None)));
        assert!(matches!(reads(json!([])), Err(InlineError::Encoding)));
        assert!(matches!(reads(json!("no base64")), Err(InlineError::Encoding)));
        assert!(matches!(reads(json!(base64::encode(b"{}"))), Err(InlineError::Document(_))));
        assert!(matches!(
            reads(json!(base64::encode(b"[{\"layers\":[{\"layer\":2}]}]"))),
            Err(InlineError::Document(_))
        ));
        // One that another builder made: it is read, and its keys are nobody's here.
        let foreign = br#"[{"layers":[{"layer":1,"createdAt":"0001-01-01T00:00:00Z"}],"digest":"sha256:02","inputs":[[{"selector":"/x","link":1}],[{"link":1}]]},{"digest":"random:7"}]"#;
        assert!(matches!(reads(json!(base64::encode(foreign))), Ok(Some(2))));
        config.rootfs.diff_ids.pop();
        assert!(matches!(read(&config, &manifest), Err(InlineError::Layers { layers: 2, diff_ids: 1 })));
    }
}
