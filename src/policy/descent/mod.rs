//! The descent: which bytes of a new object are on this machine already, and which must be fetched.
//!
//! It compares the new manifest, from the root down and only where something differs, with *seeds*: local
//! files with their trees. At each level, first to last and back, a node tries places that its hints and
//! its neighbours suggest; what hashes to the node is found and nothing below it is read. A block that is
//! nowhere whole is put together from pieces (`patch`).
//!
//! Everything that suggests a place may be wrong: anchors, pieces, the trees of seeds. A wrong suggestion costs at most a few
//! hashes a node, and never gives a wrong result, because the judge checks every block that comes of a [`Find`].
//!
//! Without I/O: [`Descent::wants`] names ranges of the new manifest, [`Descent::give`] takes them, and
//! [`Descent::advance`] searches the seeds through [`Local`] until it wants more or has decided about all blocks.

mod blocks;
mod level;
mod patch;
mod placed;
mod protocol;
mod rolling;
mod scan;
mod search;
mod shifts;
mod table;
mod zeros;

use std::{collections::VecDeque, sync::Arc};

use crate::format::{
    geometry::{BlockIndex, BlockRange, ByteRange, PIECE},
    layout::Layout,
    manifest::Tree,
    statement::Refused,
    tree::{Cv, Root},
};

use blocks::Blocks;
use level::{Aside, Level, Node, Unread, Wanted};
use patch::Patch;
use placed::Placed;
use shifts::Shifts;
use table::Table;

pub use protocol::{Find, Local, Part, Patchwork, SeedIndex, Shift, Source, without_doubtful};
pub use zeros::ZeroSearch;

/// Groups that are requested and searched together: their nodes take at most 12 MiB.
const GROUPS_AT_ONCE: usize = 256;
/// Blocks that are put together from pieces: this many, and so many times those of the seeds. Others are missing.
const PATCHED_MIN: usize = 1 << 16;
const PATCHED_A_SEED_BLOCK: u64 = 8;
/// Bytes of pieces that are requested and searched together; the search needs 16 times as much memory.
const PIECES_AT_ONCE: u64 = 1 << 20;

enum Stage {
    Nodes(Level),
    Blocks(Blocks),
    Done,
}

/// The search for one object.
pub struct Descent {
    layout: Layout,
    root: Root,
    seeds: Vec<Arc<Tree>>,
    table: Table,
    placed: Placed,
    shifts: Shifts,
    zeros: ZeroSearch,
    stage: Stage,
    finds: Vec<Find>,
    /// Leaves of the pages that were read and not taken yet.
    leaves: Vec<(BlockIndex, Vec<Cv>)>,
    stopped: bool,
}

impl Descent {
    /// `layout` and `root` are those of the new manifest, `seeds` the trees of the local files, the likeliest first.
    pub fn new(layout: Layout, root: Root, seeds: Vec<Arc<Tree>>) -> Descent {
        assert!(
            u16::try_from(seeds.len()).is_ok(),
            "seeds have 16-bit numbers"
        );
        let top = layout.geometry.levels();
        let length = layout.geometry.length();
        let same = seeds
            .iter()
            .position(|seed| seed.root() == root && seed.geometry().length() == length);
        let mut descent = Descent {
            layout,
            root,
            table: Table::new(&seeds),
            seeds,
            placed: Placed::default(),
            shifts: Shifts::default(),
            zeros: ZeroSearch::default(),
            stage: Stage::Done,
            finds: Vec::new(),
            leaves: Vec::new(),
            stopped: false,
        };
        match same {
            Some(seed) => {
                let from = Source::Seed(Shift {
                    seed: SeedIndex(seed as u16),
                    by: 0,
                });
                descent.finds.push(Find::Whole {
                    blocks: layout.geometry.all(),
                    value: root.0,
                    from,
                });
            }
            None => {
                let unread = Unread {
                    index: 0,
                    expected: None,
                    bare: false,
                };
                descent.enter(Level::new(top, VecDeque::from([unread])));
            }
        }
        descent
    }

    /// Ranges of the new manifest that must be given before the search goes on, ascending. Empty at the end, and when
    /// [`Descent::advance`] is due.
    pub fn wants(&self) -> Vec<ByteRange> {
        match &self.stage {
            Stage::Nodes(level) => level.wanted.iter().map(Wanted::bytes).collect(),
            Stage::Blocks(blocks) => blocks.wanted.clone(),
            Stage::Done => Vec::new(),
        }
    }

