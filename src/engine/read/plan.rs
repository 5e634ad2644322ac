//! Which blocks and pages are wanted for the readers, the most urgent first. No I/O.

use std::collections::BTreeSet;

use crate::format::geometry::{BlockIndex, BlockRange, ByteRange, Geometry};

use super::{Tuning, pages::pages_of};

/// With several readers, of each that waits so much comes before the read-ahead of the others.
const URGENT_BYTES: u64 = 1 << 20;
/// The largest read-ahead of a reader.
const AHEAD_BYTES_MAX: u64 = 16 << 20;

/// How far ahead of a reader blocks are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Ahead {
    /// Bytes that the reader took in order.
    taken: u64,
    /// The end of the blocks that are wanted for it.
    end: u32,
    /// More is wanted when it reaches this block.
    next_at: u32,
}

impl Ahead {
    /// Of a reader that has not begun.
    pub fn new() -> Ahead {
        Ahead {
            taken: 0,
            end: 0,
            next_at: 0,
        }
    }

    /// The reader took so many bytes.
    pub fn took(&mut self, bytes: u64) {
        self.taken += bytes;
    }

    /// Whether more is wanted for a reader at this block.
    pub fn is_due(&self, at: BlockIndex) -> bool {
        at.0 >= self.next_at
    }

    /// Whether a block is not behind what is wanted.
    pub fn covers(&self, block: BlockIndex) -> bool {
        block.0 < self.end
    }

    /// Moves the end, if the reader came far enough: the read-ahead grows with what it took in order.
    fn extend(&mut self, blocks: BlockRange, geometry: &Geometry, bytes_min: u64, bytes_max: u64) {
        let size = geometry.block_size().bytes();
        let bytes = self.taken.clamp(bytes_min.min(bytes_max), bytes_max);
        let count = bytes.div_ceil(size).clamp(1, u64::from(u32::MAX)) as u32;
        if blocks.start >= self.next_at || self.end <= blocks.start {
            self.end = blocks.end.min(blocks.start.saturating_add(count));
            self.next_at = match self.end == blocks.end {
                true => u32::MAX,
                false => blocks.start + (count / 2).max(1),
            };
        }
    }
}

/// A reader, the latest first.
pub struct Reader<'a> {
    pub rest: ByteRange,
    pub waits: bool,
    pub ahead: &'a mut Ahead,
}

/// What is known of the blocks.
pub struct Blocks<'a> {
    pub geometry: &'a Geometry,
    pub is_cached: &'a dyn Fn(BlockIndex) -> bool,
    pub is_here: &'a dyn Fn(BlockIndex) -> bool,
    pub has_failed: &'a dyn Fn(BlockIndex) -> bool,
    pub knows_page: &'a dyn Fn(u32) -> bool,
}

/// What is wanted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Blocks to fetch, the most urgent first.
    pub ranges: Vec<BlockRange>,
    /// Pages of the manifest whose leaves are needed.
    pub pages: BTreeSet<u32>,
}

/// The blocks that contain these bytes.
pub fn blocks_of(geometry: &Geometry, bytes: ByteRange) -> BlockRange {
    let last = geometry.length().saturating_sub(1);
    let first = geometry.block_at(bytes.start.min(last)).0;
    match bytes.is_empty() {
        true => BlockRange::new(first, first),
        false => BlockRange::new(first, geometry.block_at(bytes.end - 1).0 + 1),
    }
}

/// What is wanted for these readers, and for the proof of the length by this last block.
pub fn plan(
    blocks: &Blocks<'_>,
    readers: &mut [Reader<'_>],
    last: Option<BlockIndex>,
    tuning: &Tuning,
) -> Plan {
    let geometry = blocks.geometry;
    let mut plan = Plan::default();
    let (mut urgent, mut later) = (Vec::new(), Vec::new());
    if let Some(last) = last {
        urgent.push(BlockRange::one(last));
    }
    readers.sort_by_key(|reader| !reader.waits);
    let share = tuning.memory_bytes / readers.len().max(1) as u64;
    let ahead_max = share.min(AHEAD_BYTES_MAX);
    let several = readers.len() > 1;
    let mut left = tuning.memory_bytes;
    for reader in readers {
        let all = blocks_of(geometry, reader.rest);
        reader
            .ahead
            .extend(all, geometry, tuning.first_bytes, ahead_max);
        let one = geometry.bytes_of(BlockIndex(all.start)).length();
        let wanted = BlockRange::new(all.start, reader.ahead.end);
        let bytes = geometry.bytes_of_range(wanted).length();
        if left < one && !plan.pages.is_empty() {
            // There is no room for its next block: it waits for other readers.
            (reader.ahead.end, reader.ahead.next_at) = (all.start, all.start);
            continue;
        }
        left = left.saturating_sub(bytes);
        // The pages after the wanted blocks too, so that reading in order does not wait for them.
        let after = match reader.ahead.taken {
            0 => 0,
            _ => wanted.count(),
        };
        let leaves = BlockRange::new(all.start, all.end.min(wanted.end.saturating_add(after)));
        plan.pages.extend(pages_of(leaves));
        let first = (URGENT_BYTES / geometry.block_size().bytes()).max(1) as u32;
        let cut = match several && reader.waits {
            true => wanted.end.min(wanted.start + first),
            false => wanted.start,
        };
        urgent.push(BlockRange::new(wanted.start, cut));
        later.push(BlockRange::new(cut, wanted.end));
    }
    if let Some(last) = last {
        plan.pages.extend(pages_of(BlockRange::one(last)));
    }
    for range in urgent.into_iter().chain(later) {
        missing(blocks, range, &mut plan.ranges);
    }
    plan
}

/// Adds the blocks of a range that must be fetched, and whose leaves are known.
fn missing(blocks: &Blocks<'_>, range: BlockRange, ranges: &mut Vec<BlockRange>) {
    let mut current: Option<BlockRange> = None;
    for page in pages_of(range).filter(|page| (blocks.knows_page)(*page)) {
        for block in pages_blocks(page, range).iter() {
            if (blocks.is_here)(block) || (blocks.is_cached)(block) || (blocks.has_failed)(block) {
                continue;
            }
            match &mut current {
                Some(current) if current.end == block.0 => current.end += 1,
                _ => ranges.extend(current.replace(BlockRange::one(block))),
            }
        }
    }
    ranges.extend(current);
}

/// The blocks of a page that are in this range.
fn pages_blocks(page: u32, range: BlockRange) -> BlockRange {
    let fanout = crate::format::geometry::FANOUT;
    let first = page * fanout;
    let start = range.start.max(first);
    BlockRange::new(start, range.end.min(first + fanout).max(start))
}
