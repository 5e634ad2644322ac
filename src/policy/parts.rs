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
/// Where the length is not known, so many parts have one size, the next ones twice that.
const GROUP: u32 = 1000;

/// Why an object cannot be cut so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum BadSize {
    #[error("a part cannot have {given} bytes; the nearest sizes that are allowed are {}", nearest(*.below, *.above))]
    PartSize {
        given: u64,
        below: Option<u64>,
        above: Option<u64>,
    },
    #[error("a block cannot have {given} bytes: a power of two from 16384 to 16777216 is needed")]
    BlockSize { given: u64 },
    #[error(
        "{length} bytes are more than an upload with parts of {part_size} bytes and blocks of {block_size} bytes can have"
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
        .map(u64::to_string)
        .collect();
    all.join(" and ")
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
        let count = self.count().unwrap_or(PARTS_MAX);
        let length = self.length.unwrap_or_else(|| self.length_max());
        let is_part = index < count && (index == 0 || self.start(index) < length);
        is_part.then(|| ByteRange::new(self.start(index), self.start(index + 1).min(length)))
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
            let doubled = 1_u64 << group.min(32);
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
