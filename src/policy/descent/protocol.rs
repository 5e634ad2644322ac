//! What goes into the descent and what comes out of it.

use std::collections::HashMap;

use crate::format::{
    geometry::{BlockIndex, BlockRange, ByteRange, PIECE},
    tree::Cv,
};

/// A seed, by its number in the list that the descent was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeedIndex(pub u16);

/// Byte `p` of the object is expected at byte `p + by` of the seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shift {
    /// The seed.
    pub seed: SeedIndex,
    /// How many bytes later the same bytes lie in the seed.
    pub by: i64,
}

impl Shift {
    /// Where these bytes of the object would lie in a seed of this length, if they can.
    pub fn place(self, bytes: ByteRange, seed_length: u64) -> Option<ByteRange> {
        let start = bytes.start.checked_add_signed(self.by)?;
        let end = start
            .checked_add(bytes.length())
            .filter(|end| *end <= seed_length)?;
        Some(ByteRange::new(start, end))
    }
}

/// Where bytes come from that need not be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// They lie in a seed.
    Seed(Shift),
    /// They are zeros; a hole will do.
    Zeros,
}

/// What the descent found out about some blocks. Together its finds cover every block exactly once.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields are named after their types")]
pub enum Find {
    /// Bytes that hashed to `value`, the proven node over these blocks, when they were looked at.
    Whole {
        blocks: BlockRange,
        value: Cv,
        from: Source,
    },
    /// A block that can be put together from pieces, according to its hints. If the judge refuses it, a hint was wrong; then the
    /// local parts must be fetched too.
    Patched { block: BlockIndex, parts: Vec<Part> },
    /// Not found in any seed.
    Missing { blocks: BlockRange },
}

/// Neighbouring bytes of a patched block from one place; `None`: they must be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Of the object.
    pub bytes: ByteRange,
    /// `None`: to be fetched.
    pub from: Option<Source>,
}

/// Blocks and the places of their parts, ascending.
pub type Patchwork = Vec<(BlockIndex, Vec<Part>)>;

/// Sources that this many bytes of a refused block came from, or fewer, are the first to be doubted, then those of more.
const DOUBTFUL_BYTES: [u64; 2] = [2 * PIECE, 8 * PIECE];

/// The parts of a block that the judge refused, with the most doubtful of them to be fetched: those from a source that little of
/// the block came from. `None`: there are none.
pub fn without_doubtful(parts: &[Part]) -> Option<Vec<Part>> {
    let mut from: HashMap<Source, u64> = HashMap::new();
    for part in parts {
        if let Some(source) = part.from {
            *from.entry(source).or_default() += part.bytes.length();
        }
    }
    let least = from.values().min()?;
    let most = DOUBTFUL_BYTES.iter().find(|most| least <= most)?;
    let rest = |part: &Part| Part {
        from: part.from.filter(|source| from[source] > *most),
        ..*part
    };
    Some(parts.iter().map(rest).collect())
}

/// Access to the seeds. Bytes that cannot be read count as not found.
pub trait Local {
    /// Fills the buffer with the bytes of a seed from this place. `false`: they cannot be read.
    fn read(&mut self, seed: SeedIndex, place: u64, into: &mut [u8]) -> bool;

    /// Reads ranges of seeds and gives the bytes of each to `work`, as many at a time as there are cores. The results are in the
    /// order of the ranges; `None`: it cannot be read.
    fn map<T: Send>(
        &mut self,
        ranges: &[(SeedIndex, ByteRange)],
        work: impl Fn(&[u8]) -> T + Sync,
    ) -> Vec<Option<T>> {
        let one = |(seed, range): &(SeedIndex, ByteRange)| {
            let mut bytes = vec![0; range.length() as usize];
            self.read(*seed, range.start, &mut bytes)
                .then(|| work(&bytes))
        };
        ranges.iter().map(one).collect()
    }

    /// The value of the subtree over these bytes of a seed as if they lay at `offset` of the object; the root if they are
    /// all of it.
    fn value(&mut self, seed: SeedIndex, bytes: ByteRange, offset: u64, root: bool) -> Option<Cv>;

    /// Called before all work that costs time: one hash, or one block of pieces. After `false` the search ends and the
    /// rest counts as missing. A hash may be of gigabytes; [`Local::value`] ends it early by returning `None`.
    fn may_continue(&mut self) -> bool {
        true
    }

    /// Called when so many bytes were found: they are worth some time.
    fn note_found(&mut self, _bytes: u64) {}
}
