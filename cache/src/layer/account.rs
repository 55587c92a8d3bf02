//! What the blocks of a tar stream are made of: the bytes that were written, and which part of which content. That is the
//! key of a block's members, see `member`; no byte of a content is hashed for it twice.

use std::ops::Range;
use std::sync::Arc;

use kiln_oci::{Digest, Hasher};

use super::member::Earlier;

/// What the blocks of a stream are made of.
pub(super) struct Account {
    earlier: Option<Arc<Earlier>>,
    /// The block that is being filled.
    block: Makings,
    /// Those before.
    blocks: Vec<Makings>,
    /// How much of the last content is in the blocks before.
    written: u64,
}

/// What one block is made of.
pub(super) struct Makings {
    /// What was written, and which parts of which lengths of contents stand between.
    frame: Hasher,
    /// The numbers of these contents.
    contents: Range<usize>,
}

impl Account {
    pub(super) fn new(earlier: Option<Earlier>) -> Self {
        let earlier = earlier.map(Arc::new);
        Self { earlier, block: Makings::new(0..0), blocks: Vec::new(), written: 0 }
    }

    pub(super) fn begin_content(&mut self) {
        self.block.contents.end += 1;
        self.written = 0;
    }

    /// `length` more bytes of the last content are in the block.
    pub(super) fn add_part(&mut self, length: usize) {
        self.block.frame.number(1).number(self.written).number(length as u64);
        self.written += length as u64;
    }

    /// Something else stands in the block.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.block.frame.number(0).field(bytes);
    }

    /// Begins the next block, which goes on with the last content or does not. Returns the key of the one before,
    /// where it is known by now, with where to take the block from.
    pub(super) fn close(&mut self, goes_on: bool, known: &[Option<Digest>]) -> Option<(Arc<Earlier>, Digest)> {
        let last = self.block.contents.end;
        let next = Makings::new(last - usize::from(goes_on)..last);
        let block = std::mem::replace(&mut self.block, next);
        let earlier = self.earlier.as_ref().and_then(|earlier| {
            let key = block.key(|content| known[content])?;
            earlier.has(&key).then(|| (earlier.clone(), key))
        });
        self.blocks.push(block);
        earlier
    }

    /// Returns the keys of all blocks, given the digests of contents by number.
    pub(super) fn keys(&self, contents: &[Digest]) -> impl Iterator<Item = Option<Digest>> {
        self.blocks.iter().map(|block| block.key(|content| contents.get(content).copied()))
    }
}

impl Makings {
    fn new(contents: Range<usize>) -> Self {
        Self { frame: Hasher::domain("kiln.member.v1"), contents }
    }

    /// Returns the key of the block, given the digests of contents by number.
    fn key(&self, digest: impl Fn(usize) -> Option<Digest>) -> Option<Digest> {
        let mut key = self.frame.clone();
        for content in self.contents.clone() {
            key.digest(&digest(content)?);
        }
        Some(key.finish())
    }
}
