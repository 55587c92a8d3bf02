//! The way of a tar stream to its diff id and its blob: one pass, with hashing and compression on
//! other threads.
//!
//! ```text
//! caller ─ blocks, 1 MiB at most ─┬─▶ hash                         → diff id
//!                                 └─▶ compress (all cores) ─▶ hash → blob
//! ```
//! The channels are bounded, so memory is. A stream of one block starts no thread.
//!
//! A stream that remembers keeps account of what each block is made of: the bytes that were
//! written, and which part of which content. That is the key of the block's members, see `member`.

use std::io::Write;
use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use kiln_oci::{Descriptor, Digest, Hasher};

use super::account::Account;
use super::compression::{self, Compression};
use super::member::{self, Earlier, LARGEST, Member};
use crate::file::At;
use crate::{BlobError, Ingest, Store};

/// A tar stream being written.
pub(crate) struct Stream {
    store: Store,
    compression: Option<Compression>,
    block: Block,
    filled: usize,
    size: u64,
    /// Where the content that is being written begins in the block.
    content: Option<usize>,
    /// The digests of all contents, where they are known before these are read.
    known: Vec<Option<Digest>>,
    running: Option<Running>,
    account: Option<Account>,
}

/// What came out of a tar stream.
pub(crate) struct Streamed {
    pub(crate) diff_id: Digest,
    pub(crate) size: u64,
    pub(crate) blob: Option<Descriptor>,
    /// The digests of the contents, in order.
    pub(crate) contents: Vec<Digest>,
    /// The number of the first content that is not what was known of it.
    pub(crate) changed: Option<usize>,
    /// What the blob is made of, when that is worth remembering.
    pub(crate) members: Vec<Member>,
}

/// A blob that was written.
struct Written {
    digest: Digest,
    size: u64,
    members: Vec<Member>,
}

type Writing = JoinHandle<Result<Written, BlobError>>;

struct Running {
    hash: SyncSender<Arc<Block>>,
    hashing: JoinHandle<Hashes>,
    blob: Option<(SyncSender<Job>, Writing)>,
}

enum Job {
    Raw(Arc<Block>),
    Compressed(Receiver<(Vec<u8>, Member)>),
}

/// What is hashed on the way.
#[derive(Default)]
struct Hashes {
    stream: Hasher,
    content: Hasher,
    contents: Vec<Digest>,
}

impl Hashes {
    fn update(&mut self, block: &Block) {
        self.stream.update(&block.bytes);
        for part in &block.parts {
            self.content.update(&block.bytes[part.range.clone()]);
            if part.is_last {
                self.contents.push(std::mem::take(&mut self.content).finish());
            }
        }
    }
}

/// The part of a content that a block holds.
struct Part {
    range: Range<usize>,
    is_last: bool,
}

/// A buffer that goes back to be used again.
struct Block {
    bytes: Vec<u8>,
    parts: Vec<Part>,
    spare: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Block {
    fn next(spare: &Arc<Mutex<Vec<Vec<u8>>>>) -> Self {
        let used = spare.lock().ok().and_then(|mut spare| spare.pop());
        let mut bytes = used.unwrap_or_default();
        bytes.resize(LARGEST, 0);
        Self { bytes, parts: Vec::new(), spare: spare.clone() }
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
        let store = store.clone();
        Self {
            store,
            compression,
            block,
            filled: 0,
            size: 0,
            content: None,
            known: Vec::new(),
            running: None,
            account: None,
        }
    }

    /// Keeps account of what the blocks are made of, and takes from an `earlier` blob what it has of them.
    pub(crate) fn remembering(self, earlier: Option<Earlier>) -> Self {
        let account = (self.compression == Some(Compression::Gzip)).then(|| Account::new(earlier));
        Self { account, ..self }
    }

    /// Returns a place to put bytes into; never empty. [`Stream::advance`] says how many came.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        &mut self.block.bytes[self.filled..]
    }

    /// Takes the first `count` bytes of the last [`Stream::space`] as the next ones.
    pub(crate) fn advance(&mut self, count: usize) -> Result<(), BlobError> {
        self.filled += count;
        self.size += count as u64;
        if self.filled == LARGEST { self.send() } else { Ok(()) }
    }

    /// Says that what is [advanced](Stream::advance) now is the content of an entry, and its digest where that is known.
    pub(crate) fn begin_content(&mut self, known: Option<Digest>) {
        self.content = Some(self.filled);
        self.known.push(known);
        if let Some(account) = &mut self.account {
            account.begin_content();
        }
    }

