//! What the store takes, and giving it back: disk usage, budgets and pruning.
//!
//! A prune marks from what must stay – named images, and records that are kept – and deletes the
//! rest: first what leads somewhere, then what it led to. It runs alone: no build holds the
//! store's lock meanwhile. Killed in the middle, it leaves less to delete and nothing broken.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kiln_oci::{Descriptor, Digest, Document, ImageConfig};

use crate::file::{At, list};
use crate::{FileError, Store, StoreError};

/// What to prune.
#[derive(Debug, Clone, Copy, Default)]
pub struct Prune {
    /// Everything that no named image needs, cache mounts included.
    pub all: bool,
    /// Without `all`: records younger than this stay, with all that they need.
    pub keep: Duration,
}

/// What a prune deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Bytes on disk.
    pub bytes: u64,
    /// Records.
    pub records: usize,
    /// Layers.
    pub layers: usize,
    /// Blobs.
    pub blobs: usize,
    /// Cache mounts.
    pub mounts: usize,
}

/// What the store takes, in bytes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Blobs.
    pub blobs: u64,
    /// Layers: directories and indexes.
    pub layers: u64,
    /// Records, and what is remembered of contexts.
    pub records: u64,
    /// Cache mounts.
    pub mounts: u64,
    /// What is being written, or was left by a crash or for a look at a failed command.
    pub temporary: u64,
}

impl Usage {
    /// Returns the sum.
    pub fn total(&self) -> u64 {
        self.blobs + self.layers + self.records + self.mounts + self.temporary
    }
}

/// Returns what the store takes.
///
/// # Errors
/// None at present; a directory that cannot be read counts as empty.
pub fn usage(store: &Store) -> Result<Usage, StoreError> {
    let of = |name: &str| disk_usage(&store.root().join(name));
    Ok(Usage {
        blobs: of("blobs"),
        layers: of("layers"),
        records: of("records") + of("context"),
        mounts: of("mounts"),
        temporary: of("ingest") + of("run") + of("failed"),
    })
}

