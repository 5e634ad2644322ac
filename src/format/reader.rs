//! Readers of manifests without I/O: they report which bytes they want next and judge the bytes that they are given.
//!
//! [`TreeReader`] proves groups against the root, from the top down; it is the ranged reader and the heart of
//! [`WholeReader`], which checks everything that a manifest alone can show (manifest.md, section 5).

use std::collections::BTreeMap;

use super::{
    anchors::{BlockAnchor, NodeAnchor},
    geometry::{BlockIndex, BlockRange, ByteRange, FANOUT, Geometry},
    layout::{Group, Layout},
    manifest::Tree,
    signature::SignatureArea,
    statement::{Known, Refused, Statement, read_front},
    tree::{self, Cv, Root},
};

/// Reads a manifest from start to end: reports which bytes come next, and judges them.
pub trait InOrder {
    /// The bytes of the manifest to give next; they follow those before.
    fn want(&self) -> Option<ByteRange>;

    /// Takes the wanted bytes.
    ///
    /// # Panics
    /// If they are not as many as wanted.
    fn give(&mut self, bytes: &[u8]) -> Result<(), Refused>;
}

impl InOrder for WholeReader<'_> {
    fn want(&self) -> Option<ByteRange> {
        WholeReader::want(self)
    }

    fn give(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        WholeReader::give(self, bytes)
    }
}

/// Reads tree and pages in the order of the file, and proves each group before it keeps it.
pub struct TreeReader {
    layout: Layout,
    root: Root,
    /// The group to be read next; `None` at the end.
    next: Option<Group>,
    /// Proven values of the level above the next group; empty for the top group, which the root proves.
    above: Vec<Cv>,
    current: Vec<Cv>,
    anchors: Vec<BlockAnchor>,
    /// Anchors of nodes as the file gives them, the highest level first.
    node_anchors: Vec<Vec<NodeAnchor>>,
    /// The first block whose anchor is impossible, and the first node, from the lowest level up, whose anchor is not that of its
    /// children.
    wrong_block: Option<u32>,
    wrong_node: Option<(u32, u32)>,
}

impl TreeReader {
    /// Reads the tree of this layout, which must have this root.
    pub fn new(layout: Layout, root: Root) -> TreeReader {
        let top = layout.geometry.levels();
        TreeReader {
            layout,
            root,
            next: Some(layout.group(top, 0)),
            above: Vec::new(),
            current: Vec::new(),
            anchors: Vec::new(),
            node_anchors: vec![Vec::new(); top as usize],
            wrong_block: None,
            wrong_node: None,
        }
    }

    /// The bytes of the manifest to give next.
    pub fn want(&self) -> Option<ByteRange> {
        self.next.map(|group| group.bytes)
    }

    /// Takes the wanted bytes.
    ///
    /// # Panics
    /// If they are not as many as wanted.
    pub fn give(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let group = self.next.expect("no more bytes are wanted");
        assert_eq!(
            bytes.len() as u64,
            group.bytes.length(),
            "exactly the wanted bytes"
        );
        let (values, hints) = bytes.split_at(group.count as usize * 32);
        let (values, _) = values.as_chunks::<32>();
        let proven = match group.level == self.layout.geometry.levels() {
            true => tree::merge_root(values) == self.root,
            false => tree::merge(values) == self.above[group.index as usize],
        };
        if !proven {
            return Err(Refused::Tree {
                level: group.level,
                index: group.index,
            });
        }
        self.current.extend_from_slice(values);
        let (words, _) = hints.as_chunks::<8>();
        match group.level {
            0 => self.anchors.extend(
                words
                    .iter()
                    .map(|word| BlockAnchor(u64::from_le_bytes(*word))),
            ),
            level => {
                let (pairs, _) = words.as_chunks::<2>();
                let depth = (self.layout.geometry.levels() - level) as usize;
                self.node_anchors[depth].extend(pairs.iter().map(|[tag, place]| NodeAnchor {
                    tag: u64::from_le_bytes(*tag),
                    place: u64::from_le_bytes(*place),
                }));
            }
        }
        self.advance(group);
        Ok(())
    }

    fn advance(&mut self, done: Group) {
        self.next = if done.index + 1 < self.layout.groups(done.level) {
            Some(self.layout.group(done.level, done.index + 1))
        } else if done.level > 0 {
            self.above = std::mem::take(&mut self.current);
            Some(self.layout.group(done.level - 1, 0))
        } else {
            None
        };
    }

    /// Takes the page that the last bytes gave, if they gave one: it is not kept.
    fn take_page(&mut self, group: Group) -> Option<Page> {
        (group.level == 0).then(|| Page {
            geometry: self.layout.geometry,
            first: BlockIndex(group.index * FANOUT),
            leaves: std::mem::take(&mut self.current),
            anchors: std::mem::take(&mut self.anchors),
        })
    }

