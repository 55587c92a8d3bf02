//! Tar headers as kiln writes them: plain ustar, with a PAX header in front where something does
//! not fit. The same entries give the same bytes as other builders' (Go's) for the same tree.

use crate::layer::show;

/// A block of a tar stream.
pub(crate) const BLOCK: usize = 512;

/// What one header says.
#[derive(Debug, Clone, Default)]
pub struct TarHeader<'a> {
    /// The path; a directory's ends in a slash.
    pub name: &'a [u8],
    /// What it is: tar's letter.
    pub kind: u8,
    /// The permission, set-id and sticky bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The length of the content that follows.
    pub size: u64,
    /// When it was changed, in seconds since 1970.
    pub mtime: i64,
    /// Where a link points.
    pub link: &'a [u8],
    /// The major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes, in the order of their names.
    pub xattrs: Vec<(&'a [u8], &'a [u8])>,
}

/// What a tar header cannot say.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// A NUL in a name.
    #[error("`{0}` has a NUL in its name or link")]
    Nul(String),
    /// A device number beyond seven octal digits.
    #[error("`{path}` is a device with the number {major}:{minor}, which a tar stream cannot hold")]
    Device {
        /// The path.
        path: String,
        /// The major number.
        major: u32,
        /// The minor number.
        minor: u32,
    },
}

/// Appends the two blocks of zeros that end an archive.
pub fn end_of_archive(out: &mut Vec<u8>) {
    out.resize(out.len() + 2 * BLOCK, 0);
}

impl TarHeader<'_> {
    /// Appends the header, and a PAX header where one is needed. Content follows, padded with
    /// zeros to 512 bytes.
    ///
    /// # Errors
    /// When the format cannot hold the entry.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), HeaderError> {
        if self.name.contains(&0) || self.link.contains(&0) {
            return Err(HeaderError::Nul(show(self.name)));
        }
        let (major, minor) = self.device;
        if !fits(8, major.into()) || !fits(8, minor.into()) {
            return Err(HeaderError::Device { path: show(self.name), major, minor });
        }
        let split = split(self.name);
        let records = self.records(split.is_some());
        if records.is_empty() {
            let (prefix, name) = split.unwrap_or((b"", self.name));
            self.encode_main(prefix, name, self.link, out);
            return Ok(());
        }
        // A record is `length key=value\n`, and the length counts itself.
        let mut body = Vec::new();
        for (key, value) in &records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + digits(rest);
            length = rest + digits(length);
            body.extend_from_slice(format!("{length} ").as_bytes());
            body.extend_from_slice(key);
            body.push(b'=');
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        let name = pax_name(self.name);
        let mut block = [0; BLOCK];
        text(&mut block[0..100], &name);
        octal(&mut block[100..108], 0);
        octal(&mut block[108..116], 0);
        octal(&mut block[116..124], 0);
        octal(&mut block[124..136], body.len() as u64);
        octal(&mut block[136..148], 0);
        block[156] = b'x';
        finish(&mut block, out);
        out.extend_from_slice(&body);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
        self.encode_main(b"", &ascii(self.name), &ascii(self.link), out);
        Ok(())
    }

    /// Returns the PAX records, sorted by key.
    fn records(&self, splits: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
        let xattrs = self.xattrs.iter();
        let mut records: Vec<(Vec<u8>, Vec<u8>)> =
            xattrs.map(|(name, value)| ([b"SCHILY.xattr.", *name].concat(), value.to_vec())).collect();
        let mut push = |key: &str, value: Vec<u8>| records.push((key.into(), value));
        if !fits(8, self.gid.into()) {
            push("gid", self.gid.to_string().into_bytes());
        }
        if self.link.len() > 100 || !self.link.is_ascii() {
            push("linkpath", self.link.to_vec());
        }
        if u64::try_from(self.mtime).map_or(true, |mtime| !fits(12, mtime)) {
            push("mtime", self.mtime.to_string().into_bytes());
        }
        if !fits(12, self.size) {
            push("size", self.size.to_string().into_bytes());
        }
        if !fits(8, self.uid.into()) {
            push("uid", self.uid.to_string().into_bytes());
        }
        // A long name that could be split goes into a record as soon as there is any.
        let long = self.name.len() > 100;
        if !self.name.is_ascii() || long && (!splits || !records.is_empty()) {
            records.push((b"path".to_vec(), self.name.to_vec()));
            records.sort();
        }
        records
    }

    fn encode_main(&self, prefix: &[u8], name: &[u8], link: &[u8], out: &mut Vec<u8>) {
        let mut block = [0; BLOCK];
        text(&mut block[0..100], name);
        octal(&mut block[100..108], (self.mode & 0o7777).into());
        octal(&mut block[108..116], self.uid.into());
        octal(&mut block[116..124], self.gid.into());
        octal(&mut block[124..136], self.size);
        octal(&mut block[136..148], u64::try_from(self.mtime).unwrap_or_default());
        block[156] = self.kind;
        text(&mut block[157..257], link);
        octal(&mut block[329..337], self.device.0.into());
        octal(&mut block[337..345], self.device.1.into());
        text(&mut block[345..500], prefix);
        finish(&mut block, out);
    }
}

