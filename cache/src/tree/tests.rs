use serde_json::Value;

use super::*;
use crate::layer::IndexEntry;

fn file(mode: u32, content: &str) -> Meta {
    Meta { size: content.len() as u64, content: Some(Digest::of(content)), ..Meta::new(Kind::File, mode) }
}

fn entry(path: &str, change: Change) -> IndexEntry {
    IndexEntry { path: path.as_bytes().into(), change }
}

fn put(path: &str, meta: Meta) -> IndexEntry {
    entry(path, Change::Put(Put { meta, implied: false, opaque: false, links: None }))
}

fn index(entries: Vec<IndexEntry>) -> LayerIndex {
    LayerIndex::new(Digest::of(""), 0, entries)
}

fn paths(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    let visited = tree.root().walk(&mut |path, node| {
        found.push(format!("{}@{}", String::from_utf8_lossy(path), node.layer));
        Ok::<_, std::convert::Infallible>(())
    });
    visited.unwrap();
    found
}

#[test]
fn digests_are_those_of_the_vectors() {
    let bytes = std::fs::read(crate::layer::vectors().join("content-hash.json")).unwrap();
    let vectors: Value = serde_json::from_slice(&bytes).unwrap();
    let hi = file_digest(&file(0o644, "hi\n"));
    let link = file_digest(&Meta { link: b"a.txt".to_vec(), ..Meta::new(Kind::Symlink, 0o777) });
    let directory = file_digest(&Meta::directory());
    let empty = tree_digest(&directory, [].into_iter());
    let capability = [&[1, 0, 0, 2, 0, 0x20, 0, 0][..], &[0; 12]].concat();
    let mut with_capability = file(0o755, "");
    with_capability.xattrs.insert(b"security.capability".to_vec(), capability);
    with_capability.xattrs.insert(b"security.selinux".to_vec(), b"label".to_vec());
    with_capability.xattrs.insert(b"system.posix_acl_access".to_vec(), b"acl".to_vec());
    let cap = file_digest(&with_capability);
    let char = file_digest(&Meta { device: (1, 3), ..Meta::new(Kind::Char, 0o666) });
    let private = file_digest(&Meta { uid: 1000, gid: 1000, ..Meta::new(Kind::Directory, 0o700) });
    let children = [(&b"a"[..], hi), (b"a.b", hi), ("é".as_bytes(), cap)];
    let select = |items: &[(&str, Kind, Digest)]| {
        let item = |&(path, kind, digest): &(&str, _, _)| Selected { path: path.into(), kind, digest };
        select_digest(&items.iter().map(item).collect::<Vec<_>>())
    };
    let ours = [
        ("file_0644_hi", hi),
        ("symlink_to_a.txt", link),
        ("dirheader_0755", directory),
        ("empty_dir", empty),
        ("tree_a.txt_l_sub", tree_digest(&directory, [(&b"a.txt"[..], hi), (b"l", link), (b"sub", empty)].into_iter())),
        ("empty_file_0755_cap", cap),
        ("char_0666_1_3", char),
        ("dirheader_0700_1000_1000", private),
        ("tree_0700_1000_{a:hi,a.b:hi,é:capfile}", tree_digest(&private, children.into_iter())),
        ("select_{a.txt:file,sub:dir}", select(&[("sub", Kind::Directory, empty), ("a.txt", Kind::File, hi)])),
        ("select_empty", select(&[])),
    ];
    let cases: Vec<_> = vectors.as_object().unwrap().iter().filter(|(name, _)| *name != "about").collect();
    let failed: Vec<_> = cases
        .into_iter()
        .filter(|(name, wanted)| {
            let found = ours.iter().find(|(ours, _)| ours == name);
            found.map(|(_, digest)| digest.hex()).as_deref() != wanted.as_str()
        })
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn layers_merge_replace_and_hide() {
    let mut tree = Tree::empty();
    tree.apply(
        0,
        &index(vec![
            put("a", Meta::directory()),
            put("a/b", file(0o644, "1")),
            put("a/c", file(0o644, "2")),
            put("d", Meta::directory()),
            put("d/e", file(0o644, "3")),
            put("f", file(0o644, "4")),
        ]),
    );
    let before = tree.root().digest();
    let opaque = Put { meta: Meta::directory(), implied: false, opaque: true, links: None };
    tree.apply(
        1,
        &index(vec![
            put("a", Meta::new(Kind::Directory, 0o700)),
            entry("a/b", Change::Whiteout),
            entry("a/none", Change::Whiteout),
            entry("d", Change::Put(opaque)),
            put("d/new", file(0o644, "3")),
            put("f", Meta::directory()),
            put("f/g", file(0o644, "4")),
        ]),
    );
    assert_eq!(paths(&tree), ["a@1", "a/c@0", "d@1", "d/new@1", "f@1", "f/g@1"]);
    assert_eq!(tree.get("a").unwrap().meta.mode, 0o700);
    assert_ne!(tree.root().digest(), before);
}

#[test]
fn an_implied_directory_keeps_what_is_below() {
    let mut tree = Tree::empty();
    tree.apply(0, &index(vec![put("tmp", Meta::new(Kind::Directory, 0o1777))]));
    let implied = Put { meta: Meta::directory(), implied: true, opaque: false, links: None };
    let entries = vec![entry("tmp", Change::Put(implied)), put("tmp/x", file(0o644, ""))];
    tree.apply(1, &index(entries.clone()));
    assert_eq!(tree.get("tmp").unwrap().meta.mode, 0o1777);
    let mut alone = Tree::empty();
    alone.apply(0, &index(entries));
    assert_eq!(alone.get("tmp").unwrap().meta.mode, 0o755);
}

#[test]
fn memoised_digests_follow_changes() {
    let mut tree = Tree::empty();
    tree.apply(0, &index(vec![put("a", Meta::directory()), put("a/b", file(0o644, "1"))]));
    let first = tree.root().digest();
    tree.apply(1, &index(vec![put("a/b", file(0o644, "2"))]));
    let mut fresh = Tree::empty();
    fresh.apply(0, &index(vec![put("a", Meta::directory()), put("a/b", file(0o644, "2"))]));
    assert_ne!(tree.root().digest(), first);
    assert_eq!(tree.root().digest(), fresh.root().digest());
    tree.apply(2, &index(vec![entry("a/b", Change::Whiteout)]));
    assert_eq!(tree.get("a").unwrap().digest(), {
        let mut empty = Tree::empty();
        empty.apply(0, &index(vec![put("a", Meta::directory())]));
        empty.get("a").unwrap().digest()
    });
}

#[test]
fn a_walk_goes_by_names_not_bytes() {
    let mut paths: Vec<&[u8]> = vec![b"a.txt", b"a/b", b"a", b"a-b"];
    paths.sort_by(|one, two| walk_order(one, two));
    assert_eq!(paths, [&b"a"[..], b"a/b", b"a-b", b"a.txt"]);
}