    /// Compares the anchors of the group that was read last with its place, and with the anchor of the node above it.
    fn compare_anchors(&mut self, group: Group) {
        if !self.layout.hints {
            return;
        }
        let geometry = self.layout.geometry;
        let count = group.count as usize;
        let depth = (geometry.levels() - group.level) as usize;
        let smallest = match group.level {
            0 => {
                let first = group.index * FANOUT;
                let anchors = &self.anchors[self.anchors.len() - count..];
                let blocks = (first..first + group.count)
                    .map(|block| (block, geometry.bytes_of(BlockIndex(block))));
                let wrong = |((_, bytes), anchor): &((u32, ByteRange), &BlockAnchor)| {
                    !anchor.fits(bytes.length())
                };
                if let Some(((block, _), _)) = blocks.clone().zip(anchors).find(wrong) {
                    self.wrong_block.get_or_insert(block);
                }
                let placed = blocks.zip(anchors);
                NodeAnchor::smallest(placed.map(|((_, at), anchor)| anchor.in_object(at.start)))
            }
            _ => {
                let anchors = &self.node_anchors[depth];
                NodeAnchor::smallest(anchors[anchors.len() - count..].iter().copied())
            }
        };
        if depth > 0 && self.node_anchors[depth - 1][group.index as usize] != smallest {
            let found = (group.level + 1, group.index);
            self.wrong_node = Some(self.wrong_node.map_or(found, |wrong| wrong.min(found)));
        }
    }

    /// Refuses impossible anchors, if all were compared.
    fn check_anchors(&self) -> Result<(), Refused> {
        if let Some(block) = self.wrong_block {
            return Err(Refused::BlockAnchor(block));
        }
        match self.wrong_node {
            Some((level, index)) => Err(Refused::NodeAnchor { level, index }),
            None => Ok(()),
        }
    }

    fn into_tree(self) -> Tree {
        let hints = self.layout.hints;
        Tree::new(
            self.layout.geometry,
            self.current,
            hints.then_some(self.anchors),
        )
    }
}

/// The proven leaves of neighbouring blocks, and their anchors if the manifest has hints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// That of the object.
    pub geometry: Geometry,
    /// The block of the first leaf.
    pub first: BlockIndex,
    /// At most [`FANOUT`].
    pub leaves: Vec<Cv>,
    /// As many as leaves, or none.
    pub anchors: Vec<BlockAnchor>,
}

/// Reads tree and pages in the order of the file, and hands on each page as soon as it is proven: of the leaves none is kept.
pub struct PageReader<F> {
    tree: TreeReader,
    take: F,
}

impl<F: FnMut(Page)> PageReader<F> {
    /// Reads the tree of this layout, which must have this root.
    pub fn new(layout: Layout, root: Root, take: F) -> PageReader<F> {
        let tree = TreeReader::new(layout, root);
        PageReader { tree, take }
    }
}

impl<F: FnMut(Page)> InOrder for PageReader<F> {
    fn want(&self) -> Option<ByteRange> {
        self.tree.want()
    }

    fn give(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let group = self.tree.next;
        self.tree.give(bytes)?;
        if let Some(page) = group.and_then(|group| self.tree.take_page(group)) {
            (self.take)(page);
        }
        Ok(())
    }
}

/// Reads only the groups that some blocks need, each proven by the one above it.
pub struct LazyTree {
    layout: Layout,
    root: Root,
    /// Proven values by level and index of their group.
    groups: BTreeMap<(u32, u32), Vec<Cv>>,
}

impl LazyTree {
    /// An empty tree.
    pub fn new(layout: Layout, root: Root) -> LazyTree {
        LazyTree {
            layout,
            root,
            groups: BTreeMap::new(),
        }
    }

    /// The group to give next so that the leaves of these blocks are known; `None`: they are known.
    pub fn want(&self, blocks: BlockRange) -> Option<Group> {
        (0..=self.layout.geometry.levels()).rev().find_map(|level| {
            let group_of = |block: u32| block / FANOUT.pow(level + 1).max(1);
            let mut indices =
                group_of(blocks.start)..=group_of(blocks.end.max(blocks.start + 1) - 1);
            let index = indices.find(|index| !self.groups.contains_key(&(level, *index)))?;
            Some(self.layout.group(level, index))
        })
    }

    /// Takes the bytes of a wanted group.
    pub fn give(&mut self, group: Group, bytes: &[u8]) -> Result<(), Refused> {
        let refuse = || Refused::Tree {
            level: group.level,
            index: group.index,
        };
        let values = bytes.get(..group.count as usize * 32).ok_or_else(refuse)?;
        let (values, _) = values.as_chunks::<32>();
        let proven = match group.level == self.layout.geometry.levels() {
            true => tree::merge_root(values) == self.root,
            false => Some(tree::merge(values)) == self.value(group.level + 1, group.index),
        };
        match proven {
            true => {
                self.groups
                    .insert((group.level, group.index), values.to_vec());
                Ok(())
            }
            false => Err(refuse()),
        }
    }

