//! The descent: which bytes of a new object are on this machine already, and which few must be fetched.
//!
//! It compares the new manifest, from the root down and only where something differs, with *seeds*: local
//! files with their trees. At each level, first to last and back, a node tries places that its hints and
//! its neighbours suggest; what hashes to the node is found and nothing below it is read. A block that is
//! nowhere whole is put together from pieces (`patch`).
//!
//! Everything that suggests a place may lie: anchors, pieces, the trees of seeds. A lie costs at most a few hashes a
//! node, and never a wrong result, because the judge sees every block that comes of a [`Find`].
//!
//! Without I/O: [`Descent::wants`] names ranges of the new manifest, [`Descent::give`] takes them, and
//! [`Descent::advance`] searches the seeds through [`Local`] until more is wanted or all is found out.

mod blocks;
mod patch;
mod placed;
mod rolling;
mod shifts;
mod table;
mod zeros;

use std::{collections::VecDeque, sync::Arc};

use crate::format::{
    anchors::{self, BlockAnchor, Tag, WINDOW},
    geometry::{BlockIndex, BlockRange, ByteRange, FANOUT, Geometry, PIECE},
    layout::{Group, Layout},
    manifest::Tree,
    statement::Refused,
    tree::{self, Cv, Root},
};
use blocks::Blocks;
use patch::Patch;
use placed::Placed;
use shifts::Shifts;
use table::Table;
pub use zeros::is_zero_block;
use zeros::{ZEROS, are_zeros};

/// Groups that are asked for and searched together: their nodes take at most 20 MiB.
const GROUPS_AT_ONCE: usize = 1024;
/// Bytes of pieces that are asked for and searched together; the search needs 16 times as much.
const PIECES_AT_ONCE: u64 = 1 << 20;
/// A page that was read without anchors gets them when more than one in this many of its blocks is missing.
const BARE_MISSING_MAX: u32 = 4;
/// Places at which an anchor is tried.
const PLACES_MAX: usize = 8;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// A block that its pieces say can be put together. If the judge refuses it, a hint lied; then what came from here
    /// must be fetched too.
    Patched { block: BlockIndex, parts: Vec<Part> },
    /// Nowhere here.
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

/// The seeds as the descent sees them. What cannot be read is just not found there.
pub trait Local {
    /// Fills the buffer with the bytes of a seed from this place; whether it could.
    fn read(&mut self, seed: SeedIndex, place: u64, into: &mut [u8]) -> bool;

    /// The value of the subtree over these bytes of a seed as if they lay at `offset` of the object; the root if they are
    /// all of it.
    fn value(&mut self, seed: SeedIndex, bytes: ByteRange, offset: u64, root: bool) -> Option<Cv>;

    /// Asked before all work that costs time: one hash, or one block of pieces. After `false` the search ends and the
    /// rest counts as missing. A hash may be of gigabytes; [`Local::value`] ends it early by saying `None`.
    fn go_on(&mut self) -> bool {
        true
    }
}

/// A node, or a block, that is not found yet.
struct Node {
    index: u32,
    blocks: BlockRange,
    bytes: ByteRange,
    value: Cv,
    window: Option<Window>,
    /// Shifts at which it was hashed already.
    failed: Vec<Shift>,
    /// A seed has its window at the same place, so most of it is probably there, and only the rest changed.
    unmoved: bool,
}

/// The anchor of a node, as a window of the object.
#[derive(Clone, Copy)]
struct Window {
    tag: Tag,
    place: u64,
}

/// A group that is to be read.
struct Unread {
    index: u32,
    /// The value that proves it; `None`: the root does.
    expected: Option<Cv>,
    /// Without its anchors, at first.
    bare: bool,
}

/// A part of the manifest that a level waits for.
enum Wanted {
    Group(Group, Unread),
    /// The anchors of a page that was read without.
    Anchors(Group),
}

impl Wanted {
    fn bytes(&self) -> ByteRange {
        match self {
            Wanted::Group(group, Unread { bare: true, .. }) => {
                ByteRange::new(group.bytes.start, values_end(group))
            }
            Wanted::Group(group, _) => group.bytes,
            Wanted::Anchors(group) => ByteRange::new(values_end(group), group.bytes.end),
        }
    }
}

