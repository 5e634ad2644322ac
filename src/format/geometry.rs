//! Where things are: lengths, block sizes, block indices and byte ranges, and the conversions between them.
//!
//! Every integer that means a place or a size in an object has its type here; nothing else converts
//! between blocks and bytes.

use std::fmt;

/// Bytes of a BLAKE3 chunk, the smallest unit of its tree.
pub const CHUNK: u64 = 1024;
/// Bytes that one piece check covers.
pub const PIECE: u64 = 1024;
/// Bytes of a cell: no anchor window crosses a border of cells (manifest.md, 4.2).
pub const CELL: usize = 16 * 1024;
/// Children of a node, and leaves of a page.
pub const FANOUT: u32 = 256;
/// The most blocks an object may have: their leaves take 512 MiB, their indices 24 bits.
pub const BLOCKS_MAX: u32 = 1 << 24;
/// `auto` doubles the block size while the leaves would take more than this.
const AUTO_LEAVES_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// The size of a block: a power of two from 16 KiB to 16 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockSize(u32);

impl BlockSize {
    /// 16 KiB.
    pub const MIN: BlockSize = BlockSize(1 << 14);
    /// 16 MiB.
    pub const MAX: BlockSize = BlockSize(1 << 24);
    /// Where `auto` starts: 64 KiB.
    pub const DEFAULT: BlockSize = BlockSize(1 << 16);

    /// A block size from its bytes; `None` unless it is a power of two in range.
    pub fn new(bytes: u64) -> Option<BlockSize> {
        let fits = bytes.is_power_of_two()
            && (u64::from(Self::MIN.0)..=u64::from(Self::MAX.0)).contains(&bytes);
        fits.then_some(BlockSize(bytes as u32))
    }

    /// 64 KiB, doubled while the leaves of an object of this length would take more than 32 MiB.
    pub fn auto(length: u64) -> BlockSize {
        let mut size = Self::DEFAULT;
        while size < Self::MAX && size.blocks_for(length) * 32 > AUTO_LEAVES_BYTES_MAX {
            size = BlockSize(size.0 * 2);
        }
        size
    }

    /// The size in bytes.
    pub fn bytes(self) -> u64 {
        u64::from(self.0)
    }

    /// The next larger size, if there is one.
    pub fn doubled(self) -> Option<BlockSize> {
        BlockSize::new(self.bytes() * 2)
    }

    /// How many blocks an object of this length has; at least one.
    pub fn blocks_for(self, length: u64) -> u64 {
        length.div_ceil(self.bytes()).max(1)
    }
}

/// The zero-based number of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockIndex(pub u32);

impl fmt::Display for BlockIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Bytes `start` up to, not including, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ByteRange {
    /// The first byte.
    pub start: u64,
    /// The byte behind the last one.
    pub end: u64,
}

impl ByteRange {
    /// The bytes from `start` up to, not including, `end`, which is not smaller.
    pub fn new(start: u64, end: u64) -> ByteRange {
        debug_assert!(start <= end);
        ByteRange { start, end }
    }

    /// The number of bytes in it.
    pub fn length(self) -> u64 {
        self.end - self.start
    }

    /// Whether there is nothing in it.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }
}

impl fmt::Display for ByteRange {
    /// As in HTTP, both ends inclusive.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_empty() {
            true => write!(f, "(empty at {})", self.start),
            false => write!(f, "{}-{}", self.start, self.end - 1),
        }
    }
}

/// Blocks `start` up to, not including, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockRange {
    /// The first block.
    pub start: u32,
    /// The block behind the last one.
    pub end: u32,
}

impl BlockRange {
    /// The blocks from `start` up to, not including, `end`, which is not smaller.
    pub fn new(start: u32, end: u32) -> BlockRange {
        debug_assert!(start <= end);
        BlockRange { start, end }
    }

    /// A single block.
    pub fn one(block: BlockIndex) -> BlockRange {
        BlockRange {
            start: block.0,
            end: block.0 + 1,
        }
    }

    /// The number of blocks in it.
    pub fn count(self) -> u32 {
        self.end - self.start
    }

    /// Whether there is nothing in it.
    pub fn is_empty(self) -> bool {
        self.start >= self.end
    }

    /// Whether this block is in it.
    pub fn contains(self, block: BlockIndex) -> bool {
        (self.start..self.end).contains(&block.0)
    }

    /// Its blocks, first to last.
    pub fn iter(self) -> impl Iterator<Item = BlockIndex> {
        (self.start..self.end).map(BlockIndex)
    }
}

/// A length and a block size that go together: at most 2^24 blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    length: u64,
    block_size: BlockSize,
    blocks: u32,
}

impl Geometry {
    /// `None` if the object would have more than 2^24 blocks.
    pub fn new(length: u64, block_size: BlockSize) -> Option<Geometry> {
        let blocks = block_size.blocks_for(length);
        (blocks <= u64::from(BLOCKS_MAX)).then_some(Geometry {
            length,
            block_size,
            blocks: blocks as u32,
        })
    }