/// Deletes what is not needed any more.
///
/// # Errors
/// [`StoreError::InUse`] while a build runs; else when something cannot be read or deleted.
pub fn prune(store: &Store, options: &Prune) -> Result<Pruned, StoreError> {
    let _alone = store.try_lock_exclusive()?;
    store.sweep()?;
    let mut pruned = Pruned { bytes: disk_usage(&store.failed_directory()), ..Pruned::default() };
    store.remove_failed()?;
    let mut kept = Kept::default();
    for (_, target) in store.images()? {
        kept.image(store, &target, true);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let oldest = u64::try_from(now.saturating_sub(options.keep).as_nanos()).unwrap_or(u64::MAX);
    let records = store.records()?;
    let keep_record = |record: &crate::Record| !options.all && record.created >= oldest;
    for record in &records {
        if keep_record(record) {
            kept.layers.extend(record.outputs.iter().flatten());
        } else {
            pruned.records += 1;
        }
    }
    pruned.bytes += store.retain_records(keep_record)?;
    let resolved = store.root().join("records/v1/resolved");
    if options.all {
        pruned.bytes += remove_counted(&resolved)?;
    } else {
        for target in store.resolutions()? {
            kept.image(store, &target, false);
        }
    }
    for name in list(&store.root().join("layers/v1"))? {
        let diff_id = name.to_str().and_then(|name| Digest::from_hex(name).ok());
        match diff_id {
            Some(diff_id) if kept.layers.contains(&diff_id) => {
                let blobs = store.layer(&diff_id).blobs();
                kept.blobs.extend(blobs.into_iter().map(|blob| blob.descriptor.digest).chain([diff_id]));
            }
            _ => {
                let path = store.root().join("layers/v1").join(name);
                let aside = store.ingest_scratch("pruned")?;
                let target = aside.path().join("layer");
                pruned.bytes += disk_usage(&path);
                std::fs::rename(&path, &target).at("rename", &path)?;
                pruned.layers += 1;
            }
        }
    }
    for name in list(&store.root().join("blobs/sha256"))? {
        let digest = name.to_str().and_then(|name| Digest::from_hex(name).ok());
        if digest.is_some_and(|digest| !kept.blobs.contains(&digest)) {
            pruned.bytes += remove_counted(&store.root().join("blobs/sha256").join(name))?;
            pruned.blobs += 1;
        }
    }
    if options.all {
        let count = || store.cache_mounts().map(|mounts| mounts.len());
        let before = count()?;
        pruned.bytes += store.remove_free_mounts(|_| false)?;
        pruned.mounts = before - count()?.min(before);
        pruned.bytes += remove_children(&store.root().join("context/v1"))?;
    }
    Ok(pruned)
}

/// What must stay.
#[derive(Default)]
struct Kept {
    blobs: HashSet<Digest>,
    layers: HashSet<Digest>,
}

/// Documents are not longer than this.
const DOCUMENT: u64 = 16 << 20;

impl Kept {
    /// Keeps an image: its documents, and with `whole` its layers. What is not here is not
    /// missed: images may have parts that nobody fetched.
    fn image(&mut self, store: &Store, target: &Descriptor, whole: bool) {
        if !self.blobs.insert(target.digest) && !whole {
            return;
        }
        let Ok(bytes) = store.read_blob(&target.digest, DOCUMENT) else { return };
        match Document::parse(&bytes, Some(&target.media_type)) {
            Ok(Document::Index(index)) => {
                for manifest in &index.manifests {
                    // An index in itself cannot be: that would take a broken sha256.
                    self.image(store, manifest, whole);
                }
            }
            Ok(Document::Manifest(manifest)) => {
                self.blobs.insert(manifest.config.digest);
                if !whole {
                    return;
                }
                self.blobs.extend(manifest.layers.iter().map(|layer| layer.digest));
                let config = store.read_blob(&manifest.config.digest, DOCUMENT).ok();
                let config = config.and_then(|bytes| serde_json::from_slice::<ImageConfig>(&bytes).ok());
                self.layers.extend(config.into_iter().flat_map(|config| config.rootfs.diff_ids));
            }
            Err(error) => tracing::warn!("{} is no image document: {error}", target.digest),
        }
    }
}

fn remove_counted(path: &Path) -> Result<u64, FileError> {
    let bytes = disk_usage(path);
    crate::remove::remove_tree(path).at("delete", path)?;
    Ok(bytes)
}

fn remove_children(directory: &Path) -> Result<u64, FileError> {
    list(directory)?.into_iter().map(|name| remove_counted(&directory.join(name))).sum()
}

/// Returns how many bytes on disk a file or directory takes, each file counted once.
pub(crate) fn disk_usage(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut seen = HashSet::new();
    let entries = walkdir::WalkDir::new(path).follow_links(false).into_iter().filter_map(Result::ok);
    let found = entries.filter_map(|entry| entry.metadata().ok());
    found
        .filter(|it| it.nlink() < 2 || it.is_dir() || seen.insert((it.dev(), it.ino())))
        .map(|it| it.blocks() * 512)
        .sum()
}

/// How much the store may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Budget {
    /// So much is never reclaimed.
    pub reserved: u64,
    /// So much at most is kept; 0: no limit.
    pub max_used: u64,
    /// So much of the disk should be free; 0: no matter.
    pub min_free: u64,
}

impl Budget {
    /// Returns the budget for a disk of `total` bytes that nobody configured.
    pub fn for_disk(total: u64) -> Self {
        if total == 0 {
            return Self { reserved: 2_000_000_000, max_used: 2_000_000_000, min_free: 2_000_000_000 };
        }
        // Counted in GiB, rounded up, and read as GB: as other builders do.
        let percent = |percent: u64| (total / 100).saturating_mul(percent) / (1 << 30) * 1_000_000_000 + 1_000_000_000;
        Self {
            reserved: percent(10).min(10_000_000_000),
            max_used: percent(80).min(100_000_000_000),
            min_free: percent(20),
        }
    }

    /// Returns how many bytes may stay when `total` are taken and `free` are left on the disk.
    /// `None` when there is no limit to go by: then everything that may go, goes.
    pub fn keep(&self, total: u64, free: u64) -> Option<u64> {
        if *self == Self::default() {
            return None;
        }
        let mut keep = self.max_used;
        if self.min_free > free {
            let rest = total.saturating_sub(self.min_free - free);
            keep = if self.max_used == 0 { rest } else { rest.min(self.max_used) };
        } else if self.min_free != 0 && self.max_used == 0 {
            keep = total;
        }
        Some(keep.max(self.reserved))
    }
}

#[cfg(test)]
mod tests {
    use kiln_oci::media_type;
    use serde_json::Value;

    use super::*;
    use crate::layer::{Compression, NewEntry, NewKind, Pack, pack};
    use crate::mount::{MountRequest, Sharing};

