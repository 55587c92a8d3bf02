//! One layer in its three forms.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;

use proptest::prelude::*;

use super::super::entry::CAPABILITY;
use super::*;

/// What a random file is made of: kind, content, mode, owner, time, capability.
type Random = (u8, Vec<u8>, u32, u32, (i64, u32), bool);

/// Names that readers stumble over.
const NAMES: [&[u8]; 10] =
    [b"a", b"b", b"a.b", "é".as_bytes(), b"a-long-name", b"\xff\xfe", b"new\nline", b" 1=2 ", b".", b"..."];

/// The capability `cap_net_bind_service`, as the kernel writes it.
const BIND: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Bytes, or a few of them with zeros around, as in a file with holes.
fn contents() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop::collection::vec(any::<u8>(), 0..600);
    let holes = (0..60_000usize, prop::collection::vec(any::<u8>(), 1..9), 0..30_000usize).prop_map(
        |(before, mut island, after)| {
            let mut bytes = vec![0; before];
            bytes.append(&mut island);
            bytes.resize(bytes.len() + after, 0);
            bytes
        },
    );
    prop_oneof![4 => bytes, 1 => holes]
}

/// A random tree as entries in the order of a walk.
fn trees() -> impl Strategy<Value = Vec<NewEntry>> {
    // `.` is none: it stands for the longest there is.
    let name = prop::sample::select(NAMES.to_vec()).prop_map(|name| match name {
        b"." => vec![b'n'; 255],
        name => name.to_vec(),
    });
    let random = (
        0..9u8,
        contents(),
        0..0o10000u32,
        prop::sample::select(vec![0u32, 1000, 3_000_000]),
        (-5..5i64, 0..999_999_999u32),
        any::<bool>(),
    );
    prop::collection::vec((prop::collection::vec(name, 1..4), random), 0..20).prop_map(|all| {
        let mut sorted: std::collections::BTreeMap<Vec<Vec<u8>>, Random> = all.into_iter().collect();
        for name in sorted.keys().cloned().collect::<Vec<_>>() {
            for depth in 1..name.len() {
                sorted.entry(name[..depth].to_vec()).or_insert((1, Vec::new(), 0o755, 0, (0, 0), false)).0 = 1;
            }
        }
        let mut first = None;
        let entries = sorted.into_iter().map(|(name, (kind, content, mode, owner, mtime, is_capable))| {
            let path = name.join(&b'/');
            let kind = match (kind, &first) {
                (1, _) => NewKind::Directory,
                (2, _) => NewKind::Symlink(b"../some/where\xff".to_vec()),
                (3, Some(first)) => NewKind::Hardlink(Vec::clone(first)),
                (4, _) => NewKind::Fifo,
                (5, _) => NewKind::Char(1, 3),
                (6, _) => NewKind::Whiteout,
                (7, _) => NewKind::Block(259, 1_000),
                _ => {
                    first = Some(path.clone());
                    NewKind::File { size: content.len() as u64, content: Content::Bytes(content.into()) }
                }
            };
            let mode = if matches!(kind, NewKind::Symlink(_)) { 0o777 } else { mode };
            let capability = (CAPABILITY.to_vec(), BIND.to_vec());
            let xattrs = (is_capable && matches!(kind, NewKind::File { .. })).then_some(capability);
            let xattrs = xattrs.into_iter().collect();
            NewEntry { uid: owner, gid: owner, mtime, xattrs, ..NewEntry::new(path, kind, mode) }
        });
        entries.collect()
    })
}

