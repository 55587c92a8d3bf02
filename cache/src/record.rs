//! Records: what was built under which key.
//!
//! ```text
//! records/v1/keys/<key>/<created>-<name>      → class
//! records/v1/results/<class>/<created>-<name> → record
//! records/v1/ops/<op>/<created>-<name>        → class
//! records/v1/steps/<step>/<created>-<name>    → class
//! ```
//! A *class* names interchangeable results; several keys may lead to it. Every file is written
//! once, under a name that its content gives, so that any two sets of records unite to a set of
//! records. The newest file that reads back right counts.

use std::path::{Path, PathBuf};

use kiln_oci::Digest;
use serde::{Deserialize, Serialize};

use crate::file::{list, publish, read};
use crate::{FileError, Store};

/// What was built, from what, and what it cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The key under which it was looked up and not found.
    pub key: Digest,
    /// What the result is known as to the keys of later steps.
    pub class: Digest,
    /// The digest of the operation without its inputs.
    pub op: Digest,
    /// A name for people: `RUN make`.
    pub step: String,
    /// For each output, the diff ids of its layers, lowest first. None at all where only the keys are
    /// known: a cache elsewhere said that it was made.
    pub outputs: Vec<Vec<Digest>>,
    /// What the key was made of.
    pub inputs: Vec<NamedInput>,
    /// How long it took.
    pub seconds: f64,
    /// How many bytes the layers that it made have.
    pub size: u64,
    /// When it was made, in nanoseconds since 1970.
    pub created: u64,
    /// The keys made of contents that lead to it, as far as they are known. For caches elsewhere: here
    /// only what this store was asked for is a key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contents: Vec<Digest>,
}

/// What a key leads to.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// The identity of the results.
    pub class: Digest,
    /// What is known of them, the newest first.
    pub records: Vec<Record>,
}

/// Something that a key was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedInput {
    /// What it is, for people: `build argument VERSION`.
    pub name: String,
    /// Its digest.
    pub digest: Digest,
    /// Its value, where it is short and no secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl Record {
    /// Whether it says what the step came to, rather than that it was made.
    pub fn has_outputs(&self) -> bool {
        !self.outputs.is_empty()
    }
}

#[derive(Clone, Copy)]
enum Relation {
    Keys,
    Results,
    Ops,
    Steps,
}

impl Relation {
    /// What leads to a class.
    const LEADING: [Self; 3] = [Self::Keys, Self::Ops, Self::Steps];

    fn directory(self, store: &Store) -> PathBuf {
        store.root().join("records/v1").join(match self {
            Self::Keys => "keys",
            Self::Results => "results",
            Self::Ops => "ops",
            Self::Steps => "steps",
        })
    }
}

impl Store {
    /// Returns the newest result of a key that can be read. Nothing is written.
    pub fn lookup(&self, key: &Digest) -> Option<Record> {
        self.known(key)?.records.into_iter().find(Record::has_outputs)
    }

    /// Returns what a key leads to: the newest class with a result that can be read, else the newest.
    pub fn known(&self, key: &Digest) -> Option<Known> {
        let classes = self.classes(Relation::Keys, key);
        let mut known = classes.map(|class| Known { class, records: self.results(&class) });
        let newest = known.next()?;
        if newest.records.iter().any(Record::has_outputs) {
            return Some(newest);
        }
        Some(known.find(|known| known.records.iter().any(Record::has_outputs)).unwrap_or(newest))
    }

    /// Returns the class that a key leads to, whether or not a result of it is left.
    pub fn class(&self, key: &Digest) -> Option<Digest> {
        self.classes(Relation::Keys, key).next()
    }

    /// Returns every class that a key ever led to, the newest first, each once.
    pub fn classes_of(&self, key: &Digest) -> Vec<Digest> {
        let mut seen = std::collections::HashSet::new();
        self.classes(Relation::Keys, key).filter(|class| seen.insert(*class)).collect()
    }

    /// Returns all results of a class, the newest first.
    pub fn results(&self, class: &Digest) -> Vec<Record> {
        let directory = Relation::Results.directory(self).join(class.hex());
        let records = newest_first(&directory).into_iter().filter_map(|path| {
            let record: Record = serde_json::from_slice(&unseal(&path)?).ok()?;
            (record.class == *class).then_some(record)
        });
        records.collect()
    }

