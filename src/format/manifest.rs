//! A manifest as a whole: the tree of an object with its hints, made from leaves, written out, made coarser.

use super::{
    anchors::{self, BlockAnchor, NodeAnchor},
    digests::Digest,
    geometry::{ByteRange, FANOUT, Geometry},
    layout::{FRONT_BYTES, Group, Layout},
    signature::Signature,
    statement::{Header, Known, Section, Statement},
    tree::{self, Cv, Root},
};

/// One level of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    /// First to last.
    pub values: Vec<Cv>,
    /// As many as values, or none without hints.
    pub anchors: Vec<NodeAnchor>,
}

/// Leaves and nodes of an object, with their anchors if the manifest has hints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    geometry: Geometry,
    hints: bool,
    leaves: Vec<Cv>,
    anchors: Vec<BlockAnchor>,
    /// The lowest level, number 1, first.
    levels: Vec<Level>,
}

impl Tree {
    /// The tree above these leaves; anchors one a leaf, or `None` for a manifest without hints.
    ///
    /// # Panics
    /// If there is not one leaf, and one anchor, for each block.
    pub fn new(geometry: Geometry, leaves: Vec<Cv>, anchors: Option<Vec<BlockAnchor>>) -> Tree {
        assert_eq!(leaves.len(), geometry.blocks() as usize, "one leaf a block");
        let hints = anchors.is_some();
        let anchors = anchors.unwrap_or_default();
        assert!(
            !hints || anchors.len() == leaves.len(),
            "one anchor a block"
        );
        let mut tree = Tree {
            geometry,
            hints,
            leaves,
            anchors,
            levels: Vec::new(),
        };
        for values in tree::nodes_above(&tree.leaves) {
            let level = tree.levels.len() as u32 + 1;
            let anchors = match hints {
                true => (0..values.len() as u32)
                    .map(|index| tree.anchor_of_children(level, index))
                    .collect(),
                false => Vec::new(),
            };
            tree.levels.push(Level { values, anchors });
        }
        tree
    }

    /// Of the object.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// One for each block.
    pub fn leaves(&self) -> &[Cv] {
        &self.leaves
    }

    /// Empty without hints.
    pub fn anchors(&self) -> &[BlockAnchor] {
        &self.anchors
    }

    /// The nodes, level by level from the lowest.
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// Where the parts of its manifest lie.
    pub fn layout(&self) -> Layout {
        Layout {
            geometry: self.geometry,
            hints: self.hints,
        }
    }

    /// The name of the object.
    pub fn root(&self) -> Root {
        tree::merge_root(
            self.levels
                .last()
                .map_or(&self.leaves, |level| &level.values),
        )
    }

    /// The smallest anchor of the children of a node.
    pub fn anchor_of_children(&self, level: u32, index: u32) -> NodeAnchor {
        let first = (index * FANOUT) as usize;
        let children = |count: usize| first..(first + FANOUT as usize).min(count);
        match level {
            0 | 1 => {
                let size = self.geometry.block_size().bytes();
                let blocks = children(self.anchors.len());
                NodeAnchor::smallest(
                    blocks.map(|block| self.anchors[block].in_object(block as u64 * size)),
                )
            }
            _ => {
                let below = &self.levels[level as usize - 2].anchors;
                NodeAnchor::smallest(below[children(below.len())].iter().copied())
            }
        }
    }

    /// Appends one group as it lies in the file.
    fn append_group(&self, group: Group, out: &mut Vec<u8>) {
        let first = (group.index * FANOUT) as usize;
        let entries = first..first + group.count as usize;
        let values = match group.level {
            0 => &self.leaves,
            level => &self.levels[level as usize - 1].values,
        };
        out.extend(values[entries.clone()].as_flattened());
        if self.hints && group.level == 0 {
            out.extend(
                self.anchors[entries]
                    .iter()
                    .flat_map(|anchor| anchor.0.to_le_bytes()),
            );
        } else if self.hints {
            for anchor in &self.levels[group.level as usize - 1].anchors[entries] {
                out.extend(anchor.tag.to_le_bytes());
                out.extend(anchor.place.to_le_bytes());
            }
        }
    }

