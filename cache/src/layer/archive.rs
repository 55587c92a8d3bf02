//! Reading tar streams of strangers: ustar, PAX and GNU long names, under limits.

use std::collections::BTreeMap;
use std::io::{self, Read};

use super::header::BLOCK;
use super::unpack::Limits;
use crate::FileError;
use crate::layer::show;

/// Why a tar stream cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The stream could not be read.
    #[error("the stream could not be read: {0}")]
    Read(#[from] io::Error),
    /// It ends where more should come.
    #[error("the archive ends in the middle of {0}")]
    Truncated(String),
    /// A header is malformed.
    #[error("the header at byte {at} has a bad {what}")]
    Header {
        /// Where in the stream.
        at: u64,
        /// What part.
        what: &'static str,
    },
    /// A kind of entry that layers do not have.
    #[error("`{path}` is of a kind that is not supported ({kind:?})")]
    Kind {
        /// The entry.
        path: String,
        /// Tar's letter.
        kind: char,
    },
    /// A path or link that cannot be.
    #[error("`{path}`: {reason}")]
    Name {
        /// The path.
        path: String,
        /// Why not.
        reason: &'static str,
    },
    /// A hard link to something that is no file of the layer.
    #[error("`{path}` is a hard link to `{target}`, which is no file in this layer")]
    Link {
        /// The link.
        path: String,
        /// Where it points.
        target: String,
    },
    /// More than is allowed.
    #[error("more than {limit} {what}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How much is allowed.
        limit: u64,
    },
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// An entry of a tar stream: its headers put together.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Member {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) mtime: (i64, u32),
    pub(crate) link: Vec<u8>,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A tar stream. As a [`Read`] it gives the content of the last member.
pub(crate) struct Archive<'a, R> {
    input: R,
    limits: &'a Limits,
    at: u64,
    content: u64,
    padding: u64,
}

/// What special headers said of the entry that follows them.
#[derive(Default)]
struct Extra {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl<'a, R: Read> Archive<'a, R> {
    pub(crate) fn new(input: R, limits: &'a Limits) -> Self {
        Self { input, limits, at: 0, content: 0, padding: 0 }
    }

    /// Gives back the stream, which is at the end of the archive, or wherever reading stopped.
    pub(crate) fn into_inner(self) -> R {
        self.input
    }

    /// Returns the next member; `None` at the end of the archive.
    pub(crate) fn next(&mut self) -> Result<Option<Member>, ArchiveError> {
        let rest = self.content + self.padding;
        self.skip(rest)?;
        (self.content, self.padding) = (0, 0);
        let mut extra = Extra::default();
        loop {
            let at = self.at;
            let Some(block) = self.block()? else { return Ok(None) };
            if block.iter().all(|&byte| byte == 0) {
                match self.block()? {
                    Some(second) if second.iter().any(|&byte| byte != 0) => {
                        return Err(ArchiveError::Header { at: at + BLOCK as u64, what: "start" });
                    }
                    _ => return Ok(None),
                }
            }
            let bad = |what| ArchiveError::Header { at, what };
            check_sum(&block).ok_or_else(|| bad("checksum"))?;
            let size = u64::try_from(number(&block[124..136]).ok_or_else(|| bad("size"))?).map_err(|_| bad("size"))?;
            match block[156] {
                b'x' | b'L' | b'K' | b'g' => {
                    let body = self.special(size)?;
                    match block[156] {
                        b'x' => extra.read_pax(&body).ok_or_else(|| bad("PAX record"))?,
                        b'L' => extra.name = Some(until_nul(&body).to_vec()),
                        b'K' => extra.link = Some(until_nul(&body).to_vec()),
                        _ => {}
                    }
                }
                _ => return self.member(&block, size, extra, at).map(Some),
            }
        }
    }

