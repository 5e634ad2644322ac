//! From arriving bytes to proven blocks in the part file: hash, judge, write once.

use std::io::IoSlice;

use bytes::Bytes;

use crate::{
    disk::{error::DiskError, part::Part},
    format::{
        geometry::{BlockIndex, Geometry},
        judge::{self, Leaves, Mismatch, Verified},
        tree::PartHasher,
    },
};

/// What became of some bytes, in the order of the object.
#[derive(Debug)]
pub enum Judged {
    Proven(Verified),
    Wrong(Mismatch),
}

/// Takes the bytes of neighbouring blocks in order.
pub struct Assembler {
    block: BlockIndex,
    /// Bytes of the current block that were taken.
    filled: u64,
    hasher: PartHasher,
    /// Bytes from `pending_at` on that are not written yet: whole proven blocks, then the start of the current one.
    pending: Vec<Bytes>,
    pending_at: u64,
    /// Of the pending bytes, how many belong to proven blocks.
    proven_bytes: u64,
}

impl Assembler {
    /// The next byte will be the first one of this block.
    pub fn new(geometry: &Geometry, block: BlockIndex) -> Assembler {
        let start = geometry.bytes_of(block).start;
        Assembler {
            block,
            filled: 0,
            hasher: PartHasher::new(start),
            pending: Vec::new(),
            pending_at: start,
            proven_bytes: 0,
        }
    }

    /// Takes the next bytes, judges every block that they complete, and writes those that proved. Nothing else is ever
    /// written, so a late write of a span that was given up can only repeat what is there.
    pub fn take(
        &mut self,
        chunks: Vec<Bytes>,
        leaves: &Leaves,
        part: &Part,
    ) -> Result<Vec<Judged>, DiskError> {
        let geometry = leaves.geometry();
        let mut judged = Vec::new();
        for mut chunk in chunks {
            while !chunk.is_empty() {
                let left = geometry.bytes_of(self.block).length() - self.filled;
                let now =
                    chunk.split_to(chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
                if self.filled == 0 {
                    self.hasher = PartHasher::new(geometry.bytes_of(self.block).start);
                }
                self.hasher.update(&now);
                self.filled += now.len() as u64;
                self.pending.push(now);
                if self.filled == geometry.bytes_of(self.block).length() {
                    self.close_block(leaves, part, &mut judged)?;
                }
            }
        }
        self.write_proven(part)?;
        Ok(judged)
    }

    fn close_block(
        &mut self,
        leaves: &Leaves,
        part: &Part,
        judged: &mut Vec<Judged>,
    ) -> Result<(), DiskError> {
        match judge::verify_hashed(leaves, self.block, &self.hasher) {
            Ok(verified) => {
                self.proven_bytes = self.pending.iter().map(|bytes| bytes.len() as u64).sum();
                judged.push(Judged::Proven(verified));
            }
            Err(mismatch) => {
                self.write_proven(part)?;
                self.pending.clear();
                self.pending_at = leaves.geometry().bytes_of(self.block).end;
                judged.push(Judged::Wrong(mismatch));
            }
        }
        self.block = BlockIndex(self.block.0 + 1);
        self.filled = 0;
        Ok(())
    }

    /// Writes the proven bytes at the front of what is pending, in one call where possible.
    fn write_proven(&mut self, part: &Part) -> Result<(), DiskError> {
        let mut count = 0;
        let mut bytes = 0;
        while bytes < self.proven_bytes {
            bytes += self.pending[count].len() as u64;
            count += 1;
        }
        let proven: Vec<Bytes> = self.pending.drain(..count).collect();
        let mut slices: Vec<IoSlice> = proven.iter().map(|bytes| IoSlice::new(bytes)).collect();
        part.write_slices(&mut slices, self.pending_at)?;
        self.pending_at += bytes;
        self.proven_bytes = 0;
        Ok(())
    }
}
