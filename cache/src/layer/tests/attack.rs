//! Archives made to do harm.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use super::*;

fn entry(out: &mut Vec<u8>, kind: u8, name: &str, link: &str, content: &[u8]) {
    let size = content.len() as u64;
    let header =
        TarHeader { name: name.as_bytes(), kind, mode: 0o755, size, link: link.as_bytes(), ..Default::default() };
    header.encode(out).unwrap();
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(512), 0);
}

/// Makes an archive of `kind name -> link` words; regular files hold their name.
fn archive(entries: &[(char, &str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, name, link) in entries {
        let content = if *kind == '0' && !name.contains(".wh.") { name.as_bytes() } else { b"" };
        entry(&mut out, *kind as u8, name, link, content);
    }
    end_of_archive(&mut out);
    out
}

#[track_caller]
fn check(entries: &[(char, &str, &str)], expected: &str) -> (tempfile::TempDir, PathBuf) {
    let (temporary, store) = store();
    let diff_id = unpack_bytes(&store, &archive(entries)).unwrap();
    assert_eq!(shown(&store, &diff_id), expected);
    let directory = store.layer(&diff_id).directory().unwrap();
    // The index alone, made without a directory, says the same.
    let (_other, other) = self::store();
    other.put_blob(&archive(entries)).unwrap();
    assert_eq!(*ensure_index(&other, &diff_id).unwrap(), *store.layer(&diff_id).index().unwrap().unwrap());
    (temporary, directory)
}

#[track_caller]
fn refused(entries: &[(char, &str, &str)]) {
    let (_temporary, store) = store();
    let result = unpack_bytes(&store, &archive(entries));
    assert!(matches!(result, Err(LayerError::Archive { .. })), "{result:?}");
    assert!(is_clean(&store));
}

#[test]
fn names_that_point_outside_stay_inside() {
    let (_temporary, fs) = check(
        &[('0', "../evil", ""), ('0', "/abs/evil", ""), ('0', "a/../../up", ""), ('0', "./b", ""), ('5', "/", "")],
        "5abs? 0abs/evil 0b 0evil 0up",
    );
    assert_eq!(std::fs::read_to_string(fs.join("evil")).unwrap(), "../evil");
}

#[test]
fn links_on_the_way_lead_inside() {
    // Directories of the host that are there and empty: whatever appears in them came from here.
    let (absolute, relative) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let [absolute_path, relative_path] = [&absolute, &relative].map(|directory| directory.path().to_str().unwrap());
    let upwards = format!("{}{}", "../".repeat(40), &relative_path[1..]);
    let (temporary, store) = store();
    let tar = archive(&[('2', "x", absolute_path), ('0', "x/f", ""), ('2', "y", &upwards), ('0', "y/g", "")]);
    let diff_id = unpack_bytes(&store, &tar).unwrap();
    let fs = store.layer(&diff_id).directory().unwrap();
    assert!(fs.join(&absolute_path[1..]).join("f").is_file() && fs.join(&relative_path[1..]).join("g").is_file());
    assert!([&absolute, &relative].iter().all(|outside| outside.path().read_dir().unwrap().next().is_none()));
    drop(temporary);
    check(
        &[('2', "x", "/a/b"), ('0', "x/f", ""), ('2', "y", "../../c"), ('0', "y/g", "")],
        "5a? 5a/b? 0a/b/f 5c? 0c/g 2x 2y",
    );
    check(&[('2', "x", "../../.."), ('5', "x/", ""), ('0', "x/f", "")], "5x! 0x/f");
    refused(&[('2', "a", "b"), ('2', "b", "a"), ('0', "a/f", "")]);
    refused(&[('0', "a", ""), ('0', "a/f", "")]);
}

#[test]
fn hard_links_reach_only_files_of_the_layer() {
    for target in ["../../etc/shadow", "/etc/shadow", "x/shadow"] {
        refused(&[('2', "x", "/etc"), ('1', "h", target)]);
    }
    refused(&[('5', "d/", ""), ('1', "h", "d")]);
    refused(&[('5', "d/", ""), ('0', "d/f", ""), ('1', "d", "d/f")]);
    // A link to a symbolic link is one more name of it; a file in its place follows nothing.
    let (_temporary, fs) = check(&[('2', "s", "t"), ('0', "t", ""), ('1', "h", "s"), ('0', "h", "")], "0h 2s 0t");
    assert_eq!(std::fs::read_to_string(fs.join("t")).unwrap(), "t");
    assert_eq!(std::fs::read_to_string(fs.join("h")).unwrap(), "h");
    let (_temporary, fs) = check(&[('0', "a", ""), ('1', "b", "a"), ('0', "a", "")], "0a 0b");
    assert_eq!(std::fs::metadata(fs.join("b")).unwrap().nlink(), 1);
    check(&[('0', "a", ""), ('1', "a", "a")], "0a");
}

#[test]
fn a_file_replaces_a_link_and_the_last_of_a_name_wins() {
    let (_temporary, fs) = check(&[('0', "t", ""), ('2', "x", "t"), ('0', "x", "")], "0t 0x");
    assert_eq!(std::fs::read_to_string(fs.join("t")).unwrap(), "t");
    check(&[('5', "d/", ""), ('0', "d/f", ""), ('0', "d", "")], "0d");
    check(&[('0', "d", ""), ('5', "d/", ""), ('0', "d/f", "")], "5d! 0d/f");
    check(&[('0', "d/f", ""), ('5', "d/", "")], "5d 0d/f");
}

#[test]
fn whiteouts_hide_only_what_is_below() {
    let (_temporary, fs) = check(&[('0', "d/.wh.x", ""), ('0', ".wh.gone", "")], "5d? -d/x -gone");
    let device = std::fs::symlink_metadata(fs.join("gone")).unwrap();
    assert!(device.file_type().is_char_device() && device.rdev() == 0);
    check(&[('0', "a", ""), ('0', ".wh.a", "")], "0a");
    check(&[('0', ".wh.a", ""), ('0', "a", "")], "0a");
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let all = [('5', "o/", ""), ('0', "o/.wh..wh..opq", ""), ('0', "o/f", "")];
        let (_temporary, fs) = check(&order.map(|at| all[at]), "5o! 0o/f");
        let mut value = [0; 4];
        let length = rustix::fs::lgetxattr(fs.join("o"), "trusted.overlay.opaque", &mut value).unwrap();
        assert_eq!(&value[..length], b"y");
    }
    check(&[('5', "d/", ""), ('0', ".wh.d", "")], "5d!");
    check(&[('0', ".wh.d", ""), ('0', "d/f", "")], "5d!? 0d/f");
    check(&[('5', ".wh..wh.plnk/", ""), ('0', ".wh..wh.aufs", "")], "");
    for bad in [".wh.", ".wh..", ".wh...", "a/.wh.."] {
        refused(&[('0', bad, "")]);
    }
}

