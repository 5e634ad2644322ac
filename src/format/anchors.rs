//! Anchors: where in a block or node the gear hash is smallest (manifest.md, section 4). Hints only; they prove nothing.

use std::sync::LazyLock;

use super::geometry::{BlockSize, CELL};

/// Bytes of a window.
pub const WINDOW: usize = 64;
/// Bits of a tag below its exponent.
const TAG_FRACTION_BITS: u32 = 34;
const TAG_BITS: u32 = 40;
/// Runs of windows hashed side by side, because one chain of additions leaves most of a core idle.
/// With all of them, the limit and the addresses, the registers of x86-64 are just enough.
const LANES: usize = 6;
/// Windows of a run in a whole cell; what is left over is hashed after them.
const LANE_WINDOWS: usize = (CELL - WINDOW + 1) / LANES;

/// `g[i]`, the first 8 bytes of BLAKE3 of "sapwood gear" and the byte i.
pub static GEAR: LazyLock<[u64; 256]> = LazyLock::new(|| {
    std::array::from_fn(|i| {
        let mut input = *b"sapwood gear\0";
        input[12] = i as u8;
        let hash = blake3::hash(&input);
        u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
    })
});

/// The top 35 bits of a hash and their place: 40 bits that order as the hashes do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(u64);

impl Tag {
    /// No window at all; larger than any tag.
    pub const NONE: Tag = Tag(u64::MAX);

    /// The tag of a window with this gear hash.
    pub fn of(hash: u64) -> Tag {
        let hash = hash.max(1);
        let exponent = hash.ilog2();
        let fraction = hash ^ (1 << exponent);
        let fraction = match exponent >= TAG_FRACTION_BITS {
            true => fraction >> (exponent - TAG_FRACTION_BITS),
            false => fraction << (TAG_FRACTION_BITS - exponent),
        };
        Tag(u64::from(exponent) << TAG_FRACTION_BITS | fraction)
    }

    /// Its 40 bits.
    pub fn value(self) -> u64 {
        self.0
    }

    /// A tag from its 40 bits; `None` if there are more.
    pub fn from_value(value: u64) -> Option<Tag> {
        (value < 1 << TAG_BITS).then_some(Tag(value))
    }

    /// The smallest hash with this tag's bits, so that `hash < floor` means a smaller tag.
    fn floor(hash: u64) -> u64 {
        match 64 - hash.leading_zeros() {
            0 | 1 => 0,
            bits => hash & (u64::MAX << bits.saturating_sub(TAG_FRACTION_BITS + 1)),
        }
    }

    /// The largest hash with the tag of this one.
    fn ceiling(hash: u64) -> u64 {
        match 64 - hash.leading_zeros() {
            0 | 1 => 1,
            bits => hash | !(u64::MAX << bits.saturating_sub(TAG_FRACTION_BITS + 1)),
        }
    }
}

/// The anchor of a block: `tag << 24 | offset of the window in the block`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockAnchor(pub u64);

impl BlockAnchor {
    /// Of a block of under 64 bytes, which has no window.
    pub const NONE: BlockAnchor = BlockAnchor(u64::MAX);

    /// A window with this tag, `offset` bytes after the start of its block.
    pub fn new(tag: Tag, offset: u32) -> BlockAnchor {
        BlockAnchor(tag.0 << 24 | u64::from(offset))
    }

    /// The tag and the offset of the window in the block.
    pub fn window(self) -> Option<(Tag, u32)> {
        (self != Self::NONE).then_some((Tag(self.0 >> 24), (self.0 & 0xFF_FFFF) as u32))
    }

    /// The anchor of this block and a right neighbour that begins `offset` bytes later, taken as one block.
    #[must_use]
    pub fn merge(self, right: BlockAnchor, offset: u32) -> BlockAnchor {
        match (self.window(), right.window()) {
            (None, None) => Self::NONE,
            (Some((left, _)), Some((tag, at))) if tag < left => BlockAnchor::new(tag, at + offset),
            (None, Some((tag, at))) => BlockAnchor::new(tag, at + offset),
            _ => self,
        }
    }

