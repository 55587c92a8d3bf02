//! Tests of layers as a whole.

mod attack;
mod format;
mod members;
mod overlay;
mod roundtrip;

use std::io::Read;
use std::path::PathBuf;

use super::*;

/// Returns where the test vectors are.
pub(crate) fn vectors() -> PathBuf {
    std::env::var_os("KILN_VECTORS")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/vectors")), PathBuf::from)
}

fn store() -> (tempfile::TempDir, Store) {
    let temporary = tempfile::tempdir().unwrap();
    let store = Store::open(&temporary.path().join("store")).unwrap();
    (temporary, store)
}

fn file(path: &str, content: &[u8]) -> NewEntry {
    let kind = NewKind::File { size: content.len() as u64, content: Content::Bytes(content.into()) };
    NewEntry { mtime: (1_700_000_000, 0), ..NewEntry::new(path, kind, 0o644) }
}

fn directory(path: &str) -> NewEntry {
    NewEntry::new(path, NewKind::Directory, 0o755)
}

fn make(store: &Store, entries: Vec<NewEntry>, compression: Compression) -> Result<Packed, LayerError> {
    let options = Pack { compression: Some(compression), directory: true, like: None };
    pack(store, entries.into_iter().map(Ok), &options)
}

/// Reads the tar stream of a layer that was made with a blob.
fn tar_of(store: &Store, packed: &Packed) -> Vec<u8> {
    let mut bytes = Vec::new();
    let blob = store.open_blob(&packed.blob.as_ref().unwrap().digest).unwrap();
    compression::decompress(blob).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// Unpacks bytes as a layer, whatever they hash to.
fn unpack_bytes(store: &Store, tar: &[u8]) -> Result<Digest, LayerError> {
    unpack_limited(store, tar, tar, &Limits::default())
}

fn unpack_limited(store: &Store, tar: &[u8], mut blob: &[u8], limits: &Limits) -> Result<Digest, LayerError> {
    let diff_id = Digest::of(tar);
    let descriptor = Descriptor::of(Compression::Uncompressed.media_type(), blob);
    let wanted = Unpack { diff_id, blob: descriptor, source: None, keep_blob: false };
    unpack_within(store, &wanted, limits, &mut blob, &|| false)?;
    Ok(diff_id)
}

/// Shows what an index holds, an entry per word.
fn shown(store: &Store, diff_id: &Digest) -> String {
    let index = store.layer(diff_id).index().unwrap().unwrap();
    let words = index.entries().iter().map(|entry| {
        let path = show(&entry.path);
        match &entry.change {
            Change::Whiteout => format!("-{path}"),
            Change::Put(put) => {
                let mark = if put.opaque { "!" } else { "" };
                let implied = if put.implied { "?" } else { "" };
                format!("{}{path}{mark}{implied}", char::from(put.meta.kind.code()))
            }
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Whether nothing is left of what failed.
fn is_clean(store: &Store) -> bool {
    list(&store.ingest_directory()).unwrap().is_empty() && list(&store.root().join("layers/v1")).unwrap().is_empty()
}