/// What the directory form has of a tree beyond the index: the exact times, by path; of a hard link's names only the first.
fn exact_times(entries: &[NewEntry]) -> Vec<(Vec<u8>, (i64, u32))> {
    let is_first = |entry: &&NewEntry| !matches!(entry.kind, NewKind::Hardlink(_) | NewKind::Whiteout);
    entries.iter().filter(is_first).map(|entry| (entry.path.clone(), entry.mtime)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_layer_is_the_same_in_all_its_forms(entries in trees()) {
        let (_one, one) = store();
        let (_two, two) = store();
        let times = exact_times(&entries);
        let packed = make(&one, entries, Compression::Gzip).unwrap();
        let directory = one.layer(&packed.diff_id).directory().unwrap();
        for (path, time) in times {
            let found = std::fs::symlink_metadata(directory.join(OsStr::from_bytes(&path))).unwrap();
            prop_assert_eq!((found.mtime(), found.mtime_nsec() as u32), time, "{}", show(&path));
        }
        let blob = packed.blob.clone().unwrap();
        prop_assert_eq!(&*one.layer(&packed.diff_id).index().unwrap().unwrap(), &*packed.index);
        prop_assert_eq!(LayerIndex::decode(&packed.index.encode()), Some((*packed.index).clone()));

        // Somebody else's reader sees the same names.
        let tar = tar_of(&one, &packed);
        let mut reader = tar::Archive::new(&tar[..]);
        let names: Vec<_> = reader.entries().unwrap().map(|entry| entry.unwrap().path_bytes().into_owned()).collect();
        prop_assert_eq!(names.len(), packed.index.entries().len());

        // From the blob, elsewhere.
        let wanted = Unpack { diff_id: packed.diff_id, blob: blob.clone(), source: Some("host/repo".to_owned()), keep_blob: true };
        unpack(&two, &wanted, &mut one.open_blob(&blob.digest).unwrap(), &|| false).unwrap();
        prop_assert_eq!(&*two.layer(&packed.diff_id).index().unwrap().unwrap(), &*packed.index);
        prop_assert_eq!(two.layer(&packed.diff_id).blobs(), [LayerBlob { descriptor: blob.clone(), sources: vec!["host/repo".to_owned()] }]);
        prop_assert!(two.has_blob(&blob.digest));

        // From either directory, without blob and index.
        for store in [&one, &two] {
            std::fs::remove_file(store.blob_path(&blob.digest)).unwrap();
            std::fs::remove_file(store.layer(&packed.diff_id).home().join("index")).unwrap();
            prop_assert_eq!(&*ensure_index(store, &packed.diff_id).unwrap(), &*packed.index);
            prop_assert_eq!(&ensure_blob(store, &packed.diff_id, Compression::Gzip).unwrap(), &blob);
            let zstd = ensure_blob(store, &packed.diff_id, Compression::Zstd).unwrap();
            std::fs::remove_dir_all(store.layer(&packed.diff_id).home().join("fs")).unwrap();
            std::fs::remove_file(store.blob_path(&blob.digest)).unwrap();
            ensure_directory(store, &packed.diff_id).unwrap();
            std::fs::remove_file(store.blob_path(&zstd.digest)).unwrap();
            prop_assert_eq!(&ensure_blob(store, &packed.diff_id, Compression::Gzip).unwrap(), &blob);
            prop_assert!(list(&store.ingest_directory()).unwrap().is_empty());
        }
    }

    #[test]
    fn any_bytes_are_an_index_or_none(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        LayerIndex::decode(&bytes);
        let sealed = [&bytes[..], Digest::of(&bytes).as_bytes()].concat();
        LayerIndex::decode(&sealed);
    }
}

#[test]
fn what_is_not_the_layer_does_not_appear() {
    let (_one, one) = store();
    let packed = make(&one, vec![file("a", b"1")], Compression::Gzip).unwrap();
    let blob = packed.blob.clone().unwrap();
    let bytes = one.read_blob(&blob.digest, 10_000).unwrap();
    let good = Unpack { diff_id: packed.diff_id, blob: blob.clone(), source: None, keep_blob: true };
    let other = Digest::of("other");
    let (_two, two) = store();

    let wrong = Unpack { diff_id: other, ..good.clone() };
    assert!(matches!(unpack(&two, &wrong, &mut &bytes[..], &|| false), Err(LayerError::DiffId { .. })));
    let wrong = Unpack { blob: Descriptor { digest: other, ..blob.clone() }, ..good.clone() };
    assert!(matches!(
        unpack(&two, &wrong, &mut &bytes[..], &|| false),
        Err(LayerError::Blob(BlobError::Damaged { .. }))
    ));
    let wrong = Unpack { blob: Descriptor { size: 5, ..blob.clone() }, ..good.clone() };
    assert!(matches!(unpack(&two, &wrong, &mut &bytes[..], &|| false), Err(LayerError::Blob(BlobError::Size { .. }))));
    let cut = &bytes[..bytes.len() - 5];
    assert!(matches!(unpack(&two, &good, &mut &cut[..], &|| false), Err(LayerError::Stream { .. })));
    assert!(matches!(unpack(&two, &good, &mut &bytes[..], &|| true), Err(LayerError::Cancelled)));
    assert!(is_clean(&two) && !two.has_blob(&blob.digest));
    unpack(&two, &good, &mut &bytes[..], &|| false).unwrap();
    assert!(matches!(ensure_directory(&two, &other), Err(LayerError::Missing(_))));
    assert!(matches!(ensure_index(&two, &other), Err(LayerError::Missing(_))));
    assert!(matches!(ensure_blob(&two, &other, Compression::Gzip), Err(LayerError::Missing(_))));
}

#[test]
fn a_damaged_index_is_made_again() {
    let (_temporary, store) = store();
    let packed = make(&store, vec![file("a", b"1")], Compression::Gzip).unwrap();
    let path = store.layer(&packed.diff_id).home().join("index");
    std::fs::write(&path, "kilnidx1 no").unwrap();
    assert!(store.layer(&packed.diff_id).index().unwrap().is_none());
    assert_eq!(*ensure_index(&store, &packed.diff_id).unwrap(), *packed.index);
    assert!(store.layer(&packed.diff_id).index().unwrap().is_some());
}

#[test]
fn many_writers_of_one_layer_all_succeed() {
    let (_temporary, store) = store();
    let packed: Vec<_> = std::thread::scope(|scope| {
        let write = || {
            let entries = vec![directory("d"), file("d/x", &[7; 3_000_000]), file("e", b"1")];
            let packed = make(&store, entries, Compression::Gzip).unwrap();
            ensure_blob(&store, &packed.diff_id, Compression::Zstd).unwrap();
            packed.diff_id
        };
        let writers: Vec<_> = (0..4).map(|_| scope.spawn(write)).collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    assert!(packed.iter().all(|diff_id| *diff_id == packed[0]));
    assert!(list(&store.ingest_directory()).unwrap().is_empty());
    assert_eq!(std::fs::read(store.layer(&packed[0]).directory().unwrap().join("e")).unwrap(), b"1");
}

/// Run by the test below in a process of its own.
#[test]
fn victim() {
    let Some(root) = std::env::var_os("KILN_CACHE_VICTIM") else { return };
    let store = Store::open(std::path::Path::new(&root)).unwrap();
    loop {
        for number in 0u32.. {
            let entries = vec![file("x", &number.to_le_bytes().repeat(300_000))];
            make(&store, entries, Compression::Gzip).unwrap();
        }
    }
}

#[test]
fn a_killed_writer_leaves_nothing_that_is_seen() {
    let (_temporary, store) = store();
    for round in 1..6 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "layer::tests::roundtrip::victim"])
            .env("KILN_CACHE_VICTIM", store.root())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let layers = store.root().join("layers/v1");
        let before = list(&layers).unwrap().len();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while list(&layers).unwrap().len() == before && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(round));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        store.sweep().unwrap();
        assert!(list(&store.ingest_directory()).unwrap().is_empty());
        let blobs = list(&store.root().join("blobs/sha256")).unwrap();
        for name in blobs {
            let digest = Digest::from_hex(name.to_str().unwrap()).unwrap();
            store.open_blob(&digest).unwrap().read_to_end(&mut Vec::new()).unwrap();
        }
        for name in list(&layers).unwrap() {
            let diff_id = Digest::from_hex(name.to_str().unwrap()).unwrap();
            let layer = store.layer(&diff_id);
            if layer.directory().is_some() {
                std::fs::remove_file(layer.home().join("index")).unwrap();
                std::fs::remove_dir_all(layer.home().join("blobs")).unwrap();
                ensure_index(&store, &diff_id).unwrap();
            }
        }
    }
}