    pub(crate) fn end_content(&mut self) {
        self.add_part(true);
        self.content = None;
    }

    fn add_part(&mut self, is_last: bool) {
        let Some(start) = self.content else { return };
        let range = start..self.filled;
        if let Some(account) = &mut self.account {
            account.add_part(range.len());
        }
        self.block.parts.push(Part { range, is_last });
    }

    /// Appends what stands in front of the content of an entry.
    pub(crate) fn begin_entry(&mut self, header: &[u8]) -> Result<(), BlobError> {
        if member::begins_block(header, self.filled) {
            self.send()?;
        }
        self.write(header)
    }

    /// Appends something that is no content.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<(), BlobError> {
        while !bytes.is_empty() {
            let space = self.space();
            let count = bytes.len().min(space.len());
            space[..count].copy_from_slice(&bytes[..count]);
            if let Some(account) = &mut self.account {
                account.write(&bytes[..count]);
            }
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
        self.add_part(false);
        let next = Block::next(&self.block.spare);
        let mut block = std::mem::replace(&mut self.block, next);
        block.bytes.truncate(self.filled);
        self.filled = 0;
        self.content = self.content.map(|_| 0);
        let goes_on = self.content.is_some();
        let earlier = self.account.as_mut().and_then(|account| account.close(goes_on, &self.known));
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
                        let known = earlier.and_then(|(earlier, key)| earlier.get(&key));
                        let bytes = known.unwrap_or_else(|| member::compress(&block.bytes));
                        let member = Member::of(&bytes);
                        // Nobody waits for it when the writer has failed.
                        let _ = sender.send((bytes, member));
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
            let mut hashes = Hashes::default();
            for block in blocks {
                hashes.update(&block);
            }
            hashes
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
        let (hashes, blob) = if self.running.is_none() {
            let mut block = self.block;
            block.bytes.truncate(self.filled);
            let mut hashes = Hashes::default();
            hashes.update(&block);
            let job = std::iter::once(Job::Raw(Arc::new(block)));
            let write = |compression| write_blob(self.store.ingest()?, compression, job);
            (hashes, self.compression.map(write).transpose()?)
        } else {
            if self.filled > 0 {
                self.send()?;
            }
            self.running.take().expect("looked at above").join()?
        };
        let (diff_id, contents) = (hashes.stream.finish(), hashes.contents);
        let is_other = |(known, found): (&Option<Digest>, &Digest)| known.is_some_and(|known| known != *found);
        let changed = self.known.iter().zip(&contents).position(is_other);
        let keys = self.account.iter().flat_map(|account| account.keys(&contents));
        let written = blob.as_ref().map(|written| &written.members[..]).unwrap_or_default();
        let members = keys.zip(written).map(|(key, member)| Member { key, ..*member }).collect();
        let describe = |(written, compression): (Written, Compression)| {
            Descriptor::new(compression.media_type(), written.digest, written.size)
        };
        Ok(Streamed { diff_id, size, blob: blob.zip(self.compression).map(describe), contents, changed, members })
    }
}

impl Running {
    fn join(self) -> Result<(Hashes, Option<Written>), BlobError> {
        drop(self.hash);
        let hashes = self.hashing.join();
        let blob = self.blob.map(|(jobs, writing)| {
            drop(jobs);
            writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let hashes = hashes.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((hashes, blob.transpose()?))
    }
}

fn write_blob(
    mut ingest: Ingest,
    compression: Compression,
    jobs: impl Iterator<Item = Job>,
) -> Result<Written, BlobError> {
    let path = ingest.path();
    let mut members = Vec::new();
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
                let (bytes, member) = match job {
                    Job::Raw(block) => {
                        let bytes = member::compress(&block.bytes);
                        let member = Member::of(&bytes);
                        (bytes, member)
                    }
                    Job::Compressed(receiver) => {
                        let gone = |_| std::io::Error::other("the compressing thread is gone");
                        receiver.recv().map_err(gone).at("compress", &path)?
                    }
                };
                ingest.write_all(&bytes).at("write", &path)?;
                members.push(member);
            }
        }
        Compression::Uncompressed => {
            for job in jobs {
                let Job::Raw(block) = job else { continue };
                ingest.write_all(&block.bytes).at("write", &path)?;
            }
        }
    }
    let (digest, size) = ingest.commit(None)?;
    Ok(Written { digest, size, members })
}
