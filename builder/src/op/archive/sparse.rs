//! Files with holes as GNU tar writes them into PAX archives: versions 0.0, 0.1 and 1.0 of its format.

use std::io::{self, BufRead, BufReader, Read};

/// Where the map of version 1.0 ends is rounded up to this.
const BLOCK: usize = 512;
/// More pieces than any real file has.
const MAX_PIECES: usize = 1_000_000;

/// What an archive says of a file with holes.
#[derive(Debug, Default)]
pub struct Sparse {
    /// Its name; that of the entry may be made up.
    pub name: Option<Vec<u8>>,
    /// How long it is, holes included.
    pub size: u64,
    /// Offset and length of what is stored; it stands before the content if it is not known.
    pieces: Option<Vec<(u64, u64)>>,
}

impl Sparse {
    /// Reads the PAX records of an entry; nothing for a file without holes.
    ///
    /// # Errors
    /// When a record is none.
    pub fn of<'a>(records: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> io::Result<Option<Self>> {
        let mut found = Self::default();
        let (mut size, mut version, mut numbers) = (None, (None, None), Vec::new());
        for (key, value) in records {
            match key {
                b"GNU.sparse.major" => version.0 = Some(number(value)?),
                b"GNU.sparse.minor" => version.1 = Some(number(value)?),
                b"GNU.sparse.name" => found.name = Some(value.to_vec()),
                b"GNU.sparse.size" | b"GNU.sparse.realsize" => size = Some(number(value)?),
                b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => numbers.push(number(value)?),
                b"GNU.sparse.map" => {
                    for value in value.split(|&byte| byte == b',').filter(|value| !value.is_empty()) {
                        numbers.push(number(value)?);
                    }
                }
                _ => {}
            }
        }
        let Some(size) = size else { return Ok(None) };
        found.size = size;
        if version != (Some(1), Some(0)) {
            found.pieces = Some(found.checked(&numbers)?);
        }
        Ok(Some(found))
    }

    /// Returns the file's content from the entry's.
    ///
    /// # Errors
    /// When the map in front of it cannot be read or is none.
    pub fn expand<R: Read>(self, content: R) -> io::Result<Expanded<impl Read>> {
        let mut content = BufReader::new(content);
        let pieces = match self.pieces {
            Some(pieces) => pieces,
            None => {
                let mut numbers = Vec::new();
                let mut length = 0;
                let count = line(&mut content, &mut length)?;
                let count = usize::try_from(count).ok().filter(|count| *count <= MAX_PIECES).ok_or_else(broken)?;
                for _ in 0..count * 2 {
                    numbers.push(line(&mut content, &mut length)?);
                }
                let padding = length.next_multiple_of(BLOCK) - length;
                io::copy(&mut (&mut content).take(padding as u64), &mut io::sink())?;
                self.checked(&numbers)?
            }
        };
        Ok(Expanded { content, pieces: pieces.into_iter(), piece: (0, 0), at: 0, size: self.size })
    }

    /// Pairs the numbers of a map: pieces follow one another and lie within the file.
    fn checked(&self, numbers: &[u64]) -> io::Result<Vec<(u64, u64)>> {
        if !numbers.len().is_multiple_of(2) || numbers.len() > 2 * MAX_PIECES {
            return Err(broken());
        }
        let mut end = 0;
        numbers
            .chunks_exact(2)
            .map(|pair| {
                let (offset, length) = (pair[0], pair[1]);
                if offset < end {
                    return Err(broken());
                }
                end = offset.checked_add(length).filter(|end| *end <= self.size).ok_or_else(broken)?;
                Ok((offset, length))
            })
            .collect()
    }
}

/// A file's content with zeros where its holes are.
pub struct Expanded<R> {
    content: R,
    pieces: std::vec::IntoIter<(u64, u64)>,
    /// The piece that is read, or comes next.
    piece: (u64, u64),
    at: u64,
    size: u64,
}

impl<R: Read> Read for Expanded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at >= self.piece.0 + self.piece.1 && self.at < self.size {
            self.piece = self.pieces.next().unwrap_or((self.size, 0));
            if self.piece.0 == self.size {
                break;
            }
        }
        let (start, length) = self.piece;
        let is_hole = self.at < start;
        let end = if is_hole { start } else { start + length };
        let room = usize::try_from(end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let count = if is_hole {
            buffer[..room].fill(0);
            room
        } else {
            self.content.read(&mut buffer[..room])?
        };
        self.at += count as u64;
        Ok(count)
    }
}

/// Reads a line of the map in front of a content, and adds its length.
fn line(content: &mut impl BufRead, length: &mut usize) -> io::Result<u64> {
    let mut digits = Vec::new();
    *length += content.take(32).read_until(b'\n', &mut digits)?;
    if digits.pop() != Some(b'\n') {
        return Err(broken());
    }
    number(&digits)
}

fn number(text: &[u8]) -> io::Result<u64> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or_else(broken)
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the map of its holes is broken")
}

#[cfg(test)]
mod tests {
    use super::*;

    type Records<'a> = &'a [(&'a str, &'a str)];

    fn read(records: Records, content: &[u8]) -> io::Result<Option<(Option<String>, String)>> {
        let records = records.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes()));
        let Some(sparse) = Sparse::of(records)? else { return Ok(None) };
        let name = sparse.name.clone().map(|name| String::from_utf8(name).expect("text"));
        let mut found = String::new();
        sparse.expand(content)?.read_to_string(&mut found)?;
        Ok(Some((name, found.replace('\0', "."))))
    }

    #[test]
    fn every_version_is_read() {
        let map = [("GNU.sparse.size", "8"), ("GNU.sparse.map", "2,2,5,1,8,0")];
        assert_eq!(read(&map, b"abc").expect("0.1"), Some((None, "..ab.c..".to_owned())));
        let pairs = [
            ("GNU.sparse.size", "3"),
            ("GNU.sparse.offset", "0"),
            ("GNU.sparse.numbytes", "1"),
            ("GNU.sparse.offset", "2"),
            ("GNU.sparse.numbytes", "1"),
        ];
        assert_eq!(read(&pairs, b"ab").expect("0.0"), Some((None, "a.b".to_owned())));
        let mut content = b"2\n1\n2\n4\n1\n".to_vec();
        content.resize(512, 0);
        content.extend(b"xyz");
        let newest = [
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.name", "n"),
            ("GNU.sparse.realsize", "5"),
        ];
        assert_eq!(read(&newest, &content).expect("1.0"), Some((Some("n".to_owned()), ".xy.z".to_owned())));
        assert_eq!(read(&[("GNU.sparse.size", "4")], b"").expect("only a hole"), Some((None, "....".to_owned())));
        assert_eq!(read(&[("mtime", "4")], b"").expect("none"), None);
    }

    #[test]
    fn broken_maps_are_refused() {
        for map in ["1", "4,2,1,1", "7,2", "0,18446744073709551615", "1,18446744073709551615", "x,1", "-1,1"] {
            assert!(read(&[("GNU.sparse.size", "8"), ("GNU.sparse.map", map)], b"").is_err(), "{map}");
        }
        let newest = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "5")];
        for head in
            ["", "1", "1\n0\n", "9999999999\n", "1\n0\n9\n", "00000000000000000000000000000000000000001\n0\n1\n"]
        {
            assert!(read(&newest, head.as_bytes()).is_err(), "{head:?}");
        }
    }
}
