//! Blobs of gzip members: the same bytes whichever way they come about.

use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;
use crate::layer::member::Member;

/// A file in a tree that is made anew for each layer.
#[derive(Debug, Clone)]
struct Given {
    name: u16,
    length: usize,
    seed: u8,
    /// Whether its digest is known before it is read.
    known: bool,
}

fn given() -> impl Strategy<Value = Given> {
    let length = prop_oneof![6 => 0usize..40_000, 2 => 100_000usize..400_000, 1 => 1_000_000usize..2_600_000];
    (0u16..400, length, any::<u8>(), any::<bool>()).prop_map(|(name, length, seed, known)| Given {
        name,
        length,
        seed,
        known,
    })
}

fn bytes(given: &Given) -> Vec<u8> {
    let line = format!("{} {}\n", given.name, given.seed);
    line.bytes().cycle().enumerate().map(|(at, byte)| byte ^ (at >> 9) as u8).take(given.length).collect()
}

fn entries(files: &[Given], place: &std::path::Path) -> Vec<NewEntry> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let sorted: std::collections::BTreeMap<String, &Given> =
        files.iter().map(|file| (format!("file-{:03}", file.name), file)).collect();
    let entry = |(name, file): (String, &Given)| {
        let content = bytes(file);
        let digest = file.known.then(|| Digest::of(&content));
        let path = place.join(NUMBER.fetch_add(1, Ordering::Relaxed).to_string());
        std::fs::write(&path, content).unwrap();
        let open = Box::new(move || std::fs::File::open(path));
        let content = Content::Open { digest, open };
        NewEntry::new(name, NewKind::File { size: file.length as u64, content }, 0o644)
    };
    sorted.into_iter().map(entry).collect()
}

fn pack_like(store: &Store, entries: Vec<NewEntry>, like: Option<Digest>) -> Packed {
    let options = Pack { compression: Some(Compression::Gzip), directory: false, like };
    pack(store, entries.into_iter().map(Ok), &options).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn an_earlier_layer_changes_nothing(
        before in prop::collection::vec(given(), 1..30),
        added in prop::collection::vec(given(), 0..3),
        dropped in any::<prop::sample::Index>(),
    ) {
        let (temporary, here) = store();
        let earlier = pack_like(&here, entries(&before, temporary.path()), None);
        let mut after = before.clone();
        after.remove(dropped.index(before.len()));
        after.extend(added);
        let with = pack_like(&here, entries(&after, temporary.path()), Some(earlier.diff_id));
        let (_temporary, elsewhere) = store();
        let without = pack_like(&elsewhere, entries(&after, temporary.path()), None);
        prop_assert_eq!(with.diff_id, without.diff_id);
        prop_assert_eq!(&with.blob, &without.blob);
        // And from the plain stream.
        let tar = tar_of(&elsewhere, &without);
        prop_assert_eq!(Digest::of(&tar), with.diff_id);
        let (_temporary, plain) = store();
        plain.put_blob(&tar).unwrap();
        let again = ensure_blob(&plain, &with.diff_id, Compression::Gzip).unwrap();
        prop_assert_eq!(Some(again), with.blob);
    }
}

/// Three files, the middle one larger than a block.
fn project(main: &str, place: &std::path::Path) -> Vec<NewEntry> {
    let given = |name, length, known| Given { name, length, seed: 1, known };
    let mut all = entries(&[given(1, 700_000, false), given(2, 3_000_000, true), given(3, 700_000, true)], place);
    all.insert(0, file("a", main.as_bytes()));
    all
}

#[test]
fn blocks_of_an_earlier_blob_are_taken_over() {
    let (temporary, store) = store();
    let packed = pack_like(&store, project("one", temporary.path()), None);
    assert!(packed.members.len() > 3 && packed.members.iter().all(|member| member.key.is_some()));
    // An empty member behind each says where it came from.
    let blob = std::fs::read(store.blob_path(&packed.blob.as_ref().unwrap().digest)).unwrap();
    let (mut rest, mut marked, mut members) = (&blob[..], Vec::new(), Vec::new());
    for member in &packed.members {
        let (this, behind) = rest.split_at(member.length as usize);
        let this = [this, &crate::layer::member::compress(b"")].concat();
        members.push(Member { key: member.key, ..Member::of(&this) });
        marked.extend(this);
        rest = behind;
    }
    let marked = store.put_blob(&marked).unwrap();
    store.layer(&packed.diff_id).publish_members(&marked, &members).unwrap();
    // Longer by more than a block of the archive: all that follows is somewhere else.
    let edited = pack_like(&store, project(&"two".repeat(700), temporary.path()), Some(packed.diff_id));
    let same = |one: &&Member| members.iter().any(|two| one.key == two.key);
    let same: Vec<&Member> = edited.members.iter().filter(same).collect();
    assert!(same.len() >= 3 && same.iter().all(|member| members.contains(member)), "{same:?}");
    let length: u64 = edited.members.iter().map(|member| u64::from(member.length)).sum();
    assert_eq!(edited.blob.as_ref().unwrap().size, length);
    // Whatever became of the blob, the stream is the right one.
    assert_eq!(Digest::of(tar_of(&store, &edited)), edited.diff_id);
}

#[test]
fn damage_of_the_earlier_blob_is_no_part_of_the_new_one() {
    let (temporary, store) = store();
    let packed = pack_like(&store, project("one", temporary.path()), None);
    let path = store.blob_path(&packed.blob.as_ref().unwrap().digest);
    let mut blob = std::fs::read(&path).unwrap();
    blob.iter_mut().for_each(|byte| *byte ^= 1);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, blob).unwrap();
    let edited = pack_like(&store, project("two", temporary.path()), Some(packed.diff_id));
    assert_eq!(Digest::of(tar_of(&store, &edited)), edited.diff_id);
    // A memory that is damaged itself, and one whose blob is gone.
    for damage in [true, false] {
        let memory = store.layer(&packed.diff_id).home().join("members");
        if damage {
            std::fs::write(&memory, b"kilnmem1 but not more").unwrap();
        } else {
            store.layer(&packed.diff_id).publish_members(&Digest::of("gone"), &packed.members).unwrap();
        }
        let edited = pack_like(&store, project("three", temporary.path()), Some(packed.diff_id));
        assert_eq!(Digest::of(tar_of(&store, &edited)), edited.diff_id);
    }
}

#[test]
fn a_file_with_another_digest_than_was_known_fails_the_layer() {
    let (temporary, store) = store();
    let path = temporary.path().join("file");
    std::fs::write(&path, b"new").unwrap();
    let open = Box::new(move || std::fs::File::open(path));
    let content = Content::Open { digest: Some(Digest::of("old")), open };
    let entry = NewEntry::new("file", NewKind::File { size: 3, content }, 0o644);
    let options = Pack { compression: Some(Compression::Gzip), ..Pack::default() };
    let failed = pack(&store, [Ok(entry)].into_iter(), &options).unwrap_err();
    assert!(matches!(failed, LayerError::Changed { .. }), "{failed}");
    assert!(is_clean(&store));
}
