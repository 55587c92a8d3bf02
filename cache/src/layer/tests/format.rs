use serde_json::Value;

use super::*;

fn unhex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap_or_default().as_bytes();
    text.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn tar_bytes_are_those_of_the_vectors() {
    let bytes = std::fs::read(vectors().join("layer-tar.json")).unwrap();
    let vectors: Value = serde_json::from_slice(&bytes).unwrap();
    let mut failed = Vec::new();
    for case in vectors["cases"].as_array().unwrap() {
        let mut out = Vec::new();
        for entry in case["entries"].as_array().unwrap() {
            let text = |key: &str| entry[key].as_str().unwrap_or_default();
            let number = |key: &str| entry[key].as_i64().unwrap_or_default();
            let device = |at: usize| entry["dev"][at].as_u64().unwrap_or_default() as u32;
            let data = unhex(&entry["data_hex"]);
            let xattrs = entry["xattrs_hex"].as_object().into_iter().flatten();
            let xattrs: Vec<_> = xattrs.map(|(name, value)| (name.clone().into_bytes(), unhex(value))).collect();
            let kind = match text("type") {
                "reg" | "whiteout" => b'0',
                "hardlink" => b'1',
                "symlink" => b'2',
                "char" => b'3',
                "block" => b'4',
                "dir" => b'5',
                "fifo" => b'6',
                other => panic!("unknown type {other}"),
            };
            let header = TarHeader {
                name: text("path").as_bytes(),
                kind,
                mode: u32::from_str_radix(text("mode"), 8).unwrap_or_default(),
                uid: number("uid") as u32,
                gid: number("gid") as u32,
                size: data.len() as u64,
                mtime: number("mtime"),
                link: text("link").as_bytes(),
                device: (device(0), device(1)),
                xattrs: xattrs.iter().map(|(name, value)| (&name[..], &value[..])).collect(),
            };
            header.encode(&mut out).unwrap();
            out.extend_from_slice(&data);
            out.resize(out.len().next_multiple_of(512), 0);
        }
        end_of_archive(&mut out);
        let right = Digest::of(&out).hex() == case["sha256"].as_str().unwrap();
        if !right || out.len() as u64 != case["size"].as_u64().unwrap() {
            failed.push(case["name"].as_str().unwrap());
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn an_empty_layer_is_two_blocks() {
    let (_temporary, store) = store();
    let packed = make(&store, Vec::new(), Compression::Gzip).unwrap();
    assert_eq!(packed.diff_id.hex(), "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef");
    assert_eq!(packed.size, 1024);
    assert!(store.layer(&packed.diff_id).directory().is_some());
}

#[test]
fn what_a_tar_cannot_hold_is_refused_with_its_name() {
    let (_temporary, store) = store();
    let device = NewEntry::new("d", NewKind::Char(0o7777777 + 1, 0), 0o644);
    let bad = [
        vec![file(".wh.x", b"")],
        vec![directory("a"), file("a/../b", b"")],
        vec![file("/abs", b"")],
        vec![file("a", b""), file("a", b"")],
        vec![file("b", b""), file("a", b"")],
        vec![file("a", b""), file("a/b", b"")],
        vec![NewEntry::new("l", NewKind::Hardlink(b"none".to_vec()), 0o644)],
        vec![file(&"x/".repeat(3000), b"")],
        vec![device],
    ];
    for entries in bad {
        let about = format!("{entries:?}");
        let result = make(&store, entries, Compression::Uncompressed);
        assert!(matches!(result, Err(LayerError::Unrepresentable { .. })), "{about}: {result:?}");
    }
    assert!(is_clean(&store));
}

#[test]
fn a_file_that_changes_meanwhile_is_an_error_with_its_name() {
    let (temporary, store) = store();
    let path = temporary.path().join("source");
    std::fs::write(&path, "four").unwrap();
    for size in [3, 5] {
        let path = path.clone();
        let content = Content::open(move || std::fs::File::open(path));
        let entry = NewEntry::new("a", NewKind::File { size, content }, 0o644);
        let result = make(&store, vec![entry], Compression::Gzip);
        assert!(matches!(&result, Err(LayerError::Changed { path }) if path == "a"), "{result:?}");
    }
    assert!(is_clean(&store));
}

#[test]
fn blobs_do_not_depend_on_how_bytes_come() {
    let (temporary, store) = store();
    let content: Vec<u8> = (0..5_000_000u32).map(|i| (i / 7 % 251) as u8 ^ (i % 13) as u8).collect();
    let path = temporary.path().join("source");
    std::fs::write(&path, &content).unwrap();
    for compression in [Compression::Gzip, Compression::Zstd, Compression::Uncompressed] {
        let open = move |path: PathBuf| Content::open(move || std::fs::File::open(path));
        let size = content.len() as u64;
        let opened = NewEntry {
            mtime: (1_700_000_000, 9),
            ..NewEntry::new("f", NewKind::File { size, content: open(path.clone()) }, 0o644)
        };
        let one = make(&store, vec![opened], compression).unwrap();
        let two = make(&store, vec![file("f", &content)], compression).unwrap();
        assert_eq!((one.diff_id, &one.blob), (two.diff_id, &two.blob));
        let tar = tar_of(&store, &one);
        assert_eq!((Digest::of(&tar), tar.len() as u64), (one.diff_id, one.size));
        assert_eq!(&tar[512..512 + content.len()], content);
    }
}

#[test]
fn a_tar_stream_has_capabilities_as_plain_ones_and_no_user_attributes() {
    let (_temporary, store) = store();
    let mut entry = file("ping", b"");
    let plain = [&[1, 0, 0, 2, 0, 0x20, 0, 0][..], &[0; 12]].concat();
    let mut namespaced = plain.clone();
    namespaced[3] = 3;
    namespaced.extend_from_slice(&[0; 4]);
    entry.xattrs.insert(b"security.capability".to_vec(), namespaced);
    entry.xattrs.insert(b"user.note".to_vec(), b"kept".to_vec());
    entry.xattrs.insert(b"user.overlay.opaque".to_vec(), b"y".to_vec());
    entry.xattrs.insert(b"trusted.note".to_vec(), b"not ours".to_vec());
    let packed = make(&store, vec![entry], Compression::Uncompressed).unwrap();
    let Some(Change::Put(put)) = packed.index.get(b"ping") else { panic!("no entry") };
    assert_eq!(put.meta.xattrs.get(&b"security.capability"[..]), Some(&plain));
    assert_eq!(put.meta.xattrs.get(&b"user.note"[..]).map(Vec::as_slice), Some(&b"kept"[..]));
    assert_eq!(put.meta.xattrs.len(), 2);
    let tar = tar_of(&store, &packed);
    let has = |name: &[u8]| tar.windows(name.len()).any(|window| window == name);
    assert!(has(b"SCHILY.xattr.security.capability=") && !has(b"SCHILY.xattr.user"));
}
