//! Making a layer from entries, in one pass: index, diff id, and on demand a blob and the
//! directory form.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::Arc;

use kiln_oci::{Descriptor, Digest};

use super::directory::Directory;
use super::entry::{CAPABILITY, Content, NewEntry, NewKind};
use super::header::{BLOCK, HeaderError, TarHeader, end_of_archive};
use super::index::{Builder, Change, LayerIndex, Misplaced, Put};
use super::member::{Earlier, Member};
use super::stream::Stream;
use super::{Compression, LayerError, show, whiteout};
use crate::file::At;
use crate::store::Scratch;
use crate::tree::Meta;
use crate::{FileError, Store};

/// What to make of a new layer, beside its index.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pack {
    /// A blob.
    pub compression: Option<Compression>,
    /// The directory form.
    pub directory: bool,
    /// A layer that may have much in common with the new one: what its blob holds already is not compressed
    /// again. The new blob is the same without.
    pub like: Option<Digest>,
}

/// A layer that was made.
#[derive(Debug, Clone)]
pub struct Packed {
    /// Its identity.
    pub diff_id: Digest,
    /// The length of its tar stream.
    pub size: u64,
    /// Its index.
    pub index: Arc<LayerIndex>,
    /// Its blob, when one was asked for.
    pub blob: Option<Descriptor>,
    pub(crate) members: Vec<Member>,
}

/// Makes a layer of `entries`, which must come in the order of a walk (names compared as bytes,
/// a directory before what is in it, whiteouts by the name that they take away) and contain the
/// directories that everything is in.
///
/// Files are read when their turn comes. The layer appears in the store when all is done.
///
/// # Errors
/// When an entry cannot be read or represented, when a file is shorter or longer than it should
/// be, or when the store cannot be written.
pub fn pack(
    store: &Store,
    entries: impl Iterator<Item = Result<NewEntry, LayerError>>,
    options: &Pack,
) -> Result<Packed, LayerError> {
    let scratch = if options.directory { Some(store.ingest_scratch("layer")?) } else { None };
    let directory =
        scratch.as_ref().map(|scratch| Directory::create(&scratch.path().join("fs"), store.ownership())).transpose()?;
    let earlier = options.like.and_then(|like| store.layer(&like).members());
    let mut packer = Packer::new(store, options.compression, directory, earlier);
    for entry in entries {
        packer.add(entry?)?;
    }
    let packed = packer.finish()?;
    publish(store, &packed, scratch.as_ref())?;
    Ok(packed)
}

/// Puts a layer into the store: its note about a blob, its index, and the directory `fs` of
/// `scratch`.
pub(crate) fn publish(store: &Store, packed: &Packed, scratch: Option<&Scratch>) -> Result<(), LayerError> {
    let layer = store.layer(&packed.diff_id);
    if let Some(blob) = &packed.blob {
        layer.add_blob(blob, None)?;
        if packed.members.len() > 1 {
            layer.publish_members(&blob.digest, &packed.members)?;
        }
    }
    layer.publish_index(&packed.index)?;
    if let Some(scratch) = scratch {
        publish_directory(store, &packed.diff_id, &scratch.path().join("fs"))?;
    }
    Ok(())
}

/// Renames a complete directory form to its place. One that is there already stays.
pub(crate) fn publish_directory(store: &Store, diff_id: &Digest, from: &std::path::Path) -> Result<(), FileError> {
    use std::io::ErrorKind::{AlreadyExists, DirectoryNotEmpty, NotFound};
    let home = store.layer(diff_id).home();
    let target = home.join(store.ownership().directory_name());
    loop {
        if target.exists() {
            return Ok(());
        }
        match std::fs::rename(from, &target) {
            Ok(()) => return Ok(()),
            Err(error) if matches!(error.kind(), AlreadyExists | DirectoryNotEmpty) => return Ok(()),
            Err(error) if error.kind() == NotFound && !home.exists() => {
                std::fs::create_dir_all(&home).at("create", &home)?;
            }
            Err(error) => return Err(error).at("create", target),
        }
    }
}

/// A directory and its time.
type DirectoryTime = (Box<[u8]>, (i64, u32));

/// Turns entries into a layer, one after the other.
pub(crate) struct Packer {
    stream: Stream,
    directory: Option<Directory>,
    /// The times of directories, set when nothing more is put into them.
    times: Vec<DirectoryTime>,
    index: Builder,
    header: Vec<u8>,
    /// Whether files of the directory form may share their blocks with where they come from (ioctl_ficlone(2)).
    can_share: bool,
}

