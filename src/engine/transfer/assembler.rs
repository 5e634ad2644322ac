//! From arriving bytes to proven blocks in a sink: hash, judge, put once.

use bytes::Bytes;

use crate::{
    disk::error::DiskError,
    format::{
        geometry::{BlockIndex, Geometry},
        judge::{BlockHasher, Leaves, Mismatch, Verified},
    },
};

use super::sink::BlockSink;

/// What became of some bytes, in the order of the object.
#[derive(Debug)]
pub enum Judged {
    Held(Verified),
    Wrong(Mismatch),
}

/// Takes the bytes of neighbouring blocks in order.
pub struct Assembler {
    hasher: BlockHasher,
}

impl Assembler {
    /// The next byte will be the first one of this block.
    pub fn new(geometry: &Geometry, block: BlockIndex) -> Assembler {
        let hasher = BlockHasher::new(geometry, block);
        Assembler { hasher }
    }

    /// Takes the next bytes, judges every block that they complete, and puts those that proved into the sink, neighbours in one go.
    /// A sink gets nothing else, so a late write of a span that was cancelled can only repeat what is there.
    pub fn take(
        &mut self,
        chunks: Vec<Bytes>,
        leaves: &Leaves,
        sink: &dyn BlockSink,
    ) -> Result<Vec<Judged>, DiskError> {
        let mut judged = Vec::new();
        for mut chunk in chunks {
            while !chunk.is_empty() {
                if !self.hasher.push(&mut chunk) {
                    continue;
                }
                let (before, mismatch) = match self.hasher.is_known(leaves) {
                    // A block that is not wanted any more, and whose leaf was forgotten.
                    false => (self.hasher.discard(), None),
                    true => match self.hasher.finish(leaves) {
                        Ok(()) => continue,
                        Err(wrong) => (wrong.before, Some(wrong.mismatch)),
                    },
                };
                if let Some(run) = before {
                    judged.push(Judged::Held(sink.put(run)?));
                }
                judged.extend(mismatch.map(Judged::Wrong));
            }
        }
        if let Some(run) = self.hasher.take_proven() {
            judged.push(Judged::Held(sink.put(run)?));
        }
        Ok(judged)
    }
}