    /// Whether all blocks are decided.
    pub fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }

    /// The finds since the last call.
    pub fn take_finds(&mut self) -> Vec<Find> {
        std::mem::take(&mut self.finds)
    }

    /// The proven leaves of the pages that were read since the last call, each page with its first block. The blocks that are not
    /// found whole under a node are all among them.
    pub fn take_leaves(&mut self) -> Vec<(BlockIndex, Vec<Cv>)> {
        std::mem::take(&mut self.leaves)
    }

    /// Takes one wanted range. Groups are proven before they are used.
    ///
    /// # Panics
    /// If it is not wanted, or if the bytes are not as many.
    pub fn give(&mut self, range: ByteRange, bytes: &[u8]) -> Result<(), Refused> {
        assert_eq!(
            bytes.len() as u64,
            range.length(),
            "exactly the wanted bytes"
        );
        match &mut self.stage {
            Stage::Nodes(level) => {
                let at = level
                    .wanted
                    .iter()
                    .position(|wanted| wanted.bytes() == range)
                    .expect("a wanted range");
                let page = level.take(at, bytes, &self.layout, self.root)?;
                self.leaves.extend(page);
            }
            Stage::Blocks(blocks) => {
                let at = blocks
                    .wanted
                    .iter()
                    .position(|wanted| *wanted == range)
                    .expect("a wanted range");
                blocks.wanted.remove(at);
                let pieces = self.layout.pieces();
                let first_byte = (range.start - pieces.start) / 2 * PIECE;
                let (checks, _) = bytes.as_chunks::<2>();
                let first = blocks
                    .patches
                    .partition_point(|patch| patch.bytes().start < first_byte);
                let past = first_byte + checks.len() as u64 * PIECE;
                for patch in blocks.patches[first..]
                    .iter_mut()
                    .take_while(|patch| patch.bytes().start < past)
                {
                    patch.take_checks(first_byte, checks);
                }
            }
            Stage::Done => panic!("nothing is wanted"),
        }
        Ok(())
    }

    /// Searches with what was given, until it wants more or has decided about all blocks.
    ///
    /// # Panics
    /// If [`Descent::wants`] is not empty.
    pub fn advance(&mut self, local: &mut impl Local) {
        assert!(self.wants().is_empty(), "wanted ranges must be given first");
        match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Nodes(mut level) => {
                level.nodes.sort_unstable_by_key(|node| node.index);
                self.search_level(&mut level, local);
                if level.ask_for_anchors() {
                    self.stage = Stage::Nodes(level);
                } else {
                    self.enter(level);
                }
            }
            Stage::Blocks(mut blocks) => {
                self.patch(&mut blocks.patches, local);
                self.enter_blocks(blocks);
            }
            Stage::Done => {}
        }
    }

    /// Requests the next batch of a level, or goes on to the level below.
    fn enter(&mut self, mut level: Level) {
        if level.level == 0 {
            self.set_missing_aside(&mut level);
        }
        let batch = level.later.len().min(GROUPS_AT_ONCE);
        if batch > 0 {
            let groups = level.later.drain(..batch);
            level.wanted = groups
                .map(|unread| Wanted::Group(self.layout.group(level.level, unread.index), unread))
                .collect();
            self.stage = Stage::Nodes(level);
            return;
        }
        self.shifts.forget_failures();
        let missing = level.missing;
        if level.level == 0 {
            let (blocks, others) = Blocks::new(level.aside, self.layout.geometry.blocks());
            for aside in others {
                self.note_missing(aside.block);
            }
            self.enter_blocks(blocks);
        } else if missing.is_empty() {
            self.stage = Stage::Done;
        } else {
            // After the search has ended only the leaves are of use: what is fetched must be judged.
            let bare = |node: &Node| {
                self.layout.hints && (self.stopped || (level.level == 1 && node.unmoved))
            };
            let groups = missing
                .into_iter()
                .map(|node| Unread {
                    index: node.index,
                    expected: Some(node.value),
                    bare: bare(&node),
                })
                .collect();
            self.enter(Level::new(level.level - 1, groups));
        }
    }

    /// Keeps of the blocks that were found nowhere what their pieces need.
    fn set_missing_aside(&mut self, level: &mut Level) {
        let size = self.layout.geometry.block_size().bytes();
        let seeds = self.seeds.iter().map(|seed| seed.geometry().length());
        let of_seeds = seeds.sum::<u64>() / size * PATCHED_A_SEED_BLOCK;
        let most = PATCHED_MIN + usize::try_from(of_seeds).unwrap_or(usize::MAX - PATCHED_MIN);
        let has_pieces = self.layout.hints && !self.stopped;
        for node in level.missing.drain(..) {
            match has_pieces && level.aside.len() < most {
                true => level.aside.push(Aside::of(&node)),
                false => self.note_missing(BlockIndex(node.index)),
            }
        }
    }

    fn note_missing(&mut self, block: BlockIndex) {
        match self.finds.last_mut() {
            Some(Find::Missing { blocks }) if blocks.end == block.0 => blocks.end += 1,
            _ => self.finds.push(Find::Missing {
                blocks: BlockRange::one(block),
            }),
        }
    }

    fn enter_blocks(&mut self, mut blocks: Blocks) {
        blocks.patches.clear();
        if blocks.later.is_empty() || self.stopped {
            for aside in blocks.later {
                self.note_missing(aside.block);
            }
            self.stage = Stage::Done;
            return;
        }
        let pieces = self.layout.pieces();
        let mut room = PIECES_AT_ONCE;
        while let Some(aside) = blocks.later.front() {
            let node = aside.node(&self.layout.geometry);
            let checks = ByteRange::new(
                node.bytes.start / PIECE * 2,
                node.bytes.end.div_ceil(PIECE) * 2,
            );
            if checks.length() > room && !blocks.patches.is_empty() {
                break;
            }
            room = room.saturating_sub(checks.length());
            let here = ByteRange::new(pieces.start + checks.start, pieces.start + checks.end);
            match blocks.wanted.last_mut() {
                Some(last) if last.end == here.start => last.end = here.end,
                _ => blocks.wanted.push(here),
            }
            blocks.later.pop_front();
            blocks.patches.push(Patch::new(node));
        }
        self.stage = Stage::Blocks(blocks);
    }
}

#[cfg(test)]
mod tests;
