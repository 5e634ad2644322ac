//! Copies what was found into the part and judges it there: only the bytes in the part count, not those that the search read.

use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::{
    disk::{
        error::DiskError,
        part::{HashedBlock, Part, StoredBlocks},
    },
    format::{
        blockset::BlockSet,
        geometry::{BlockIndex, BlockRange},
        judge::Leaves,
    },
    policy::descent::Source,
};

use super::{parallel::in_parallel, search::Whole, seeds::Seeds};

/// The bytes that one worker copies and judges at a time, while they are in the CPU cache.
const SEGMENT_BYTES: u64 = 8 << 20;
const READ_BYTES: usize = 256 * 1024;

/// Blocks that are copied before their results are judged: this bounds the memory that their hashes take. One find may have more.
const ROUND_BLOCKS: u32 = 1 << 16;

/// The result of copying.
#[derive(Debug)]
pub struct Copied {
    /// Blocks that are in the part now and verified.
    pub stored: StoredBlocks,
    /// Their bytes: copied ones, and those that an earlier run left.
    pub bytes_reused: u64,
    pub bytes_resumed: u64,
    /// Ranges whose bytes are in the part and do not verify as a whole: some of their blocks may.
    pub wrong: Vec<BlockRange>,
}

impl Copied {
    /// Only these blocks, which came another way.
    pub fn of(stored: StoredBlocks) -> Copied {
        Copied {
            stored,
            bytes_reused: 0,
            bytes_resumed: 0,
            wrong: Vec::new(),
        }
    }
}

/// Neighbouring blocks from one source.
struct Segment {
    blocks: BlockRange,
    from: Source,
    /// Copy even blocks that an earlier run claims.
    again: bool,
}

/// From where, and to where.
pub struct Copying<'a> {
    pub part: &'a Part,
    pub seeds: &'a Seeds,
    pub leaves: &'a Leaves,
    /// Blocks that an earlier run claims to be in the part.
    pub claimed: &'a BlockSet,
}

/// Judges the blocks of ranges that did not verify as a whole, one by one. Their leaves are known now. Returns those that verify.
pub fn judge_each(
    part: &Part,
    leaves: &Leaves,
    copied: &mut Copied,
) -> Result<StoredBlocks, DiskError> {
    let wrong = std::mem::take(&mut copied.wrong);
    let blocks: Vec<BlockIndex> = wrong.iter().flat_map(|range| range.iter()).collect();
    let failed: Mutex<Option<DiskError>> = Mutex::new(None);
    let judged = in_parallel(blocks.len() as u64, |number| {
        let mut buffer = vec![0; leaves.geometry().block_size().bytes() as usize];
        match part.judge(leaves, blocks[number as usize], &mut buffer) {
            Ok(judged) => Some(judged),
            Err(cause) => {
                failed.lock().get_or_insert(cause);
                None
            }
        }
    });
    if let Some(cause) = failed.into_inner() {
        return Err(cause);
    }
    let mut new = StoredBlocks::new(*leaves.object());
    for stored in judged.into_iter().flatten().flatten() {
        copied.bytes_reused += stored.verified().bytes().length();
        copied.stored.insert(stored);
        new.insert(stored);
    }
    Ok(new)
}

