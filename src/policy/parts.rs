//! How an object is cut into the parts of an upload.

use crate::format::{
    geometry::{BLOCKS_MAX, BlockSize, ByteRange, Geometry},
    upload::{PART_BYTES_MAX, PARTS_MAX},
};

/// The shortest part but the last, which is the least that S3 takes.
pub const PART_BYTES_MIN: u64 = 5 << 20;
/// The part size that is tried first.
pub const PART_BYTES_DEFAULT: u64 = 8 << 20;
/// The block size of an object whose length is not known: 2^24 of them are 4 TiB.
const BLOCK_BYTES_UNKNOWN: u64 = 256 << 10;
/// Where the length is not known, so many parts have one size, the next ones twice that, but the first groups: a recording that is played
/// while it grows is as far behind as a part is long.
const GROUP: u32 = 500;
/// So many groups have the first size.
const EQUAL_GROUPS: u32 = 10;

/// Why an object cannot be cut so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum BadSize {
    #[error("a part cannot have {}; the nearest sizes that are allowed are {}", exact(*.given), nearest(*.below, *.above))]
    PartSize {
        given: u64,
        below: Option<u64>,
        above: Option<u64>,
    },
    #[error("a block cannot have {}: a power of two from 16KiB to 16MiB is needed", exact(*.given))]
    BlockSize { given: u64 },
    #[error(
        "{length} bytes are more than an upload with parts of {} and blocks of {} can have", exact(*.part_size), exact(*.block_size)
    )]
    Length {
        length: u64,
        part_size: u64,
        block_size: u64,
    },
}

fn nearest(below: Option<u64>, above: Option<u64>) -> String {
    let all: Vec<String> = [below, above]
        .iter()
        .flatten()
        .map(|bytes| exact(*bytes))
        .collect();
    all.join(" and ")
}

/// A size in the largest unit of which it is a whole number, as it can be typed.
fn exact(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let fits = |(_, bits): &&(&str, u32)| bytes > 0 && bytes.trailing_zeros() >= *bits;
    match units.iter().find(fits) {
        Some((name, bits)) => format!("{}{name}", bytes >> bits),
        None => format!("{bytes} bytes"),
    }
}

/// The parts of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartPlan {
    length: Option<u64>,
    part_size: u64,
    block_size: BlockSize,
    /// The length was not known at first: later parts are longer.
    grows: bool,
}

impl PartPlan {
    /// A plan with sizes that fit: what is not given is chosen, and a part size doubles until [`PARTS_MAX`] parts suffice.
    pub fn choose(
        length: Option<u64>,
        part_size: Option<u64>,
        block_size: Option<BlockSize>,
    ) -> Result<PartPlan, BadSize> {
        let unknown = BlockSize::new(BLOCK_BYTES_UNKNOWN).expect("a power of two in range");
        let auto = || length.map_or(unknown, BlockSize::auto);
        let block_size = block_size.unwrap_or_else(auto);
        let least = PART_BYTES_DEFAULT.max(smallest(length.is_none(), block_size));
        let mut part_size = part_size.unwrap_or(least);
        loop {
            match PartPlan::new(length, part_size, block_size) {
                Err(BadSize::Length { .. }) if part_size * 2 <= PART_BYTES_MAX => part_size *= 2,
                planned => return planned,
            }
        }
    }

    /// The plan with exactly these sizes.
    pub fn new(
        length: Option<u64>,
        part_size: u64,
        block_size: BlockSize,
    ) -> Result<PartPlan, BadSize> {
        let block = block_size.bytes();
        let least = smallest(length.is_none(), block_size);
        if !part_size.is_multiple_of(block) || !(least..=PART_BYTES_MAX).contains(&part_size) {
            let allowed = |size: u64| (least..=PART_BYTES_MAX).contains(&size).then_some(size);
            let floor = (part_size / block * block).min(PART_BYTES_MAX);
            let above = part_size.div_ceil(block).saturating_mul(block).max(least);
            return Err(BadSize::PartSize {
                given: part_size,
                below: allowed(floor),
                above: allowed(above),
            });
        }
        let plan = PartPlan {
            length: None,
            part_size,
            block_size,
            grows: length.is_none(),
        };
        match length {
            None => Ok(plan),
            Some(length) => plan.with_length(length),
        }
    }

    /// The same plan with parts that do not grow, for clients that cut an object of any length into equal parts.
    #[must_use]
    pub fn of_equal_parts(self) -> PartPlan {
        PartPlan {
            grows: false,
            ..self
        }
    }

    /// The same plan now that the length is known.
    pub fn with_length(self, length: u64) -> Result<PartPlan, BadSize> {
        match length <= self.length_max() {
            true => Ok(PartPlan {
                length: Some(length),
                ..self
            }),
            false => Err(BadSize::Length {
                length,
                part_size: self.part_size,
                block_size: self.block_size.bytes(),
            }),
        }
    }

