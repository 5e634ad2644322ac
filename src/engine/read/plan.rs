//! Which blocks and pages are wanted for the readers, the most urgent first. No I/O.

use std::{cmp::Reverse, collections::BTreeSet};

use crate::format::geometry::{BlockIndex, BlockRange, ByteRange, FANOUT, Geometry};

use super::{Tuning, pages::pages_of};

/// With several readers, so much of each that waits comes before the read-ahead of all.
const URGENT_BYTES: u64 = 1 << 20;

/// Numbers readers and failures in the order in which they begin.
pub type Sequence = u64;

/// How far ahead of a reader blocks are wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ahead {
    /// Bytes that the reader took in order.
    taken: u64,
    /// The end of the blocks that are wanted for it.
    end: u32,
    /// More is wanted when it reaches this block.
    next_at: u32,
}

impl Ahead {
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

    /// Moves the end, if the reader came far enough. The read-ahead is as large as what the reader took in order, within limits.
    /// It is moved on to the end of a unit, unless there is no room.
    fn extend(&mut self, rest: BlockRange, geometry: &Geometry, bytes_max: u64, tuning: &Tuning) {
        if rest.start < self.next_at && rest.start < self.end {
            return;
        }
        let bytes_min = tuning.first_bytes.min(bytes_max);
        let bytes = self.taken.clamp(bytes_min, bytes_max);
        let size = geometry.block_size().bytes();
        let count = bytes.div_ceil(size);
        let count = count.clamp(1, u64::from(geometry.blocks())) as u32;
        let unit = match bytes_max >= 2 * tuning.unit_bytes {
            true => (tuning.unit_bytes / size).max(1),
            false => 1,
        };
        let end = u64::from(rest.start + count).next_multiple_of(unit);
        self.end = end.min(u64::from(rest.end)) as u32;
        self.next_at = match self.end == rest.end {
            true => u32::MAX,
            false => rest.start + count.div_ceil(2),
        };
    }

    /// Wants nothing ahead of a reader at this block.
    fn give_up(&mut self, at: u32) {
        (self.end, self.next_at) = (at, at);
    }
}

/// A reader with bytes left.
pub struct Reader<'a> {
    pub id: Sequence,
    pub rest: ByteRange,
    pub waits_since: Option<Sequence>,
    pub ahead: &'a mut Ahead,
}

impl Plan {
    /// Whether nothing more is to be fetched than what is already wanted, and that is still wanted.
    pub fn adds_nothing_to(&self, wanted: &[BlockRange]) -> bool {
        let within = |range: &BlockRange| {
            let mut wanted = wanted.iter();
            wanted.any(|wanted| wanted.start <= range.start && range.end <= wanted.end)
        };
        let end = |ranges: &[BlockRange]| ranges.last().map(|range| range.end);
        self.ranges == wanted
            || self.one_reader && end(&self.ranges) == end(wanted) && self.absent.iter().all(within)
    }
}

impl Reader<'_> {
    /// Less is more urgent: of those that wait first who just sought, the latest first, then who waits longest.
    fn order(&self) -> (u8, Reverse<Sequence>, Sequence) {
        match self.waits_since {
            Some(_) if self.ahead.taken == 0 => (0, Reverse(self.id), 0),
            Some(since) => (1, Reverse(0), since),
            None => (2, Reverse(self.id), 0),
        }
    }

    fn has_just_sought(&self) -> bool {
        self.order().0 == 0
    }
}

/// What is known of the blocks.
pub struct Blocks<'a> {
    pub geometry: &'a Geometry,
    pub is_in_memory: &'a dyn Fn(BlockIndex) -> bool,
    pub is_cached: &'a dyn Fn(BlockIndex) -> bool,
    pub has_failed: &'a dyn Fn(BlockIndex) -> bool,
    pub knows_page: &'a dyn Fn(u32) -> bool,
}