#[test]
fn attributes_of_the_overlay_do_not_come_in() {
    let mut tar = Vec::new();
    let mut body = Vec::new();
    for (key, value) in [("trusted.overlay.redirect", "/"), ("user.overlay.opaque", "y"), ("user.kept", "1")] {
        let record = format!(" SCHILY.xattr.{key}={value}\n");
        body.extend_from_slice(format!("{}{record}", record.len() + 2).as_bytes());
    }
    entry(&mut tar, b'x', "pax", "", &body);
    entry(&mut tar, b'5', "d/", "", b"");
    end_of_archive(&mut tar);
    let (_temporary, store) = store();
    let diff_id = unpack_bytes(&store, &tar).unwrap();
    let path = store.layer(&diff_id).directory().unwrap().join("d");
    let mut names = vec![0; 1024];
    let length = rustix::fs::llistxattr(&path, &mut names[..]).unwrap();
    assert_eq!(String::from_utf8_lossy(&names[..length]), "user.kept\0");
}

#[test]
fn devices_are_made_but_never_raw_whiteouts() {
    let mut tar = Vec::new();
    for (name, device) in [("null", (1, 3)), ("wh", (0, 0))] {
        TarHeader { name: name.as_bytes(), kind: b'3', mode: 0o666, device, ..Default::default() }
            .encode(&mut tar)
            .unwrap();
    }
    end_of_archive(&mut tar);
    let (_temporary, store) = store();
    let diff_id = unpack_bytes(&store, &tar).unwrap();
    assert_eq!(shown(&store, &diff_id), "3null");
    assert!(!store.layer(&diff_id).directory().unwrap().join("wh").exists());
}

#[test]
fn set_id_bits_survive_the_change_of_owner() {
    let mut tar = Vec::new();
    TarHeader { name: b"su", kind: b'0', mode: 0o6755, uid: 12, gid: 13, ..Default::default() }
        .encode(&mut tar)
        .unwrap();
    TarHeader { name: b"closed/", kind: b'5', mode: 0, mtime: 77, ..Default::default() }.encode(&mut tar).unwrap();
    TarHeader { name: b"closed/in", kind: b'0', mode: 0o4700, mtime: -5, ..Default::default() }
        .encode(&mut tar)
        .unwrap();
    end_of_archive(&mut tar);
    let (_temporary, store) = store();
    let fs = store.layer(&unpack_bytes(&store, &tar).unwrap()).directory().unwrap();
    let su = std::fs::metadata(fs.join("su")).unwrap();
    assert_eq!((su.mode() & 0o7777, su.uid(), su.gid()), (0o6755, 12, 13));
    let closed = std::fs::metadata(fs.join("closed")).unwrap();
    assert_eq!((closed.mode() & 0o7777, closed.mtime()), (0, 77));
    assert_eq!(std::fs::metadata(fs.join("closed/in")).unwrap().mtime(), -5);
}