    /// The length of the object, if it is known.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// The size of the first parts.
    pub fn part_size(&self) -> u64 {
        self.part_size
    }

    /// The size of the blocks. Each part but the last is a whole number of them.
    pub fn block_size(&self) -> BlockSize {
        self.block_size
    }

    /// Whether the length was not known at first, so that later parts are longer.
    pub fn grows(&self) -> bool {
        self.grows
    }

    /// The blocks, once the length is known.
    pub fn geometry(&self) -> Option<Geometry> {
        Geometry::new(self.length?, self.block_size)
    }

    /// The longest object that fits.
    pub fn length_max(&self) -> u64 {
        let blocks = u64::from(BLOCKS_MAX) * self.block_size.bytes();
        self.start(PARTS_MAX).min(blocks)
    }

    /// How many parts there are, once the length is known; an empty object has one, without bytes.
    pub fn count(&self) -> Option<u32> {
        let length = self.length?;
        if !self.grows {
            return Some(length.div_ceil(self.part_size).max(1) as u32);
        }
        let (mut low, mut high) = (1, PARTS_MAX);
        while low < high {
            let middle = u32::midpoint(low, high);
            match self.start(middle) < length {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        Some(low)
    }

    /// The bytes of a part; of the longest that it can be while the length is not known. `None`: there is no such part.
    pub fn part(&self, index: u32) -> Option<ByteRange> {
        let length = self.length.unwrap_or_else(|| self.length_max());
        let is_part = index < PARTS_MAX && (index == 0 || self.start(index) < length);
        is_part.then(|| ByteRange::new(self.start(index), self.start(index + 1).min(length)))
    }

    /// How many bytes from the start these parts are without a gap, each with its index and length, by index. A first part that may be the
    /// whole object does not count: its leaf is another value then.
    pub fn length_without_gap(&self, parts: impl Iterator<Item = (u32, u64)>) -> u64 {
        let mut end = 0;
        for (expected, (index, length)) in (0..).zip(parts) {
            let Some(planned) = self.part(index).filter(|_| index == expected) else {
                break;
            };
            if self.is_whole(index, length) {
                break;
            }
            end = planned.start + length.min(planned.length());
            if length < planned.length() {
                break;
            }
        }
        end
    }

    /// Whether a part can have this length: its own if the length of the object is known, else at most that.
    pub fn allows(&self, index: u32, length: u64) -> bool {
        self.part(index).is_some_and(|part| match self.length {
            Some(_) => length == part.length(),
            None => length <= part.length() && (length > 0 || index == 0),
        })
    }

    /// Whether the leaf of the only block of this part is the root: the object has no other block. While the length is not
    /// known a part has two blocks or more, unless it is the last.
    pub fn is_whole(&self, index: u32, length: u64) -> bool {
        let block = self.block_size.bytes();
        index == 0 && length <= block && self.length.is_none_or(|all| all <= block)
    }

    /// Where a part begins, whatever the length.
    fn start(&self, index: u32) -> u64 {
        if !self.grows {
            return u64::from(index) * self.part_size;
        }
        let size = |group: u32| {
            let doubled = 1_u64 << (group + 1).saturating_sub(EQUAL_GROUPS).min(32);
            self.part_size
                .saturating_mul(doubled)
                .min(largest(self.part_size))
        };
        let group = index / GROUP;
        let before: u64 = (0..group).map(|group| u64::from(GROUP) * size(group)).sum();
        before + u64::from(index % GROUP) * size(group)
    }
}

/// The longest part that is this size, doubled some times.
fn largest(part_size: u64) -> u64 {
    part_size << (PART_BYTES_MAX / part_size).ilog2()
}

/// The shortest part, in whole blocks. A part of an object of unknown length has two blocks or more: whether the first block is
/// the whole object is then known from its part.
fn smallest(is_unknown: bool, block_size: BlockSize) -> u64 {
    let block = block_size.bytes();
    PART_BYTES_MIN
        .next_multiple_of(block)
        .max(if is_unknown { 2 * block } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const SIZE: u64 = PART_BYTES_DEFAULT;

    fn known(length: u64) -> PartPlan {
        PartPlan::choose(Some(length), None, None).unwrap()
    }

    #[test]
    fn part_sizes_grow_until_the_parts_suffice() {
        let max = u64::from(PARTS_MAX);
        for (length, part_size, count) in [
            (0, SIZE, 1),
            (1, SIZE, 1),
            (SIZE, SIZE, 1),
            (SIZE + 1, SIZE, 2),
            (max * SIZE, SIZE, 10_000),
            (max * SIZE + 1, 2 * SIZE, 5_001),
            (max * PART_BYTES_MAX, PART_BYTES_MAX, 10_000),
        ] {
            let plan = known(length);
            assert_eq!(
                (plan.part_size(), plan.count()),
                (part_size, Some(count)),
                "{length}"
            );
            assert!(part_size.is_multiple_of(plan.block_size().bytes()));
        }
        let too_long = max * PART_BYTES_MAX + 1;
        let refused = PartPlan::choose(Some(too_long), None, None);
        assert!(
            matches!(refused, Err(BadSize::Length { .. })),
            "{refused:?}"
        );
        assert!(PartPlan::choose(Some(u64::MAX), None, None).is_err());
    }

    /// Parts follow each other without a gap, whatever the length.
    #[test]
    fn parts_cover_the_object() {
        let unknown = PartPlan::choose(None, None, None).unwrap();
        for length in [
            0,
            1,
            SIZE - 1,
            SIZE,
            SIZE + 1,
            4999 * SIZE,
            5000 * SIZE,
            5000 * SIZE + 1,
            9000 * SIZE + 5,
            1 << 42,
        ] {
            for plan in [known(length), unknown.with_length(length).unwrap()] {
                let count = plan.count().unwrap();
                let mut end = 0;
                for index in 0..count {
                    let part = plan.part(index).unwrap();
                    assert_eq!(part.start, end, "{length}: {index}");
                    assert!(!part.is_empty() || length == 0);
                    assert!(plan.allows(index, part.length()));
                    assert!(!plan.allows(index, part.length() + 1));
                    end = part.end;
                }
                assert_eq!(end, length);
                assert_eq!(plan.part(count), None);
                assert_eq!(plan.part(u32::MAX), None);
            }
        }
    }

    #[test]
    fn parts_of_unknown_length_grow() {
        let plan = PartPlan::choose(None, None, None).unwrap();
        for (index, size) in [
            (0, SIZE),
            (4999, SIZE),
            (5000, 2 * SIZE),
            (5500, 4 * SIZE),
            (9000, 512 * SIZE),
        ] {
            let part = plan.part(index).map(ByteRange::length);
            assert_eq!(part, Some(size), "{index}");
        }
        assert_eq!(plan.part(9999), None);
        // 2^24 blocks of 256 KiB.
        assert_eq!(plan.length_max(), 4 << 40);
        // Growth ends at 4 GiB.
        let large = PartPlan::new(None, 3 << 30, BlockSize::MAX).unwrap();
        assert_eq!(large.part(5000).map(ByteRange::length), Some(3 << 30));
        assert_eq!(
            plan.with_length((4 << 40) + 1).unwrap_err(),
            BadSize::Length {
                length: (4 << 40) + 1,
                part_size: SIZE,
                block_size: 256 << 10,
            }
        );
        // Any length is allowed up to that of the plan.
        assert!(
            plan.allows(3, 1)
                && plan.allows(3, SIZE)
                && !plan.allows(3, SIZE + 1)
                && !plan.allows(3, 0)
        );
        assert!(plan.allows(0, 0));
    }

    #[test]
    fn sizes_that_are_not_allowed_have_allowed_neighbours() {
        let refused = |part_size, block: u64| {
            let block = BlockSize::new(block).unwrap();
            match PartPlan::new(Some(1), part_size, block) {
                Err(BadSize::PartSize { below, above, .. }) => (below, above),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(refused(0, 1 << 16), (None, Some(5 * MIB)));
        assert_eq!(refused(5 * MIB - 1, 1 << 16), (None, Some(5 * MIB)));
        assert_eq!(
            refused(5 * MIB + 1, 1 << 16),
            (Some(5 * MIB), Some(5 * MIB + (1 << 16)))
        );
        assert_eq!(refused(8 * MIB, 1 << 24), (None, Some(16 * MIB)));
        assert_eq!(
            refused(PART_BYTES_MAX + 1, 1 << 16),
            (Some(PART_BYTES_MAX), None)
        );
        assert_eq!(refused(u64::MAX, 1 << 16), (Some(PART_BYTES_MAX), None));
        let unknown = PartPlan::new(None, 16 * MIB, BlockSize::MAX);
        assert!(unknown.is_err(), "one block could be the whole object");
        let message = PartPlan::new(Some(1), 5 * MIB + 1, BlockSize::DEFAULT).unwrap_err();
        assert!(
            message
                .to_string()
                .ends_with("allowed are 5MiB and 5184KiB"),
            "{message}"
        );
    }

    #[test]
    fn the_only_block_is_the_whole_object() {
        let b = BlockSize::DEFAULT.bytes();
        let unknown = PartPlan::choose(None, None, Some(BlockSize::DEFAULT)).unwrap();
        for (length, whole) in [(0, true), (1, true), (b, true), (b + 1, false)] {
            assert_eq!(known(length).is_whole(0, length), whole);
            assert_eq!(unknown.is_whole(0, length), whole);
        }
        assert!(!unknown.is_whole(1, 1));
        // A part of one block of an object that has more.
        let large = PartPlan::new(Some(32 * MIB), 16 * MIB, BlockSize::MAX).unwrap();
        assert!(!large.is_whole(0, 16 * MIB));
    }
}