/// What is wanted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Blocks to fetch, the most urgent first. Blocks in memory are among them: a span that has just delivered them goes on.
    pub ranges: Vec<BlockRange>,
    /// Those of them that are not in memory.
    pub absent: Vec<BlockRange>,
    /// There is one reader at most, so there is no order to change.
    pub one_reader: bool,
    /// How many of the ranges are for readers that just sought: they need not wait for a connection.
    pub sought: usize,
    /// Pages of the manifest whose leaves are needed.
    pub pages: BTreeSet<u32>,
    /// Read the last block from where it is: it proves the length, and until then nothing is fetched.
    pub reads_last: bool,
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
    let mut plan = Plan {
        one_reader: readers.len() <= 1,
        ..Plan::default()
    };
    if let Some(last) = last {
        plan.pages.extend(pages_of(BlockRange::one(last)));
        let knows_leaf = (blocks.knows_page)(last.0 / FANOUT);
        plan.reads_last = knows_leaf && (blocks.is_cached)(last);
        missing(blocks, BlockRange::one(last), &mut plan);
    }
    readers.sort_by_key(Reader::order);
    let share = tuning.memory_bytes / readers.len().max(1) as u64;
    let several = readers.len() > 1;
    let first = (URGENT_BYTES / geometry.block_size().bytes()).max(1) as u32;
    let mut left = tuning.memory_bytes;
    let mut later = Vec::new();
    for (index, reader) in readers.iter_mut().enumerate() {
        let rest = blocks_of(geometry, reader.rest);
        let one = geometry.bytes_of(BlockIndex(rest.start)).length();
        if left < one && index > 0 {
            // There is no room for its next block: it waits for the readers before it.
            reader.ahead.give_up(rest.start);
            continue;
        }
        let ahead_max = share.min(tuning.ahead_bytes_max);
        let sought = reader.has_just_sought();
        let ahead = &mut *reader.ahead;
        ahead.extend(rest, geometry, ahead_max, tuning);
        let wanted = BlockRange::new(rest.start, ahead.end);
        left = left.saturating_sub(geometry.bytes_of_range(wanted).length());
        // The pages behind that too, so that reading in order does not wait for them.
        let behind = if ahead.taken > 0 { wanted.count() } else { 0 };
        let leaves = BlockRange::new(rest.start, rest.end.min(wanted.end + behind));
        plan.pages.extend(pages_of(leaves));
        let cut = match several && reader.waits_since.is_some() {
            true => wanted.end.min(wanted.start + first),
            false => wanted.start,
        };
        missing(blocks, BlockRange::new(wanted.start, cut), &mut plan);
        if sought {
            plan.sought = plan.ranges.len();
        }
        later.push(BlockRange::new(cut, wanted.end));
    }
    for range in later {
        missing(blocks, range, &mut plan);
    }
    if plan.reads_last {
        plan.ranges.clear();
        plan.absent.clear();
    }
    plan
}

/// Adds the blocks of a range that must come from the sources, and whose leaves are known.
fn missing(blocks: &Blocks<'_>, range: BlockRange, plan: &mut Plan) {
    let (mut run, mut absent) = (None, None);
    for page in pages_of(range).filter(|page| (blocks.knows_page)(*page)) {
        let first = page * FANOUT;
        let of_page = BlockRange::new(range.start.max(first), range.end.min(first + FANOUT));
        for block in of_page.iter() {
            let is_in_memory = (blocks.is_in_memory)(block);
            if (blocks.has_failed)(block) || (!is_in_memory && (blocks.is_cached)(block)) {
                continue;
            }
            grow(&mut run, block, &mut plan.ranges);
            if !is_in_memory {
                grow(&mut absent, block, &mut plan.absent);
            }
        }
    }
    plan.ranges.extend(run);
    plan.absent.extend(absent);
}

