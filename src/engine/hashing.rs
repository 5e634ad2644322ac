//! One pass over the bytes of an object: leaves, anchors and pieces, on all cores, each region while it is in the CPU cache.

use std::{collections::BTreeMap, sync::OnceLock};

use parking_lot::Mutex;

use crate::{
    disk::regions::{self, Content, FileRegions, REGION, Regions},
    format::{
        anchors::{self, BlockAnchor},
        compression::{PackOptions, PackedFrame, Packer},
        digests::{Algorithm, Digest, DigestHasher},
        geometry::{BLOCKS_MAX, BlockSize, Geometry},
        manifest::Tree,
        pack,
        part::PartHeader,
        pieces,
        tree::{self, Cv, PartHasher, Root},
    },
};

use super::error::Error;

/// Hashes an object into its tree.
#[derive(Clone, Copy, Debug)]
pub struct TreeHasher {
    /// The block size, or the first one if it may grow.
    pub block_size: BlockSize,
    /// The length is unknown: the block size doubles whenever the automatic size for the bytes so far is larger.
    pub may_grow: bool,
    /// Computes anchors and pieces too.
    pub hints: bool,
}

/// Receives the bytes of the pieces section in order.
pub type PiecesSink<'a> = &'a mut (dyn FnMut(&[u8]) -> Result<(), Error> + Send);

/// The object is packed while it is hashed.
pub struct Packing<'a> {
    /// How.
    pub options: PackOptions,
    /// Receives the packed frames in order.
    pub sink: &'a mut (dyn FnMut(PackedFrame) -> Result<(), Error> + Send),
}

/// What is made beside the tree.
pub struct Sinks<'a> {
    /// Of the pieces section.
    pub pieces: PiecesSink<'a>,
    /// `None`: the object is not packed. Else regions must be frames.
    pub packing: Option<Packing<'a>>,
}

impl TreeHasher {
    /// Reads everything and returns the tree. `place` names the object in errors.
    pub fn run(
        self,
        regions: &impl Regions,
        place: &str,
        pieces: PiecesSink,
    ) -> Result<Tree, Error> {
        let packing = None;
        self.run_to(regions, place, Sinks { pieces, packing })
    }

    /// The same, for more than the pieces.
    pub fn run_to(self, regions: &impl Regions, place: &str, sinks: Sinks) -> Result<Tree, Error> {
        // Workers hash parts of at most a region; the collector merges them in order into blocks.
        let part = self.block_size.bytes().min(REGION as u64) as usize;
        // Blocks of less than a cluster could not use packed pieces (pack.md, 1).
        let with_pieces = self.block_size.bytes() >= pack::CLUSTER;
        let packing = sinks.packing.as_ref();
        let packer = packing.map(|packing| Packer::new(packing.options, with_pieces));
        let collector = Mutex::new(Collector::new(self, part as u64, place, sinks));
        let hints = HintsMaker::new(part, self.hints);
        regions::for_each(regions, |start, content| {
            let mut region = Region::new(start, content, &hints);
            region.packed = packer.as_ref().map(|packer| packer.pack(content.bytes()));
            collector.lock().take(start, region)
        })?;
        collector.into_inner().finish()
    }

    /// Reads some blocks of a file, which must not change meanwhile, and returns their leaves and anchors.
    pub fn run_part(
        self,
        regions: FileRegions,
        part: &PartHeader,
        place: &str,
        pieces: PiecesSink,
    ) -> Result<(Vec<Cv>, Vec<BlockAnchor>), Error> {
        let regions = regions.within(part.bytes());
        let bytes = self.block_size.bytes().min(REGION as u64) as usize;
        let mut collector = Collector::new(
            self,
            bytes as u64,
            place,
            Sinks {
                pieces,
                packing: None,
            },
        );
        collector.next = part.bytes().start;
        let collector = Mutex::new(collector);
        let hints = HintsMaker::new(bytes, self.hints);
        regions::for_each(&regions, |start, content| {
            let region = Region::new(start, content, &hints);
            collector.lock().take(start, region)
        })?;
        regions.check_unchanged()?;
        collector.into_inner().finish_part(part.geometry.blocks())
    }

