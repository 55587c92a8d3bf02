//! Gzip blobs as a row of members (RFC 1952 §2.2): where one ends, how it is written, and taking
//! over those that an earlier blob has already.
//!
//! A block of the tar stream becomes one or more members. Where blocks end depends on the tar
//! stream alone, and finds its way back to the same places behind a change, so that two layers
//! that have most files in common have most blocks in common. The bytes of a block's members depend on the
//! block alone. So a block that an earlier blob holds need not be compressed again, and the
//! blob comes out the same whether or not there was an earlier one.
//!
//! `layers/v1/<diff id>/members` says what a blob is made of. It is a memory: without it everything is
//! compressed again.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use kiln_oci::Digest;
use libdeflater::{CompressionLvl, Compressor, Crc, crc32};

use super::header::BLOCK;

/// The most input that one block holds.
pub(crate) const LARGEST: usize = 1 << 20;
/// A block that holds less goes on, but for a file that fills blocks of its own.
const SMALLEST: usize = 256 << 10;
/// One in so many names ends the block before it.
const ODDS: u32 = 32;

/// The fastest level gives what Go's default gives (0.655 of mixed data, 0.630 at level 4) and is 1.5 times as fast
/// as level 4.
const GZIP_LEVEL: i32 = 1;

/// Whether a new block begins with an entry. `header` is all that stands in front of its content, `filled` what the
/// block holds without it.
pub(crate) fn begins_block(header: &[u8], filled: usize) -> bool {
    let (Some(first), Some(last)) = (header.first_chunk::<BLOCK>(), header.last_chunk::<BLOCK>()) else { return false };
    // Whatever came before, the content of a large file is always cut at the same places.
    if content_length(last).is_none_or(|length| length >= LARGEST as u64) {
        return filled > 0;
    }
    let mut name = Crc::new();
    name.update(&first[..100]);
    name.update(&first[345..500]);
    filled >= SMALLEST && name.sum().is_multiple_of(ODDS)
}

/// Returns how long the content behind a header is; `None` where that is not written in octal digits.
pub(crate) fn content_length(header: &[u8; BLOCK]) -> Option<u64> {
    // Links and directories have none, whatever is written there.
    if matches!(header[156], b'1'..=b'6') {
        return Some(0);
    }
    let digits = header[124..136].iter().take_while(|&&byte| !matches!(byte, 0 | b' '));
    digits
        .into_iter()
        .try_fold(0u64, |length, &digit| (b'0'..=b'7').contains(&digit).then(|| length << 3 | u64::from(digit - b'0')))
}

/// Compresses one block.
pub(crate) fn compress(block: &[u8]) -> Vec<u8> {
    thread_local! {
        static COMPRESSOR: RefCell<Compressor> =
            RefCell::new(Compressor::new(CompressionLvl::new(GZIP_LEVEL).expect("a level from 1 to 12")));
    }
    COMPRESSOR.with_borrow_mut(|compressor| {
        let mut output = Vec::new();
        let mut rest = block;
        loop {
            let (dense, behind) = rest.split_at(run(rest, true));
            let (plain, behind) = behind.split_at(run(behind, false));
            append_member(compressor, dense, plain, &mut output);
            rest = behind;
            if rest.is_empty() {
                output.shrink_to_fit();
                return output;
            }
        }
    })
}

/// How much is looked at in one go.
const CHUNK: usize = 4096;

/// Returns how long the run of chunks is that are all dense, or all not.
fn run(input: &[u8], dense: bool) -> usize {
    let run = input.chunks(CHUNK).take_while(|chunk| is_dense(chunk) == dense);
    run.map(<[u8]>::len).sum()
}

/// Whether bytes come about equally often, as in what is compressed or encrypted already: Huffman codes would
/// save less than 2 % of it, so it is kept as it is.
///
/// The sum of the squares of how often each byte comes is `n + n²/256` for random bytes.
fn is_dense(chunk: &[u8]) -> bool {
    const START: usize = 512;
    chunk.len() == CHUNK && squares(&chunk[..START]) < 2_200 && squares(chunk) < 76_000
}