    /// Keeps a record: its key, operation and step lead to it from now on.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn record(&self, record: &Record) -> Result<(), FileError> {
        let body = serde_json::to_vec(record).expect("string keys and finite numbers");
        // The result first: a key must never lead to something that is not there yet.
        self.put_record(Relation::Results, &record.class, record.created, &body)?;
        self.put_class(Relation::Ops, &record.op, record.created, &record.class)?;
        self.put_class(Relation::Steps, &Digest::of(&record.step), record.created, &record.class)?;
        self.put_class(Relation::Keys, &record.key, record.created, &record.class)
    }

    /// Makes one more key lead to a class. `created` decides between classes: that of the record,
    /// for one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn alias(&self, key: &Digest, class: &Digest, created: u64) -> Result<(), FileError> {
        self.put_class(Relation::Keys, key, created, class)
    }

    /// Whether this operation was ever recorded, with any inputs.
    pub fn has_op(&self, op: &Digest) -> bool {
        Relation::Ops.directory(self).join(op.hex()).exists()
    }

    /// Returns the newest record of this operation, with any inputs.
    pub fn newest(&self, op: &Digest) -> Option<Record> {
        self.classes(Relation::Ops, op).find_map(|class| self.results(&class).into_iter().next())
    }

    /// Returns the newest record of the step with this name, to say what is different now.
    pub fn nearest(&self, step: &str) -> Option<Record> {
        let classes = self.classes(Relation::Steps, &Digest::of(step));
        let records = classes.filter_map(|class| self.results(&class).into_iter().find(|record| record.step == step));
        records.max_by_key(|record| record.created)
    }

    /// Returns all records that can be read.
    pub(crate) fn records(&self) -> Result<Vec<Record>, FileError> {
        let mut records = Vec::new();
        for name in list(&Relation::Results.directory(self))? {
            let class = name.to_str().and_then(|name| Digest::from_hex(name).ok());
            records.extend(class.map(|class| self.results(&class)).unwrap_or_default());
        }
        Ok(records)
    }

    /// Deletes all files of records whose record `keep` does not want, and what leads to them.
    /// Returns how many bytes that were.
    pub(crate) fn retain_records(&self, keep: impl Fn(&Record) -> bool) -> Result<u64, FileError> {
        use crate::file::At;
        let mut freed = 0;
        let mut classes = std::collections::HashSet::new();
        let results = Relation::Results.directory(self);
        let (mut leading, mut doomed) = (Vec::new(), Vec::new());
        for name in list(&results)? {
            for path in newest_first(&results.join(&name)) {
                let record = unseal(&path).and_then(|body| serde_json::from_slice::<Record>(&body).ok());
                match record.filter(&keep) {
                    Some(record) => drop(classes.insert(record.class)),
                    None => doomed.push(path),
                }
            }
        }
        for relation in Relation::LEADING {
            let directory = relation.directory(self);
            for name in list(&directory)? {
                for path in newest_first(&directory.join(&name)) {
                    let class = unseal(&path).and_then(|body| body.try_into().ok()).map(Digest::from_bytes);
                    if class.is_none_or(|class| !classes.contains(&class)) {
                        leading.push(path);
                    }
                }
            }
        }
        // What leads somewhere goes first.
        for path in leading.into_iter().chain(doomed) {
            freed += std::fs::symlink_metadata(&path).map_or(0, |found| found.len());
            std::fs::remove_file(&path).at("delete", &path)?;
            if let Some(parent) = path.parent() {
                // Only when it is empty now.
                let _ = std::fs::remove_dir(parent);
            }
        }
        Ok(freed)
    }

    fn classes(&self, relation: Relation, key: &Digest) -> impl Iterator<Item = Digest> + use<> {
        let directory = relation.directory(self).join(key.hex());
        let bodies = newest_first(&directory).into_iter().filter_map(|path| unseal(&path));
        bodies.filter_map(|body| Some(Digest::from_bytes(body.try_into().ok()?)))
    }

    fn put_class(&self, relation: Relation, key: &Digest, created: u64, class: &Digest) -> Result<(), FileError> {
        self.put_record(relation, key, created, class.as_bytes())
    }

    fn put_record(&self, relation: Relation, key: &Digest, created: u64, body: &[u8]) -> Result<(), FileError> {
        let checksum = Digest::of(body);
        let name = format!("{created:016x}-{}", &checksum.hex()[..16]);
        let path = relation.directory(self).join(key.hex()).join(name);
        let bytes = [MAGIC, body, checksum.as_bytes()].concat();
        // What is there is this, unless it is damaged.
        if unseal(&path).is_some() {
            return Ok(());
        }
        publish(&self.ingest_directory(), &path, &bytes)
    }
}

const MAGIC: &[u8] = b"kilnrec1";

fn unseal(path: &Path) -> Option<Vec<u8>> {
    let bytes = read(path).ok()??;
    let (body, checksum) = bytes.strip_prefix(MAGIC)?.split_last_chunk::<32>()?;
    (Digest::of(body).as_bytes() == checksum).then(|| body.to_vec())
}

