//! Copies what was found into the part and judges it there: only the bytes in the part count, not those that the search read.

use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::{
    disk::{
        error::DiskError,
        part::{HashedBlock, Part, Stored},
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

/// The result of copying.
#[derive(Debug, Default)]
pub struct Copied {
    /// Blocks that are in the part now and verified.
    pub stored: Vec<Stored>,
    /// Their bytes: copied ones, and those that an earlier run left.
    pub bytes_reused: u64,
    pub bytes_resumed: u64,
    /// Ranges whose bytes are in the part and do not verify as a whole: some of their blocks may.
    pub wrong: Vec<BlockRange>,
}

/// Neighbouring blocks from one source.
struct Segment {
    blocks: BlockRange,
    from: Source,
    /// Copy even blocks that an earlier run claims.
    again: bool,
}

struct Copying<'a> {
    part: &'a Part,
    seeds: &'a Seeds,
    leaves: &'a Leaves,
    claimed: &'a BlockSet,
}

/// Copies what was found, except blocks that are claimed to be in the part already. What does not verify is left to the transfer.
/// The leaves of what verified are known then.
pub fn copy(
    part: &Part,
    seeds: &Seeds,
    leaves: &Leaves,
    mut finds: Vec<Whole>,
    claimed: &BlockSet,
) -> Result<Copied, DiskError> {
    let copying = Copying {
        part,
        seeds,
        leaves,
        claimed,
    };
    finds.sort_unstable_by_key(|find| find.blocks.start);
    if let Some(last) = finds.last() {
        part.lengthen(leaves.geometry().bytes_of_range(last.blocks).end)?;
    }
    let mut copied = Copied::default();
    let wrong = copying.round(finds, false, &mut copied)?;
    // Claimed blocks of an earlier run may be wrong: copy them too.
    let is_claimed = |find: &Whole| {
        claimed
            .next(BlockIndex(find.blocks.start))
            .is_some_and(|block| find.blocks.contains(block))
    };
    let (again, mut wrong): (Vec<Whole>, Vec<Whole>) = wrong.into_iter().partition(is_claimed);
    wrong.extend(copying.round(again, true, &mut copied)?);
    copied.wrong = wrong.into_iter().map(|find| find.blocks).collect();
    Ok(copied)
}

/// Judges the blocks of ranges that did not verify as a whole, one by one. Their leaves are known now.
pub fn judge_each(part: &Part, leaves: &Leaves, copied: &mut Copied) -> Result<(), DiskError> {
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
    for stored in judged.into_iter().flatten().flatten() {
        copied.bytes_reused += stored.verified().bytes().length();
        copied.stored.push(stored);
    }
    Ok(())
}

impl Copying<'_> {
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
            copied.stored.push(stored);
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