fn squares(bytes: &[u8]) -> u32 {
    let mut counts = [[0u16; 256]; 2];
    for pair in bytes.chunks_exact(2) {
        counts[0][usize::from(pair[0])] += 1;
        counts[1][usize::from(pair[1])] += 1;
    }
    let [one, two] = &counts;
    one.iter().zip(two).map(|(one, two)| u32::from(one + two).pow(2)).sum()
}

/// Appends a member: `stored` as it is, then `plain` compressed. Stored blocks in front leave the compressed ones
/// on a whole byte (RFC 1951 §3.2.4).
fn append_member(compressor: &mut Compressor, stored: &[u8], plain: &[u8], output: &mut Vec<u8>) {
    // Deflate, no flags, no time, fastest, unknown system.
    output.extend_from_slice(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255]);
    let mut sum = Crc::new();
    sum.update(stored);
    let mut blocks = stored.chunks(15 * CHUNK).peekable();
    while let Some(block) = blocks.next() {
        let is_last = plain.is_empty() && blocks.peek().is_none();
        let length = (block.len() as u16).to_le_bytes();
        output.push(u8::from(is_last));
        output.extend_from_slice(&length);
        output.extend_from_slice(&length.map(|byte| !byte));
        output.extend_from_slice(block);
    }
    if !plain.is_empty() || stored.is_empty() {
        sum.update(plain);
        let start = output.len();
        output.resize(start + compressor.deflate_compress_bound(plain.len()), 0);
        let length = compressor.deflate_compress(plain, &mut output[start..]).expect("the bound is large enough");
        output.truncate(start + length);
    }
    output.extend_from_slice(&sum.sum().to_le_bytes());
    output.extend_from_slice(&((stored.len() + plain.len()) as u32).to_le_bytes());
}

/// What is remembered of one block of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Member {
    /// The digest of what the block is made of; none where that was not known.
    pub(crate) key: Option<Digest>,
    /// How many bytes it takes in the blob.
    pub(crate) length: u32,
    /// The CRC-32 of these bytes, by which damage is noticed.
    pub(crate) sum: u32,
}

impl Member {
    /// The member that is made of `bytes`.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self { key: None, length: bytes.len() as u32, sum: crc32(bytes) }
    }
}

const MAGIC: &[u8; 8] = b"kilnmem1";
const ENTRY: usize = 40;

/// Returns the bytes to store: what a blob is made of, in order.
pub(crate) fn encode(blob: &Digest, members: &[Member]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(blob.as_bytes());
    for member in members {
        out.extend_from_slice(member.key.as_ref().map_or(&[0; 32], |key| key.as_bytes()));
        out.extend_from_slice(&member.length.to_le_bytes());
        out.extend_from_slice(&member.sum.to_le_bytes());
    }
    let checksum = Digest::of(&out);
    out.extend_from_slice(checksum.as_bytes());
    out
}

/// Reads what [`encode`] wrote; `None` when anything about it is wrong.
pub(crate) fn decode(bytes: &[u8]) -> Option<(Digest, Vec<Member>)> {
    let (body, checksum) = bytes.split_last_chunk::<32>()?;
    if Digest::of(body).as_bytes() != checksum {
        return None;
    }
    let (blob, entries) = body.strip_prefix(MAGIC)?.split_first_chunk::<32>()?;
    let (entries, []) = entries.as_chunks::<ENTRY>() else { return None };
    let members = entries.iter().map(|entry| {
        let (key, numbers) = entry.split_first_chunk::<32>().expect("longer than that");
        let (numbers, _) = numbers.as_chunks::<4>();
        Member {
            key: (*key != [0; 32]).then(|| Digest::from_bytes(*key)),
            length: u32::from_le_bytes(numbers[0]),
            sum: u32::from_le_bytes(numbers[1]),
        }
    });
    Some((Digest::from_bytes(*blob), members.collect()))
}