/// Nodes of one level; the groups that hold them are read in batches.
#[allow(
    clippy::struct_field_names,
    reason = "a level has a number, and that is called level everywhere"
)]
struct Level {
    level: u32,
    /// Groups to be read after this batch.
    later: VecDeque<Unread>,
    /// What was not given yet of this batch.
    wanted: Vec<Wanted>,
    /// Pages of this batch that were read without anchors.
    bare: Vec<Group>,
    nodes: Vec<Node>,
    missing: Vec<Node>,
}

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
    stage: Stage,
    finds: Vec<Find>,
    /// Leaves of the pages that were read and not taken yet.
    leaves: Vec<(BlockIndex, Vec<Cv>)>,
    /// Something was found in a seed.
    found_any: bool,
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
            stage: Stage::Done,
            finds: Vec::new(),
            leaves: Vec::new(),
            found_any: false,
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

    /// Whether all is found out.
    pub fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }

    /// What was found out since the last call.
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

    /// Searches with what was given, until more is wanted or all is found out.
    ///
    /// # Panics
    /// If something is wanted.
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
                self.stopped |= blocks.sample > 0 && !blocks.patches.iter().any(Patch::has_any);
                blocks.sample = 0;
                self.enter_blocks(blocks);
            }
            Stage::Done => {}
        }
    }

    /// Asks for the next batch of a level, or goes on to what lies below it.
    fn enter(&mut self, mut level: Level) {
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
        if missing.is_empty() {
            self.stage = Stage::Done;
        } else if level.level == 0 && (self.stopped || !self.layout.hints) {
            self.finds.extend(missing.iter().map(|node| Find::Missing {
                blocks: node.blocks,
            }));
            self.stage = Stage::Done;
        } else if level.level == 0 {
            self.enter_blocks(Blocks::new(missing, self.found_any));
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

    fn enter_blocks(&mut self, mut blocks: Blocks) {
        blocks.patches.clear();
        if blocks.later.is_empty() || self.stopped {
            self.finds
                .extend(blocks.later.iter().map(|node| Find::Missing {
                    blocks: node.blocks,
                }));
            self.stage = Stage::Done;
            return;
        }
        let pieces = self.layout.pieces();
        let mut room = PIECES_AT_ONCE;
        while let Some(node) = blocks.later.front() {
            if blocks.sample > 0 && blocks.patches.len() == blocks.sample {
                break;
            }
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
            let node = blocks.later.pop_front().expect("there is a first one");
            blocks.patches.push(Patch::new(node));
        }
        self.stage = Stage::Blocks(blocks);
    }

    /// Tries each node with what is known on its left, then those that are left over with what is known on their right.
    fn search_level(&mut self, level: &mut Level, local: &mut impl Local) {
        let mut nodes = std::mem::take(&mut level.nodes);
        if self.stopped {
            level.missing.append(&mut nodes);
            level.bare.clear();
            level.missing.sort_by_key(|node| node.index);
            return;
        }
        nodes.retain_mut(|node| !self.search(level.level, node, local));
        let mut from_right: Vec<Node> = Vec::new();
        for mut node in nodes.into_iter().rev() {
            let right = self.placed.right_of(node.bytes.end);
            if !right.is_some_and(|shift| self.holds(&mut node, shift, local)) {
                from_right.push(node);
            }
        }
        level.missing.extend(from_right.into_iter().rev());
        // A page that is searched a second time comes after those that are not.
        level.missing.sort_by_key(|node| node.index);
    }

    /// Tries all places that anything suggests for a node.
    fn search(&mut self, level: u32, node: &mut Node, local: &mut impl Local) -> bool {
        if self.is_zeros(node) {
            self.finds.push(Find::Whole {
                blocks: node.blocks,
                value: node.value,
                from: Source::Zeros,
            });
            return true;
        }
        for number in 0..self.seeds.len() {
            let shift = Shift {
                seed: SeedIndex(number as u16),
                by: 0,
            };
            match self.same_place(number, level, node) {
                Some(true) => {
                    self.found(node, shift);
                    return true;
                }
                Some(false) => node.failed.push(shift),
                None => {}
            }
        }
        let suggested = self.suggested(node.bytes);
        if suggested
            .into_iter()
            .any(|shift| self.holds(node, shift, local))
        {
            return true;
        }
        if self
            .anchored(node)
            .into_iter()
            .any(|shift| self.holds(node, shift, local))
        {
            return true;
        }
        node.unmoved = level > 0
            && node.window.is_some()
            && self.seeds.iter().enumerate().any(|(number, seed)| {
                let shift = Shift {
                    seed: SeedIndex(number as u16),
                    by: 0,
                };
                window_is_at(node, shift, seed.geometry().length(), local)
            });
        false
    }

    /// Whether the tree of a seed has this very node at the same place; `None` if it does not tell.
    fn same_place(&self, seed: usize, level: u32, node: &Node) -> Option<bool> {
        let seed = &self.seeds[seed];
        let (old, new) = (seed.geometry(), &self.layout.geometry);
        if old.block_size() != new.block_size() || level > old.levels() {
            return None;
        }
        let values = match level {
            0 => seed.leaves(),
            _ => &seed.levels()[level as usize - 1].values,
        };
        let same = *values.get(node.index as usize)? == node.value;
        let as_long = blocks_of(old, level, node.index) == node.blocks
            && old.bytes_of_range(node.blocks).end == node.bytes.end;
        (same || as_long).then_some(same)
    }

    /// Shifts that need no hint of the node: of its neighbours, none, and those that held elsewhere.
    fn suggested(&self, bytes: ByteRange) -> Vec<Shift> {
        let neighbours = [
            self.placed.left_of(bytes.start),
            self.placed.right_of(bytes.end),
        ];
        let unmoved = (0..self.seeds.len().min(PLACES_MAX)).map(|seed| Shift {
            seed: SeedIndex(seed as u16),
            by: 0,
        });
        let mut all: Vec<Shift> = Vec::new();
        for shift in neighbours
            .into_iter()
            .flatten()
            .chain(unmoved)
            .chain(self.shifts.held())
        {
            if !all.contains(&shift) {
                all.push(shift);
            }
        }
        all
    }

    /// Shifts that the node's own anchor suggests, the nearest to what its neighbour suggests first.
    fn anchored(&self, node: &Node) -> Vec<Shift> {
        let Some(window) = node.window else {
            return Vec::new();
        };
        let near = self.placed.left_of(node.bytes.start);
        self.table.places(&self.seeds, window, near, PLACES_MAX)
    }

    /// Whether the bytes at this shift are those of the node. Whatever was hashed before is not hashed again.
    fn holds(&mut self, node: &mut Node, shift: Shift, local: &mut impl Local) -> bool {
        let length = self.seeds[usize::from(shift.seed.0)].geometry().length();
        let Some(place) = shift.place(node.bytes, length) else {
            return false;
        };
        if node.failed.contains(&shift) || !window_is_at(node, shift, length, local) {
            return false;
        }
        if !self.shifts.worth_trying(shift) {
            return false;
        }
        if !local.go_on() {
            self.stopped = true;
            return false;
        }
        let root = node.blocks == self.layout.geometry.all();
        let held = local.value(shift.seed, place, node.bytes.start, root) == Some(node.value);
        self.shifts.note(shift, held);
        match held {
            true => self.found(node, shift),
            false => node.failed.push(shift),
        }
        held
    }

    fn found(&mut self, node: &Node, shift: Shift) {
        self.found_any = true;
        self.placed.insert(node.bytes, shift);
        self.shifts.note_held(shift);
        self.finds.push(Find::Whole {
            blocks: node.blocks,
            value: node.value,
            from: Source::Seed(shift),
        });
    }

    /// Whether the node is all zeros; hashed only when its anchor says so.
    fn is_zeros(&self, node: &Node) -> bool {
        let whole = node.blocks == self.layout.geometry.all();
        are_zeros(node.bytes, whole, node.window, node.value)
    }

    /// Puts blocks together from pieces, first to last and back.
    fn patch(&mut self, patches: &mut [Patch], local: &mut impl Local) {
        for patch in patches.iter_mut() {
            if !self.may_patch(local) {
                break;
            }
            let mut shifts = self.suggested(patch.bytes());
            for shift in self.anchored(patch.node()) {
                let length = self.seeds[usize::from(shift.seed.0)].geometry().length();
                if !shifts.contains(&shift) && window_is_at(patch.node(), shift, length, local) {
                    shifts.push(shift);
                }
            }
            patch.zeros();
            for shift in shifts {
                patch.try_shift(shift, &self.seeds, local);
            }
            patch.search_between(&self.placed, &self.seeds, &mut self.shifts, local);
            patch.place(&mut self.placed);
        }
        for patch in patches.iter_mut().rev() {
            if !patch.is_complete() && self.may_patch(local) {
                if let Some(shift) = self.placed.right_of(patch.bytes().end) {
                    patch.try_shift(shift, &self.seeds, local);
                }
                if let Some(shift) = self.placed.left_of(patch.bytes().start) {
                    patch.try_shift(shift, &self.seeds, local);
                }
                patch.place(&mut self.placed);
            }
        }
        for patch in patches {
            patch.drop_doubtful();
            self.finds.push(patch.find());
        }
    }

    fn may_patch(&mut self, local: &mut impl Local) -> bool {
        self.stopped |= !local.go_on();
        !self.stopped
    }
}

impl Level {
    fn new(level: u32, later: VecDeque<Unread>) -> Level {
        Level {
            level,
            later,
            wanted: Vec::new(),
            bare: Vec::new(),
            nodes: Vec::new(),
            missing: Vec::new(),
        }
    }

    /// Takes what is wanted at this place of the list, and returns the leaves of a page with their first block.
    fn take(
        &mut self,
        at: usize,
        bytes: &[u8],
        layout: &Layout,
        root: Root,
    ) -> Result<Option<(BlockIndex, Vec<Cv>)>, Refused> {
        let mut page = None;
        match &self.wanted[at] {
            Wanted::Group(group, unread) => {
                let (values, hints) = bytes.split_at(group.count as usize * 32);
                let (values, _) = values.as_chunks::<32>();
                let proven = match unread.expected {
                    None => tree::merge_root(values) == root,
                    Some(value) => tree::merge(values) == value,
                };
                if !proven {
                    return Err(Refused::Tree {
                        level: group.level,
                        index: group.index,
                    });
                }
                if unread.bare {
                    self.bare.push(*group);
                }
                if group.level == 0 {
                    page = Some((BlockIndex(group.index * FANOUT), values.to_vec()));
                }
                self.nodes.extend(nodes_of(layout, group, values, hints));
            }
            Wanted::Anchors(group) => {
                let (words, _) = bytes.as_chunks::<8>();
                let first = group.index * FANOUT;
                let known = self.nodes.partition_point(|node| node.index < first);
                for node in self.nodes[known..]
                    .iter_mut()
                    .take_while(|node| node.index / FANOUT == group.index)
                {
                    let word = u64::from_le_bytes(words[(node.index - first) as usize]);
                    node.window = block_window(word, node.bytes);
                }
            }
        }
        self.wanted.remove(at);
        Ok(page)
    }

    /// Where much of a page that was read without anchors is missing, it moved after all: its anchors are wanted, and
    /// its blocks are to be searched again. Whether there are any such pages.
    fn ask_for_anchors(&mut self) -> bool {
        let mut bare = std::mem::take(&mut self.bare);
        bare.sort_unstable_by_key(|group| group.index);
        bare.retain(|group| {
            let first = self
                .missing
                .partition_point(|node| node.index < group.index * FANOUT);
            let missing =
                self.missing[first..].partition_point(|node| node.index / FANOUT == group.index);
            missing as u32 > group.count / BARE_MISSING_MAX
        });
        let moved = |node: &mut Node| {
            bare.binary_search_by_key(&(node.index / FANOUT), |group| group.index)
                .is_ok()
        };
        self.nodes = self.missing.extract_if(.., moved).collect();
        self.wanted = bare.into_iter().map(Wanted::Anchors).collect();
        !self.wanted.is_empty()
    }
}

/// Where the values of a group end and its anchors begin.
fn values_end(group: &Group) -> u64 {
    group.bytes.start + u64::from(group.count) * 32
}

/// The blocks under a node; level 0 are the blocks themselves.
fn blocks_of(geometry: &Geometry, level: u32, index: u32) -> BlockRange {
    let under = u64::from(FANOUT).pow(level);
    let bound = |index: u64| (index * under).min(u64::from(geometry.blocks())) as u32;
    BlockRange::new(bound(u64::from(index)), bound(u64::from(index) + 1))
}

/// The nodes of a proven group with their hints; hints that cannot be are left out.
fn nodes_of(layout: &Layout, group: &Group, values: &[Cv], hints: &[u8]) -> Vec<Node> {
    let (words, _) = hints.as_chunks::<8>();
    let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
    let geometry = &layout.geometry;
    let node = |(number, value): (usize, &Cv)| {
        let index = group.index * FANOUT + number as u32;
        let blocks = blocks_of(geometry, group.level, index);
        let bytes = geometry.bytes_of_range(blocks);
        let window = match (words.is_empty(), group.level) {
            (true, _) => None,
            (false, 0) => block_window(words[number], bytes),
            (false, _) => Tag::from_value(words[2 * number]).and_then(|tag| {
                Window {
                    tag,
                    place: words[2 * number + 1],
                }
                .within(bytes)
            }),
        };
        Node {
            index,
            blocks,
            bytes,
            value: *value,
            window,
            failed: Vec::new(),
            unmoved: false,
        }
    };
    values.iter().enumerate().map(node).collect()
}

fn block_window(anchor: u64, bytes: ByteRange) -> Option<Window> {
    let (tag, offset) = BlockAnchor(anchor).window()?;
    Window {
        tag,
        place: bytes.start + u64::from(offset),
    }
    .within(bytes)
}

impl Window {
    fn within(self, bytes: ByteRange) -> Option<Window> {
        let end = self.place.checked_add(WINDOW as u64)?;
        (bytes.start <= self.place && end <= bytes.end).then_some(self)
    }
}

/// Whether the seed has the node's window where this shift puts it. A node without a window says yes.
fn window_is_at(node: &Node, shift: Shift, seed_length: u64, local: &mut impl Local) -> bool {
    let Some(window) = node.window else {
        return true;
    };
    let bytes = ByteRange::new(window.place, window.place + WINDOW as u64);
    let Some(place) = shift.place(bytes, seed_length) else {
        return false;
    };
    let mut found = [0; WINDOW];
    local.read(shift.seed, place.start, &mut found) && Tag::of(anchors::gear(&found)) == window.tag
}

#[cfg(test)]
mod tests;