impl Packer {
    /// Takes from an `earlier` blob what it holds already.
    pub(crate) fn new(
        store: &Store,
        compression: Option<Compression>,
        directory: Option<Directory>,
        earlier: Option<Earlier>,
    ) -> Self {
        let stream = Stream::new(store, compression).remembering(earlier);
        let index = Builder::default();
        Self { stream, directory, times: Vec::new(), index, header: Vec::new(), can_share: true }
    }

    pub(crate) fn add(&mut self, mut entry: NewEntry) -> Result<(), LayerError> {
        check_path(&entry.path)?;
        let kind = std::mem::replace(&mut entry.kind, NewKind::Directory);
        match kind {
            NewKind::File { size, content } => self.add_file(entry, size, content),
            NewKind::Hardlink(first) => self.add_link(entry, first),
            NewKind::Whiteout => {
                let name = whiteout::path_of(&entry.path);
                self.write_header(&TarHeader { name: &name, kind: b'0', ..TarHeader::default() })?;
                self.push(&entry.path, Change::Whiteout)?;
                if let Some(directory) = &mut self.directory {
                    directory.make_whiteout(&entry.path)?;
                }
                Ok(())
            }
            kind => {
                entry.kind = kind;
                self.add_other(entry)
            }
        }
    }

    fn add_file(&mut self, mut entry: NewEntry, size: u64, content: Content) -> Result<(), LayerError> {
        entry.kind = NewKind::File { size, content: Content::Bytes(Arc::default()) };
        let meta = entry.meta(None).expect("a regular file");
        self.write_header(&header(&entry.path, &meta))?;
        self.push(&entry.path, Change::Put(Put { meta: meta.clone(), implied: false, opaque: false, links: None }))?;
        let mut output = match &mut self.directory {
            Some(directory) => Some(directory.create_file(&entry.path)?),
            None => None,
        };
        match content {
            Content::Bytes(bytes) => {
                if bytes.len() as u64 != size {
                    return Err(LayerError::Changed { path: show(&entry.path) });
                }
                if let Some(output) = &mut output {
                    output.write_all(&bytes).at("write", show(&entry.path))?;
                }
                self.stream.begin_content(None);
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let space = self.stream.space();
                    let (now, later) = rest.split_at(rest.len().min(space.len()));
                    space[..now.len()].copy_from_slice(now);
                    self.stream.advance(now.len())?;
                    rest = later;
                }
            }
            Content::Open { digest, open } => {
                let input = open().at("open", show(&entry.path))?;
                self.stream.begin_content(digest);
                self.add_content(&entry.path, size, &input, output.as_mut())?;
            }
        }
        self.stream.end_content();
        self.stream.pad(BLOCK as u64)?;
        if let (Some(directory), Some(output)) = (&self.directory, &output) {
            let meta = Meta { mtime: entry.mtime, ..meta };
            directory.finish_file(&entry.path, output, &meta, &entry.xattrs)?;
        }
        Ok(())
    }

    /// Reads a file into the stream, and into its place in the directory form.
    fn add_content(
        &mut self,
        path: &[u8],
        size: u64,
        input: &File,
        output: Option<&mut File>,
    ) -> Result<(), LayerError> {
        let changed = || LayerError::Changed { path: show(path) };
        let before = input.metadata().at("look at", show(path))?;
        // Where the file system can, both have the same blocks, and what is read is the copy, which is ours alone.
        self.can_share &= output.as_ref().is_none_or(|output| rustix::fs::ioctl_ficlone(output, input).is_ok());
        let (mut reader, mut output) = match output {
            Some(output) if self.can_share => (&*output, None),
            output => (input, output),
        };
        let mut missing = size;
        while missing > 0 {
            let space = self.stream.space();
            let limit = usize::try_from(missing).unwrap_or(usize::MAX).min(space.len());
            let count = match reader.read(&mut space[..limit]) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                other => other.at("read", show(path))?,
            };
            if count == 0 {
                return Err(changed());
            }
            if let Some(output) = &mut output {
                output.write_all(&space[..count]).at("write", show(path))?;
            }
            self.stream.advance(count)?;
            missing -= count as u64;
        }
        // Longer by now, or written to while it was read.
        let after = input.metadata().at("look at", show(path))?;
        if after.len() != before.len() || after.len() != size || after.modified().ok() != before.modified().ok() {
            return Err(changed());
        }
        Ok(())
    }

    fn add_link(&mut self, entry: NewEntry, first: Vec<u8>) -> Result<(), LayerError> {
        let missing = || LayerError::Unrepresentable {
            path: show(&entry.path),
            reason: format!("it is a link to `{}`, which is no earlier file of the layer", show(&first)),
        };
        let put = self.index.link(&first).ok_or_else(missing)?;
        let mut header = header(&entry.path, &put.meta);
        (header.kind, header.size, header.link) = (b'1', 0, &first);
        // The first name has it already.
        header.xattrs.clear();
        header.device = (0, 0);
        self.write_header(&header)?;
        self.push(&entry.path, Change::Put(put))?;
        if let Some(directory) = &mut self.directory {
            directory.make_link(&first, &entry.path)?;
        }
        Ok(())
    }

    fn add_other(&mut self, entry: NewEntry) -> Result<(), LayerError> {
        let meta = entry.meta(None).expect("neither link nor whiteout");
        let mut name = entry.path.clone();
        if meta.is_directory() {
            name.push(b'/');
        }
        self.write_header(&header(&name, &meta))?;
        let exact = Meta { mtime: entry.mtime, ..meta.clone() };
        let is_directory = meta.is_directory();
        self.push(&entry.path, Change::Put(Put { meta, implied: false, opaque: false, links: None }))?;
        let Some(directory) = &mut self.directory else { return Ok(()) };
        if is_directory {
            directory.make_directory(&entry.path)?;
            directory.set_directory(&entry.path, &exact, &entry.xattrs)?;
            self.times.push((entry.path.into(), exact.mtime));
        } else {
            directory.make_special(&entry.path, &exact)?;
        }
        Ok(())
    }

    fn push(&mut self, path: &[u8], change: Change) -> Result<(), LayerError> {
        let implied = self.index.push(path, change).map_err(|error| LayerError::Unrepresentable {
            path: show(path),
            reason: match error {
                Misplaced::Order => "it comes twice, or not in the order of a walk".to_owned(),
                Misplaced::NoDirectory => "what it is in is no directory".to_owned(),
            },
        })?;
        if let Some(directory) = &mut self.directory {
            for path in implied {
                directory.make_directory(&path)?;
                directory.set_directory(&path, &Meta::directory(), &Default::default())?;
                self.times.push((path, (0, 0)));
            }
        }
        Ok(())
    }

    fn write_header(&mut self, header: &TarHeader<'_>) -> Result<(), LayerError> {
        self.header.clear();
        header.encode(&mut self.header).map_err(|error| match &error {
            HeaderError::Nul(path) | HeaderError::Device { path, .. } => {
                LayerError::Unrepresentable { path: path.clone(), reason: error.to_string() }
            }
        })?;
        Ok(self.stream.begin_entry(&self.header)?)
    }

    pub(crate) fn finish(mut self) -> Result<Packed, LayerError> {
        self.header.clear();
        end_of_archive(&mut self.header);
        self.stream.write(&self.header)?;
        if let Some(directory) = &mut self.directory {
            for (path, mtime) in &self.times {
                directory.set_time(path, *mtime)?;
            }
        }
        let streamed = self.stream.finish()?;
        let (diff_id, size) = (streamed.diff_id, streamed.size);
        let index = self.index.finish(diff_id, size, &streamed.contents);
        if let Some(changed) = streamed.changed {
            return Err(LayerError::Changed { path: index.path_of_content(changed).map(show).unwrap_or_default() });
        }
        Ok(Packed { diff_id, size, index: Arc::new(index), blob: streamed.blob, members: streamed.members })
    }
}

fn header<'a>(name: &'a [u8], meta: &'a Meta) -> TarHeader<'a> {
    TarHeader {
        name,
        kind: meta.kind.code(),
        mode: meta.mode,
        uid: meta.uid,
        gid: meta.gid,
        size: meta.size,
        mtime: meta.mtime.0,
        link: &meta.link,
        device: meta.device,
        // What users set stays in the store (layer-tar.md §2.2); the index and later steps have it.
        xattrs: meta.xattrs.get(CAPABILITY).map(|value| (CAPABILITY, &value[..])).into_iter().collect(),
    }
}

/// Refuses what no path of a layer can be.
fn check_path(path: &[u8]) -> Result<(), LayerError> {
    let refuse = |reason: &str| Err(LayerError::Unrepresentable { path: show(path), reason: reason.to_owned() });
    if path.len() > 4096 {
        return refuse("the path is longer than 4096 bytes");
    }
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." | b".." => return refuse("the path is not a plain relative one"),
            _ if name.contains(&0) => return refuse("the path has a NUL in it"),
            _ if name.starts_with(whiteout::PREFIX) => {
                return refuse("names that start with `.wh.` stand for deleted files in a layer");
            }
            _ => {}
        }
    }
    Ok(())
}