/// An earlier blob to take members from.
#[derive(Debug)]
pub(crate) struct Earlier {
    blob: File,
    /// Where each block is.
    places: HashMap<Digest, (u64, Member)>,
}

impl Earlier {
    /// `members` are those of `blob`, in order.
    pub(crate) fn new(blob: File, members: &[Member]) -> Self {
        let mut at = 0;
        let mut places = HashMap::new();
        for member in members {
            if let Some(key) = member.key {
                places.insert(key, (at, *member));
            }
            at += u64::from(member.length);
        }
        Self { blob, places }
    }

    /// Whether a block may be had from here.
    pub(crate) fn has(&self, key: &Digest) -> bool {
        self.places.contains_key(key)
    }

    /// Returns the members of a block; `None` when it is not here, or damaged.
    pub(crate) fn get(&self, key: &Digest) -> Option<Vec<u8>> {
        let (at, member) = self.places.get(key)?;
        let mut bytes = vec![0; usize::try_from(member.length).ok()?];
        self.blob.read_exact_at(&mut bytes, *at).ok()?;
        (crc32(&bytes) == member.sum).then_some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    fn random(length: usize, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        };
        (0..length).map(|_| next()).collect()
    }

    fn expand(bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
        plain
    }

    #[test]
    fn what_is_dense_is_kept_as_it_is() {
        let noise = random(40 * CHUNK, 3);
        assert!(is_dense(&noise[..CHUNK]));
        let packed = compress(&noise);
        assert!(packed.len() < noise.len() + 64, "{}", packed.len());
        assert_eq!(expand(&packed), noise);
        for plain in [&b"only letters, and not many of them. ".repeat(200)[..CHUNK], &[0; CHUNK], &noise[1..CHUNK]] {
            assert!(!is_dense(plain));
        }
        // One byte in sixteen is always the same.
        let structured: Vec<u8> = noise.chunks(15).flat_map(|part| part.iter().copied().chain([0])).collect();
        assert!(!is_dense(&structured[..CHUNK]));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn a_block_reads_back(runs in prop::collection::vec((any::<bool>(), 1usize..3 * CHUNK, any::<u64>()), 0..12)) {
            let mut block = Vec::new();
            for (noisy, length, seed) in runs {
                let mut part = random(length, seed);
                if !noisy {
                    part.iter_mut().for_each(|byte| *byte &= 7);
                }
                block.extend(part);
            }
            prop_assert_eq!(expand(&compress(&block)), block);
        }

        #[test]
        fn what_is_remembered_reads_back(
            members in prop::collection::vec((any::<Option<u64>>(), any::<u32>(), any::<u32>()), 0..9),
            flip in any::<prop::sample::Index>(),
        ) {
            let members: Vec<Member> = members
                .into_iter()
                .map(|(key, length, sum)| Member { key: key.map(|key| Digest::of(key.to_le_bytes())), length, sum })
                .collect();
            let blob = Digest::of("blob");
            let mut bytes = encode(&blob, &members);
            prop_assert_eq!(decode(&bytes), Some((blob, members)));
            let at = flip.index(bytes.len());
            bytes[at] ^= 1;
            prop_assert_eq!(decode(&bytes), None);
        }
    }

    #[test]
    fn damage_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blob");
        let parts: [&[u8]; 3] = [b"first", b"second", b"third"];
        let members: Vec<Member> =
            parts.map(|part| Member { key: Some(Digest::of(part)), ..Member::of(part) }).to_vec();
        std::fs::write(&path, parts.concat()).unwrap();
        let earlier = Earlier::new(File::open(&path).unwrap(), &members);
        assert_eq!(earlier.get(&Digest::of("second")), Some(b"second".to_vec()));
        assert_eq!(earlier.get(&Digest::of("fourth")), None);
        std::fs::write(&path, b"firstsecomdthi").unwrap();
        assert_eq!(earlier.get(&Digest::of("first")), Some(b"first".to_vec()));
        assert_eq!(earlier.get(&Digest::of("second")), None);
        assert_eq!(earlier.get(&Digest::of("third")), None);
    }
}