    /// Takes all leaves, proven elsewhere.
    pub fn fill(&mut self, leaves: &[Cv]) {
        let levels = std::iter::once(leaves.to_vec()).chain(tree::nodes_above(leaves));
        for (level, values) in (0..).zip(levels) {
            let groups = (0..).zip(values.chunks(FANOUT as usize));
            self.groups
                .extend(groups.map(|(index, values)| ((level, index), values.to_vec())));
        }
    }

    /// A proven value; level 0 has the leaves.
    fn value(&self, level: u32, index: u32) -> Option<Cv> {
        self.groups
            .get(&(level, index / FANOUT))?
            .get((index % FANOUT) as usize)
            .copied()
    }

    /// The leaf of a block, if it is known.
    pub fn leaf(&self, block: BlockIndex) -> Option<Cv> {
        self.value(0, block.0)
    }

    /// Whether a group was given.
    pub fn knows(&self, level: u32, index: u32) -> bool {
        self.groups.contains_key(&(level, index))
    }

    /// Removes a page, and returns its leaves.
    pub fn take_page(&mut self, index: u32) -> Option<Vec<Cv>> {
        self.groups.remove(&(0, index))
    }
}

/// A manifest that passed every check that needs no object. Its pieces stay in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The bytes that are, or can be, signed.
    pub statement: Statement,
    /// Well-formed; whether it is valid depends on a key.
    pub signature: SignatureArea,
    /// Leaves and anchors.
    pub tree: Tree,
}

/// Reads a whole manifest from front to end.
pub struct WholeReader<'a> {
    statement: Statement,
    signature: SignatureArea,
    tree: TreeReader,
    /// Takes each page as soon as it is proven. `None`: leaves and anchors are kept.
    take_page: Option<Box<dyn FnMut(Page) + Send + 'a>>,
    /// The section that the next bytes belong to, its hash so far, and how much of it was seen.
    section: usize,
    hasher: blake3::Hasher,
    at: u64,
}

/// No manifest is longer: 2^24 blocks with hints (672 MiB with their nodes), pieces of 2^24 blocks of 64 KiB (2 GiB), and room for more.
pub const MANIFEST_BYTES_MAX: u64 = 4 << 30;

/// Sections that are only hashed are read in steps of this size.
const STEP: u64 = 256 * 1024;

impl<'a> WholeReader<'a> {
    /// `front` is the first 1,536 bytes, or the whole file if it is shorter; `file_length` is the length of the manifest, if it
    /// is known.
    pub fn new(front: &[u8], file_length: Option<u64>) -> Result<WholeReader<'a>, Refused> {
        let (statement, signature) = read_front(front)?;
        let expected = statement.header().sections_end() + signature.trailer_bytes();
        match file_length {
            Some(found) if found != expected => Err(Refused::Length { expected, found }),
            _ => WholeReader::after_front(statement, signature),
        }
    }

    /// Reads what follows a front that was read.
    pub fn after_front(
        statement: Statement,
        signature: SignatureArea,
    ) -> Result<WholeReader<'a>, Refused> {
        let header = statement.header();
        let tree = TreeReader::new(header.layout(), header.root);
        let at = header.sections[0].bytes.start;
        let mut reader = WholeReader {
            statement,
            signature,
            tree,
            take_page: None,
            section: 0,
            hasher: blake3::Hasher::new(),
            at,
        };
        reader.finish_sections()?;
        Ok(reader)
    }

    /// The same, handing on each page as soon as it is proven: of the leaves none is kept.
    #[must_use]
    pub fn by_page(self, take: impl FnMut(Page) + Send + 'a) -> WholeReader<'a> {
        WholeReader {
            take_page: Some(Box::new(take)),
            ..self
        }
    }

    /// The statement in the front.
    pub fn statement(&self) -> &Statement {
        &self.statement
    }

    /// The bytes to give next; they follow those before.
    pub fn want(&self) -> Option<ByteRange> {
        let section = self.statement.header().sections.get(self.section)?;
        if section.kind < Known::Pieces as u8 {
            return self.tree.want();
        }
        Some(ByteRange::new(
            self.at,
            section.bytes.end.min(self.at + STEP),
        ))
    }

    /// Takes the wanted bytes.
    pub fn give(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let section = &self.statement.header().sections[self.section];
        self.hasher.update(bytes);
        self.at += bytes.len() as u64;
        if section.kind < Known::Pieces as u8 {
            let group = self.tree.next;
            self.tree.give(bytes)?;
            if let Some(group) = group {
                self.tree.compare_anchors(group);
            }
            if let Some(take) = &mut self.take_page
                && let Some(page) = group.and_then(|group| self.tree.take_page(group))
            {
                take(page);
            }
        }
        self.finish_sections()
    }

    /// Closes every section whose end is reached, including empty ones.
    fn finish_sections(&mut self) -> Result<(), Refused> {
        while let Some(section) = self.statement.header().sections.get(self.section) {
            if self.at < section.bytes.end {
                break;
            }
            if self.hasher.finalize() != section.blake3 {
                return Err(Refused::SectionChecksum(section.kind));
            }
            self.hasher.reset();
            self.section += 1;
        }
        Ok(())
    }

    /// The manifest, when nothing more is wanted.
    ///
    /// # Panics
    /// If more bytes are wanted, or if it handed on the pages.
    pub fn finish(self) -> Result<Manifest, Refused> {
        assert!(self.want().is_none(), "the reader still wants bytes");
        assert!(self.take_page.is_none(), "the leaves were kept");
        self.tree.check_anchors()?;
        Ok(Manifest {
            statement: self.statement,
            signature: self.signature,
            tree: self.tree.into_tree(),
        })
    }

    /// What is signed and its signature, when nothing more is wanted.
    ///
    /// # Panics
    /// If more bytes are wanted.
    pub fn finish_checks(self) -> Result<(Statement, SignatureArea), Refused> {
        assert!(self.want().is_none(), "the reader still wants bytes");
        self.tree.check_anchors()?;
        Ok((self.statement, self.signature))
    }

    fn read_all(mut self, bytes: &[u8]) -> Result<WholeReader<'a>, Refused> {
        while let Some(want) = self.want() {
            self.give(&bytes[want.start as usize..want.end as usize])?;
        }
        Ok(self)
    }
}