    #[test]
    fn budgets_are_those_of_the_vectors() {
        let bytes = std::fs::read(crate::layer::vectors().join("gc-keep.json")).unwrap();
        let vectors: Value = serde_json::from_slice(&bytes).unwrap();
        let number = |case: &Value, key: &str| case[key].as_u64().unwrap();
        let budget = |case: &Value| Budget {
            reserved: number(case, "reserved"),
            max_used: number(case, "max_used"),
            min_free: number(case, "min_free"),
        };
        let mut failed = Vec::new();
        for case in vectors["cases"].as_array().unwrap() {
            let ours = budget(case).keep(number(case, "total"), number(case, "free"));
            let wanted = case["keep"].as_i64().map(|keep| u64::try_from(keep).unwrap_or_default());
            if ours != wanted {
                failed.push(format!("{case}: {ours:?}"));
            }
        }
        for case in vectors["defaults"].as_array().unwrap() {
            let ours = Budget::for_disk(number(case, "disk_total"));
            if ours != budget(case) {
                failed.push(format!("{case}: {ours:?}"));
            }
        }
        assert!(failed.is_empty(), "{failed:#?}");
    }

    fn layer(store: &Store, name: &str) -> crate::layer::Packed {
        let entry = NewEntry::new(name, NewKind::Directory, 0o755);
        let options = Pack { compression: Some(Compression::Gzip), directory: true, like: None };
        pack(store, [Ok(entry)].into_iter(), &options).unwrap()
    }

    fn image(store: &Store, name: &str) -> crate::layer::Packed {
        let packed = layer(store, name);
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [packed.diff_id]},
        });
        let config = config.to_string();
        store.put_blob(config.as_bytes()).unwrap();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "config": Descriptor::of(media_type::CONFIG, config.as_bytes()),
            "layers": [packed.blob],
        });
        let manifest = manifest.to_string();
        store.put_blob(manifest.as_bytes()).unwrap();
        store.tag(&[name.to_owned()], &Descriptor::of(media_type::MANIFEST, manifest.as_bytes())).unwrap();
        packed
    }

    fn record(store: &Store, layer: &crate::layer::Packed, created: u64) {
        let key = Digest::of(created.to_string());
        let record = crate::Record {
            key,
            class: key,
            op: key,
            step: "COPY".to_owned(),
            outputs: vec![vec![layer.diff_id]],
            inputs: Vec::new(),
            seconds: 0.0,
            size: 0,
            created,
            contents: Vec::new(),
        };
        store.record(&record).unwrap();
    }

    #[test]
    fn named_images_and_young_records_stay() {
        let temporary = tempfile::tempdir().unwrap();
        let store = Store::open(&temporary.path().join("store")).unwrap();
        let named = image(&store, "named");
        let untagged = image(&store, "untagged");
        store.untag("untagged").unwrap();
        let (young, old) = (layer(&store, "young"), layer(&store, "old"));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        record(&store, &young, now);
        record(&store, &old, 5);
        let request = MountRequest { id: "m", base: None, sharing: Sharing::Shared };
        drop(store.cache_mount(&request, &|| false, |_| Ok(())).unwrap());
        let here = |packed: &crate::layer::Packed| {
            let directory = store.layer(&packed.diff_id).directory().is_some();
            assert_eq!(directory, store.has_blob(&packed.blob.as_ref().unwrap().digest));
            directory
        };

        let build = store.lock_shared().unwrap();
        let hour = Prune { all: false, keep: Duration::from_secs(3600) };
        assert!(matches!(prune(&store, &hour), Err(StoreError::InUse(_))));
        drop(build);
        let pruned = prune(&store, &hour).unwrap();
        assert_eq!((pruned.records, pruned.layers, pruned.blobs, pruned.mounts), (1, 2, 4, 0));
        assert_eq!([&named, &untagged, &young, &old].map(here), [true, false, true, false]);
        assert_eq!(prune(&store, &hour).unwrap(), Pruned::default());

        let pruned = prune(&store, &Prune { all: true, keep: Duration::ZERO }).unwrap();
        assert_eq!((pruned.records, pruned.layers, pruned.blobs, pruned.mounts), (1, 1, 1, 1));
        assert!(pruned.bytes > 0 && here(&named) && !here(&young));
        assert_eq!(usage(&store).unwrap().total(), disk_usage(store.root()) - top(&store));
    }

    /// What the root directory and the two documents in it take.
    fn top(store: &Store) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let names = ["", "index.json", "oci-layout"];
        names.iter().map(|name| std::fs::metadata(store.root().join(name)).unwrap().blocks() * 512).sum()
    }
}
