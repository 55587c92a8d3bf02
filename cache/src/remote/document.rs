//! The document of a cache (spec: remote-cache.md §1): layers, and records that lead to them.
//!
//! ```text
//! {"layers":  [{"blob":"sha256:b0…","parent":-1}, {"blob":"sha256:b1…"}],
//!  "records": [{"digest":"sha256:k0…"},
//!              {"layers":[{"layer":1,"createdAt":"…"}],"digest":"sha256:k1…","inputs":[[{"link":0}]]}]}
//! ```
//! A parent that is not written is layer 0, and -1 is none. A result is a layer with all below it, or
//! (`chains`) a list of layers. What is read was written by anybody: every number is checked, and
//! nothing is followed by recursion.

mod wire;

use kiln_oci::{Digest, Hasher};

pub(super) use self::wire::read_time;
use self::wire::{Nullable, Wire, WireLayer, WireRecord, limit};
use super::order::needed_first;

/// The longest document that is read. Other builders read 1 MiB.
pub const MAX_BYTES: usize = 64 << 20;

/// A document has no more members and elements than this: each takes memory, and some have two bytes.
const MAX_PIECES: usize = 16 << 20;

/// More records than this are not read.
const MAX_RECORDS: usize = 1 << 20;

/// What a cache holds. Whoever has one may rely on all numbers in it: they name layers and records
/// that are there, and no chain of them is a circle.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Document {
    layers: Vec<CacheLayer>,
    records: Vec<CacheRecord>,
}

/// A layer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct CacheLayer {
    /// The digest of its blob, as it is written.
    pub blob: String,
    /// The layer below.
    pub parent: Option<usize>,
    /// What the blob is, where the container of the document does not say it.
    pub annotations: Option<Annotations>,
}

/// What a blob is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Annotations {
    /// Its media type.
    pub media_type: String,
    /// The digest of the layer uncompressed, as it is written.
    pub diff_id: String,
    /// How many bytes it has.
    pub size: u64,
    /// When it was made, nanoseconds since 1970.
    pub created: Option<u64>,
}

/// A key, what leads to it, and what it came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheRecord {
    /// The key, as it is written.
    pub digest: String,
    /// For each input what it may be: any one of these.
    pub inputs: Vec<Vec<Link>>,
    /// What it came to.
    pub results: Vec<CacheResult>,
}

/// One possibility for an input.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// The number of the record.
    pub record: usize,
    /// Which part of it counts; empty for all.
    pub selector: String,
}

/// Something that a key came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheResult {
    /// Its layers.
    pub layers: ResultLayers,
    /// When it was made, nanoseconds since 1970.
    pub created: Option<u64>,
}

/// The layers of a result, as numbers in the table of layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResultLayers {
    /// This one and all below it.
    Top(usize),
    /// These, lowest first.
    Chain(Vec<usize>),
}

/// Why a text is no document of a cache.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It is too long.
    #[error("the cache has {0} bytes: more than {MAX_BYTES} are not read")]
    TooLong(usize),
    /// It would take too much memory.
    #[error("the cache has too many parts")]
    TooMany,
    /// It is no JSON, or JSON of another shape.
    #[error("the cache cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// It names something that is not in it.
    #[error("the cache names {what} {number}, which it does not have")]
    NotThere {
        /// Of what kind.
        what: &'static str,
        /// Its number.
        number: i64,
    },
    /// Something is below itself.
    #[error("the cache has a circle of {0}")]
    Circle(&'static str),
}

impl Document {
    /// Makes a document of its parts.
    ///
    /// # Errors
    /// When a part names one that is not there, or itself by way of others.
    pub fn new(layers: Vec<CacheLayer>, records: Vec<CacheRecord>) -> Result<Self, DocumentError> {
        let document = Self { layers, records };
        document.check()?;
        Ok(document)
    }

    /// Reads a whole document.
    ///
    /// # Errors
    /// When it is too large, malformed, or names what is not there.
    pub fn parse(json: &[u8]) -> Result<Self, DocumentError> {
        limit(json)?;
        let wire: Wire = serde_json::from_slice(json)?;
        let layers = wire.layers.into_iter().map(WireLayer::read).collect::<Result<_, _>>()?;
        Self::assemble(layers, wire.records)
    }

