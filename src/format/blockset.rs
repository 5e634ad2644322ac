//! Sets of blocks of one object, one bit a block: 2 MiB for the largest object.

use super::geometry::{BlockIndex, BlockRange, Geometry};

/// A set of blocks with their number at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockSet {
    words: Vec<u64>,
    blocks: u32,
    count: u32,
}

impl BlockSet {
    /// No block of an object of this many.
    pub fn empty(blocks: u32) -> BlockSet {
        BlockSet {
            words: vec![0; (blocks as usize).div_ceil(64)],
            blocks,
            count: 0,
        }
    }

    /// All blocks of an object.
    pub fn full(blocks: u32) -> BlockSet {
        let mut set = BlockSet::empty(blocks);
        set.insert_range(BlockRange::new(0, blocks));
        set
    }

    /// The set as bytes, one bit a block, the lowest first.
    pub fn to_bytes(&self) -> Vec<u8> {
        let bytes = self.words.iter().flat_map(|word| word.to_le_bytes());
        bytes.take((self.blocks as usize).div_ceil(8)).collect()
    }

    /// The reverse of [`BlockSet::to_bytes`]; `None` if these cannot be the bytes of a set over this many blocks.
    pub fn from_bytes(blocks: u32, bytes: &[u8]) -> Option<BlockSet> {
        if bytes.len() != (blocks as usize).div_ceil(8) {
            return None;
        }
        let words: Vec<u64> = bytes
            .chunks(8)
            .map(|chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from_le_bytes(word)
            })
            .collect();
        let outside = match (words.last(), blocks % 64) {
            (Some(last), rest) if rest > 0 => last >> rest,
            _ => 0,
        };
        let count = words.iter().map(|word| word.count_ones()).sum();
        (outside == 0).then_some(BlockSet {
            words,
            blocks,
            count,
        })
    }

    /// The number of blocks of the object.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// The number of blocks in the set.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The bytes that its blocks have in an object.
    pub fn bytes(&self, geometry: &Geometry) -> u64 {
        debug_assert_eq!(self.blocks, geometry.blocks());
        let size = geometry.block_size().bytes();
        let full = u64::from(self.count) * size;
        let last = geometry.last();
        match self.contains(last) {
            true => full - (size - geometry.bytes_of(last).length()),
            false => full,
        }
    }

    /// Whether it has no block.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether every block of the object is in the set.
    pub fn is_full(&self) -> bool {
        self.count == self.blocks
    }

    /// Whether it has this block.
    pub fn contains(&self, block: BlockIndex) -> bool {
        block.0 < self.blocks && self.words[block.0 as usize / 64] >> (block.0 % 64) & 1 == 1
    }

    /// Whether it was not there before.
    pub fn insert(&mut self, block: BlockIndex) -> bool {
        assert!(block.0 < self.blocks, "block {block} of {}", self.blocks);
        let word = &mut self.words[block.0 as usize / 64];
        let new = *word >> (block.0 % 64) & 1 == 0;
        *word |= 1 << (block.0 % 64);
        self.count += u32::from(new);
        new
    }

    /// Whether it was there.
    pub fn remove(&mut self, block: BlockIndex) -> bool {
        let there = self.contains(block);
        if there {
            self.words[block.0 as usize / 64] &= !(1 << (block.0 % 64));
            self.count -= 1;
        }
        there
    }

    /// Adds blocks; those that are in it already may be among them.
    pub fn insert_range(&mut self, range: BlockRange) {
        for block in range.iter() {
            self.insert(block);
        }
    }

    /// Takes blocks out, as far as they are in it.
    pub fn remove_range(&mut self, range: BlockRange) {
        for block in range.iter() {
            self.remove(block);
        }
    }

    /// Adds all of another set of the same object.
    pub fn insert_all(&mut self, other: &BlockSet) {
        self.join(other, |mine, theirs| mine | theirs);
    }

    /// Takes out all of another set of the same object.
    pub fn remove_all(&mut self, other: &BlockSet) {
        self.join(other, |mine, theirs| mine & !theirs);
    }

    fn join(&mut self, other: &BlockSet, op: impl Fn(u64, u64) -> u64) {
        assert_eq!(self.blocks, other.blocks, "sets of one object");
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            *mine = op(*mine, *theirs);
        }
        self.count = self.words.iter().map(|word| word.count_ones()).sum();
    }

    /// The first block of the set at or after this one.
    pub fn next(&self, from: BlockIndex) -> Option<BlockIndex> {
        self.search(from, |word| word)
    }

    /// The first block at or after this one that is not in the set.
    pub fn next_missing(&self, from: BlockIndex) -> Option<BlockIndex> {
        self.search(from, |word| !word)
    }

    fn search(&self, from: BlockIndex, see: impl Fn(u64) -> u64) -> Option<BlockIndex> {
        if from.0 >= self.blocks {
            return None;
        }
        let first = from.0 as usize / 64;
        let mut word = see(self.words[first]) & (u64::MAX << (from.0 % 64));
        let mut at = first;
        loop {
            if word != 0 {
                let block = at as u32 * 64 + word.trailing_zeros();
                return (block < self.blocks).then_some(BlockIndex(block));
            }
            at += 1;
            word = see(*self.words.get(at)?);
        }
    }

    /// The blocks of the set as ranges, in order.
    pub fn ranges(&self) -> impl Iterator<Item = BlockRange> + '_ {
        let mut from = BlockIndex(0);
        std::iter::from_fn(move || {
            let start = self.next(from)?;
            let end = self
                .next_missing(start)
                .map_or(self.blocks, |block| block.0);
            from = BlockIndex(end);
            Some(BlockRange::new(start.0, end))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_as_bytes() {
        for blocks in [1u32, 7, 8, 9, 63, 64, 65, 200] {
            let mut set = BlockSet::empty(blocks);
            for block in (0..blocks).step_by(3) {
                set.insert(BlockIndex(block));
            }
            let bytes = set.to_bytes();
            assert_eq!(BlockSet::from_bytes(blocks, &bytes), Some(set));
            assert_eq!(BlockSet::from_bytes(blocks, &bytes[1..]), None);
            let full = BlockSet::full(blocks).to_bytes();
            assert_eq!(
                BlockSet::from_bytes(blocks, &full),
                Some(BlockSet::full(blocks))
            );
            let wrong = vec![255; full.len()];
            assert_eq!(
                BlockSet::from_bytes(blocks, &wrong).is_some(),
                blocks % 8 == 0
            );
        }
    }

    #[test]
    fn ranges_and_counts() {
        let mut set = BlockSet::empty(200);
        assert_eq!(set.ranges().count(), 0);
        set.insert_range(BlockRange::new(0, 3));
        set.insert_range(BlockRange::new(60, 130));
        assert!(set.insert(BlockIndex(199)));
        assert!(!set.insert(BlockIndex(199)));
        assert_eq!(set.count(), 74);
        let ranges: Vec<_> = set.ranges().map(|r| (r.start, r.end)).collect();
        assert_eq!(ranges, [(0, 3), (60, 130), (199, 200)]);
        assert_eq!(set.next_missing(BlockIndex(60)), Some(BlockIndex(130)));
        assert_eq!(set.next_missing(BlockIndex(199)), None);
        assert_eq!(set.next(BlockIndex(131)), Some(BlockIndex(199)));
        let mut rest = BlockSet::full(200);
        rest.remove_all(&set);
        assert_eq!(rest.count(), 126);
        rest.insert_all(&set);
        assert!(rest.is_full());
        assert!(set.remove(BlockIndex(0)) && !set.remove(BlockIndex(0)));
    }
}