impl Manifest {
    /// Reads a manifest in memory.
    pub fn from_bytes(bytes: &[u8]) -> Result<Manifest, Refused> {
        let reader = WholeReader::new(bytes, Some(bytes.len() as u64))?;
        reader.read_all(bytes)?.finish()
    }

    /// Makes the same checks, and keeps no leaf.
    pub fn check_bytes(bytes: &[u8]) -> Result<(Statement, SignatureArea), Refused> {
        let reader = WholeReader::new(bytes, Some(bytes.len() as u64))?;
        reader.by_page(|_| ()).read_all(bytes)?.finish_checks()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{
        geometry::{BlockSize, Geometry},
        manifest::{self, Particulars},
        tree::Cv,
    };

    #[test]
    fn a_lazy_tree_reads_only_what_is_needed() {
        for blocks in [1u32, 2, 256, 257, 70_000] {
            let geometry = Geometry::new(u64::from(blocks) << 14, BlockSize::MIN).unwrap();
            let leaves: Vec<Cv> = (0..blocks)
                .map(|i| *blake3::hash(&i.to_le_bytes()).as_bytes())
                .collect();
            let tree = Tree::new(
                geometry,
                leaves.clone(),
                Some(vec![BlockAnchor::NONE; blocks as usize]),
            );
            let root = tree.root();
            let bytes = manifest::to_bytes(
                &tree,
                Some(&vec![0; geometry.pieces() as usize * 2]),
                Particulars::default(),
            );
            for (start, end) in [
                (0, 1),
                (blocks - 1, blocks),
                (blocks / 2, blocks / 2 + 1),
                (0, blocks.min(600)),
            ] {
                let mut lazy = LazyTree::new(tree.layout(), root);
                let wanted = BlockRange::new(start, end);
                let mut read = 0;
                while let Some(group) = lazy.want(wanted) {
                    let at = group.bytes;
                    let mut given = bytes[at.start as usize..at.end as usize].to_vec();
                    given[5] ^= 1;
                    assert!(lazy.give(group, &given).is_err());
                    given[5] ^= 1;
                    lazy.give(group, &given).unwrap();
                    read += 1;
                }
                assert!(
                    wanted
                        .iter()
                        .all(|block| lazy.leaf(block) == Some(leaves[block.0 as usize]))
                );
                let pages = (end - 1) / 256 - start / 256 + 1;
                assert!(
                    read <= pages + geometry.levels() + 2,
                    "{blocks}: {read} groups for {start}-{end}"
                );
                let page = start / 256;
                let of_page =
                    &leaves[page as usize * 256..leaves.len().min((page as usize + 1) * 256)];
                assert!(lazy.knows(0, page));
                assert_eq!(lazy.take_page(page).as_deref(), Some(of_page));
                assert!(!lazy.knows(0, page) && lazy.leaf(BlockIndex(start)).is_none());
            }
        }
    }
}