fn finish(block: &mut [u8; BLOCK], out: &mut Vec<u8>) {
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
    octal(&mut block[148..155], sum);
    out.extend_from_slice(block);
}

/// Whether a number fits a field of octal digits that ends in a NUL.
fn fits(width: u32, number: u64) -> bool {
    number < 1 << (3 * (width - 1))
}

/// Writes octal digits and a NUL; a number that does not fit is zero.
fn octal(field: &mut [u8], number: u64) {
    let width = field.len();
    let mut number = if fits(width as u32, number) { number } else { 0 };
    field[width - 1] = 0;
    for digit in field[..width - 1].iter_mut().rev() {
        *digit = b'0' + (number & 7) as u8;
        number >>= 3;
    }
}

/// Writes a text, cut to the field. A name that is cut at a slash would read as a directory's.
fn text(field: &mut [u8], text: &[u8]) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
    if text.len() > field.len() && field.ends_with(b"/") {
        let kept = field.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
        field[kept] = 0;
    }
}

/// Splits a long name into ustar's prefix and name.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 || !name.is_ascii() {
        return None;
    }
    let mut length = name.len().min(156);
    if name.len() <= 156 && name.ends_with(b"/") {
        length -= 1;
    }
    let slash = name[..length].iter().rposition(|&byte| byte == b'/')?;
    let (prefix, rest) = (&name[..slash], &name[slash + 1..]);
    (slash > 0 && !rest.is_empty() && rest.len() <= 100 && prefix.len() <= 155).then_some((prefix, rest))
}

fn ascii(text: &[u8]) -> Vec<u8> {
    text.iter().copied().filter(u8::is_ascii).collect()
}

/// Returns the name of a PAX header: a file that a reader without PAX may make without harm.
fn pax_name(name: &[u8]) -> Vec<u8> {
    let (directory, base) = match name.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&name[..=slash], &name[slash + 1..]),
        None => (&b""[..], name),
    };
    let joined = [directory, b"/PaxHeaders.0/", base].concat();
    let joined = if directory.is_empty() { &joined[1..] } else { &joined[..] };
    let mut name = ascii(&clean(joined));
    name.truncate(100);
    while name.ends_with(b"/") {
        name.pop();
    }
    name
}

/// Shortens a path by its text alone, as Go's `path.Clean` does.
fn clean(path: &[u8]) -> Vec<u8> {
    let rooted = path.starts_with(b"/");
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." if names.last().is_some_and(|last| *last != b"..") => {
                names.pop();
            }
            b".." if rooted => {}
            _ => names.push(name),
        }
    }
    let joined = names.join(&b'/');
    match (rooted, joined.is_empty()) {
        (true, _) => [b"/", &joined[..]].concat(),
        (false, true) => b".".to_vec(),
        (false, false) => joined,
    }
}

fn digits(number: usize) -> usize {
    number.to_string().len()
}