/// Adds a block to a run, or begins another one.
fn grow(run: &mut Option<BlockRange>, block: BlockIndex, runs: &mut Vec<BlockRange>) {
    match run {
        Some(run) if run.end == block.0 => run.end += 1,
        _ => runs.extend(run.replace(BlockRange::one(block))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::geometry::BlockSize;

    const KIB: u64 = 1024;
    const MIB: u64 = 1024 * KIB;
    const TUNING: Tuning = Tuning {
        prove_length: true,
        connections_max: 8,
        memory_bytes: 64 * MIB,
        ahead_bytes_max: 16 * MIB,
        first_bytes: 256 * KIB,
        bytes_wanted: MIB,
        unit_bytes: 1,
    };

    fn geometry() -> Geometry {
        Geometry::new(1024 * MIB, BlockSize::DEFAULT).unwrap()
    }

    /// Plans for readers of `(first byte, waits since, read-ahead)`, where all pages are known and no block is here.
    fn planned(readers: &mut [(u64, Option<Sequence>, Ahead)], tuning: &Tuning) -> Plan {
        let geometry = geometry();
        let blocks = Blocks {
            geometry: &geometry,
            is_in_memory: &|_| false,
            is_cached: &|_| false,
            has_failed: &|_| false,
            knows_page: &|_| true,
        };
        let readers = readers.iter_mut().zip(1..);
        let mut readers: Vec<Reader<'_>> = readers
            .map(|((start, waits_since, ahead), id)| Reader {
                id,
                rest: ByteRange::new(*start, geometry.length()),
                waits_since: *waits_since,
                ahead,
            })
            .collect();
        plan(&blocks, &mut readers, None, tuning)
    }

    fn blocks_from(start: u64, bytes: u64) -> BlockRange {
        blocks_of(&geometry(), ByteRange::new(start, start + bytes))
    }

    #[test]
    fn read_ahead_grows_with_what_was_read_and_stands_still_when_it_is_full() {
        let mut readers = [(0, None, Ahead::default())];
        let first = planned(&mut readers, &TUNING);
        assert_eq!(first.ranges, [blocks_from(0, 256 * KIB)]);
        // Nothing was taken: the same again.
        assert_eq!(planned(&mut readers, &TUNING).ranges, first.ranges);
        let mut largest = 0;
        for _ in 0..1000 {
            let (start, _, ahead) = &mut readers[0];
            ahead.took(128 * KIB);
            *start += 128 * KIB;
            let plan = planned(&mut readers, &TUNING);
            let bytes = geometry().bytes_of_range(plan.ranges[0]).length();
            assert!(
                bytes >= 128 * KIB && bytes <= readers[0].0.max(256 * KIB),
                "{bytes}"
            );
            largest = largest.max(bytes);
        }
        assert_eq!(largest, TUNING.ahead_bytes_max);
    }

    #[test]
    fn who_sought_last_comes_first_then_who_waits_longest_then_read_ahead() {
        let read = |bytes| {
            let mut ahead = Ahead::default();
            ahead.took(bytes);
            ahead
        };
        let mut readers = [
            (100 * MIB, Some(9), read(4 * MIB)),
            (200 * MIB, Some(8), read(4 * MIB)),
            (300 * MIB, None, read(4 * MIB)),
            (400 * MIB, Some(5), Ahead::default()),
            (500 * MIB, Some(4), Ahead::default()),
        ];
        let plan = planned(&mut readers, &TUNING);
        let starts = plan.ranges.iter();
        let starts: Vec<u64> = starts
            .map(|range| u64::from(range.start) * 64 * KIB / MIB)
            .collect();
        assert_eq!(starts, [500, 400, 200, 100, 201, 101, 300]);
        assert_eq!(plan.sought, 2);
    }

    #[test]
    fn all_read_ahead_together_fits_into_memory() {
        let tuning = Tuning {
            memory_bytes: MIB,
            ..TUNING
        };
        let mut readers: Vec<_> = (0..200)
            .map(|index| (index * 4 * MIB, Some(index), Ahead::default()))
            .collect();
        let bytes = |plan: &Plan| -> u64 {
            let ranges = plan.ranges.iter();
            ranges
                .map(|range| geometry().bytes_of_range(*range).length())
                .sum()
        };
        let plan = planned(&mut readers, &tuning);
        assert_eq!(bytes(&plan), MIB);
        assert_eq!(plan.ranges.len(), 16);
        // Four of them were alone before, and have read far: their read-ahead gives way to one that waits.
        let mut ahead = Ahead::default();
        ahead.took(16 * MIB);
        let mut readers: Vec<_> = (0..4)
            .map(|index| (index * 40 * MIB, None, ahead))
            .collect();
        assert_eq!(bytes(&planned(&mut readers, &TUNING)), 64 * MIB);
        readers.push((500 * MIB, Some(1), Ahead::default()));
        let plan = planned(&mut readers, &TUNING);
        assert_eq!(plan.ranges[0], blocks_from(500 * MIB, 256 * KIB));
        assert!(bytes(&plan) <= 64 * MIB + 256 * KIB);
    }
}
