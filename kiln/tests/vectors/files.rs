//! The files of an image: layers laid on top of each other, and the listing that is compared.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use kiln_oci::Digest;
use serde_json::{Value, json};

use crate::case::Object;
use crate::play::Result;

/// The longest file that is listed with its text.
const LONGEST_TEXT: u64 = 4096;

/// What is at a path. Hard links share one.
#[derive(Debug)]
pub struct Node {
    kind: Kind,
    mode: u32,
    uid: u64,
    gid: u64,
    mtime: i64,
    xattrs: BTreeMap<String, Vec<u8>>,
}

#[derive(Debug, PartialEq)]
enum Kind {
    Dir,
    File { size: u64, digest: Digest, start: Vec<u8> },
    Symlink(Vec<u8>),
    Fifo,
    Device { name: &'static str, major: u32, minor: u32 },
}

/// Files by path, without slashes at the ends.
pub type Tree = BTreeMap<Vec<u8>, Arc<Node>>;

/// Whether names that begin with `.wh.` say what is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whiteouts {
    Meant,
    Ordinary,
}

/// Lays a layer over a tree; returns the names of its entries, sorted.
pub fn apply(tree: &mut Tree, layer: &[u8], whiteouts: Whiteouts) -> Result<Vec<String>> {
    let (mut names, mut new) = (Vec::new(), HashSet::new());
    for entry in tar::Archive::new(layer).entries()? {
        let mut entry = entry?;
        let path = normal(&entry.path_bytes());
        let is_dir = entry.header().entry_type().is_dir();
        names.push(if path.is_empty() { "./".to_owned() } else { plain(&path) + if is_dir { "/" } else { "" } });
        if path.is_empty() {
            continue;
        }
        let slash = path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        if let (Whiteouts::Meant, Some(hidden)) = (whiteouts, path[slash..].strip_prefix(b".wh.")) {
            if hidden == b".wh..opq" {
                let old: Vec<_> = below(tree, &path[..slash]).filter(|path| !new.contains(*path)).cloned().collect();
                old.iter().for_each(|path| drop(tree.remove(path)));
            } else {
                remove(tree, &[&path[..slash], hidden].concat());
            }
            continue;
        }
        let node = if entry.header().entry_type().is_hard_link() {
            let target = normal(&entry.link_name_bytes().unwrap_or_default());
            let found = tree.get(&target).cloned();
            found.ok_or_else(|| format!("{} is a hard link to {}, which is not there", plain(&path), plain(&target)))?
        } else {
            Arc::new(read(&mut entry)?)
        };
        if tree.get(&path).is_some_and(|old| old.kind != Kind::Dir || node.kind != Kind::Dir) {
            remove(tree, &path);
        }
        tree.insert(path.clone(), node);
        new.insert(path);
    }
    names.sort();
    Ok(names)
}

fn below<'a>(tree: &'a Tree, prefix: &'a [u8]) -> impl Iterator<Item = &'a Vec<u8>> {
    tree.range(prefix.to_vec()..).map(|(path, _)| path).take_while(move |path| path.starts_with(prefix))
}

fn remove(tree: &mut Tree, path: &[u8]) {
    let children: Vec<_> = below(tree, &[path, b"/"].concat()).cloned().collect();
    tree.remove(path);
    children.iter().for_each(|path| drop(tree.remove(path)));
}

fn read(entry: &mut tar::Entry<impl Read>) -> Result<Node> {
    let mut xattrs = BTreeMap::new();
    let mut mtime = i64::try_from(entry.header().mtime()?)?;
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        let key = extension.key()?;
        if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
            xattrs.insert(name.to_owned(), extension.value_bytes().to_vec());
        } else if key == "mtime" {
            mtime = extension.value()?.parse::<f64>()?.floor() as i64;
        }
    }
    let header = entry.header().clone();
    let device = |name| -> Result<Kind> {
        let (major, minor) = (header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0));
        Ok(Kind::Device { name, major, minor })
    };
    let kind = match header.entry_type() {
        tar::EntryType::Directory => Kind::Dir,
        tar::EntryType::Symlink => Kind::Symlink(entry.link_name_bytes().unwrap_or_default().into_owned()),
        tar::EntryType::Fifo => Kind::Fifo,
        tar::EntryType::Char => device("char")?,
        tar::EntryType::Block => device("block")?,
        _ => {
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            let (size, digest) = (content.len() as u64, Digest::of(&content));
            content.truncate(LONGEST_TEXT as usize);
            Kind::File { size, digest, start: content }
        }
    };
    Ok(Node { kind, mode: header.mode()? & 0o7777, uid: header.uid()?, gid: header.gid()?, mtime, xattrs })
}