    /// Reads a file, which must not change meanwhile, and updates digests of the whole object too. A digest needs the bytes in
    /// order, so with any of them the file is read like a stream.
    pub fn run_file(
        self,
        regions: &FileRegions,
        place: &str,
        digests: &mut Digests,
        pieces: PiecesSink,
    ) -> Result<Tree, Error> {
        let packing = None;
        self.run_file_to(regions, place, digests, Sinks { pieces, packing })
    }

    /// The same, for more than the pieces.
    pub fn run_file_to(
        self,
        regions: &FileRegions,
        place: &str,
        digests: &mut Digests,
        sinks: Sinks,
    ) -> Result<Tree, Error> {
        let tree = match digests.is_empty() {
            true => self.run_to(regions, place, sinks)?,
            false => self.run_to(
                &regions.in_order(|bytes| digests.update(bytes)),
                place,
                sinks,
            )?,
        };
        regions.check_unchanged()?;
        Ok(tree)
    }
}

/// Digests of a whole object, computed while it is read.
pub struct Digests(Vec<DigestHasher>);

impl Digests {
    /// Computes each algorithm once.
    pub fn new(algorithms: impl IntoIterator<Item = Algorithm>) -> Digests {
        let mut algorithms: Vec<Algorithm> = algorithms.into_iter().collect();
        algorithms.sort();
        algorithms.dedup();
        Digests(algorithms.into_iter().map(DigestHasher::new).collect())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        for hasher in &mut self.0 {
            hasher.update(bytes);
        }
    }

    /// The digests, sorted by algorithm.
    pub fn finish(self) -> Vec<Digest> {
        self.0.into_iter().map(DigestHasher::finish).collect()
    }
}

/// Hints of a region: the anchor of each part, and the pieces.
#[derive(Clone, Default)]
struct Hints {
    anchors: Vec<BlockAnchor>,
    pieces: Vec<u8>,
}

/// Makes the hints of regions. Unlike the values of a tree they do not depend on the place, so those of a hole are made once.
struct HintsMaker {
    /// Bytes of a part.
    part: usize,
    has_hints: bool,
    of_hole: OnceLock<Hints>,
}

impl HintsMaker {
    fn new(part: usize, has_hints: bool) -> HintsMaker {
        HintsMaker {
            part,
            has_hints,
            of_hole: OnceLock::new(),
        }
    }

    fn of(&self, content: Content) -> Hints {
        match content {
            Content::Read(bytes) => self.of_bytes(bytes),
            Content::Hole(REGION) => {
                let made = self.of_hole.get_or_init(|| self.of_bytes(content.bytes()));
                made.clone()
            }
            Content::Hole(_) => self.of_bytes(content.bytes()),
        }
    }

    fn of_bytes(&self, bytes: &[u8]) -> Hints {
        let mut hints = Hints::default();
        let parts = bytes.chunks(self.part);
        hints.anchors = match self.has_hints {
            true => parts.map(anchors::anchor_of).collect(),
            false => vec![BlockAnchor::NONE; parts.count()],
        };
        if self.has_hints {
            pieces::append_pieces(bytes, &mut hints.pieces);
        }
        hints
    }
}

/// What one worker computed of one region.
struct Region {
    length: u64,
    parts: Vec<(Cv, BlockAnchor)>,
    pieces: Vec<u8>,
    packed: Option<PackedFrame>,
    /// The root of an object that ends within its first part.
    root: Option<Root>,
}

impl Region {
    fn new(start: u64, content: Content, maker: &HintsMaker) -> Region {
        let bytes = content.bytes();
        let hints = maker.of(content);
        let mut region = Region {
            length: bytes.len() as u64,
            parts: Vec::with_capacity(hints.anchors.len()),
            pieces: hints.pieces,
            packed: None,
            root: None,
        };
        let parts = bytes.chunks(maker.part).zip(hints.anchors);
        for (index, (bytes, anchor)) in parts.enumerate() {
            let mut hasher = PartHasher::new(start + (index * maker.part) as u64);
            hasher.update(bytes);
            region.parts.push((hasher.value(), anchor));
            if start == 0 && index == 0 {
                region.root = Some(hasher.root());
            }
        }
        region
    }
}