    /// The bytes of the object.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The size of all blocks but the last, which may be shorter.
    pub fn block_size(&self) -> BlockSize {
        self.block_size
    }

    /// The number of blocks; at least one.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// All blocks of the object.
    pub fn all(&self) -> BlockRange {
        BlockRange::new(0, self.blocks)
    }

    /// The last block; there always is one.
    pub fn last(&self) -> BlockIndex {
        BlockIndex(self.blocks - 1)
    }

    /// The bytes of a block; those of the last one may be fewer.
    pub fn bytes_of(&self, block: BlockIndex) -> ByteRange {
        self.bytes_of_range(BlockRange::one(block))
    }

    /// The bytes of neighbouring blocks.
    pub fn bytes_of_range(&self, blocks: BlockRange) -> ByteRange {
        debug_assert!(blocks.end <= self.blocks);
        let size = self.block_size.bytes();
        ByteRange::new(
            (u64::from(blocks.start) * size).min(self.length),
            (u64::from(blocks.end) * size).min(self.length),
        )
    }

    /// The block that holds this byte.
    pub fn block_at(&self, byte: u64) -> BlockIndex {
        debug_assert!(byte < self.length.max(1));
        BlockIndex((byte / self.block_size.bytes()) as u32)
    }

    /// The blocks that lie wholly within these bytes; a short last block counts when its end is within.
    pub fn blocks_within(&self, bytes: ByteRange) -> BlockRange {
        let size = self.block_size.bytes();
        let start = bytes.start.div_ceil(size).min(u64::from(self.blocks));
        let end = match bytes.end >= self.length {
            true => u64::from(self.blocks),
            false => bytes.end / size,
        };
        BlockRange::new(start as u32, end.max(start) as u32)
    }

    /// How many levels of nodes there are above the leaves: those with more than one node.
    pub fn levels(&self) -> u32 {
        let mut levels = 0;
        while self.nodes(levels + 1) > 1 {
            levels += 1;
        }
        levels
    }

    /// The number of nodes of a level; level 0 are the leaves.
    pub fn nodes(&self, level: u32) -> u32 {
        (0..level).fold(self.blocks, |nodes, _| nodes.div_ceil(FANOUT))
    }

    /// The number of KiB pieces.
    pub fn pieces(&self) -> u64 {
        self.length.div_ceil(PIECE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(length: u64) -> Geometry {
        Geometry::new(length, BlockSize::MIN).unwrap()
    }

    #[test]
    fn block_sizes() {
        for bytes in [0, 1, 1 << 13, (1 << 14) + 1, 1 << 25, u64::MAX] {
            assert_eq!(BlockSize::new(bytes), None, "{bytes}");
        }
        for bits in 14..=24 {
            assert!(BlockSize::new(1 << bits).is_some());
        }
        assert_eq!(BlockSize::auto(0).bytes(), 64 << 10);
        assert_eq!(BlockSize::auto(64 << 30).bytes(), 64 << 10);
        assert_eq!(BlockSize::auto((64 << 30) + 1).bytes(), 128 << 10);
        assert_eq!(BlockSize::auto(u64::MAX), BlockSize::MAX);
    }

    #[test]
    fn blocks_and_bytes() {
        let b = BlockSize::MIN.bytes();
        for (length, blocks, last) in [
            (0, 1, 0),
            (1, 1, 1),
            (b - 1, 1, b - 1),
            (b, 1, b),
            (b + 1, 2, 1),
            (2 * b, 2, b),
            (256 * b + 1, 257, 1),
        ] {
            let g = geometry(length);
            assert_eq!(g.blocks(), blocks, "{length}");
            assert_eq!(g.bytes_of(g.last()).length(), last, "{length}");
            assert_eq!(g.bytes_of_range(g.all()), ByteRange::new(0, length));
        }
        assert!(Geometry::new(u64::MAX, BlockSize::MAX).is_none());
        assert!(Geometry::new(1 << 48, BlockSize::MAX).is_some());
    }

    #[test]
    fn levels_of_the_tree() {
        let b = BlockSize::MIN.bytes();
        for (blocks, levels) in [
            (1, 0),
            (256, 0),
            (257, 1),
            (65_536, 1),
            (65_537, 2),
            (1 << 24, 2),
        ] {
            assert_eq!(geometry(blocks * b).levels(), levels, "{blocks}");
        }
    }

    #[test]
    fn blocks_within_bytes() {
        let b = BlockSize::MIN.bytes();
        let g = geometry(3 * b + 5);
        for (start, end, first, past) in [
            (0, 3 * b + 5, 0, 4),
            (1, 3 * b + 4, 1, 3),
            (0, b - 1, 0, 0),
            (b, 2 * b, 1, 2),
            (3 * b, 3 * b + 5, 3, 4),
            (3 * b + 1, 3 * b + 5, 4, 4),
        ] {
            assert_eq!(
                g.blocks_within(ByteRange::new(start, end)),
                BlockRange::new(first, past),
                "{start}-{end}"
            );
        }
    }
}
