//! The blocks of a run: which are proven, claimed, wanted, and to be requested.

use crate::format::{
    blockset::BlockSet,
    geometry::{BlockIndex, BlockRange},
};

use super::{Millis, Waiting, sources::SourceFailure, want::Wanted};

/// INVARIANT: a block in `todo` is wanted, and is neither held, claimed, waiting, nor in a running span.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    /// Proven.
    pub(super) held: BlockSet,
    /// A journal claims them and the judge has not checked them yet.
    pub(super) claimed: BlockSet,
    pub(super) wanted: Wanted,
    /// To be requested.
    pub(super) todo: BlockSet,
    /// To be requested again.
    pub(super) waiting: Vec<Waiting>,
    /// The length is trusted: the statement is signed or the last block is proven.
    pub(super) length_proven: bool,
    /// A span begins or ends within so many blocks, from a multiple of them on, only where it must.
    pub(super) unit: u32,
}

impl Blocks {
    /// Whether something that failed before is wanted.
    pub(super) fn has_wanted_waiting(&self) -> bool {
        let mut waiting = self.waiting.iter();
        waiting.any(|waiting| self.next_wanted(waiting.blocks).is_some())
    }

    /// Neither held nor claimed.
    pub(super) fn is_missing(&self, block: BlockIndex) -> bool {
        !self.held.contains(block) && !self.claimed.contains(block)
    }

    /// Missing, and wanted.
    pub(super) fn is_wanted(&self, block: BlockIndex) -> bool {
        self.wanted.blocks.contains(block) && self.is_missing(block)
    }

    /// The first block of a range that is wanted and missing.
    pub(super) fn next_wanted(&self, blocks: BlockRange) -> Option<BlockIndex> {
        let mut at = BlockIndex(blocks.start);
        loop {
            at = self.wanted.blocks.next(at)?;
            at = self.held.next_missing(at)?;
            at = self.claimed.next_missing(at)?;
            if at.0 >= blocks.end {
                return None;
            }
            if self.is_wanted(at) {
                return Some(at);
            }
        }
    }

    /// A range without the blocks at both ends that are not wanted, or came another way.
    pub(super) fn still_wanted(&self, blocks: BlockRange) -> BlockRange {
        trimmed(blocks, |block| self.is_wanted(block))
    }

    /// A range without the blocks at both ends that came another way.
    pub(super) fn still_missing(&self, blocks: BlockRange) -> BlockRange {
        trimmed(blocks, |block| self.is_missing(block))
    }

    /// Drops the ends of waiting ranges that arrived another way.
    pub(super) fn forget_waiting_that_arrived(&mut self) {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain_mut(|waiting| {
            waiting.blocks = self.still_missing(waiting.blocks);
            !waiting.blocks.is_empty()
        });
        self.waiting = waiting;
    }

    /// Blocks whose requests were refused are like any others once their wait is over.
    pub(super) fn release_refused(&mut self, now: Millis) {
        let is_over =
            |tried: &SourceFailure| tried.refused && tried.failures == 0 && tried.not_before <= now;
        let over = self
            .waiting
            .extract_if(.., |waiting| waiting.tried.iter().all(is_over));
        let over: Vec<Waiting> = over.collect();
        for block in over.iter().flat_map(|waiting| waiting.blocks.iter()) {
            if self.is_wanted(block) {
                self.todo.insert(block);
            }
        }
    }

    /// Takes these blocks out of an entry that waits; the blocks around them go on waiting. Returns the sources that failed them.
    pub(super) fn take_waiting(&mut self, index: usize, blocks: BlockRange) -> Vec<SourceFailure> {
        let Waiting { blocks: all, tried } = self.waiting.swap_remove(index);
        for rest in [
            BlockRange::new(all.start, blocks.start),
            BlockRange::new(blocks.end, all.end),
        ] {
            if !rest.is_empty() {
                self.waiting.push(Waiting {
                    blocks: rest,
                    tried: tried.clone(),
                });
            }
        }
        tried
    }

    /// The number of todo blocks in a range.
    pub(super) fn todo_in(&self, range: BlockRange) -> u32 {
        if range == BlockRange::new(0, self.todo.blocks()) {
            return self.todo.count();
        }
        self.todo_runs(range).map(BlockRange::count).sum()
    }

    pub(super) fn todo_runs(&self, range: BlockRange) -> impl Iterator<Item = BlockRange> {
        let mut from = BlockIndex(range.start);
        std::iter::from_fn(move || {
            let start = self.todo.next(from)?;
            let end = self.todo.next_missing(start).map_or(range.end, |end| end.0);
            from = BlockIndex(end);
            (start.0 < range.end).then(|| BlockRange::new(start.0, end.min(range.end)))
        })
    }
}

/// A range without the blocks at both ends that do not stay.
fn trimmed(mut blocks: BlockRange, stays: impl Fn(BlockIndex) -> bool) -> BlockRange {
    while !blocks.is_empty() && !stays(BlockIndex(blocks.start)) {
        blocks.start += 1;
    }
    while !blocks.is_empty() && !stays(BlockIndex(blocks.end - 1)) {
        blocks.end -= 1;
    }
    blocks
}
