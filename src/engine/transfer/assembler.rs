//! From arriving bytes to proven blocks in the part file: hash, judge, write once.

use bytes::Bytes;

use crate::{
    disk::{
        error::DiskError,
        part::{Part, Stored},
    },
    format::{
        geometry::{BlockIndex, Geometry},
        judge::{BlockHasher, Leaves, Mismatch},
    },
};

/// What became of some bytes, in the order of the object.
#[derive(Debug)]
pub enum Judged {
    Stored(Stored),
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

    /// Takes the next bytes, judges every block that they complete, and writes those that proved, neighbours in one go. Nothing
    /// else is ever written, so a late write of a span that was given up can only repeat what is there.
    pub fn take(
        &mut self,
        chunks: Vec<Bytes>,
        leaves: &Leaves,
        part: &Part,
    ) -> Result<Vec<Judged>, DiskError> {
        let mut judged = Vec::new();
        for mut chunk in chunks {
            while !chunk.is_empty() {
                let is_whole = self.hasher.push(&mut chunk);
                if is_whole && let Err(wrong) = self.hasher.finish(leaves) {
                    if let Some(run) = &wrong.before {
                        judged.push(Judged::Stored(part.write(run)?));
                    }
                    judged.push(Judged::Wrong(wrong.mismatch));
                }
            }
        }
        if let Some(run) = self.hasher.take_proven() {
            judged.push(Judged::Stored(part.write(&run)?));
        }
        Ok(judged)
    }
}
