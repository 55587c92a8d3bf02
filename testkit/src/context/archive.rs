//! A context as a tar archive.

use std::io::{self, Write};

use serde::Deserialize;

use super::{ARCHIVE_TIME, Entry, Kind, nonsense};

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    #[default]
    #[serde(alias = "")]
    None,
    /// As `gzip` does.
    Gzip,
    /// As `bzip2` does.
    Bzip2,
    /// As `xz` does.
    Xz,
    /// As `zstd` does.
    Zstd,
}

/// Makes an archive of these entries, in this order and with these names, however bad they are.
///
/// # Errors
/// When an entry makes no sense.
pub fn archive(entries: &[Entry], compression: Compression) -> io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        append(&mut builder, entry)?;
    }
    let plain = builder.into_inner()?;
    match compression {
        Compression::None => Ok(plain),
        Compression::Gzip => {
            let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            writer.write_all(&plain)?;
            writer.finish()
        }
        Compression::Bzip2 => {
            let mut writer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
            writer.write_all(&plain)?;
            writer.finish()
        }
        Compression::Xz => {
            let mut writer = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(0))?;
            writer.write_all(&plain)?;
            writer.finish()
        }
        Compression::Zstd => zstd::stream::encode_all(&*plain, 1),
    }
}

/// Adds one entry. Names go into the header as they are: the `tar` crate would refuse `..` and
/// absolute paths, which are what some tests are about.
fn append(builder: &mut tar::Builder<Vec<u8>>, entry: &Entry) -> io::Result<()> {
    let (kind, mode) = match entry.kind {
        Kind::File => (tar::EntryType::Regular, "644"),
        Kind::Dir => (tar::EntryType::Directory, "755"),
        Kind::Symlink => (tar::EntryType::Symlink, "755"),
        Kind::Hardlink => (tar::EntryType::Link, "755"),
        Kind::Fifo => (tar::EntryType::Fifo, "755"),
        Kind::Char => (tar::EntryType::Char, "755"),
        Kind::Block => (tar::EntryType::Block, "755"),
        Kind::Tar => return Err(nonsense("an archive in an archive")),
    };
    let content = if entry.kind == Kind::File { entry.bytes()? } else { Vec::new() };
    let mut name = entry.path.clone();
    if entry.kind == Kind::Dir && !name.ends_with('/') {
        name.push('/');
    }
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(entry.mode_or(mode)?);
    header.set_uid(entry.uid.unwrap_or(0).into());
    header.set_gid(entry.gid.unwrap_or(0).into());
    header.set_size(content.len() as u64);
    let time = entry.mtime.unwrap_or(ARCHIVE_TIME);
    header.set_mtime(u64::try_from(time).map_err(|_| nonsense("a time before 1970 in an archive"))?);
    if matches!(entry.kind, Kind::Char | Kind::Block) {
        let (major, minor) = entry.device()?;
        header.set_device_major(major)?;
        header.set_device_minor(minor)?;
    }
    let mut extensions = Vec::new();
    for (place, key, text) in [(0, "path", &name), (157, "linkpath", &entry.link)] {
        match header.as_mut_bytes()[place..place + 100].get_mut(..text.len()) {
            Some(field) => field.copy_from_slice(text.as_bytes()),
            None => extensions.push((key.to_owned(), text.as_bytes().to_vec())),
        }
    }
    extensions.extend(entry.attributes()?.into_iter().map(|(name, value)| (format!("SCHILY.xattr.{name}"), value)));
    builder.append_pax_extensions(extensions.iter().map(|(key, value)| (&**key, &**value)))?;
    header.set_cksum();
    builder.append(&header, &*content)
}