fn newest_first(directory: &Path) -> Vec<PathBuf> {
    let mut names = list(directory).unwrap_or_default();
    names.sort_by(|one, two| two.cmp(one));
    names.into_iter().map(|name| directory.join(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let temporary = tempfile::tempdir().unwrap();
        let store = Store::open(&temporary.path().join("store")).unwrap();
        (temporary, store)
    }

    fn record(key: &str, class: &str, created: u64) -> Record {
        Record {
            key: Digest::of(key),
            class: Digest::of(class),
            op: Digest::of("op"),
            step: "RUN make".to_owned(),
            outputs: vec![vec![Digest::of("layer")]],
            inputs: vec![NamedInput { name: "base".to_owned(), digest: Digest::of("base"), text: None }],
            seconds: 1.5,
            size: 10,
            created,
            contents: Vec::new(),
        }
    }

    #[test]
    fn a_record_is_found_by_key_alias_and_step() {
        let (_temporary, store) = store();
        let made = record("key", "class", 5);
        assert!(!store.has_op(&made.op) && store.lookup(&made.key).is_none() && store.nearest("RUN make").is_none());
        store.record(&made).unwrap();
        store.record(&made).unwrap();
        store.alias(&Digest::of("other"), &made.class, made.created).unwrap();
        assert_eq!(store.lookup(&made.key), Some(made.clone()));
        assert_eq!(store.lookup(&Digest::of("other")), Some(made.clone()));
        assert_eq!(store.results(&made.class), std::slice::from_ref(&made));
        assert_eq!(store.nearest("RUN make"), Some(made.clone()));
        assert!(store.has_op(&made.op));
        assert_eq!(store.newest(&made.op), Some(made));
        assert_eq!(store.newest(&Digest::of("other")), None);
    }

    #[test]
    fn the_newest_that_can_be_read_counts() {
        let (_temporary, store) = store();
        store.record(&record("key", "class", 5)).unwrap();
        store.record(&record("key", "fresh", 0x10)).unwrap();
        assert_eq!(store.lookup(&Digest::of("key")).unwrap().class, Digest::of("fresh"));
        let damaged = newest_first(&Relation::Results.directory(&store).join(Digest::of("fresh").hex()));
        let mut bytes = std::fs::read(&damaged[0]).unwrap();
        bytes[20] ^= 1;
        std::fs::write(&damaged[0], bytes).unwrap();
        assert_eq!(store.lookup(&Digest::of("key")).unwrap().class, Digest::of("class"));
        assert_eq!(store.class(&Digest::of("key")), Some(Digest::of("fresh")));
        // Written again, it is whole again.
        store.record(&record("key", "fresh", 0x10)).unwrap();
        assert_eq!(store.lookup(&Digest::of("key")).unwrap().class, Digest::of("fresh"));
    }

    #[test]
    fn what_was_made_elsewhere_has_a_class_and_no_result() {
        let (_temporary, store) = store();
        let elsewhere = Record { outputs: Vec::new(), contents: vec![Digest::of("k")], ..record("key", "class", 9) };
        store.record(&elsewhere).unwrap();
        assert_eq!(store.lookup(&Digest::of("key")), None);
        let known = store.known(&Digest::of("key")).unwrap();
        assert_eq!((known.class, &known.records[..]), (Digest::of("class"), &[elsewhere][..]));
        // A content that was only told of is no key.
        assert_eq!(store.known(&Digest::of("k")), None);
        let made = record("key", "class", 5);
        store.record(&made).unwrap();
        assert_eq!(store.lookup(&Digest::of("key")), Some(made));
    }

    #[test]
    fn the_union_of_two_stores_is_a_store() {
        let (_one, one) = store();
        let (_two, two) = store();
        one.record(&record("key", "a", 5)).unwrap();
        two.record(&record("key", "b", 6)).unwrap();
        for entry in walkdir::WalkDir::new(two.root().join("records")) {
            let entry = entry.unwrap();
            let target = one.root().join(entry.path().strip_prefix(two.root()).unwrap());
            if entry.file_type().is_dir() {
                std::fs::create_dir_all(target).unwrap();
            } else {
                std::fs::copy(entry.path(), target).unwrap();
            }
        }
        assert_eq!(one.lookup(&Digest::of("key")).unwrap().class, Digest::of("b"));
        assert_eq!(one.records().unwrap().len(), 2);
    }

    #[test]
    fn what_is_not_kept_is_gone_with_what_led_to_it() {
        let (_temporary, store) = store();
        store.record(&record("one", "a", 5)).unwrap();
        store.record(&record("two", "b", 6)).unwrap();
        assert!(store.retain_records(|record| record.created > 5).unwrap() > 0);
        assert_eq!(store.class(&Digest::of("one")), None);
        assert_eq!(store.lookup(&Digest::of("two")).unwrap().created, 6);
        store.retain_records(|_| false).unwrap();
        assert!(!store.has_op(&Digest::of("op")));
    }
}
