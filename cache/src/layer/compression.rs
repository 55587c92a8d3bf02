//! How the tar stream of a layer is compressed.
//!
//! Gzip is written in members, see `member`, compressed on all cores; the bytes depend on the
//! input alone. Zstd is one frame, always written by its multi-threaded encoder, whose
//! bytes do not depend on the number of threads.

use std::io::{self, BufReader, Read};
use std::sync::OnceLock;

use kiln_oci::media_type;

/// How the tar stream of a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    Uncompressed,
    /// With gzip.
    Gzip,
    /// With zstd.
    Zstd,
}

const ZSTD_LEVEL: i32 = 3;

impl Compression {
    /// Returns the OCI media type of such a layer.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Uncompressed => media_type::LAYER,
            Self::Gzip => media_type::LAYER_GZIP,
            Self::Zstd => media_type::LAYER_ZSTD,
        }
    }

    /// Reads an OCI or Docker media type of a layer.
    pub fn of_media_type(text: &str) -> Option<Self> {
        match text {
            media_type::LAYER | media_type::DOCKER_LAYER => Some(Self::Uncompressed),
            media_type::LAYER_GZIP | media_type::DOCKER_LAYER_GZIP => Some(Self::Gzip),
            media_type::LAYER_ZSTD | media_type::DOCKER_LAYER_ZSTD => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Returns the threads that compress. They are not the global ones: a caller that runs on those
/// may wait for a block without keeping it from being compressed.
pub(crate) fn pool() -> Option<&'static rayon::ThreadPool> {
    static POOL: OnceLock<Option<rayon::ThreadPool>> = OnceLock::new();
    let build = || {
        let named = |number| format!("compress-{number}");
        rayon::ThreadPoolBuilder::new().num_threads(threads()).thread_name(named).build().ok()
    };
    POOL.get_or_init(build).as_ref()
}

/// Returns how many threads compress.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Starts a zstd frame.
pub(crate) fn zstd_encoder<W: io::Write>(output: W) -> io::Result<zstd::Encoder<'static, W>> {
    let mut encoder = zstd::Encoder::new(output, ZSTD_LEVEL)?;
    encoder.multithread(threads().clamp(1, 4) as u32)?;
    Ok(encoder)
}

/// Reads a layer whatever its compression is, which its first bytes tell. The media type does
/// not count: registries hold many that are wrong.
pub(crate) fn decompress<'a>(input: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut input = input;
    let mut start = Vec::new();
    input.by_ref().take(4).read_to_end(&mut start)?;
    let sniffed = start.clone();
    let input = BufReader::with_capacity(64 << 10, io::Cursor::new(start).chain(input));
    Ok(match sniffed[..] {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
            let mut decoder = zstd::Decoder::with_buffer(input)?;
            // What `zstd` itself refuses without being told otherwise: windows beyond 128 MiB.
            decoder.window_log_max(27)?;
            Box::new(decoder)
        }
        _ => Box::new(input),
    })
}