    fn member(&mut self, block: &[u8; BLOCK], size: u64, extra: Extra, at: u64) -> Result<Member, ArchiveError> {
        let bad = |what| ArchiveError::Header { at, what };
        let field = |from: usize, length: usize, what| number(&block[from..from + length]).ok_or_else(|| bad(what));
        let id = |number: i64, pax: Option<u64>, what| {
            let number = pax.map_or_else(|| u64::try_from(number), Ok).map_err(|_| bad(what))?;
            u32::try_from(number).ok().filter(|&id| id != u32::MAX).ok_or_else(|| bad(what))
        };
        let name = extra.name.unwrap_or_else(|| {
            let name = until_nul(&block[..100]);
            let prefix = if &block[257..263] == b"ustar\0" { until_nul(&block[345..500]) } else { b"" };
            if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
        });
        let mut member = Member {
            kind: block[156],
            mode: (field(100, 8, "mode")? & 0o7777) as u32,
            uid: id(field(108, 8, "owner")?, extra.uid, "owner")?,
            gid: id(field(116, 8, "group")?, extra.gid, "group")?,
            size: extra.size.unwrap_or(size),
            mtime: match extra.mtime {
                Some(mtime) => mtime,
                None => (field(136, 12, "time")?, 0),
            },
            link: extra.link.unwrap_or_else(|| until_nul(&block[157..257]).to_vec()),
            device: (0, 0),
            xattrs: extra.xattrs,
            name,
        };
        member.kind = match member.kind {
            0 if member.name.ends_with(b"/") => b'5',
            0 | b'7' => b'0',
            kind @ b'0'..=b'6' => kind,
            kind => return Err(ArchiveError::Kind { path: show(&member.name), kind: kind.into() }),
        };
        if matches!(member.kind, b'3' | b'4') {
            let device = |number: i64| u32::try_from(number).map_err(|_| bad("device number"));
            member.device = (device(field(329, 8, "device number")?)?, device(field(337, 8, "device number")?)?);
        }
        if member.kind != b'0' {
            // Other kinds have no content, whatever their size says.
            member.size = 0;
        }
        let limit = self.limits.path;
        if member.name.len() as u64 > limit || member.link.len() as u64 > limit {
            return Err(ArchiveError::Limit { what: "bytes in a path", limit });
        }
        if member.name.contains(&0) || member.link.contains(&0) {
            return Err(ArchiveError::Name { path: show(&member.name), reason: "a NUL in a name" });
        }
        self.content = member.size;
        self.padding = member.size.wrapping_neg() % BLOCK as u64;
        if self.content.checked_add(self.padding).is_none_or(|total| total > i64::MAX as u64) {
            return Err(bad("size"));
        }
        Ok(member)
    }

    /// Reads the body of a special header.
    fn special(&mut self, size: u64) -> Result<Vec<u8>, ArchiveError> {
        let limit = self.limits.special_header;
        if size > limit {
            return Err(ArchiveError::Limit { what: "bytes in an extended header", limit });
        }
        let mut body = Vec::new();
        let padded = size.next_multiple_of(BLOCK as u64);
        self.input.by_ref().take(padded).read_to_end(&mut body)?;
        if (body.len() as u64) < padded {
            return Err(ArchiveError::Truncated("an extended header".to_owned()));
        }
        self.at += padded;
        body.truncate(size as usize);
        Ok(body)
    }

    /// Reads a block; `None` when the stream ends before it.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, ArchiveError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(ArchiveError::Truncated("a header".to_owned())),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.at += BLOCK as u64;
        Ok(Some(block))
    }

    fn skip(&mut self, count: u64) -> Result<(), ArchiveError> {
        let skipped = io::copy(&mut self.input.by_ref().take(count), &mut io::sink())?;
        self.at += skipped;
        if skipped < count { Err(ArchiveError::Truncated("a file".to_owned())) } else { Ok(()) }
    }
}

impl<R: Read> Read for Archive<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = usize::try_from(self.content).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.input.read(&mut buffer[..limit])?;
        self.content -= count as u64;
        self.at += count as u64;
        Ok(count)
    }
}