    /// Whether a block of this many bytes can have this anchor: a window in one cell, or none where there is no room for one.
    pub fn fits(self, block_bytes: u64) -> bool {
        match self.window() {
            None => block_bytes < WINDOW as u64,
            Some((_, offset)) => {
                let offset = u64::from(offset);
                offset + WINDOW as u64 <= block_bytes
                    && offset % CELL as u64 + WINDOW as u64 <= CELL as u64
            }
        }
    }

    /// The same window, placed in the object.
    pub fn in_object(self, block_start: u64) -> NodeAnchor {
        match self.window() {
            None => NodeAnchor::NONE,
            Some((tag, offset)) => NodeAnchor {
                tag: tag.0,
                place: block_start + u64::from(offset),
            },
        }
    }
}

/// The anchor of a node: the smallest (tag, place) of its blocks; the place counts from the start of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeAnchor {
    /// The smallest tag below the node.
    pub tag: u64,
    /// Where its window begins, in bytes from the start of the object.
    pub place: u64,
}

impl NodeAnchor {
    /// Of a node none of whose children has one.
    pub const NONE: NodeAnchor = NodeAnchor {
        tag: u64::MAX,
        place: u64::MAX,
    };

    /// The smallest of some; none of none.
    pub fn smallest(anchors: impl IntoIterator<Item = NodeAnchor>) -> NodeAnchor {
        anchors.into_iter().min().unwrap_or(Self::NONE)
    }
}

/// The anchor of a block, or of an aligned part of one, from its bytes.
pub fn anchor_of(bytes: &[u8]) -> BlockAnchor {
    let mut smallest = Smallest::new();
    for (index, cell) in bytes.chunks(CELL).enumerate() {
        smallest.search(cell, index * CELL);
    }
    smallest.anchor()
}

/// Anchors of the blocks of twice the size.
pub fn coarsen(anchors: &[BlockAnchor], block_size: BlockSize) -> Vec<BlockAnchor> {
    let step = block_size.bytes() as u32;
    anchors
        .chunks(2)
        .map(|pair| {
            pair.iter()
                .skip(1)
                .fold(pair[0], |left, right| left.merge(*right, step))
        })
        .collect()
}

/// The gear hash of one window.
pub fn gear(window: &[u8; WINDOW]) -> u64 {
    window.iter().fold(0, |hash, byte| step(&GEAR, hash, *byte))
}

#[allow(
    clippy::inline_always,
    reason = "the loop around it lives on its three instructions being inlined"
)]
#[inline(always)]
fn step(gear: &[u64; 256], hash: u64, byte: u8) -> u64 {
    (hash << 1).wrapping_add(gear[usize::from(byte)])
}

/// The hash of so many bytes from nothing.
fn hash_of(gear: &[u64; 256], bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |hash, byte| step(gear, hash, *byte))
}

/// The first window with the smallest tag among those that were searched.
struct Smallest {
    /// The smallest hash with its tag (it orders as tags do), and its offset.
    found: Option<(u64, usize)>,
    /// No window with a larger hash can take its place.
    limit: u64,
}

impl Smallest {
    fn new() -> Smallest {
        Smallest {
            found: None,
            limit: u64::MAX,
        }
    }

    fn anchor(&self) -> BlockAnchor {
        match self.found {
            None => BlockAnchor::NONE,
            Some((floor, offset)) => BlockAnchor::new(Tag::of(floor), offset as u32),
        }
    }

    /// Searches the next cell, `start` bytes after the first one.
    fn search(&mut self, cell: &[u8], start: usize) {
        let gear = &*GEAR;
        // Hashing from nothing over 63 bytes, then one more a window: after 64 shifts older bytes are gone.
        let (hash, done) = match <&[u8; CELL]>::try_from(cell) {
            Ok(cell) => (self.side_by_side(gear, cell, start), LANES * LANE_WINDOWS),
            Err(_) => (hash_of(gear, &cell[..cell.len().min(WINDOW - 1)]), 0),
        };
        let rest = cell.get(done + WINDOW - 1..).unwrap_or_default();
        self.one_by_one(gear, hash, rest, start + done);
        if let Some((floor, _)) = self.found {
            // Windows of later cells must have a smaller tag.
            self.limit = floor.saturating_sub(1);
        }
    }

