//! Proven blocks in memory, for readers.

use std::collections::BTreeMap;

use crate::format::{
    geometry::BlockIndex,
    judge::{Proven, Verified},
};

/// Blocks up to a number of bytes. Beyond it, the block that came first goes first, unless a reader still needs it.
pub struct Memory {
    /// By block, with the number under which it is in `ages`.
    blocks: BTreeMap<u32, (u64, Proven)>,
    /// The blocks, the oldest first.
    ages: BTreeMap<u64, u32>,
    next_age: u64,
    bytes: u64,
    bytes_max: u64,
}

impl Memory {
    /// Room for this many bytes.
    pub fn new(bytes_max: u64) -> Memory {
        Memory {
            blocks: BTreeMap::new(),
            ages: BTreeMap::new(),
            next_age: 0,
            bytes: 0,
            bytes_max,
        }
    }

    /// The room for blocks, in bytes.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Changes the room. What no longer fits stays until [`Memory::shrink`].
    pub fn limit(&mut self, bytes_max: u64) {
        self.bytes_max = bytes_max;
    }

    pub fn contains(&self, block: BlockIndex) -> bool {
        self.blocks.contains_key(&block.0)
    }

    pub fn verified(&self) -> impl Iterator<Item = Verified> {
        self.blocks.values().map(|(_, proven)| proven.verified())
    }

    pub fn get(&self, block: BlockIndex) -> Option<&Proven> {
        self.blocks.get(&block.0).map(|(_, proven)| proven)
    }

    /// Keeps the first of these blocks, which is the only one.
    pub fn put(&mut self, block: Proven) {
        let verified = block.verified();
        debug_assert_eq!(verified.blocks().count(), 1);
        let index = verified.blocks().start;
        let age = self.next_age;
        self.next_age += 1;
        if let Some((age, _)) = self.blocks.insert(index, (age, block)) {
            self.ages.remove(&age);
        } else {
            self.bytes += verified.bytes().length();
        }
        self.ages.insert(age, index);
    }

    /// Drops blocks that are not needed until the others fit.
    pub fn shrink(&mut self, is_needed: impl Fn(BlockIndex) -> bool) {
        if self.bytes <= self.bytes_max {
            return;
        }
        let mut kept = BTreeMap::new();
        while self.bytes > self.bytes_max
            && let Some((age, block)) = self.ages.pop_first()
        {
            if is_needed(BlockIndex(block)) {
                kept.insert(age, block);
            } else if let Some((_, proven)) = self.blocks.remove(&block) {
                self.bytes -= proven.verified().bytes().length();
            }
        }
        self.ages.append(&mut kept);
    }
}
