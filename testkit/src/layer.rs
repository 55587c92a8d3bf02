//! What is in a layer, as the `tar` crate reads it, and how two layers differ.
//!
//! Times are left out: a rebuilt layer may keep the old time of a touched file.

use std::collections::BTreeMap;
use std::io::{self, Read};

use kiln_oci::{Digest, Hasher};

/// One entry of a layer without its times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// The permission bits.
    pub mode: u32,
    /// The owner.
    pub uid: u64,
    /// The group.
    pub gid: u64,
    /// Extended attributes, by name.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A file with this content.
    File {
        /// Its length.
        size: u64,
        /// Its content.
        digest: Digest,
    },
    /// A folder.
    Directory,
    /// A symbolic link to this text.
    Symlink(String),
    /// Another name of this path.
    HardLink(String),
    /// A device, pipe or socket: the tar type and the device number.
    Special(u8, u32, u32),
}

/// The entries of one layer by path, without a leading or trailing slash. Whiteouts stand
/// under their tar name, `.wh.…`.
pub type Layer = BTreeMap<String, Entry>;

/// Reads a layer. `bytes` may be plain, gzip or zstd-free tar; gzip is recognised.
///
/// # Errors
/// When the bytes are not a tar archive, or a path occurs twice.
pub(crate) fn read(bytes: impl Read) -> io::Result<Layer> {
    let mut bytes = io::BufReader::with_capacity(1 << 18, bytes);
    let start = io::BufRead::fill_buf(&mut bytes)?;
    if start.starts_with(&[0x1f, 0x8b]) {
        read_tar(flate2::bufread::MultiGzDecoder::new(bytes))
    } else {
        read_tar(bytes)
    }
}

fn read_tar(bytes: impl Read) -> io::Result<Layer> {
    let mut layer = Layer::new();
    let mut archive = tar::Archive::new(bytes);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = text(&entry.path_bytes());
        let path = path.trim_start_matches("./").trim_matches('/').to_owned();
        let mut xattrs = BTreeMap::new();
        if let Some(extensions) = entry.pax_extensions()? {
            for extension in extensions {
                let extension = extension?;
                if let Ok(Some(name)) = extension.key().map(|key| key.strip_prefix("SCHILY.xattr.")) {
                    xattrs.insert(name.to_owned(), extension.value_bytes().to_vec());
                }
            }
        }
        let link = entry.link_name_bytes().map(|name| text(&name)).unwrap_or_default();
        let header = entry.header();
        let (mode, uid, gid) = (header.mode()? & 0o7777, header.uid()?, header.gid()?);
        let kind = match header.entry_type() {
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                let mut hasher = Hasher::new();
                let mut buffer = vec![0; 1 << 16];
                let mut size = 0;
                while let length @ 1.. = entry.read(&mut buffer)? {
                    hasher.update(&buffer[..length]);
                    size += length as u64;
                }
                Kind::File { size, digest: hasher.finish() }
            }
            tar::EntryType::Directory => Kind::Directory,
            tar::EntryType::Symlink => Kind::Symlink(link),
            tar::EntryType::Link => Kind::HardLink(link.trim_start_matches("./").trim_matches('/').to_owned()),
            tar::EntryType::XGlobalHeader => continue,
            other => {
                let (major, minor) = (header.device_major()?, header.device_minor()?);
                Kind::Special(other.as_byte(), major.unwrap_or(0), minor.unwrap_or(0))
            }
        };
        if layer.insert(path.clone(), Entry { kind, mode, uid, gid, xattrs }).is_some() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("`{path}` occurs twice")));
        }
    }
    Ok(layer)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Lays `layers` on top of each other, lowest first, as a container would see them.
pub fn flatten<'a>(layers: impl IntoIterator<Item = &'a Layer>) -> Layer {
    let mut tree = Layer::new();
    for layer in layers {
        for path in layer.keys() {
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
            let Some(name) = name.strip_prefix(".wh.") else { continue };
            if name == ".wh..opq" {
                remove_below(&mut tree, folder);
            } else {
                let target = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
                remove_below(&mut tree, &target);
                tree.remove(&target);
            }
        }
        for (path, entry) in layer {
            if path.rsplit('/').next().is_some_and(|name| name.starts_with(".wh.")) {
                continue;
            }
            if entry.kind != Kind::Directory {
                remove_below(&mut tree, path);
            }
            tree.insert(path.clone(), entry.clone());
        }
    }
    tree
}

fn remove_below(tree: &mut Layer, folder: &str) {
    if folder.is_empty() {
        tree.clear();
        return;
    }
    // Looked up by its place in the order, not by a walk over the tree: layers have many files.
    let prefix = format!("{folder}/");
    let below = tree.range(prefix.clone()..).map(|(path, _)| path).take_while(|path| path.starts_with(&prefix));
    for path in below.cloned().collect::<Vec<_>>() {
        tree.remove(&path);
    }
}

/// Returns one line for every difference between two layers. `ignore` says how much of a
/// path a command leaves to chance: `None` compares everything, `Some(false)` all but the
/// content, `Some(true)` nothing.
pub fn differences(one: &Layer, other: &Layer, ignore: impl Fn(&str) -> Option<bool>) -> Vec<String> {
    let mut found = Vec::new();
    let paths: std::collections::BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    for path in paths {
        let leave = ignore(path);
        if leave == Some(true) {
            continue;
        }
        match (one.get(path), other.get(path)) {
            (Some(left), Some(right)) => {
                let (mut left, mut right) = (left.clone(), right.clone());
                if leave == Some(false) {
                    forget_content(&mut left);
                    forget_content(&mut right);
                }
                if left != right {
                    found.push(format!("{path}: {left:?} is not {right:?}"));
                }
            }
            (Some(_), None) => found.push(format!("{path}: only in the first")),
            (None, _) => found.push(format!("{path}: only in the second")),
        }
    }
    found
}

fn forget_content(entry: &mut Entry) {
    if let Kind::File { size, digest } = &mut entry.kind {
        *size = 0;
        *digest = Digest::of([]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(entries: &[(&str, &str)]) -> Layer {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in entries {
            let mut header = tar::Header::new_ustar();
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(content.len() as u64);
            if path.ends_with('/') {
                header.set_entry_type(tar::EntryType::Directory);
            }
            builder.append_data(&mut header, path, content.as_bytes()).expect("memory");
        }
        read(io::Cursor::new(builder.into_inner().expect("memory"))).expect("a tar archive")
    }

    #[test]
    fn whiteouts_hide_what_is_below_and_not_what_is_beside() {
        let base = layer(&[("a/", ""), ("a/x", "1"), ("a/y", "2"), ("b/", ""), ("b/z", "3"), ("c", "4")]);
        let top = layer(&[("a/.wh.x", ""), ("b/.wh..wh..opq", ""), ("b/new", "5"), (".wh.c", "")]);
        let tree = flatten([&base, &top]);
        let paths: Vec<_> = tree.keys().map(String::as_str).collect();
        assert_eq!(paths, ["a", "a/y", "b", "b/new"]);
    }

    #[test]
    fn a_difference_is_named_and_chance_is_left_out() {
        let one = layer(&[("a", "1"), ("log", "today"), ("only", "")]);
        let other = layer(&[("a", "2"), ("log", "tomorrow")]);
        let found = differences(&one, &other, |path| (path == "log").then_some(false));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("a: ") && found[1] == "only: only in the first", "{found:?}");
    }
}