    /// Reads records alone, which are about `layers`.
    ///
    /// # Errors
    /// As [`Document::parse`].
    pub fn parse_records(layers: Vec<CacheLayer>, json: &[u8]) -> Result<Self, DocumentError> {
        limit(json)?;
        let Nullable(records) = serde_json::from_slice(json)?;
        Self::assemble(layers, records)
    }

    fn assemble(layers: Vec<CacheLayer>, records: Vec<WireRecord>) -> Result<Self, DocumentError> {
        if records.len() > MAX_RECORDS {
            return Err(DocumentError::TooMany);
        }
        let records = records.into_iter().map(WireRecord::read).collect::<Result<_, _>>()?;
        Self::new(layers, records)
    }

    /// Writes the whole document.
    pub fn to_json(&self) -> Vec<u8> {
        let layers = self.layers.iter().map(WireLayer::of).collect();
        let wire = Wire { layers, records: self.records.iter().map(WireRecord::of).collect() };
        serde_json::to_vec(&wire).expect("string keys only")
    }

    /// Writes the records alone.
    pub fn records_to_json(&self) -> Vec<u8> {
        let records: Vec<_> = self.records.iter().map(WireRecord::of).collect();
        serde_json::to_vec(&records).expect("string keys only")
    }

    /// Returns the layers.
    pub fn layers(&self) -> &[CacheLayer] {
        &self.layers
    }

    /// Returns the records.
    pub fn records(&self) -> &[CacheRecord] {
        &self.records
    }

    /// Returns the layers of a result, lowest first.
    pub fn chain(&self, layers: &ResultLayers) -> Vec<usize> {
        match layers {
            ResultLayers::Chain(chain) => chain.clone(),
            ResultLayers::Top(top) => {
                let below = |number: &usize| self.layers.get(*number).and_then(|layer| layer.parent);
                let mut chain: Vec<usize> = std::iter::successors(Some(*top), below).collect();
                chain.reverse();
                chain
            }
        }
    }

    /// Puts everything into the order that does not depend on how it was gathered, each thing once, and
    /// of several results of a key the newest (spec: remote-cache.md §1.1).
    #[must_use]
    pub fn sorted(self) -> Self {
        let Self { layers, mut records } = self;
        let names = layer_names(&layers);
        let mut order: Vec<usize> = (0..layers.len()).collect();
        order.sort_by_key(|number| (&layers[*number].blob, names[*number]));
        order.dedup_by_key(|number| names[*number]);
        let by_name: std::collections::HashMap<Digest, usize> =
            order.iter().enumerate().map(|(place, number)| (names[*number], place)).collect();
        let moved = |number: usize| by_name[&names[number]];
        let layers = order.iter().map(|number| {
            let layer = layers[*number].clone();
            CacheLayer { parent: layer.parent.map(moved), ..layer }
        });
        let layers = layers.collect();
        for result in records.iter_mut().flat_map(|record| &mut record.results) {
            match &mut result.layers {
                ResultLayers::Top(top) => *top = moved(*top),
                ResultLayers::Chain(chain) => chain.iter_mut().for_each(|number| *number = moved(*number)),
            }
        }
        Self { layers, records }.with_sorted_records()
    }

    /// Does to the records what [`Document::sorted`] does, and leaves the layers where they are.
    #[must_use]
    pub fn with_sorted_records(self) -> Self {
        let Self { layers, records } = self;
        let count = records.len();
        let heights = heights(&layers);
        let height = |result: &CacheResult| match &result.layers {
            ResultLayers::Top(top) => heights[*top],
            ResultLayers::Chain(chain) => chain.len(),
        };
        let needs: Vec<_> = links(&records).collect();
        let order = needed_first(count, &needs).unwrap_or_default();
        let mut names = vec![Digest::from_bytes([0; 32]); count];
        for number in order {
            names[number] = record_name(&records[number], &names);
        }
        let mut sorted: Vec<usize> = (0..count).collect();
        sorted.sort_by_key(|number| (&records[*number].digest, names[*number]));
        // Equal ones stand side by side now, and become one.
        let mut places = vec![0; count];
        let mut merged: Vec<(usize, Vec<CacheResult>)> = Vec::new();
        for number in sorted {
            match merged.last_mut() {
                Some((first, results)) if names[*first] == names[number] => {
                    results.extend(records[number].results.iter().cloned());
                }
                _ => merged.push((number, records[number].results.clone())),
            }
            places[number] = merged.len() - 1;
        }
        let records = merged.into_iter().map(|(number, results)| {
            let mut inputs = records[number].inputs.clone();
            for input in &mut inputs {
                input.iter_mut().for_each(|link| link.record = places[link.record]);
                input.sort();
                input.dedup();
            }
            let rank = |result: &CacheResult| (result.created, height(result), std::cmp::Reverse(written(result)));
            let results = results.into_iter().max_by_key(rank).into_iter().collect();
            CacheRecord { digest: records[number].digest.clone(), inputs, results }
        });
        Self { records: records.collect(), layers }
    }

