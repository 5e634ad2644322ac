//! One level of the tree on the way down: its groups are read in batches, proven, and become nodes.

use std::collections::VecDeque;

use crate::format::{
    anchors::{BlockAnchor, Tag, WINDOW},
    geometry::{BlockIndex, BlockRange, ByteRange, FANOUT, Geometry},
    layout::{Group, Layout},
    statement::Refused,
    tree::{self, Cv, Root},
};

use super::protocol::Shift;

/// A page that was read without anchors gets them when more than one in this many of its blocks is missing.
const BARE_MISSING_MAX: u32 = 4;

/// A node, or a block, that is not found yet.
pub struct Node {
    pub index: u32,
    pub blocks: BlockRange,
    pub bytes: ByteRange,
    pub value: Cv,
    pub window: Option<Window>,
    /// Shifts at which it was hashed already.
    pub failed: Vec<Shift>,
    /// A seed has its window at the same place, so most of it is probably there, and only the rest changed.
    pub unmoved: bool,
    /// A seed has its window as an anchor, or its window is unknown: some of it is probably there.
    pub expected: bool,
}

/// A block that was found nowhere, until its pieces are read: 2^20 of them take 16 MiB.
pub struct Aside {
    pub block: BlockIndex,
    pub expected: bool,
    anchor: BlockAnchor,
}

impl Aside {
    pub fn of(node: &Node) -> Aside {
        let anchor = node.window.map(|window| {
            let offset = window.place - node.bytes.start;
            BlockAnchor::new(window.tag, offset as u32)
        });
        Aside {
            block: BlockIndex(node.index),
            expected: node.expected,
            anchor: anchor.unwrap_or(BlockAnchor::NONE),
        }
    }

    /// The block again. Its value is of no use for its pieces.
    pub fn node(&self, geometry: &Geometry) -> Node {
        let bytes = geometry.bytes_of(self.block);
        Node {
            index: self.block.0,
            blocks: BlockRange::one(self.block),
            bytes,
            value: [0; 32],
            window: block_window(self.anchor.0, bytes),
            failed: Vec::new(),
            unmoved: false,
            expected: self.expected,
        }
    }
}

/// The anchor of a node, as a window of the object.
#[derive(Clone, Copy)]
pub struct Window {
    pub tag: Tag,
    pub place: u64,
}

/// A group that is to be read.
pub struct Unread {
    pub index: u32,
    /// The value that proves it; `None`: the root does.
    pub expected: Option<Cv>,
    /// Without its anchors, at first.
    pub bare: bool,
}

/// A part of the manifest that a level waits for.
pub enum Wanted {
    Group(Group, Unread),
    /// The anchors of a page that was read without.
    Anchors(Group),
}

impl Wanted {
    pub fn bytes(&self) -> ByteRange {
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
pub struct Level {
    pub level: u32,
    /// Groups to be read after this batch.
    pub later: VecDeque<Unread>,
    /// What was not given yet of this batch.
    pub wanted: Vec<Wanted>,
    /// Pages of this batch that were read without anchors.
    pub bare: Vec<Group>,
    pub nodes: Vec<Node>,
    /// Of this batch; of nodes also those of earlier batches.
    pub missing: Vec<Node>,
    /// Blocks that were found nowhere in earlier batches, ascending.
    pub aside: Vec<Aside>,
}

impl Level {
    pub fn new(level: u32, later: VecDeque<Unread>) -> Level {
        Level {
            level,
            later,
            wanted: Vec::new(),
            bare: Vec::new(),
            nodes: Vec::new(),
            missing: Vec::new(),
            aside: Vec::new(),
        }
    }

    /// Takes what is wanted at this place of the list, and returns the leaves of a page with their first block.
    pub fn take(
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
    pub fn ask_for_anchors(&mut self) -> bool {
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
pub fn values_end(group: &Group) -> u64 {
    group.bytes.start + u64::from(group.count) * 32
}

/// The blocks under a node; level 0 are the blocks themselves.
pub fn blocks_of(geometry: &Geometry, level: u32, index: u32) -> BlockRange {
    let under = u64::from(FANOUT).pow(level);
    let bound = |index: u64| (index * under).min(u64::from(geometry.blocks())) as u32;
    BlockRange::new(bound(u64::from(index)), bound(u64::from(index) + 1))
}

/// The nodes of a proven group with their hints; hints that cannot be are left out.
pub fn nodes_of(layout: &Layout, group: &Group, values: &[Cv], hints: &[u8]) -> Vec<Node> {
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
            expected: false,
        }
    };
    values.iter().enumerate().map(node).collect()
}

pub fn block_window(anchor: u64, bytes: ByteRange) -> Option<Window> {
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
