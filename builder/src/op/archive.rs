//! ADD of archives: recognised by content, extracted into the stage (spec: copy-add.md §14).

mod sparse;

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};

use self::sparse::Sparse;
use super::content::Contents;
use super::copy::Attributes;
use super::files::{self, FileKind, FileMeta, FileNode, Name, Origin};
use super::overlay::{Entry, LinkGroup, NewDirectory, Overlay, OverlayError};

/// Why an archive could not be extracted.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Its bytes.
    #[error("cannot extract the archive")]
    Read(#[source] io::Error),
    /// One of its names.
    #[error("cannot extract {name:?} of the archive: {reason}")]
    Entry {
        /// Which.
        name: String,
        /// Why.
        reason: String,
    },
    /// Where it should go.
    #[error(transparent)]
    Destination(#[from] OverlayError),
}

/// More entries than any real archive has.
const MAX_ENTRIES: usize = 10_000_000;
/// What an archive may expand to before its ratio is looked at.
const FREE_SIZE: u64 = 1 << 30;
/// The most that an archive may grow.
const MAX_RATIO: u64 = 1_000;
/// Where the type stands in a header.
const TYPE: usize = 156;

/// Extracts `node` into the directory `destination` if it is an archive; returns whether it was.
///
/// # Errors
/// When it begins as an archive and cannot be read to its end, or an entry cannot be put.
pub fn extract(
    overlay: &mut Overlay,
    node: &FileNode,
    destination: &[u8],
    attributes: &Attributes,
    contents: &Contents,
) -> Result<bool, ArchiveError> {
    // Look at the first header twice: what is no archive is copied as a file.
    if !is_archive(node, contents)? {
        return Ok(false);
    }
    contents.verify(node).map_err(ArchiveError::Read)?;
    let root = overlay.make_directories(destination, NewDirectory { mode: 0o755, owner: attributes.owner })?;
    // BuildKit makes it the root of the extraction, for which something is put there for a moment.
    let now = overlay.now();
    overlay.update(&root, |meta| meta.mtime = now);
    let stream = decompress(contents.read(&node.origin).map_err(ArchiveError::Read)?).map_err(ArchiveError::Read)?;
    let mut extraction = Extraction {
        overlay,
        root,
        owner: attributes.owner,
        contents,
        times: Vec::new(),
        room: room(node.meta.size, FREE_SIZE),
        links: 0,
        linked: HashMap::new(),
    };
    extraction.run(tar::Archive::new(stream))?;
    Ok(true)
}

/// What so many bytes may grow to, when they are compressed; to `free` in any case.
pub fn room(compressed: u64, free: u64) -> u64 {
    compressed.saturating_mul(MAX_RATIO).max(free)
}

/// Whether a file begins as an archive that can be read.
///
/// # Errors
/// When the file cannot be opened.
pub fn is_archive(node: &FileNode, contents: &Contents) -> Result<bool, ArchiveError> {
    let probe = decompress(contents.read(&node.origin).map_err(ArchiveError::Read)?);
    Ok(probe.is_ok_and(|stream| {
        let mut archive = tar::Archive::new(stream);
        archive.entries().is_ok_and(|mut entries| matches!(entries.next(), Some(Ok(_))))
    }))
}

/// Undoes whatever compression the first bytes show.
fn decompress(mut input: Box<dyn Read + Send>) -> io::Result<Box<dyn Read>> {
    let mut magic = [0; 6];
    let mut have = 0;
    while have < magic.len() {
        match input.read(&mut magic[have..])? {
            0 => break,
            n => have += n,
        }
    }
    let head = magic[..have].to_vec();
    let whole = BufReader::with_capacity(128 << 10, io::Cursor::new(head.clone()).chain(input));
    Ok(match Codec::of(&head) {
        Some(Codec::Gzip) => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        Some(Codec::Zstd) => Box::new(zstd::stream::read::Decoder::with_buffer(whole)?),
        Some(Codec::Bzip2) => Box::new(bzip2::bufread::MultiBzDecoder::new(whole)),
        Some(Codec::Xz) => Box::new(lzma_rust2::XzReader::new(whole, true)),
        None => Box::new(whole),
    })
}

/// How something is compressed.
enum Codec {
    Gzip,
    Zstd,
    Bzip2,
    Xz,
}

impl Codec {
    fn of(head: &[u8]) -> Option<Self> {
        match head {
            [0x1f, 0x8b, 0x08, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            [b'B', b'Z', b'h', ..] => Some(Self::Bzip2),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            _ => None,
        }
    }
}

/// Whether something that begins like this is compressed.
pub fn is_compressed(head: &[u8]) -> bool {
    Codec::of(head).is_some()
}

struct Extraction<'o, 'b, 'c> {
    overlay: &'o mut Overlay<'b>,
    root: Vec<Name>,
    owner: Option<(u32, u32)>,
    contents: &'c Contents,
    /// Directories, whose times are set when everything is in them.
    times: Vec<(Vec<Name>, (i64, u32))>,
    /// Bytes that may still come.
    room: u64,
    /// Hard links so far.
    links: u32,
    /// The names that they gave to one file.
    linked: HashMap<LinkGroup, Vec<Vec<Name>>>,
}

impl Extraction<'_, '_, '_> {
    fn run(&mut self, mut archive: tar::Archive<Box<dyn Read>>) -> Result<(), ArchiveError> {
        for (count, entry) in archive.entries().map_err(ArchiveError::Read)?.enumerate() {
            let mut entry = entry.map_err(ArchiveError::Read)?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            if count >= MAX_ENTRIES {
                return Err(ArchiveError::Entry { name, reason: format!("more than {MAX_ENTRIES} entries") });
            }
            self.entry(&mut entry).map_err(|reason| ArchiveError::Entry { name, reason: reason.to_string() })?;
        }
        for (path, time) in std::mem::take(&mut self.times) {
            self.overlay.update(&path, |meta| meta.mtime = time);
        }
        Ok(())
    }

    fn entry(&mut self, entry: &mut tar::Entry<Box<dyn Read>>) -> Result<(), Box<dyn std::error::Error>> {
        let mut sparse = sparse(entry)?;
        let name = sparse.as_mut().and_then(|sparse| sparse.name.take());
        let raw = name.unwrap_or_else(|| entry.path_bytes().into_owned());
        if raw.len() > 4096 || raw.contains(&0) {
            return Err("its name is longer than 4096 bytes or holds a NUL".into());
        }
        let clean = files::components(&raw);
        if clean.is_empty() || entry.header().entry_type().is_pax_global_extensions() {
            return Ok(());
        }
        let path = self.inside(&clean, false)?;
        let Some(mut meta) = metadata(entry)? else {
            return Err("unknown type of entry".into());
        };
        if let Some((uid, gid)) = self.owner {
            (meta.uid, meta.gid) = (uid, gid);
        }
        if let Some((_, parent)) = path.split_last() {
            // Through a symlink of the archive that leads nowhere.
            let written = [&self.root[..], &clean[..clean.len() - 1]].concat();
            if parent != written && self.overlay.find(parent).is_none() {
                return Err(format!("open {}: no such file or directory", files::display(&clean)).into());
            }
            let mut absolute = vec![b'/'];
            absolute.extend(files::join(parent));
            self.overlay.make_directories(&absolute, NewDirectory { mode: 0o755, owner: Some((0, 0)) })?;
        }
        if entry.header().entry_type().is_hard_link() {
            return self.hard_link(entry, &path, &meta);
        }
        if meta.kind == FileKind::Directory {
            self.times.push((path.clone(), meta.mtime));
            if self.overlay.find(&path).is_some_and(|found| found.meta.kind == FileKind::Directory) {
                self.overlay.update(&path, |now| *now = meta);
                return Ok(());
            }
        }
        let origin = match (meta.kind, sparse) {
            (FileKind::Regular, Some(sparse)) => {
                meta.size = sparse.size;
                self.spool(&mut sparse.expand(entry)?, meta.size)?
            }
            (FileKind::Regular, None) => self.spool(entry, meta.size)?,
            _ => Origin::None,
        };
        self.overlay.put(&path, Entry { meta, origin, content: None, link_group: None })?;
        Ok(())
    }

    /// Resolves a name of the archive inside the directory of extraction.
    fn inside(&self, clean: &[Name], follow_last: bool) -> Result<Vec<Name>, OverlayError> {
        let look = |at: &[Name]| {
            let mut path = self.root.clone();
            path.extend_from_slice(at);
            self.overlay.find(&path).filter(|found| found.meta.kind == FileKind::Symlink).map(|found| found.meta.target)
        };
        let below = files::resolve(&files::join(clean), follow_last, look)
            .map_err(|_| OverlayError::TooManyLinks(files::display(clean)))?;
        let mut path = self.root.clone();
        path.extend(below);
        Ok(path)
    }

    /// Gives a file one more name. Owner, mode and time are those of the last entry that names it.
    fn hard_link(
        &mut self,
        entry: &tar::Entry<Box<dyn Read>>,
        path: &[Name],
        new: &FileMeta,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let target = entry.link_name_bytes().ok_or("a hard link without target")?.into_owned();
        let target = self.inside(&files::components(&target), false)?;
        if target == path {
            return Err(OverlayError::NoTarget(files::display(path)).into());
        }
        self.links += 1;
        let Some(group) = self.overlay.link(&target, path, self.links)? else { return Ok(()) };
        let names = self.linked.entry(group).or_insert_with(|| vec![target]);
        names.push(path.to_vec());
        names.retain(|name| {
            self.overlay.update_linked(name, group, |meta| {
                (meta.uid, meta.gid) = (new.uid, new.gid);
                if meta.kind != FileKind::Symlink {
                    (meta.mode, meta.mtime) = (new.mode, new.mtime);
                }
            })
        });
        Ok(())
    }

    /// Keeps an entry's bytes: small ones in memory, others in a private file.
    fn spool(&mut self, entry: &mut impl Read, size: u64) -> io::Result<Origin> {
        self.room = self
            .room
            .checked_sub(size)
            .ok_or_else(|| io::Error::other(format!("the archive expands to more than {MAX_RATIO} times its size")))?;
        let short = || io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends in the middle of a file");
        if size <= 4096 {
            let mut bytes = Vec::new();
            entry.take(size).read_to_end(&mut bytes)?;
            if bytes.len() as u64 != size {
                return Err(short());
            }
            return Ok(Origin::Bytes(bytes.into()));
        }
        let mut file = tempfile::NamedTempFile::new_in(self.contents.spool()?)?;
        let copied = io::copy(&mut entry.take(size), &mut file)?;
        if copied != size {
            return Err(short());
        }
        file.flush()?;
        Ok(Origin::Spool(file.into_temp_path().into()))
    }
}