    /// The windows that end with each of these bytes, the first of them at `offset`.
    fn one_by_one(&mut self, gear: &[u64; 256], mut hash: u64, bytes: &[u8], offset: usize) {
        for (offset, byte) in (offset..).zip(bytes) {
            hash = step(gear, hash, *byte);
            if hash <= self.limit {
                self.consider(hash, offset, true);
            }
        }
    }

    /// The windows of all lanes of a whole cell; returns the hash of the last one.
    #[allow(
        clippy::many_single_char_names,
        clippy::needless_range_loop,
        reason = "a name for each lane, and one place in all of them"
    )]
    fn side_by_side(&mut self, gear: &[u64; 256], cell: &[u8; CELL], start: usize) -> u64 {
        let mut hashes = [0; LANES];
        for place in 0..WINDOW - 1 {
            for (lane, hash) in hashes.iter_mut().enumerate() {
                *hash = step(gear, *hash, cell[lane * LANE_WINDOWS + place]);
            }
        }
        let ends: [&[u8; LANE_WINDOWS]; LANES] = std::array::from_fn(|lane| {
            cell[lane * LANE_WINDOWS + WINDOW - 1..]
                .first_chunk()
                .expect("a cell has room for all lanes")
        });
        let mut limit = self.limit;
        // Written out lane by lane: as elements of an array the hashes are in memory, and not in registers, where the compiler
        // optimises for size.
        let [mut a, mut b, mut c, mut d, mut e, mut f] = hashes;
        for place in 0..LANE_WINDOWS {
            macro_rules! roll {
                ($($lane:literal $hash:ident),*) => {$(
                    $hash = step(gear, $hash, ends[$lane][place]);
                    if $hash <= limit {
                        let offset = start + $lane * LANE_WINDOWS + place;
                        limit = self.consider($hash, offset, $lane == 0);
                    }
                )*};
            }
            roll!(0 a, 1 b, 2 c, 3 d, 4 e, 5 f);
        }
        f
    }

    /// Takes this window if it is smaller, or the same and earlier, and returns the new limit. `in_order` says that the
    /// windows before this one were searched; else one with the same tag may still come that is the first.
    #[cold]
    #[inline(never)]
    fn consider(&mut self, hash: u64, offset: usize, in_order: bool) -> u64 {
        let here = (Tag::floor(hash), offset);
        if self.found.is_none_or(|found| here < found) {
            self.found = Some(here);
            self.limit = match in_order {
                true => here.0.saturating_sub(1),
                false => Tag::ceiling(hash),
            };
        }
        self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::paint;

    /// The definition, word for word.
    fn slow(bytes: &[u8]) -> BlockAnchor {
        let mut smallest = BlockAnchor::NONE;
        for (c, cell) in bytes.chunks(CELL).enumerate() {
            for (offset, window) in cell.windows(WINDOW).enumerate() {
                let tag = Tag::of(gear(window.try_into().unwrap()));
                let here = BlockAnchor::new(tag, (c * CELL + offset) as u32);
                if smallest.window().is_none_or(|(t, _)| tag < t) {
                    smallest = here;
                }
            }
        }
        smallest
    }

    #[test]
    fn tags_keep_the_order_of_hashes() {
        let hashes = [
            0,
            1,
            2,
            3,
            1 << 33,
            (1 << 34) - 1,
            1 << 34,
            (1 << 35) - 1,
            1 << 35,
            1 << 63,
            u64::MAX,
        ];
        assert_eq!(Tag::of(0), Tag::of(1));
        assert!(hashes.is_sorted_by_key(|h| Tag::of(*h)));
        assert!(Tag::of(u64::MAX).value() < 1 << 40);
        for hash in hashes {
            let floor = Tag::floor(hash);
            assert_eq!(Tag::of(floor), Tag::of(hash), "{hash:#x}");
            let ceiling = Tag::ceiling(hash);
            assert_eq!(Tag::of(ceiling), Tag::of(hash), "{hash:#x}");
            assert!(
                ceiling == u64::MAX || Tag::of(ceiling + 1) > Tag::of(hash),
                "{hash:#x}"
            );
            assert!(
                floor == 0 || Tag::of(floor - 1) < Tag::of(hash) || floor == 1,
                "{hash:#x}"
            );
        }
    }

    #[test]
    fn fast_is_the_definition() {
        for length in [
            0,
            1,
            63,
            64,
            65,
            66,
            67,
            68,
            127,
            1000,
            CELL - 1,
            CELL,
            CELL + 1,
            CELL + 63,
            CELL + 64,
            4 * CELL,
        ] {
            let painted = paint::bytes(3, length);
            let periodic: Vec<u8> = (0..length).map(|i| (i % 7) as u8).collect();
            for bytes in [painted, periodic, vec![0; length], vec![255; length]] {
                assert_eq!(anchor_of(&bytes), slow(&bytes), "{length}");
                assert!(anchor_of(&bytes).fits(length as u64));
            }
        }
    }

    #[test]
    fn every_length_around_the_ends_of_windows_and_cells_is_the_definition() {
        let longest = 2 * CELL + 70;
        let lengths = (0..200)
            .chain(CELL - 3..CELL + 70)
            .chain(2 * CELL - 3..=longest);
        let periodic = |period: usize| {
            let once = paint::bytes(5, period);
            once.into_iter().cycle().take(longest).collect()
        };
        let half_zeros = |i: usize, byte: u8| if i % CELL < CELL / 2 { 0 } else { byte };
        let data: [Vec<u8>; 6] = [
            paint::bytes(4, longest),
            periodic(13),
            // Longer than a lane, and shorter.
            periodic(LANE_WINDOWS + 100),
            periodic(LANE_WINDOWS - 100),
            vec![0; longest],
            (0..longest).map(|i| half_zeros(i, 1)).collect(),
        ];
        for (kind, data) in data.iter().enumerate() {
            let tags: Vec<Tag> = data
                .windows(WINDOW)
                .map(|window| Tag::of(gear(window.try_into().unwrap())))
                .collect();
            for length in lengths.clone() {
                let expected = (0..(length + 1).saturating_sub(WINDOW))
                    .filter(|offset| offset % CELL + WINDOW <= CELL)
                    .map(|offset| BlockAnchor::new(tags[offset], offset as u32))
                    .min()
                    .unwrap_or(BlockAnchor::NONE);
                assert_eq!(anchor_of(&data[..length]), expected, "{kind}: {length}");
            }
        }
    }

    #[test]
    fn the_first_of_equal_windows_wins_whichever_lane_meets_it_first() {
        let mut cell = paint::bytes(6, CELL);
        let (_, offset) = anchor_of(&cell).window().unwrap();
        let smallest: [u8; WINDOW] = cell[offset as usize..][..WINDOW].try_into().unwrap();
        // From the end, so that each copy is the first one when it comes in; the last window of a cell is in no lane.
        let lanes = (0..LANES).rev().map(|lane| lane * LANE_WINDOWS);
        let places = lanes.flat_map(|start| [LANE_WINDOWS - 1, 1000, 70, 0].map(|at| start + at));
        cell[offset as usize] ^= 1;
        for place in [CELL - WINDOW].into_iter().chain(places) {
            cell[place..][..WINDOW].copy_from_slice(&smallest);
            let whole = [cell.clone(), cell.clone()].concat();
            assert_eq!(anchor_of(&whole), slow(&cell), "{place}");
        }
    }

    #[test]
    fn anchors_merge_exactly() {
        let bytes = paint::bytes(0, 8 * CELL + 100);
        for size in [BlockSize::MIN, BlockSize::new(2 * CELL as u64).unwrap()] {
            let of = |size: u64| {
                bytes
                    .chunks(size as usize)
                    .map(anchor_of)
                    .collect::<Vec<_>>()
            };
            assert_eq!(coarsen(&of(size.bytes()), size), of(2 * size.bytes()));
        }
    }

    #[test]
    fn content_that_moved_keeps_its_anchor() {
        let bytes = paint::bytes(0, 2 * CELL);
        let (tag, offset) = anchor_of(&bytes[..CELL]).window().unwrap();
        let window: [u8; WINDOW] = bytes[offset as usize..][..WINDOW].try_into().unwrap();
        assert_eq!(Tag::of(gear(&window)), tag);
    }
}