    /// Hands the groups of some levels, the highest first, to `write`, one at a time.
    fn write_groups<E>(
        &self,
        top: u32,
        bottom: u32,
        mut write: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let layout = self.layout();
        let mut buffer = Vec::new();
        for level in (bottom..=top).rev() {
            for index in 0..layout.groups(level) {
                buffer.clear();
                self.append_group(layout.group(level, index), &mut buffer);
                write(&buffer)?;
            }
        }
        Ok(())
    }

    /// Hands the bytes of the tree section and then those of the pages to `write`, piecewise, and returns their rows.
    pub fn write_sections<E>(
        &self,
        mut write: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<Vec<Section>, E> {
        let layout = self.layout();
        let mut section = |kind, bytes, top, bottom| {
            let mut hasher = blake3::Hasher::new();
            self.write_groups(top, bottom, |group| {
                hasher.update(group);
                write(group)
            })?;
            Ok(Section::known(kind, bytes, *hasher.finalize().as_bytes()))
        };
        let tree = section(Known::Tree, layout.tree(), self.geometry.levels(), 1)?;
        let pages = section(Known::Pages, layout.pages(), 0, 0)?;
        Ok(vec![tree, pages])
    }

    /// The tree at twice the block size, without the object; `None` at 16 MiB.
    pub fn coarser(&self) -> Option<Tree> {
        let block_size = self.geometry.block_size();
        let geometry = Geometry::new(self.geometry.length(), block_size.doubled()?)?;
        let leaves = match geometry.blocks() {
            1 => vec![self.root().0],
            _ => self.leaves.chunks(2).map(tree::merge).collect(),
        };
        let anchors = self
            .hints
            .then(|| anchors::coarsen(&self.anchors, block_size));
        Some(Tree::new(geometry, leaves, anchors))
    }
}

/// What a writer of a manifest decides beside the bytes of the object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Particulars {
    /// At most 255 bytes; empty: none.
    pub name: String,
    /// Grows with each version; 0: not given.
    pub sequence: u64,
    /// Unix seconds; 0: not given.
    pub published: u64,
    /// Unix seconds; 0: not given.
    pub expires: u64,
    /// Ascending by kind.
    pub digests: Vec<Digest>,
}

impl Particulars {
    /// The statement over a tree whose sections are these.
    pub fn statement(self, tree: &Tree, sections: Vec<Section>) -> Statement {
        let Particulars {
            name,
            sequence,
            published,
            expires,
            digests,
        } = self;
        let (geometry, root) = (tree.geometry, tree.root());
        Statement::new(Header {
            geometry,
            root,
            name,
            sequence,
            published,
            expires,
            digests,
            unknown_digests: Vec::new(),
            sections,
        })
    }
}

/// The first 1,536 bytes of a manifest.
pub fn front(statement: &Statement, signature: Option<&Signature>) -> [u8; FRONT_BYTES] {
    let mut front = [0; FRONT_BYTES];
    let (head, area) = front.split_at_mut(statement.bytes().len());
    head.copy_from_slice(statement.bytes());
    if let Some(signature) = signature {
        area.copy_from_slice(&signature.to_area());
    }
    front
}

/// A whole unsigned manifest in memory; `pieces` are the bytes of that section, `None` exactly without hints.
pub fn to_bytes(tree: &Tree, pieces: Option<&[u8]>, particulars: Particulars) -> Vec<u8> {
    let mut out = vec![0; FRONT_BYTES];
    let written: Result<_, std::convert::Infallible> = tree.write_sections(|bytes| {
        out.extend_from_slice(bytes);
        Ok(())
    });
    let Ok(mut sections) = written;
    if let Some(pieces) = pieces {
        let start = out.len() as u64;
        let bytes = ByteRange::new(start, start + pieces.len() as u64);
        sections.push(Section::known(
            Known::Pieces,
            bytes,
            *blake3::hash(pieces).as_bytes(),
        ));
        out.extend_from_slice(pieces);
    }
    let statement = particulars.statement(tree, sections);
    out[..FRONT_BYTES].copy_from_slice(&front(&statement, None));
    out
}
