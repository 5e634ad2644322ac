//! What a viewer shows of an object that is read.

use crate::format::{
    blockset::BlockSet,
    geometry::{BlockIndex, BlockRange, ByteRange},
    tree::Cv,
};

/// The state of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockState {
    /// Not here.
    Missing,
    /// In the store from an earlier run; it is judged when it is read.
    Cached,
    /// Proven in this run.
    Proven,
    /// It came wrong, and not right since.
    Wrong,
}

/// A block that came wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongBlock {
    /// Its number.
    pub block: BlockIndex,
    /// Its place in the object.
    pub bytes: ByteRange,
    /// Who sent it, without the secrets of its URL.
    pub source: String,
    /// The value in the manifest.
    pub expected: Cv,
    /// The value of the bytes.
    pub found: Cv,
}

/// What is here of an object, and who reads it.
#[derive(Clone, Debug)]
pub struct ObjectState {
    /// All blocks, in order; neighbours of one state are together.
    pub blocks: Vec<(BlockRange, BlockState)>,
    /// The latest wrong blocks, in the order in which they came; of one block and source the last time.
    pub wrong: Vec<WrongBlock>,
    /// What each reader has not taken yet.
    pub readers: Vec<ByteRange>,
    /// Body bytes that arrived in this run, those of the manifest too.
    pub bytes_fetched: u64,
    /// The sources, without the secrets of their URLs.
    pub sources: Vec<String>,
    /// Whether the length is proven.
    pub length_proven: bool,
}

/// The states of all blocks as ranges.
pub(super) fn ranges(
    proven: &BlockSet,
    cached: &BlockSet,
    wrong: impl Iterator<Item = BlockIndex>,
) -> Vec<(BlockRange, BlockState)> {
    let mut wrongs = BlockSet::empty(proven.blocks());
    for block in wrong {
        wrongs.insert(block);
    }
    let sets = [
        (proven, BlockState::Proven),
        (&wrongs, BlockState::Wrong),
        (cached, BlockState::Cached),
    ];
    let end = |found: Option<BlockIndex>| found.map_or(proven.blocks(), |block| block.0);
    let mut ranges: Vec<(BlockRange, BlockState)> = Vec::new();
    let mut at = 0;
    while at < proven.blocks() {
        let here = BlockIndex(at);
        let first = sets.iter().position(|(set, _)| set.contains(here));
        // A set before the first one that has the block may begin earlier than this one ends.
        let before = &sets[..first.unwrap_or(sets.len())];
        let others = before.iter().map(|(set, _)| end(set.next(here)));
        let (own, state) = match first {
            Some(first) => (end(sets[first].0.next_missing(here)), sets[first].1),
            None => (proven.blocks(), BlockState::Missing),
        };
        let until = others.min().unwrap_or(own).min(own);
        ranges.push((BlockRange::new(at, until), state));
        at = until;
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::{
        BlockState::{Cached, Missing, Proven, Wrong},
        *,
    };

    #[test]
    fn every_block_is_in_one_range() {
        let set = |ranges: &[(u32, u32)]| {
            let mut set = BlockSet::empty(100);
            for (start, end) in ranges {
                set.insert_range(BlockRange::new(*start, *end));
            }
            set
        };
        let (proven, cached) = (
            set(&[(10, 20), (40, 41)]),
            set(&[(0, 12), (18, 30), (90, 100)]),
        );
        let wrong = [15, 25, 50].map(BlockIndex);
        let found = ranges(&proven, &cached, wrong.into_iter());
        let found: Vec<_> = found
            .iter()
            .map(|(range, state)| (range.end, *state))
            .collect();
        assert_eq!(
            found,
            [
                (10, Cached),
                (20, Proven),
                (25, Cached),
                (26, Wrong),
                (30, Cached),
                (40, Missing),
                (41, Proven),
                (50, Missing),
                (51, Wrong),
                (90, Missing),
                (100, Cached)
            ]
        );
    }
}