/// Lists what differs from `base`. Times at or after `since` are the build's own, and left out.
pub fn list(tree: &Tree, base: &Tree, since: i64) -> Value {
    let is_now = |mtime: i64| (since..since + 86_400).contains(&mtime);
    let (mut entries, mut first_names) = (Vec::new(), HashMap::new());
    for (path, node) in tree {
        let first: &Vec<u8> = first_names.entry(Arc::as_ptr(node)).or_insert(path);
        if first != path {
            let (mode, link) = (octal(node.mode), plain(first));
            entries.push(json!({"path": absolute(path), "type": "hardlink", "mode": mode, "uid": node.uid, "gid": node.gid, "link": link}));
            continue;
        }
        let unchanged =
            base.get(path).is_some_and(|old| same(old, node) && (old.mtime == node.mtime || is_now(node.mtime)));
        if unchanged {
            continue;
        }
        let mut entry = describe(node);
        entry.insert("path".into(), absolute(path).into());
        if !is_now(node.mtime) {
            entry.insert("mtime".into(), node.mtime.into());
        }
        entries.push(entry.into());
    }
    let gone = |path: &[u8]| base.contains_key(path) && !tree.contains_key(path);
    for path in base.keys().filter(|path| gone(path)) {
        let parent = path.iter().rposition(|byte| *byte == b'/').map_or(&[][..], |at| &path[..at]);
        if !gone(parent) {
            entries.push(json!({"path": absolute(path), "type": "deleted"}));
        }
    }
    entries.sort_by(|one, other| one["path"].as_str().cmp(&other["path"].as_str()));
    entries.into()
}

fn same(one: &Node, other: &Node) -> bool {
    let of = |node: &Node| (node.mode, node.uid, node.gid, node.xattrs.clone());
    one.kind == other.kind && of(one) == of(other)
}

fn describe(node: &Node) -> Object {
    let mut entry = Object::new();
    let mut put = |key: &str, value: Value| entry.insert(key.to_owned(), value);
    let kind = match &node.kind {
        Kind::Dir => "dir",
        Kind::Fifo => "fifo",
        Kind::Symlink(target) => {
            put("link", plain(target).into());
            "symlink"
        }
        Kind::Device { name, major, minor } => {
            put("dev", format!("{major}:{minor}").into());
            name
        }
        Kind::File { size, digest, start } => {
            match std::str::from_utf8(start) {
                Ok(text) if *size <= LONGEST_TEXT && !text.contains('\0') => drop(put("content", text.into())),
                _ => {
                    put("sha256", digest.to_string().trim_start_matches("sha256:").into());
                    put("size", (*size).into());
                }
            }
            "file"
        }
    };
    put("type", kind.into());
    put("mode", octal(node.mode).into());
    put("uid", node.uid.into());
    put("gid", node.gid.into());
    if !node.xattrs.is_empty() {
        let shown = node.xattrs.iter().map(|(name, value)| (name.clone(), show_xattr(value).into()));
        put("xattr", shown.collect::<Object>().into());
    }
    entry
}

fn show_xattr(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) if !text.contains(char::is_control) && !text.starts_with("0x") => text.to_owned(),
        _ => value.iter().fold("0x".to_owned(), |text, byte| format!("{text}{byte:02x}")),
    }
}

/// Lists a folder, without owners and times.
pub fn list_folder(root: &Path) -> Result<Value> {
    let (mut entries, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let metadata = path.symlink_metadata()?;
            let name = format!("/{}", path.strip_prefix(root)?.display());
            let mode = octal(metadata.permissions().mode() & 0o7777);
            entries.push(if metadata.is_symlink() {
                json!({"path": name, "type": "symlink", "link": fs::read_link(&path)?})
            } else if metadata.is_dir() {
                folders.push(path);
                json!({"path": name, "type": "dir", "mode": mode})
            } else {
                json!({"path": name, "type": "file", "mode": mode, "content": fs::read_to_string(&path)?})
            });
        }
    }
    entries.sort_by(|one, other| one["path"].as_str().cmp(&other["path"].as_str()));
    Ok(entries.into())
}

/// Seconds since 1970, a little in the past: a file system's clock may lag behind ours.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64 - 1)
}

fn octal(mode: u32) -> String {
    format!("{mode:04o}")
}

fn absolute(path: &[u8]) -> String {
    format!("/{}", plain(path))
}

/// A name of an archive without `.`, `..` and surplus slashes.
fn normal(name: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

/// A name as text that JSON can hold: what is not UTF-8 becomes `\xNN`.
fn plain(name: &[u8]) -> String {
    let show = |chunk: std::str::Utf8Chunk| {
        let invalid: String = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")).collect();
        format!("{}{invalid}", chunk.valid())
    };
    name.utf8_chunks().map(show).collect()
}