    fn check(&self) -> Result<(), DocumentError> {
        let is_layer = |number: usize| {
            let there = number < self.layers.len();
            there.then_some(()).ok_or(DocumentError::NotThere { what: "layer", number: shown(number) })
        };
        let parents = self.layers.iter().enumerate().filter_map(|(number, layer)| Some((number, layer.parent?)));
        let parents: Vec<_> = parents.collect();
        parents.iter().try_for_each(|(_, parent)| is_layer(*parent))?;
        for result in self.records.iter().flat_map(|record| &record.results) {
            match &result.layers {
                ResultLayers::Top(top) => is_layer(*top)?,
                ResultLayers::Chain(chain) => chain.iter().try_for_each(|number| is_layer(*number))?,
            }
        }
        let needs: Vec<_> = links(&self.records).collect();
        if let Some((_, number)) = needs.iter().find(|(_, number)| *number >= self.records.len()) {
            return Err(DocumentError::NotThere { what: "record", number: shown(*number) });
        }
        needed_first(self.layers.len(), &parents).ok_or(DocumentError::Circle("layers"))?;
        needed_first(self.records.len(), &needs).ok_or(DocumentError::Circle("records"))?;
        Ok(())
    }
}

impl CacheResult {
    /// Returns the newest of several, of equally new ones the first.
    pub fn newest(results: &[Self]) -> Option<&Self> {
        results.iter().rev().max_by_key(|result| result.created)
    }
}

fn shown(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Which record needs which.
fn links(records: &[CacheRecord]) -> impl Iterator<Item = (usize, usize)> {
    let numbered = records.iter().enumerate();
    numbered.flat_map(|(number, record)| record.inputs.iter().flatten().map(move |link| (number, link.record)))
}

/// Names layers by what they and those below them are.
fn layer_names(layers: &[CacheLayer]) -> Vec<Digest> {
    let mut names = vec![Digest::from_bytes([0; 32]); layers.len()];
    for number in bottom_up(layers) {
        let layer = &layers[number];
        let mut hasher = Hasher::domain("kiln.cache-layer.v1");
        hasher.field(&layer.blob);
        if let Some(parent) = layer.parent {
            hasher.digest(&names[parent]);
        }
        if let Some(annotations) = &layer.annotations {
            hasher.field(&annotations.media_type).field(&annotations.diff_id).number(annotations.size);
            hasher.number(annotations.created.map_or(0, |created| created + 1));
        }
        names[number] = hasher.finish();
    }
    names
}

/// How many layers a result of each layer has.
fn heights(layers: &[CacheLayer]) -> Vec<usize> {
    let mut heights = vec![1; layers.len()];
    for number in bottom_up(layers) {
        heights[number] = layers[number].parent.map_or(1, |parent| heights[parent] + 1);
    }
    heights
}

fn bottom_up(layers: &[CacheLayer]) -> Vec<usize> {
    let parents: Vec<_> =
        layers.iter().enumerate().filter_map(|(number, layer)| Some((number, layer.parent?))).collect();
    needed_first(layers.len(), &parents).unwrap_or_default()
}

/// Names a record by its key and its inputs, whose names are known.
fn record_name(record: &CacheRecord, names: &[Digest]) -> Digest {
    let mut hasher = Hasher::domain("kiln.cache-record.v1");
    hasher.field(&record.digest).number(record.inputs.len() as u64);
    for input in &record.inputs {
        let mut input: Vec<_> = input.iter().map(|link| (&link.selector, names[link.record])).collect();
        input.sort();
        input.dedup();
        hasher.number(input.len() as u64);
        for (selector, name) in input {
            hasher.field(selector).digest(&name);
        }
    }
    hasher.finish()
}

/// A text by which equally good results are told apart.
fn written(result: &CacheResult) -> String {
    format!("{:?}", result.layers)
}

#[cfg(test)]
mod tests;