impl Extra {
    /// Reads the records of a PAX header: `length key=value\n`, the length counting all of it.
    fn read_pax(&mut self, mut body: &[u8]) -> Option<()> {
        while !body.is_empty() {
            let space = body.iter().position(|&byte| byte == b' ')?;
            let length = usize::try_from(decimal(&body[..space])?).ok()?;
            let record = body.get(space + 1..length)?.strip_suffix(b"\n")?;
            body = &body[length..];
            let equals = record.iter().position(|&byte| byte == b'=')?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            if value.is_empty() && key != b"path" {
                // An empty value takes back what a record before said.
                match key {
                    b"linkpath" => self.link = None,
                    b"size" => self.size = None,
                    b"uid" => self.uid = None,
                    b"gid" => self.gid = None,
                    b"mtime" => self.mtime = None,
                    _ => {
                        if let Some(name) = key.strip_prefix(XATTR) {
                            self.xattrs.insert(name.to_vec(), Vec::new());
                        }
                    }
                }
                continue;
            }
            match key {
                b"path" => self.name = Some(value.to_vec()).filter(|name| !name.is_empty()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(decimal(value)?),
                b"uid" => self.uid = Some(decimal(value)?),
                b"gid" => self.gid = Some(decimal(value)?),
                b"mtime" => self.mtime = Some(time(value)?),
                _ if key.starts_with(b"GNU.sparse.") => return None,
                _ => {
                    if let Some(name) = key.strip_prefix(XATTR) {
                        if name.is_empty() || name.len() > 255 || name.contains(&0) || value.len() > 64 << 10 {
                            return None;
                        }
                        self.xattrs.insert(name.to_vec(), value.to_vec());
                    }
                }
            }
        }
        Some(())
    }
}

const XATTR: &[u8] = b"SCHILY.xattr.";

fn until_nul(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|&byte| byte == 0).unwrap_or(field.len())]
}

fn check_sum(block: &[u8; BLOCK]) -> Option<()> {
    let written = number(&block[148..156])?;
    let bytes = || block.iter().enumerate().map(|(at, &byte)| if (148..156).contains(&at) { b' ' } else { byte });
    let unsigned: i64 = bytes().map(i64::from).sum();
    // Some old writers added signed bytes.
    let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
    (written == unsigned || written == signed).then_some(())
}

/// Reads a number: octal digits, or two's complement after a first byte with its highest bit set.
fn number(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (at, &byte) in field.iter().enumerate() {
            let byte = if at == 0 && !negative { byte & 0x7f } else { byte };
            value = value << 8 | i128::from(byte);
        }
        return i64::try_from(value).ok();
    }
    let text = until_nul(field).trim_ascii();
    text.iter().try_fold(0i64, |number, &digit| match digit {
        b'0'..=b'7' => number.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |number, &digit| match digit {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// Reads seconds with a fraction; what is finer than a nanosecond is cut off.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let point = text.iter().position(|&byte| byte == b'.').unwrap_or(text.len());
    let seconds = i64::try_from(decimal(&text[..point])?).ok()?;
    let fraction = text.get(point + 1..).unwrap_or_default();
    let mut nanoseconds = 0;
    for at in 0..9 {
        let digit = match fraction.get(at) {
            Some(digit @ b'0'..=b'9') => digit - b'0',
            Some(_) => return None,
            None => 0,
        };
        nanoseconds = nanoseconds * 10 + u32::from(digit);
    }
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0x2d, 0xc6, 0xc0]), Some(3_000_000));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(&[0xbf; 12]), None);
        assert_eq!(number(b"0000648\0"), None);
    }

    #[test]
    fn times_have_fractions_and_signs() {
        assert_eq!(time(b"1.5"), Some((1, 500_000_000)));
        assert_eq!(time(b"-5"), Some((-5, 0)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"1.0000000009"), Some((1, 0)));
        for bad in [&b""[..], b".5", b"1.x", b"1.000000000x", b"99999999999999999999"] {
            assert_eq!(time(bad), None, "{bad:?}");
        }
    }
}
