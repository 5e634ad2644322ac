//! Blocks that are nowhere whole; their pieces are read in batches.

use std::collections::VecDeque;

use crate::format::geometry::ByteRange;

use super::{level::Aside, patch::Patch};

/// With fewer blocks than this, all pieces are read: that chance hid what is here costs more than they do.
const FEW: usize = 16;
/// If at least one block in this many is expected to be here in part, all pieces are read. They take one byte in 512 of the object.
const EXPECTED_MIN: usize = 64;
/// If not, those of blocks that are this near to one that is expected, or to one that was found.
const NEAR: u32 = 2;

/// See the module.
pub struct Blocks {
    /// To be read after this batch.
    pub later: VecDeque<Aside>,
    /// The ranges of this batch that were not given yet.
    pub wanted: Vec<ByteRange>,
    pub patches: Vec<Patch>,
}

impl Blocks {
    /// Splits blocks, in their order and `of` so many, into those whose pieces are worth reading and the others.
    ///
    /// The anchor of a block is the smallest window of the block. So the share of the blocks whose anchors are here tells how much
    /// of them is here.
    pub fn new(missing: Vec<Aside>, of: u32) -> (Blocks, Vec<Aside>) {
        let expected: Vec<u32> = missing
            .iter()
            .filter(|aside| aside.expected)
            .map(|aside| aside.block.0)
            .collect();
        let all = missing.len() <= FEW || expected.len() * EXPECTED_MIN >= missing.len();
        let indices: Vec<u32> = missing.iter().map(|aside| aside.block.0).collect();
        let is_missing = |index: u32| indices.binary_search(&index).is_ok();
        let is_near = |index: u32| {
            let next = expected.partition_point(|one| *one + NEAR < index);
            let near = index.saturating_sub(NEAR)..of.min(index + NEAR + 1);
            expected.get(next).is_some_and(|one| *one <= index + NEAR)
                || near.into_iter().any(|index| !is_missing(index))
        };
        let (later, others) = missing
            .into_iter()
            .partition(|aside| all || is_near(aside.block.0));
        let later: Vec<Aside> = later;
        let blocks = Blocks {
            later: later.into(),
            wanted: Vec::new(),
            patches: Vec::new(),
        };
        (blocks, others)
    }
}
