//! Making a blob with another compression from one that is here.

use std::io::{self, Read};

use kiln_oci::{Descriptor, Digest};

use super::header::BLOCK;
use super::member::content_length;
use super::stream::Stream;
use super::{Compression, LayerError, compression};
use crate::{BlobError, Store};

/// Writes the tar stream in `input` again, so that it is cut into blocks where [`pack`](super::pack) would cut it.
///
/// # Errors
/// When it cannot be read, or is not that of the layer.
pub(super) fn recompress(
    store: &Store,
    diff_id: &Digest,
    compression: Compression,
    input: &mut dyn Read,
) -> Result<Option<Descriptor>, LayerError> {
    let failed = |source| LayerError::Stream { diff_id: *diff_id, source };
    let mut plain = compression::decompress(input).map_err(failed)?;
    let mut stream = Stream::new(store, Some(compression));
    loop {
        let (header, length) = read_header(&mut plain).map_err(failed)?;
        if length.is_some() {
            stream.begin_entry(&header)?;
        } else {
            stream.write(&header)?;
        }
        copy_content(&mut plain, &mut stream, length).map_err(failed)??;
        if length.is_none() {
            break;
        }
    }
    let streamed = stream.finish()?;
    if streamed.diff_id != *diff_id {
        return Err(LayerError::DiffId { wanted: *diff_id, found: streamed.diff_id });
    }
    Ok(streamed.blob)
}

/// Reads what stands in front of a content, and how long that is; `None` where the stream goes on as something else than
/// the next entry of an archive.
fn read_header(input: &mut dyn Read) -> io::Result<(Vec<u8>, Option<u64>)> {
    /// PAX records and long names are kept in memory.
    const LIMIT: u64 = 1 << 20;
    let mut header = Vec::new();
    loop {
        let before = header.len();
        input.take(BLOCK as u64).read_to_end(&mut header)?;
        let Some(block) = header[before..].first_chunk::<BLOCK>().filter(|block| &block[257..262] == b"ustar") else {
            return Ok((header, None));
        };
        let is_extension = matches!(block[156], b'x' | b'g' | b'L' | b'K');
        let padded = content_length(block).and_then(|length| length.checked_next_multiple_of(BLOCK as u64));
        let Some(length) = padded.filter(|length| is_extension && header.len() as u64 + length < LIMIT) else {
            return Ok((header, padded));
        };
        input.take(length).read_to_end(&mut header)?;
    }
}

/// Copies so many bytes, or all that are left.
fn copy_content(input: &mut dyn Read, stream: &mut Stream, length: Option<u64>) -> io::Result<Result<(), BlobError>> {
    let mut missing = length.unwrap_or(u64::MAX);
    while missing > 0 {
        let space = stream.space();
        let limit = usize::try_from(missing).unwrap_or(usize::MAX).min(space.len());
        match input.read(&mut space[..limit]) {
            Ok(0) => break,
            Ok(count) => {
                if let Err(error) = stream.advance(count) {
                    return Ok(Err(error));
                }
                missing -= count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Ok(()))
}