impl Copying<'_> {
    /// Copies what was found, except blocks that are claimed to be in the part already. What does not verify is left to the
    /// transfer. The leaves of what verified are known then. `zeros`: blocks of zeros, whose leaves are known.
    pub fn copy_all(
        &self,
        mut finds: Vec<Whole>,
        zeros: &BlockSet,
        copied: &mut Copied,
    ) -> Result<(), DiskError> {
        finds.sort_unstable_by_key(|find| find.blocks.start);
        let mut finds = finds.into_iter().peekable();
        while finds.peek().is_some() {
            let (mut some, mut count) = (Vec::new(), 0);
            let fits =
                |find: &Whole, count| count == 0 || count + find.blocks.count() <= ROUND_BLOCKS;
            while let Some(find) = finds.next_if(|find| fits(find, count)) {
                count += find.blocks.count();
                some.push(find);
            }
            self.copy_some(some, copied)?;
        }
        let mut zeros = zeros.ranges().flat_map(BlockRange::iter).peekable();
        while zeros.peek().is_some() {
            let some = zeros.by_ref().take(ROUND_BLOCKS as usize);
            let some = some.filter_map(|block| {
                let value = self.leaves.leaf(block)?;
                Some(Whole {
                    blocks: BlockRange::one(block),
                    value,
                    from: Source::Zeros,
                })
            });
            self.copy_some(some.collect(), copied)?;
        }
        Ok(())
    }

    /// Copies ascending finds.
    fn copy_some(&self, finds: Vec<Whole>, copied: &mut Copied) -> Result<(), DiskError> {
        if let Some(last) = finds.last() {
            let geometry = self.leaves.geometry();
            self.part
                .lengthen(geometry.bytes_of_range(last.blocks).end)?;
        }
        let wrong = self.round(finds, false, copied)?;
        // Claimed blocks of an earlier run may be wrong: copy them too.
        let is_claimed = |find: &Whole| {
            self.claimed
                .next(BlockIndex(find.blocks.start))
                .is_some_and(|block| find.blocks.contains(block))
        };
        let (again, mut wrong): (Vec<Whole>, Vec<Whole>) = wrong.into_iter().partition(is_claimed);
        wrong.extend(self.round(again, true, copied)?);
        copied
            .wrong
            .extend(wrong.into_iter().map(|find| find.blocks));
        Ok(())
    }

    /// Returns what did not verify.
    fn round(
        &self,
        finds: Vec<Whole>,
        again: bool,
        copied: &mut Copied,
    ) -> Result<Vec<Whole>, DiskError> {
        let segments = self.segments(&finds, again);
        let failed: Mutex<Option<DiskError>> = Mutex::new(None);
        let hashed = in_parallel(segments.len() as u64, |number| {
            if self.seeds.stop().load(Ordering::Relaxed) {
                return None;
            }
            match self.place(&segments[number as usize]) {
                Ok(values) => Some(values),
                Err(cause) => {
                    failed.lock().get_or_insert(cause);
                    None
                }
            }
        });
        if let Some(cause) = failed.into_inner() {
            return Err(cause);
        }
        let Some(hashed) = hashed else {
            return Ok(finds);
        };
        // Segments and finds are in the order of the blocks.
        let mut values = segments
            .iter()
            .zip(hashed)
            .flat_map(|(segment, values)| match values {
                Some(values) => values.into_iter().map(Some).collect(),
                None => vec![None; segment.blocks.count() as usize],
            });
        let mut wrong = Vec::new();
        for find in finds {
            let hashed: Vec<Option<HashedBlock>> =
                values.by_ref().take(find.blocks.count() as usize).collect();
            let hashed: Option<Vec<HashedBlock>> = hashed.into_iter().collect();
            let judged = hashed.and_then(|hashed| {
                let object = self.leaves.object();
                self.part
                    .judge_node(object, find.blocks, find.value, &hashed)
            });
            let Some((stored, leaves)) = judged else {
                wrong.push(find);
                continue;
            };
            self.leaves.insert(BlockIndex(find.blocks.start), &leaves);
            copied.stored.insert(stored);
            for block in find.blocks.iter() {
                let bytes = self.leaves.geometry().bytes_of(block).length();
                match self.claimed.contains(block) && !again {
                    true => copied.bytes_resumed += bytes,
                    false => copied.bytes_reused += bytes,
                }
            }
        }
        Ok(wrong)
    }

    /// Joins neighbours from one source, so that a file system can share long extents, and splits long ones.
    fn segments(&self, finds: &[Whole], again: bool) -> Vec<Segment> {
        let most = (SEGMENT_BYTES / self.leaves.geometry().block_size().bytes()).max(1) as u32;
        let mut segments: Vec<Segment> = Vec::new();
        for find in finds {
            let mut blocks = find.blocks;
            match segments.last_mut() {
                Some(last)
                    if last.from == find.from
                        && last.blocks.end == blocks.start
                        && last.blocks.count() + blocks.count() <= most =>
                {
                    last.blocks.end = blocks.end;
                    continue;
                }
                _ => (),
            }
            while !blocks.is_empty() {
                let end = blocks.end.min(blocks.start + most);
                segments.push(Segment {
                    blocks: BlockRange::new(blocks.start, end),
                    from: find.from,
                    again,
                });
                blocks.start = end;
            }
        }
        segments
    }

    /// Copies a segment and hashes each of its blocks in the part. `None`: it could not be read.
    fn place(&self, segment: &Segment) -> Result<Option<Vec<HashedBlock>>, DiskError> {
        let mut at = segment.blocks.start;
        while at < segment.blocks.end {
            let lacks = |block: u32| segment.again || !self.claimed.contains(BlockIndex(block));
            let Some(start) = (at..segment.blocks.end).find(|block| lacks(*block)) else {
                break;
            };
            let end = (start..segment.blocks.end)
                .find(|block| !lacks(*block))
                .unwrap_or(segment.blocks.end);
            if !self.copy(BlockRange::new(start, end), segment.from)? {
                return Ok(None);
            }
            at = end;
        }
        let mut buffer = vec![0; READ_BYTES];
        let (part, geometry) = (self.part, self.leaves.geometry());
        let blocks = segment.blocks.iter();
        blocks
            .map(|block| part.hash(geometry, block, &mut buffer))
            .collect()
    }

    fn copy(&self, blocks: BlockRange, from: Source) -> Result<bool, DiskError> {
        let bytes = self.leaves.geometry().bytes_of_range(blocks);
        match from {
            Source::Zeros => self.part.make_zeros(bytes).map(|()| true),
            Source::Seed(shift) => {
                let seed = self.seeds.file(shift.seed);
                match shift.place(bytes, seed.length()) {
                    Some(place) => self.part.copy_from(seed, place.start, bytes),
                    None => Ok(false),
                }
            }
        }
    }
}
