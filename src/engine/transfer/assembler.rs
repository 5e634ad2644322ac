//! Turns arriving bytes into proven blocks in a sink.

use bytes::Bytes;

use crate::{
    disk::error::DiskError,
    format::{
        geometry::{BlockIndex, Geometry},
        judge::{BlockHasher, Broken, Leaves, Mismatch, Unproven, Verified},
    },
};

use super::sink::BlockSink;

/// The verdict on some blocks, in the order of the object.
#[derive(Debug)]
pub enum Judged {
    Held(Verified),
    Wrong(Mismatch),
}

/// Assembles the bytes of neighbouring blocks in order.
pub struct Assembler {
    hasher: BlockHasher,
}

impl Assembler {
    /// Starts at the first byte of this block.
    pub fn new(geometry: &Geometry, block: BlockIndex) -> Assembler {
        let hasher = BlockHasher::new(geometry, block);
        Assembler { hasher }
    }

    /// Takes the next bytes, judges every block that they complete, and puts the proven ones into the sink, neighbours in one
    /// run. The sink gets nothing else, so a late write of a cancelled span can only repeat bytes that are there.
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
                let Err(broken) = self.hasher.finish(leaves) else {
                    continue;
                };
                let Broken { before, why } = *broken;
                if let Some(run) = before {
                    judged.push(Judged::Held(sink.put(run)?));
                }
                match why {
                    Unproven::Wrong(mismatch) => judged.push(Judged::Wrong(mismatch)),
                    Unproven::Unknown if leaves.have_failed() => return Err(DiskError::LeavesLost),
                    // The block is no longer wanted, and its leaf was dropped.
                    Unproven::Unknown => (),
                }
            }
        }
        if let Some(run) = self.hasher.take_proven() {
            judged.push(Judged::Held(sink.put(run)?));
        }
        Ok(judged)
    }
}