#[test]
fn sizes_that_lie_and_streams_that_end_are_errors() {
    let good = archive(&[('0', "file", "")]);
    let (_temporary, store) = store();
    for cut in [100, 512, 513, 514] {
        let result = unpack_bytes(&store, &good[..cut]);
        assert!(matches!(result, Err(LayerError::Archive { .. })), "{cut}: {result:?}");
    }
    for size in [
        &b"77777777777\0"[..],
        b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff",
        &[0xff; 12],
        &[0x80, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        b"9\0\0\0\0\0\0\0\0\0\0\0",
    ] {
        let mut bad = good.clone();
        bad[124..136].copy_from_slice(size);
        bad[148..156].fill(b' ');
        let sum: u32 = bad[..512].iter().map(|&byte| u32::from(byte)).sum();
        bad[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let result = unpack_bytes(&store, &bad);
        assert!(matches!(result, Err(LayerError::Archive { .. })), "{size:?}: {result:?}");
    }
    let mut flipped = good.clone();
    flipped[0] ^= 1;
    assert!(matches!(unpack_bytes(&store, &flipped), Err(LayerError::Archive { .. })));
    assert!(is_clean(&store));
    // An end without the two blocks, and bytes after it, are read and hashed.
    unpack_bytes(&store, &good[..1024]).unwrap();
    unpack_bytes(&store, &[&good[..], b"trailing garbage"].concat()).unwrap();
    unpack_bytes(&store, b"").unwrap();
}

#[test]
fn limits_hold() {
    let (_temporary, store) = store();
    let small = Limits { special_header: 1024, path: 200, depth: 10, entries: 5, expansion: 1 << 20, ratio: 10 };
    let deep = "d/".repeat(11) + "f";
    let long = format!("{}/{}", "x".repeat(150), "y".repeat(100));
    let six: Vec<_> = ["1", "2", "3", "4", "5", "6"].map(|name| ('0', name, "")).to_vec();
    let mut large = Vec::new();
    entry(&mut large, b'x', "pax", "", &[b' '; 2000]);
    end_of_archive(&mut large);
    for tar in [archive(&[('0', &deep, "")]), archive(&[('0', &long, "")]), archive(&six), large] {
        let result = unpack_limited(&store, &tar, &tar, &small);
        let limit = matches!(&result, Err(LayerError::Archive { source: ArchiveError::Limit { .. }, .. }));
        assert!(limit, "{result:?}");
    }
    let mut bomb = Vec::new();
    entry(&mut bomb, b'0', "zeros", "", &vec![0; 4 << 20]);
    end_of_archive(&mut bomb);
    let blob = member::compress(&bomb);
    let result = unpack_limited(&store, &bomb, &blob, &small);
    assert!(matches!(result, Err(LayerError::Archive { source: ArchiveError::Limit { .. }, .. })), "{result:?}");
    assert!(is_clean(&store));
    unpack_limited(&store, &bomb, &blob, &Limits::default()).unwrap();
}

#[test]
fn any_bytes_may_be_a_name() {
    let (_temporary, store) = store();
    let name = b"a\nb\xff\xfe";
    let mut tar = Vec::new();
    TarHeader { name, kind: b'0', mode: 0o644, ..Default::default() }.encode(&mut tar).unwrap();
    end_of_archive(&mut tar);
    let diff_id = unpack_bytes(&store, &tar).unwrap();
    assert!(store.layer(&diff_id).index().unwrap().unwrap().get(name).is_some());
    assert_eq!(ensure_blob(&store, &diff_id, Compression::Uncompressed).unwrap().digest, diff_id);
}

mod random {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_archive_leads_out_or_panics(
            entries in prop::collection::vec(
                (prop::sample::select(vec!['0', '1', '2', '5', '6']),
                 prop::collection::vec(prop::sample::select(vec!["a", "b", "..", ".", ".wh.a", ".wh..wh..opq", ""]), 1..4),
                 prop::collection::vec(prop::sample::select(vec!["a", "b", "..", ""]), 1..4)),
                0..12),
            flip in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        ) {
            let entries: Vec<_> = entries.into_iter().map(|(kind, name, link)| (kind, name.join("/"), link.join("/"))).collect();
            let borrowed: Vec<_> = entries.iter().map(|(kind, name, link)| (*kind, &**name, &**link)).collect();
            let mut tar = archive(&borrowed);
            if let Some((at, byte)) = flip {
                let at = at.index(tar.len());
                tar[at] = byte;
            }
            let (temporary, store) = store();
            let before = list(temporary.path()).unwrap();
            match unpack_bytes(&store, &tar) {
                Ok(diff_id) => {
                    let (_other, other) = self::store();
                    other.put_blob(&tar).unwrap();
                    let index = ensure_index(&other, &diff_id).unwrap();
                    prop_assert_eq!(&*index, &*store.layer(&diff_id).index().unwrap().unwrap());
                    prop_assert_eq!(LayerIndex::decode(&index.encode()), Some((*index).clone()));
                    let fs = store.layer(&diff_id).directory().unwrap();
                    for entry in index.entries() {
                        prop_assert!(std::fs::symlink_metadata(fs.join(directory::os(&entry.path))).is_ok());
                    }
                }
                Err(_) => prop_assert!(is_clean(&store)),
            }
            prop_assert_eq!(list(temporary.path()).unwrap(), before);
        }
    }
}