/// Puts the results of the workers into order.
struct Collector<'a> {
    settings: TreeHasher,
    part: u64,
    place: String,
    sinks: Sinks<'a>,
    /// The start of the next region in order, and the regions that were finished before it.
    next: u64,
    early: BTreeMap<u64, Region>,
    block_size: BlockSize,
    leaves: Vec<Cv>,
    anchors: Vec<BlockAnchor>,
    /// Parts of the block that is incomplete, or may still turn out to be the whole object.
    open: Vec<(Cv, BlockAnchor)>,
    root: Option<Root>,
}

impl<'a> Collector<'a> {
    fn new(settings: TreeHasher, part: u64, place: &str, sinks: Sinks<'a>) -> Collector<'a> {
        Collector {
            settings,
            part,
            place: place.to_owned(),
            sinks,
            next: 0,
            early: BTreeMap::new(),
            block_size: settings.block_size,
            leaves: Vec::new(),
            anchors: Vec::new(),
            open: Vec::new(),
            root: None,
        }
    }

    fn take(&mut self, start: u64, region: Region) -> Result<(), Error> {
        self.early.insert(start, region);
        while let Some(region) = self.early.remove(&self.next) {
            self.next += region.length;
            self.root = self.root.or(region.root);
            for part in region.parts {
                self.push(part)?;
            }
            if !region.pieces.is_empty() {
                (self.sinks.pieces)(&region.pieces)?;
            }
            if let (Some(packing), Some(packed)) = (&mut self.sinks.packing, region.packed) {
                (packing.sink)(packed)?;
            }
        }
        Ok(())
    }

    fn push(&mut self, part: (Cv, BlockAnchor)) -> Result<(), Error> {
        if self.open.len() as u64 * self.part == self.block_size.bytes() {
            self.close_block()?;
        }
        self.open.push(part);
        Ok(())
    }

    fn close_block(&mut self) -> Result<(), Error> {
        let values: Vec<Cv> = self.open.iter().map(|(value, _)| *value).collect();
        let anchor = (0u32..)
            .zip(&self.open)
            .map(|(index, (_, anchor))| (index * self.part as u32, *anchor))
            .fold(BlockAnchor::NONE, |merged, (offset, anchor)| {
                merged.merge(anchor, offset)
            });
        self.leaves.push(tree::merge(&values));
        self.anchors.push(anchor);
        self.open.clear();
        if self.leaves.len() > BLOCKS_MAX as usize {
            return Err(Error::TooManyBlocks {
                place: self.place.clone(),
            });
        }
        // Only complete pairs can be merged while more blocks may come.
        let length = self.leaves.len() as u64 * self.block_size.bytes();
        if self.settings.may_grow
            && self.leaves.len().is_multiple_of(2)
            && BlockSize::auto(length) > self.block_size
        {
            self.leaves = self.leaves.chunks(2).map(tree::merge).collect();
            self.anchors = anchors::coarsen(&self.anchors, self.block_size);
            self.block_size = self
                .block_size
                .doubled()
                .expect("auto is a larger block size");
        }
        Ok(())
    }

    /// The only block: its leaf is the root.
    fn close_only_block(&mut self) {
        let root = match self.open.as_slice() {
            [] => PartHasher::new(0).root(),
            [_] => self.root.expect("the first region gave it"),
            parts => tree::merge_root(&parts.iter().map(|(value, _)| *value).collect::<Vec<_>>()),
        };
        self.close_block_as(root);
    }

    /// Leaves and anchors of some blocks of an object that has so many.
    fn finish_part(mut self, blocks: u32) -> Result<(Vec<Cv>, Vec<BlockAnchor>), Error> {
        if blocks == 1 {
            self.close_only_block();
        } else if !self.open.is_empty() {
            self.close_block()?;
        }
        Ok((self.leaves, self.anchors))
    }

    fn finish(mut self) -> Result<Tree, Error> {
        let length = self.next;
        if self.leaves.is_empty() {
            self.close_only_block();
        } else if !self.open.is_empty() {
            self.close_block()?;
        }
        let geometry =
            Geometry::new(length, self.block_size).ok_or_else(|| Error::TooManyBlocks {
                place: self.place.clone(),
            })?;
        let mut tree = Tree::new(
            geometry,
            self.leaves,
            self.settings.hints.then_some(self.anchors),
        );
        while self.settings.may_grow && BlockSize::auto(length) > tree.geometry().block_size() {
            tree = tree.coarser().expect("auto is a larger block size");
        }
        Ok(tree)
    }

    fn close_block_as(&mut self, root: Root) {
        let anchor = (0u32..)
            .zip(&self.open)
            .fold(BlockAnchor::NONE, |merged, (index, (_, anchor))| {
                merged.merge(*anchor, index * self.part as u32)
            });
        self.leaves.push(root.0);
        self.anchors.push(anchor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        disk::regions::StreamRegions,
        format::{judge, paint},
    };
    use std::path::Path;

    fn tree_of(bytes: &[u8], settings: TreeHasher) -> (Tree, Vec<u8>) {
        let regions = StreamRegions::new(bytes, Path::new("-"), |_| ());
        let mut pieces = Vec::new();
        let tree = settings
            .run(&regions, "-", &mut |some| {
                pieces.extend_from_slice(some);
                Ok(())
            })
            .unwrap();
        (tree, pieces)
    }

    #[test]
    fn all_block_sizes_agree_with_each_other_and_with_the_judge() {
        let r = REGION;
        for length in [
            0,
            1,
            63,
            64,
            1023,
            1024,
            1025,
            16383,
            16384,
            16385,
            65536,
            65537,
            r - 1,
            r,
            r + 1,
            2 * r,
            5 * r + 77,
        ] {
            let bytes = paint::bytes(0, length);
            let mut expected_pieces = Vec::new();
            pieces::append_pieces(&bytes, &mut expected_pieces);
            let mut coarser: Option<Tree> = None;
            for bits in 14..=24 {
                let block_size = BlockSize::new(1 << bits).unwrap();
                let (tree, pieces) = tree_of(
                    &bytes,
                    TreeHasher {
                        block_size,
                        may_grow: false,
                        hints: true,
                    },
                );
                assert_eq!(
                    tree.root().0,
                    *blake3::hash(&bytes).as_bytes(),
                    "{length} at {block_size:?}"
                );
                assert_eq!(pieces, expected_pieces);
                let leaves = judge::Leaves::new(*tree.geometry(), tree.leaves().to_vec());
                for block in tree.geometry().all().iter() {
                    let at = tree.geometry().bytes_of(block);
                    assert!(
                        judge::verify(&leaves, block, &bytes[at.start as usize..at.end as usize])
                            .is_ok()
                    );
                }
                if let Some(coarser) = coarser {
                    assert_eq!(coarser, tree, "{length} at {block_size:?}");
                }
                coarser = tree.coarser();
            }
        }
    }

    #[test]
    fn a_pipe_that_grows_ends_with_the_automatic_block_size() {
        // 64 GiB and a little, as holes: only the parts count here, so they are pushed directly.
        let mut sink = |_: &[u8]| Ok(());
        let settings = TreeHasher {
            block_size: BlockSize::DEFAULT,
            may_grow: true,
            hints: true,
        };
        let part = BlockSize::DEFAULT.bytes();
        for extra in [0u64, 1, 2, 3] {
            let mut collector = Collector::new(
                settings,
                part,
                "-",
                Sinks {
                    pieces: &mut sink,
                    packing: None,
                },
            );
            let mut plain = Vec::new();
            for index in 0..(1 << 20) + extra {
                let value = *blake3::hash(&index.to_le_bytes()).as_bytes();
                collector.push((value, BlockAnchor::NONE)).unwrap();
                collector.next += part;
                plain.push(value);
            }
            let tree = collector.finish().unwrap();
            assert_eq!(
                tree.geometry().block_size(),
                BlockSize::auto((1 << 36) + extra * part),
                "{extra}"
            );
            assert_eq!(tree.root(), tree::root_of(&plain));
        }
    }
}
