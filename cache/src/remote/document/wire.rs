//! A document as JSON has it.

use kiln_oci::{parse_rfc3339_fraction, rfc3339};
use serde::{Deserialize, Deserializer, Serialize};

use super::{
    Annotations, CacheLayer, CacheRecord, CacheResult, DocumentError, Link, MAX_BYTES, MAX_PIECES, ResultLayers, shown,
};

/// Looks whether a text is short enough to be read.
///
/// # Errors
/// When it is not.
pub fn limit(json: &[u8]) -> Result<(), DocumentError> {
    if json.len() > MAX_BYTES {
        return Err(DocumentError::TooLong(json.len()));
    }
    // Also counts what is inside texts, of which there is little.
    let pieces = json.iter().filter(|byte| matches!(byte, b'[' | b'{' | b',')).count();
    if pieces > MAX_PIECES { Err(DocumentError::TooMany) } else { Ok(()) }
}

/// A list, which Go writes as `null` when it was never made.
#[derive(Deserialize)]
#[serde(bound = "T: Deserialize<'de>")]
pub struct Nullable<T>(#[serde(deserialize_with = "list")] pub Vec<T>);

fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The whole of it.
#[derive(Serialize, Deserialize)]
pub struct Wire {
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    pub layers: Vec<WireLayer>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    pub records: Vec<WireRecord>,
}

/// A layer.
#[derive(Serialize, Deserialize)]
pub struct WireLayer {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    blob: String,
    /// Left out when it is 0, which is a layer like others.
    #[serde(default, skip_serializing_if = "is_zero")]
    parent: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    annotations: Option<WireAnnotations>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireAnnotations {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    media_type: String,
    #[serde(default, rename = "diffID", skip_serializing_if = "String::is_empty")]
    diff_id: String,
    #[serde(default)]
    size: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
}

/// A record.
#[derive(Serialize, Deserialize)]
pub struct WireRecord {
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    layers: Vec<WireTop>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    chains: Vec<WireChain>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    digest: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    inputs: Vec<Option<Vec<WireLink>>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireTop {
    #[serde(default)]
    layer: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireChain {
    #[serde(default, deserialize_with = "list")]
    layers: Vec<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct WireLink {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    selector: String,
    #[serde(default)]
    link: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

fn place(what: &'static str, number: i64) -> Result<usize, DocumentError> {
    usize::try_from(number).map_err(|_| DocumentError::NotThere { what, number })
}

/// Reads a time; one that cannot be read, or that Go writes for none, is none.
pub fn read_time(text: Option<&str>) -> Option<u64> {
    let (seconds, nanoseconds) = parse_rfc3339_fraction(text?)?;
    u64::try_from(seconds).ok()?.checked_mul(1_000_000_000)?.checked_add(u64::from(nanoseconds))
}

fn write_time(time: Option<u64>) -> Option<String> {
    let time = time?;
    let (seconds, nanoseconds) = (time / 1_000_000_000, time % 1_000_000_000);
    Some(rfc3339(i64::try_from(seconds).ok()?, u32::try_from(nanoseconds).ok()?))
}

impl WireLayer {
    /// Reads one.
    pub fn read(self) -> Result<CacheLayer, DocumentError> {
        let annotations = self.annotations.map(|found| Annotations {
            created: read_time(found.created_at.as_deref()),
            media_type: found.media_type,
            diff_id: found.diff_id,
            size: u64::try_from(found.size).unwrap_or(0),
        });
        let parent = if self.parent == -1 { None } else { Some(place("layer", self.parent)?) };
        Ok(CacheLayer { blob: self.blob, parent, annotations })
    }

    /// Writes one.
    pub fn of(layer: &CacheLayer) -> Self {
        let annotations = layer.annotations.as_ref().map(|annotations| WireAnnotations {
            media_type: annotations.media_type.clone(),
            diff_id: annotations.diff_id.clone(),
            size: i64::try_from(annotations.size).unwrap_or(i64::MAX),
            created_at: write_time(annotations.created),
        });
        Self { blob: layer.blob.clone(), parent: layer.parent.map_or(-1, shown), annotations }
    }
}

impl WireRecord {
    /// Reads one.
    pub fn read(self) -> Result<CacheRecord, DocumentError> {
        let tops = self.layers.into_iter().map(|found| {
            let layers = ResultLayers::Top(place("layer", found.layer)?);
            Ok(CacheResult { layers, created: read_time(found.created_at.as_deref()) })
        });
        let chains = self.chains.into_iter().map(|found| {
            let chain = found.layers.into_iter().map(|number| place("layer", number)).collect::<Result<_, _>>()?;
            Ok(CacheResult { layers: ResultLayers::Chain(chain), created: read_time(found.created_at.as_deref()) })
        });
        let results = tops.chain(chains).collect::<Result<_, DocumentError>>()?;
        let link = |found: WireLink| Ok(Link { record: place("record", found.link)?, selector: found.selector });
        let input = |links: Option<Vec<WireLink>>| links.unwrap_or_default().into_iter().map(link).collect();
        let inputs = self.inputs.into_iter().map(input).collect::<Result<_, DocumentError>>()?;
        Ok(CacheRecord { digest: self.digest, inputs, results })
    }

    /// Writes one.
    pub fn of(record: &CacheRecord) -> Self {
        let (mut layers, mut chains) = (Vec::new(), Vec::new());
        for result in &record.results {
            let created_at = write_time(result.created);
            match &result.layers {
                ResultLayers::Top(top) => layers.push(WireTop { layer: shown(*top), created_at }),
                ResultLayers::Chain(chain) => {
                    chains.push(WireChain { layers: chain.iter().map(|number| shown(*number)).collect(), created_at });
                }
            }
        }
        let link = |link: &Link| WireLink { selector: link.selector.clone(), link: shown(link.record) };
        let inputs = record.inputs.iter().map(|input| Some(input.iter().map(link).collect())).collect();
        Self { layers, chains, digest: record.digest.clone(), inputs }
    }
}
