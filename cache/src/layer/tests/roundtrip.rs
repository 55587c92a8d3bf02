//! One layer in its three forms.

use proptest::prelude::*;

use super::*;

/// A random tree as entries in the order of a walk.
fn trees() -> impl Strategy<Value = Vec<NewEntry>> {
    let name = prop::collection::vec(prop::sample::select(vec!["a", "b", "a.b", "é", "a-long-name"]), 1..4);
    let kind = 0..8u8;
    let content = prop::collection::vec(any::<u8>(), 0..600);
    let one = (
        name,
        kind,
        content,
        0..0o10000u32,
        prop::sample::select(vec![0u32, 1000, 3_000_000]),
        -5..5i64,
        0..999_999_999u32,
    );
    prop::collection::vec(one, 0..20).prop_map(|all| {
        let mut sorted: std::collections::BTreeMap<Vec<&str>, _> = std::collections::BTreeMap::new();
        for (name, kind, content, mode, owner, seconds, nanoseconds) in all {
            sorted.insert(name, (kind, content, mode, owner, seconds, nanoseconds));
        }
        let names: Vec<_> = sorted.keys().cloned().collect();
        let is_parent = |name: &[&str]| names.iter().any(|other| other.len() > name.len() && other.starts_with(name));
        let mut first = None;
        let mut entries = Vec::new();
        for (name, (kind, content, mode, owner, seconds, nanoseconds)) in sorted.clone() {
            for depth in 1..name.len() {
                let parent = &name[..depth];
                let path = parent.join("/").into_bytes();
                if !sorted.contains_key(parent) && !entries.iter().any(|entry: &NewEntry| entry.path == path) {
                    entries.push(NewEntry::new(path, NewKind::Directory, 0o755));
                }
            }
            let path = name.join("/").into_bytes();
            let kind = match (if is_parent(&name) { 1 } else { kind }, &first) {
                (1, _) => NewKind::Directory,
                (2, _) => NewKind::Symlink(b"../some/where".to_vec()),
                (3, Some(first)) => NewKind::Hardlink(Vec::clone(first)),
                (4, _) => NewKind::Fifo,
                (5, _) => NewKind::Char(1, 3),
                (6, _) => NewKind::Whiteout,
                _ => {
                    first = Some(path.clone());
                    NewKind::File { size: content.len() as u64, content: Content::Bytes(content.into()) }
                }
            };
            let mode = if matches!(kind, NewKind::Symlink(_)) { 0o777 } else { mode };
            entries.push(NewEntry {
                uid: owner,
                gid: owner,
                mtime: (seconds, nanoseconds),
                ..NewEntry::new(path, kind, mode)
            });
        }
        entries
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_layer_is_the_same_in_all_its_forms(entries in trees()) {
        let (_one, one) = store();
        let (_two, two) = store();
        let packed = make(&one, entries, Compression::Gzip).unwrap();
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
