//! The way of a tar stream to its diff id and its blob: one pass, with hashing and compression on
//! other threads.
//!
//! ```text
//! caller ─ blocks of 1 MiB ─┬─▶ hash                         → diff id
//!                           └─▶ compress (all cores) ─▶ hash → blob
//! ```
//! The channels are bounded, so memory is. A stream of one block starts no thread.

use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use kiln_oci::{Descriptor, Digest, Hasher};

use super::compression::{self, Compression, GZIP_BLOCK};
use crate::file::At;
use crate::{BlobError, Ingest, Store};

/// A tar stream being written.
pub(crate) struct Stream {
    store: Store,
    compression: Option<Compression>,
    block: Block,
    filled: usize,
    size: u64,
    running: Option<Running>,
}

/// What came out of a tar stream.
pub(crate) struct Streamed {
    pub(crate) diff_id: Digest,
    pub(crate) size: u64,
    pub(crate) blob: Option<Descriptor>,
}

type Writing = JoinHandle<Result<(Digest, u64), BlobError>>;

struct Running {
    hash: SyncSender<Arc<Block>>,
    hashing: JoinHandle<Digest>,
    blob: Option<(SyncSender<Job>, Writing)>,
}

enum Job {
    Raw(Arc<Block>),
    Compressed(Receiver<Vec<u8>>),
}

/// A buffer that goes back to be used again.
struct Block {
    bytes: Vec<u8>,
    spare: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Block {
    fn next(spare: &Arc<Mutex<Vec<Vec<u8>>>>) -> Self {
        let used = spare.lock().ok().and_then(|mut spare| spare.pop());
        let mut bytes = used.unwrap_or_default();
        bytes.resize(GZIP_BLOCK, 0);
        Self { bytes, spare: spare.clone() }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Ok(mut spare) = self.spare.lock() {
            spare.push(std::mem::take(&mut self.bytes));
        }
    }
}

impl Stream {
    pub(crate) fn new(store: &Store, compression: Option<Compression>) -> Self {
        let block = Block::next(&Arc::default());
        Self { store: store.clone(), compression, block, filled: 0, size: 0, running: None }
    }

    /// Returns a place to put bytes into; never empty. [`Stream::advance`] says how many came.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        &mut self.block.bytes[self.filled..]
    }

    /// Takes the first `count` bytes of the last [`Stream::space`] as the next ones.
    pub(crate) fn advance(&mut self, count: usize) -> Result<(), BlobError> {
        self.filled += count;
        self.size += count as u64;
        if self.filled == GZIP_BLOCK { self.send() } else { Ok(()) }
    }

    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<(), BlobError> {
        while !bytes.is_empty() {
            let space = self.space();
            let count = bytes.len().min(space.len());
            space[..count].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            self.advance(count)?;
        }
        Ok(())
    }

    /// Appends zeros up to a multiple of `unit`.
    pub(crate) fn pad(&mut self, unit: u64) -> Result<(), BlobError> {
        const ZEROS: [u8; 512] = [0; 512];
        let missing = self.size.next_multiple_of(unit) - self.size;
        self.write(&ZEROS[..missing as usize])
    }

    fn send(&mut self) -> Result<(), BlobError> {
        let next = Block::next(&self.block.spare);
        let mut block = std::mem::replace(&mut self.block, next);
        block.bytes.truncate(self.filled);
        self.filled = 0;
        if self.running.is_none() {
            self.running = Some(self.start()?);
        }
        let running = self.running.as_ref().expect("just started");
        let block = Arc::new(block);
        let mut sent = running.hash.send(block.clone()).is_ok();
        if let Some((jobs, _)) = &running.blob {
            let job = match compression::pool() {
                Some(pool) if self.compression == Some(Compression::Gzip) => {
                    let (sender, receiver) = sync_channel(1);
                    pool.spawn(move || {
                        // Nobody waits for it when the writer has failed.
                        let _ = sender.send(compression::gzip_member(&block.bytes));
                    });
                    Job::Compressed(receiver)
                }
                _ => Job::Raw(block),
            };
            sent &= jobs.send(job).is_ok();
        }
        if sent {
            return Ok(());
        }
        // A thread has gone early: it has the reason.
        match self.running.take().map(Running::join) {
            Some(Err(error)) => Err(error),
            _ => unreachable!("a thread leaves early only with an error"),
        }
    }

    fn start(&self) -> Result<Running, BlobError> {
        let (hash, blocks) = sync_channel::<Arc<Block>>(4);
        let hashing = std::thread::Builder::new().name("diff-id".to_owned()).spawn(move || {
            let mut hasher = Hasher::new();
            for block in blocks {
                hasher.update(&block.bytes);
            }
            hasher.finish()
        });
        let hashing = hashing.at("start a thread for", self.store.root())?;
        let Some(compression) = self.compression else { return Ok(Running { hash, hashing, blob: None }) };
        let ingest = self.store.ingest()?;
        let (jobs, receiver) = sync_channel(compression::threads() + 2);
        let writing = std::thread::Builder::new()
            .name("blob".to_owned())
            .spawn(move || write_blob(ingest, compression, receiver.into_iter()));
        let writing = writing.at("start a thread for", self.store.root())?;
        Ok(Running { hash, hashing, blob: Some((jobs, writing)) })
    }

    pub(crate) fn finish(mut self) -> Result<Streamed, BlobError> {
        let size = self.size;
        let (diff_id, blob) = if self.running.is_none() {
            let mut block = self.block;
            block.bytes.truncate(self.filled);
            let diff_id = Digest::of(&block.bytes);
            let job = std::iter::once(Job::Raw(Arc::new(block)));
            let write = |compression| write_blob(self.store.ingest()?, compression, job);
            (diff_id, self.compression.map(write).transpose()?)
        } else {
            if self.filled > 0 {
                self.send()?;
            }
            self.running.take().expect("looked at above").join()?
        };
        let describe =
            |((digest, size), compression): (_, Compression)| Descriptor::new(compression.media_type(), digest, size);
        Ok(Streamed { diff_id, size, blob: blob.zip(self.compression).map(describe) })
    }
}

impl Running {
    fn join(self) -> Result<(Digest, Option<(Digest, u64)>), BlobError> {
        drop(self.hash);
        let diff_id = self.hashing.join();
        let blob = self.blob.map(|(jobs, writing)| {
            drop(jobs);
            writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let diff_id = diff_id.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((diff_id, blob.transpose()?))
    }
}

fn write_blob(
    mut ingest: Ingest,
    compression: Compression,
    jobs: impl Iterator<Item = Job>,
) -> Result<(Digest, u64), BlobError> {
    let path = ingest.path();
    match compression {
        Compression::Zstd => {
            let mut encoder = compression::zstd_encoder(&mut ingest).at("compress", &path)?;
            for job in jobs {
                let Job::Raw(block) = job else { continue };
                encoder.write_all(&block.bytes).at("write", &path)?;
            }
            encoder.finish().at("write", &path)?;
        }
        Compression::Gzip => {
            for job in jobs {
                let member = match job {
                    Job::Raw(block) => compression::gzip_member(&block.bytes),
                    Job::Compressed(receiver) => {
                        let gone = |_| std::io::Error::other("the compressing thread is gone");
                        receiver.recv().map_err(gone).at("compress", &path)?
                    }
                };
                ingest.write_all(&member).at("write", &path)?;
            }
        }
        Compression::Uncompressed => {
            for job in jobs {
                let Job::Raw(block) = job else { continue };
                ingest.write_all(&block.bytes).at("write", &path)?;
            }
        }
    }
    ingest.commit(None)
}
