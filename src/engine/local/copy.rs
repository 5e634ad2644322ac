//! What was found whole is copied into the part and judged there: what counts is what lies in the part, not what was read before.

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

/// One worker copies and judges so much at a time, while it is in the cache.
const SEGMENT_BYTES: u64 = 8 << 20;
const READ: usize = 256 * 1024;

/// What came of it.
#[derive(Debug, Default)]
pub struct Copied {
    /// Blocks that are in the part now, and right.
    pub stored: Vec<Stored>,
    /// Of them, what was copied, and what an earlier run had left.
    pub bytes_reused: u64,
    pub bytes_resumed: u64,
}

/// Neighbouring blocks from one place.
struct Segment {
    blocks: BlockRange,
    from: Source,
    /// Copied even where an earlier run claims to have left the right bytes.
    again: bool,
}

struct Copying<'a> {
    part: &'a Part,
    seeds: &'a Seeds,
    leaves: &'a Leaves,
    claimed: &'a BlockSet,
}

/// Copies what was found, but for what is claimed to be in the part already. What does not prove there is left for others. The leaves
/// of what proved are known then.
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
    // What an earlier run left there was perhaps not right.
    let is_claimed = |find: &Whole| {
        claimed
            .next(BlockIndex(find.blocks.start))
            .is_some_and(|block| find.blocks.contains(block))
    };
    let again = wrong.into_iter().filter(is_claimed).collect();
    copying.round(again, true, &mut copied)?;
    Ok(copied)
}

impl Copying<'_> {
    /// Returns what did not prove.
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
        // Segments are in the order of the blocks, and so are the finds.
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

    /// Joins neighbours from one place, so that a file system can share long stretches, and cuts what is long.
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
        let mut buffer = vec![0; READ];
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
