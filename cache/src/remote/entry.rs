//! What kiln means by the records of a document.
//!
//! ```text
//! {"digest":"sha256:<definition key>"}                     0
//! {"digest":"sha256:<content key>"}                        1
//! {"digest":"sha256:<class>","layers":[{"layer":4}],
//!  "inputs":[[{"link":0},{"selector":"sha256:<CONTENT>","link":1}]]}
//! ```
//! A class is reached by its own digest, which most often is the key it was made under, and by the
//! records of the one input that it has, any of them. The selector marks the keys that are made of
//! contents.

use std::collections::HashSet;

use kiln_oci::{Digest, Hasher};

use super::document::{CacheLayer, CacheRecord, CacheResult, Document, DocumentError, Link};

/// A class, the keys that lead to it, and what it came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The identity of the result.
    pub class: Digest,
    /// Keys made of how the inputs were made. The class, which is always a key, need not be among them.
    pub definitions: Vec<Digest>,
    /// Keys made of what is in the inputs, likewise.
    pub contents: Vec<Digest>,
    /// The result; none where the cache holds the keys alone.
    pub result: Option<CacheResult>,
}

/// Marks a link to a key that is made of contents.
fn content_selector() -> String {
    Hasher::domain("kiln.content-key.v1").finish().to_string()
}

impl Document {
    /// Makes a document that says `entries` of `layers`. The records are sorted.
    ///
    /// # Errors
    /// When an entry names a layer that is not there.
    pub fn of_entries(layers: Vec<CacheLayer>, entries: &[Entry]) -> Result<Self, DocumentError> {
        let selector = content_selector();
        let mut records: Vec<CacheRecord> = Vec::new();
        for entry in entries {
            let definitions = entry.definitions.iter().filter(|key| **key != entry.class);
            let definitions = definitions.map(|key| (key, String::new()));
            let contents = entry.contents.iter().filter(|key| **key != entry.class);
            let contents = contents.map(|key| (key, selector.clone()));
            let mut links = Vec::new();
            for (key, selector) in definitions.chain(contents) {
                links.push(Link { record: records.len(), selector });
                records.push(CacheRecord { digest: key.to_string(), ..CacheRecord::default() });
            }
            let inputs = if links.is_empty() { Vec::new() } else { vec![links] };
            let results = entry.result.iter().cloned().collect();
            records.push(CacheRecord { digest: entry.class.to_string(), inputs, results });
        }
        Ok(Self::new(layers, records)?.with_sorted_records())
    }

    /// Returns what the records say, as far as they are of this kind.
    pub fn entries(&self) -> Vec<Entry> {
        let selector = content_selector();
        let digest = |record: &CacheRecord| record.digest.parse::<Digest>().ok();
        let linked: HashSet<usize> =
            self.records().iter().flat_map(|record| record.inputs.iter().flatten()).map(|link| link.record).collect();
        let mut entries = Vec::new();
        for (number, record) in self.records().iter().enumerate() {
            // What is there for others to be reached by is no class of its own.
            let is_key = linked.contains(&number) && record.results.is_empty();
            let (Some(class), false) = (digest(record), is_key) else { continue };
            let keys = |by_content: bool| -> Vec<Digest> {
                let [links] = &record.inputs[..] else { return Vec::new() };
                let links = links.iter().filter(|link| (link.selector == selector) == by_content);
                links.filter_map(|link| digest(&self.records()[link.record])).collect()
            };
            let (definitions, contents) = (keys(false), keys(true));
            let result = CacheResult::newest(&record.results).cloned();
            entries.push(Entry { class, definitions, contents, result });
        }
        entries
    }
}