/// Reads an entry's header and PAX records; `None` for a type that is not a file.
fn metadata(entry: &mut tar::Entry<Box<dyn Read>>) -> io::Result<Option<FileMeta>> {
    let header = entry.header();
    let kind = match header.entry_type() {
        // How directories were written before they had a type.
        tar::EntryType::Regular if header.as_bytes()[TYPE] == 0 && entry.path_bytes().ends_with(b"/") => {
            FileKind::Directory
        }
        tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::Link | tar::EntryType::GNUSparse => {
            FileKind::Regular
        }
        tar::EntryType::Directory => FileKind::Directory,
        tar::EntryType::Symlink => FileKind::Symlink,
        tar::EntryType::Char => FileKind::Char,
        tar::EntryType::Block => FileKind::Block,
        tar::EntryType::Fifo => FileKind::Fifo,
        _ => return Ok(None),
    };
    // Writers leave the two fields blank for everything else.
    let device = match kind {
        FileKind::Char | FileKind::Block => (header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0)),
        _ => (0, 0),
    };
    let plain = header.as_old();
    let mut meta = FileMeta {
        kind,
        mode: number(&plain.mode, header.mode())? & 0o7777,
        uid: u32::try_from(number(&plain.uid, header.uid())?).map_err(io::Error::other)?,
        gid: u32::try_from(number(&plain.gid, header.gid())?).map_err(io::Error::other)?,
        mtime: (i64::try_from(number(&plain.mtime, header.mtime())?).unwrap_or(0), 0),
        size: if kind == FileKind::Regular { entry.size() } else { 0 },
        target: Vec::new(),
        device,
        xattrs: Default::default(),
    };
    if kind == FileKind::Symlink {
        meta.target = entry.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default();
    }
    if let Some(records) = entry.pax_extensions()? {
        for record in records.flatten() {
            let key = record.key_bytes();
            let value = record.value_bytes();
            let text = || std::str::from_utf8(value).ok();
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                meta.xattrs.insert(name.to_vec(), value.to_vec());
            } else if key == b"mtime" {
                meta.mtime = text().and_then(seconds).unwrap_or(meta.mtime);
            } else if key == b"uid" {
                meta.uid = text().and_then(|text| text.parse().ok()).unwrap_or(meta.uid);
            } else if key == b"gid" {
                meta.gid = text().and_then(|text| text.parse().ok()).unwrap_or(meta.gid);
            }
        }
    }
    Ok(Some(meta))
}

/// Reads what an entry's PAX records say of holes in it.
fn sparse(entry: &mut tar::Entry<Box<dyn Read>>) -> io::Result<Option<Sparse>> {
    if !entry.header().entry_type().is_file() {
        return Ok(None);
    }
    let Some(records) = entry.pax_extensions()? else { return Ok(None) };
    let records = records.collect::<io::Result<Vec<_>>>()?;
    Sparse::of(records.iter().map(|record| (record.key_bytes(), record.value_bytes())))
}

/// A field of a header that is blank is 0.
fn number<N: Default>(field: &[u8], read: io::Result<N>) -> io::Result<N> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) { Ok(N::default()) } else { read }
}

/// Reads `1700000000.25`.
fn seconds(text: &str) -> Option<(i64, u32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    if whole.starts_with('-') && nanos > 0 {
        return Some((seconds - 1, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}
