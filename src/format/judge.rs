//! The judge: the only place that decides whether bytes are the right ones at their place.
//!
//! Whatever suggests where bytes may be found (network, mirrors, the store, old versions, journals, hints) may be wrong. Only a
//! [`Verified`] range counts as held, and a sink, a pipe or a cache gets nothing but [`Proven`] bytes. Both name their object.
//! INVARIANT: nothing outside this file makes one.

use bytes::Bytes;
use parking_lot::RwLock;

use super::{
    geometry::{BlockIndex, BlockRange, ByteRange, FANOUT, Geometry},
    tree::{self, Cv, PartHasher, Root},
};

/// Which object, in blocks of which size. Proofs of two objects, or of two block sizes, never mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectKey {
    id: [u8; 32],
    geometry: Geometry,
}

impl ObjectKey {
    /// An object with a manifest: its root names it.
    pub fn of_root(root: Root, geometry: Geometry) -> ObjectKey {
        ObjectKey {
            id: root.0,
            geometry,
        }
    }

    /// An object without a manifest: the BLAKE3 hash of its length and its validators names it.
    pub fn of_version(
        geometry: Geometry,
        etag: Option<&str>,
        last_modified: Option<&str>,
    ) -> ObjectKey {
        // Derived, so that no root can be the same.
        let mut hasher = blake3::Hasher::new_derive_key("sapwood 2026 object without a manifest");
        hasher.update(&geometry.length().to_le_bytes());
        for text in [etag, last_modified] {
            let length = text.map_or(u64::MAX, |text| text.len() as u64);
            hasher.update(&length.to_le_bytes());
            hasher.update(text.unwrap_or_default().as_bytes());
        }
        ObjectKey {
            id: *hasher.finalize().as_bytes(),
            geometry,
        }
    }

    /// Where its blocks are.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }
}

/// Blocks whose bytes were hashed and found to be the object's. INVARIANT: only the judge makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    object: ObjectKey,
    blocks: BlockRange,
}

impl Verified {
    /// Whose blocks they are.
    pub fn object(&self) -> &ObjectKey {
        &self.object
    }

    /// The blocks that were judged.
    pub fn blocks(self) -> BlockRange {
        self.blocks
    }

    /// Their place in the object.
    pub fn bytes(self) -> ByteRange {
        self.object.geometry.bytes_of_range(self.blocks)
    }

    /// Both together, if the other follows directly in the same object.
    pub fn joined(self, next: Verified) -> Option<Verified> {
        let blocks = BlockRange {
            start: self.blocks.start,
            end: next.blocks.end,
        };
        let object = self.object;
        (object == next.object && self.blocks.end == next.blocks.start)
            .then_some(Verified { object, blocks })
    }
}

/// Neighbouring blocks with their bytes: the very bytes that were hashed. INVARIANT: only the judge makes it, and the chunks
/// together are as long as the blocks.
#[derive(Clone, Debug)]
pub struct Proven {
    verified: Verified,
    chunks: Vec<Bytes>,
}

impl Proven {
    /// What was judged.
    pub fn verified(&self) -> Verified {
        self.verified
    }

    /// The bytes, first to last.
    pub fn chunks(&self) -> &[Bytes] {
        &self.chunks
    }

    /// The bytes that lie in this range of the object, first to last, without a copy.
    pub fn within(&self, bytes: ByteRange) -> impl Iterator<Item = Bytes> + '_ {
        let mut at = self.verified.bytes().start;
        self.chunks.iter().filter_map(move |chunk| {
            let length = chunk.len() as u64;
            let from = bytes.start.saturating_sub(at).min(length);
            let to = bytes.end.saturating_sub(at).min(length);
            at += length;
            (from < to).then(|| chunk.slice(from as usize..to as usize))
        })
    }

    /// Some of the blocks, without a copy.
    ///
    /// # Panics
    /// If others are among them.
    #[must_use]
    pub fn narrowed(&self, blocks: BlockRange) -> Proven {
        let (object, all) = (self.verified.object, self.verified.blocks);
        assert!(
            all.start <= blocks.start && blocks.end <= all.end,
            "only blocks that were proven"
        );
        let verified = Verified { object, blocks };
        Proven {
            verified,
            chunks: self.within(verified.bytes()).collect(),
        }
    }

    /// Adds it to other runs: joined with the last one if it follows directly.
    pub fn add_to(mut self, runs: &mut Vec<Proven>) {
        if let Some(last) = runs.last_mut()
            && let Some(verified) = last.verified.joined(self.verified)
        {
            last.verified = verified;
            last.chunks.append(&mut self.chunks);
        } else {
            runs.push(self);
        }
    }
}

/// Blocks whose hash is not the one in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The blocks that were hashed.
    pub blocks: BlockRange,
    /// The value in the tree.
    pub expected: Cv,
    /// The value of the bytes.
    pub found: Cv,
}

/// A block that is wrong, and the blocks that were proven before it and not taken yet.
#[derive(Debug)]
#[allow(missing_docs, reason = "see the type")]
pub struct Wrong {
    pub before: Option<Proven>,
    pub mismatch: Mismatch,
}

/// Hashes neighbouring blocks as their bytes come, in order. What was hashed is what is handed on: neighbours that prove are
/// joined, so that they are written in one go.
pub struct BlockHasher {
    geometry: Geometry,
    block: BlockIndex,
    /// Bytes of the current block that were taken.
    filled: u64,
    hasher: PartHasher,
    /// The bytes of `proven`, then those of the current block.
    chunks: Vec<Bytes>,
    /// Blocks directly before the current one, and the number of their chunks.
    proven: Option<(Verified, usize)>,
}

impl BlockHasher {
    /// The next byte will be the first one of this block.
    pub fn new(geometry: &Geometry, block: BlockIndex) -> BlockHasher {
        BlockHasher {
            geometry: *geometry,
            block,
            filled: 0,
            hasher: PartHasher::new(geometry.bytes_of(block).start),
            chunks: Vec::new(),
            proven: None,
        }
    }

    /// Moves bytes from the front of `bytes` into the current block, up to its end. Returns whether the block is complete; it
    /// must then be finished before the next one begins.
    pub fn push(&mut self, bytes: &mut Bytes) -> bool {
        let place = self.geometry.bytes_of(self.block);
        let lacks = usize::try_from(place.length() - self.filled).unwrap_or(usize::MAX);
        let now = bytes.split_to(bytes.len().min(lacks));
        if self.filled == 0 {
            self.hasher = PartHasher::new(place.start);
        }
        self.hasher.update(&now);
        self.filled += now.len() as u64;
        self.chunks.push(now);
        self.filled == place.length()
    }

    /// Judges the current block, which is whole, and goes on with the next one. The bytes of a wrong one are dropped.
    ///
    /// # Panics
    /// If bytes are missing, or if its leaf is not known and not learned from what comes first.
    pub fn finish(&mut self, leaves: &Leaves) -> Result<(), Box<Wrong>> {
        let block = self.block;
        let length = self.geometry.bytes_of(block).length();
        assert_eq!(self.filled, length, "the bytes of block {block}");
        debug_assert_eq!(self.geometry, leaves.object.geometry);
        (self.block, self.filled) = (BlockIndex(block.0 + 1), 0);
        match leaves.compare(block, self.hasher.leaf(&self.geometry)) {
            Ok(verified) => {
                let before = self.proven.map(|(before, _)| before);
                let all = before.map_or(Some(verified), |before| before.joined(verified));
                let all = all.expect("the same leaves for all blocks of a run");
                self.proven = Some((all, self.chunks.len()));
                Ok(())
            }
            Err(mismatch) => {
                let before = self.take_proven();
                self.chunks.clear();
                Err(Box::new(Wrong { before, mismatch }))
            }
        }
    }

    /// Whether the current block can be judged.
    pub fn is_known(&self, leaves: &Leaves) -> bool {
        leaves.first_use || leaves.leaf(self.block).is_some()
    }

    /// Drops the current block, which is whole, and goes on with the next one. Returns the blocks that proved before it.
    pub fn discard(&mut self) -> Option<Proven> {
        (self.block, self.filled) = (BlockIndex(self.block.0 + 1), 0);
        let before = self.take_proven();
        self.chunks.clear();
        before
    }

    /// The blocks that proved since the last time.
    pub fn take_proven(&mut self) -> Option<Proven> {
        let (verified, count) = self.proven.take()?;
        let current = self.chunks.split_off(count);
        let chunks = std::mem::replace(&mut self.chunks, current);
        Some(Proven { verified, chunks })
    }
}

/// The leaves of one page of a manifest, up to [`FANOUT`] neighbouring blocks; empty if none was loaded.
type Page = Vec<Option<Cv>>;

/// The known leaves of one object, which the judge compares with. Threads share them; they are added page by page or one by one.
#[derive(Debug)]
pub struct Leaves {
    object: ObjectKey,
    /// Behind locks and not in cells that are written once, so that pages can be forgotten: those of 2^24 blocks are 512 MiB.
    pages: Box<[RwLock<Page>]>,
    /// There is no manifest: the first bytes that arrive for a block are trusted, and later ones must equal them.
    first_use: bool,
}

impl Leaves {
    /// All leaves of an object, one for each block. Their root is the object's.
    ///
    /// # Panics
    /// If `values` has not one leaf for each block.
    pub fn new(geometry: Geometry, values: Vec<Cv>) -> Leaves {
        assert_eq!(values.len(), geometry.blocks() as usize, "one leaf a block");
        let leaves = Leaves::empty(ObjectKey::of_root(tree::root_of(&values), geometry));
        leaves.insert(BlockIndex(0), &values);
        leaves
    }

    /// Leaves of an object with a manifest, of which none is known yet.
    pub fn empty(object: ObjectKey) -> Leaves {
        let pages = 0..object.geometry.blocks().div_ceil(FANOUT);
        Leaves {
            object,
            pages: pages.map(|_| RwLock::default()).collect(),
            first_use: false,
        }
    }

    /// Leaves of an object without a manifest, learned from what arrives first; these were learned in earlier runs.
    pub fn first_use(
        object: ObjectKey,
        known: impl IntoIterator<Item = (BlockIndex, Cv)>,
    ) -> Leaves {
        let leaves = Leaves {
            first_use: true,
            ..Leaves::empty(object)
        };
        for (block, leaf) in known {
            if block.0 < object.geometry.blocks() {
                leaves.get_or_insert(block, leaf);
            }
        }
        leaves
    }

    /// Whose leaves they are.
    pub fn object(&self) -> &ObjectKey {
        &self.object
    }

    /// Where the blocks are.
    pub fn geometry(&self) -> &Geometry {
        &self.object.geometry
    }

    /// Whether they are learned from what arrives.
    pub fn are_first_use(&self) -> bool {
        self.first_use
    }

    /// Adds leaves of neighbouring blocks that were proven against the root. Known leaves stay as they are.
    ///
    /// # Panics
    /// If the object has fewer blocks.
    pub fn insert(&self, first: BlockIndex, values: &[Cv]) {
        let (mut block, mut rest) = (first, values);
        while !rest.is_empty() {
            let at = (block.0 % FANOUT) as usize;
            let (now, later) = rest.split_at(rest.len().min(FANOUT as usize - at));
            let mut page = self.page(block).write();
            self.begin_page(block, &mut page);
            for (known, leaf) in page[at..].iter_mut().zip(now) {
                known.get_or_insert(*leaf);
            }
            rest = later;
            block = BlockIndex(block.0 + now.len() as u32);
        }
    }

    /// The leaf of a block, if it is known.
    pub fn leaf(&self, block: BlockIndex) -> Option<Cv> {
        if block.0 >= self.geometry().blocks() {
            return None;
        }
        let page = self.page(block).read();
        page.get((block.0 % FANOUT) as usize).copied().flatten()
    }

    /// Whether all are known.
    pub fn are_complete(&self) -> bool {
        let is_complete = |page: &RwLock<Page>| {
            let page = page.read();
            !page.is_empty() && page.iter().all(Option::is_some)
        };
        self.pages.iter().all(is_complete)
    }

    /// All leaves, as soon as all are known.
    pub fn all(&self) -> Option<Vec<Cv>> {
        let mut all = Vec::with_capacity(self.geometry().blocks() as usize);
        for page in &self.pages {
            let page = page.read();
            for leaf in page.iter() {
                all.push((*leaf)?);
            }
        }
        (all.len() == self.geometry().blocks() as usize).then_some(all)
    }

    /// Forgets the pages that end within these blocks: memory of a long stream stays bounded. They can be inserted again.
    ///
    /// # Panics
    /// If the leaves are learned from what arrives: other ones could be learned then.
    pub fn forget(&self, blocks: BlockRange) {
        assert!(!self.first_use, "trust on first use is not forgotten");
        let pages = (blocks.start / FANOUT) as usize..(blocks.end / FANOUT) as usize;
        for page in &self.pages[pages] {
            *page.write() = Page::new();
        }
    }

    fn page(&self, block: BlockIndex) -> &RwLock<Page> {
        &self.pages[(block.0 / FANOUT) as usize]
    }

    /// Makes room for the leaves of a page.
    fn begin_page(&self, block: BlockIndex, page: &mut Page) {
        if page.is_empty() {
            let first = block.0 / FANOUT * FANOUT;
            *page = vec![None; (self.geometry().blocks() - first).min(FANOUT) as usize];
        }
    }

    /// The known leaf of a block; if there is none, makes it this one.
    fn get_or_insert(&self, block: BlockIndex, leaf: Cv) -> Cv {
        let mut page = self.page(block).write();
        self.begin_page(block, &mut page);
        *page[(block.0 % FANOUT) as usize].get_or_insert(leaf)
    }

    fn compare(&self, block: BlockIndex, found: Cv) -> Result<Verified, Mismatch> {
        let expected = match self.leaf(block) {
            Some(leaf) => leaf,
            None if self.first_use => self.get_or_insert(block, found),
            None => panic!("the leaf of block {block} is loaded before its bytes are judged"),
        };
        let (object, blocks) = (self.object, BlockRange::one(block));
        match found == expected {
            true => Ok(Verified { object, blocks }),
            false => Err(Mismatch {
                blocks,
                expected,
                found,
            }),
        }
    }
}

/// Judges the bytes of one block against its leaf.
///
/// # Panics
/// If its leaf is not known and not learned from what comes first.
pub fn verify(leaves: &Leaves, block: BlockIndex, bytes: &[u8]) -> Result<Verified, Mismatch> {
    leaves.compare(block, tree::leaf_of(leaves.geometry(), block, bytes))
}

/// Judges the bytes of one block against its leaf, as [`verify`] does, and hands them on.
///
/// # Panics
/// If their number is not the length of the block, and as [`verify`].
pub fn prove(
    leaves: &Leaves,
    block: BlockIndex,
    bytes: impl Into<Bytes>,
) -> Result<Proven, Mismatch> {
    let bytes = bytes.into();
    let length = leaves.geometry().bytes_of(block).length();
    assert_eq!(bytes.len() as u64, length, "the bytes of block {block}");
    let verified = verify(leaves, block, &bytes)?;
    let chunks = vec![bytes];
    Ok(Proven { verified, chunks })
}

/// Judges blocks whose bytes were hashed to these values against the proven value of the node over exactly them.
pub fn verify_node(
    object: &ObjectKey,
    blocks: BlockRange,
    node: Cv,
    hashed: &[Cv],
) -> Result<Verified, Mismatch> {
    assert_eq!(hashed.len(), blocks.count() as usize, "one value a block");
    let found = match blocks == object.geometry.all() {
        true => tree::merge_root(hashed).0,
        false => tree::merge(hashed),
    };
    let object = *object;
    match found == node {
        true => Ok(Verified { object, blocks }),
        false => Err(Mismatch {
            blocks,
            expected: node,
            found,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{geometry::BlockSize, paint};

    const B: usize = 16 << 10;

    /// An object and its leaves.
    fn object(length: usize) -> (Vec<u8>, Leaves) {
        let object = paint::bytes(0, length);
        let geometry = Geometry::new(length as u64, BlockSize::MIN).unwrap();
        let leaf = |block| {
            let at = geometry.bytes_of(block);
            let bytes = &object[at.start as usize..at.end as usize];
            tree::leaf_of(&geometry, block, bytes)
        };
        let values = geometry.all().iter().map(leaf).collect();
        (object, Leaves::new(geometry, values))
    }

    fn version(length: u64) -> ObjectKey {
        let geometry = Geometry::new(length, BlockSize::MIN).unwrap();
        ObjectKey::of_version(geometry, Some("\"a\""), None)
    }

    #[test]
    fn only_the_right_bytes_at_their_place() {
        let (object, leaves) = object(2 * B + 9);
        let blocks: Vec<&[u8]> = object.chunks(B).collect();
        let geometry = *leaves.geometry();
        for i in geometry.all().iter() {
            assert_eq!(
                verify(&leaves, i, blocks[i.0 as usize]).unwrap().blocks(),
                BlockRange::one(i)
            );
        }
        assert!(verify(&leaves, BlockIndex(0), blocks[1]).is_err());
        let mut flipped = blocks[1].to_vec();
        flipped[B - 1] ^= 1;
        assert_eq!(
            Some(
                verify(&leaves, BlockIndex(1), &flipped)
                    .unwrap_err()
                    .expected
            ),
            leaves.leaf(BlockIndex(1))
        );
        assert!(verify(&leaves, BlockIndex(2), &blocks[2][..8]).is_err());
        let two = BlockRange::new(0, 2);
        let hash = |range: std::ops::Range<usize>, bytes: &[&[u8]]| -> Vec<Cv> {
            let blocks = range.zip(bytes);
            blocks
                .map(|(i, bytes)| tree::leaf_of(&geometry, BlockIndex(i as u32), bytes))
                .collect()
        };
        let key = leaves.object();
        let first_two = tree::merge(&leaves.all().unwrap()[..2]);
        assert!(verify_node(key, two, first_two, &hash(0..2, &blocks)).is_ok());
        assert!(verify_node(key, two, first_two, &hash(0..2, &blocks[1..])).is_err());
        let root = *blake3::hash(&object).as_bytes();
        let all = verify_node(key, geometry.all(), root, &hash(0..3, &blocks)).unwrap();
        assert_eq!(all.object(), &ObjectKey::of_root(Root(root), geometry));
    }

    #[test]
    fn without_a_manifest_the_first_bytes_count_and_no_others_after_them() {
        let object = version(2 << 14);
        let (one, two) = (vec![1; 1 << 14], vec![2; 1 << 14]);
        let known = tree::leaf_of(object.geometry(), BlockIndex(0), &one);
        let leaves = Leaves::first_use(object, [(BlockIndex(0), known), (BlockIndex(9), known)]);
        assert!(verify(&leaves, BlockIndex(0), &two).is_err());
        assert!(leaves.all().is_none() && leaves.leaf(BlockIndex(1)).is_none());
        assert!(verify(&leaves, BlockIndex(1), &two).is_ok());
        assert!(verify(&leaves, BlockIndex(1), &one).is_err());
        assert_eq!(
            leaves.all().map(|all| tree::root_of(&all).0),
            Some(*blake3::hash(&[one, two].concat()).as_bytes())
        );
    }

    #[test]
    fn versions_and_roots_are_other_objects() {
        let geometry = *version(99).geometry();
        let other = Geometry::new(99, BlockSize::DEFAULT).unwrap();
        let root = Root(version(99).id);
        let texts = [
            (None, None),
            (Some("a"), None),
            (None, Some("a")),
            (Some(""), None),
            (Some("ab"), None),
            (Some("a"), Some("b")),
        ];
        let mut all: Vec<ObjectKey> = texts
            .iter()
            .map(|(etag, date)| ObjectKey::of_version(geometry, *etag, *date))
            .collect();
        all.extend([
            version(98),
            version(99),
            ObjectKey::of_root(root, other),
            ObjectKey::of_root(Root([0; 32]), geometry),
        ]);
        for (i, one) in all.iter().enumerate() {
            assert_eq!(all.iter().position(|other| one == other), Some(i));
        }
    }

    #[test]
    fn proofs_of_two_objects_never_join() {
        let of = |object, range: std::ops::Range<u32>| Verified {
            object,
            blocks: BlockRange::new(range.start, range.end),
        };
        let (one, two) = (version(9 << 14), version(8 << 14));
        assert_eq!(of(one, 0..2).joined(of(one, 2..3)), Some(of(one, 0..3)));
        assert_eq!(of(one, 0..2).joined(of(two, 2..3)), None);
        assert_eq!(of(one, 0..2).joined(of(one, 3..4)), None);
        assert_eq!(of(one, 0..2).joined(of(one, 1..3)), None);
    }

    /// Gives bytes in chunks of this size, and returns the runs that came out and the blocks that were wrong.
    fn hashed(leaves: &Leaves, first: u32, bytes: &[u8], step: usize) -> (Vec<Proven>, Vec<u32>) {
        let mut hasher = BlockHasher::new(leaves.geometry(), BlockIndex(first));
        let (mut runs, mut wrong) = (Vec::new(), Vec::new());
        for chunk in bytes.chunks(step) {
            let mut chunk = Bytes::copy_from_slice(chunk);
            while !chunk.is_empty() {
                if hasher.push(&mut chunk)
                    && let Err(one) = hasher.finish(leaves)
                {
                    runs.extend(one.before);
                    wrong.push(one.mismatch.blocks.start);
                }
            }
        }
        runs.extend(hasher.take_proven());
        assert!(hasher.take_proven().is_none());
        (runs, wrong)
    }

    #[test]
    fn what_was_hashed_is_handed_on_in_runs() {
        let (object, leaves) = object(5 * B + 77);
        for step in [1 << 10, B - 1, B, B + 1, 3 * B, 6 * B] {
            let (runs, wrong) = hashed(&leaves, 1, &object[B..], step);
            assert!(wrong.is_empty());
            let [run] = &runs[..] else {
                panic!("{} runs in steps of {step}", runs.len());
            };
            assert_eq!(run.verified().blocks(), BlockRange::new(1, 6));
            assert_eq!(run.chunks().concat(), object[B..], "{step}");
            let middle = run.narrowed(BlockRange::new(2, 4));
            assert_eq!(middle.chunks().concat(), object[2 * B..4 * B], "{step}");
            let bytes: Vec<Bytes> = run.within(ByteRange::new(7, B as u64 + 9)).collect();
            assert_eq!(bytes.concat(), object[B..B + 9], "{step}");
            // A wrong block parts the run, and its bytes are nowhere.
            let mut damaged = object.clone();
            damaged[2 * B + 5] ^= 1;
            let (runs, wrong) = hashed(&leaves, 0, &damaged, step);
            assert_eq!(wrong, [2]);
            let blocks: Vec<BlockRange> = runs.iter().map(|run| run.verified().blocks()).collect();
            assert_eq!(blocks, [BlockRange::new(0, 2), BlockRange::new(3, 6)]);
            assert_eq!(runs[0].chunks().concat(), object[..2 * B], "{step}");
            assert_eq!(runs[1].chunks().concat(), object[3 * B..], "{step}");
        }
        // The start of a block is not handed on.
        let (runs, _) = hashed(&leaves, 0, &object[..2 * B + 5], B);
        assert_eq!(runs[0].chunks().concat(), object[..2 * B]);
    }

    #[test]
    fn runs_that_follow_each_other_join() {
        let (object, leaves) = object(4 * B);
        let mut runs = Vec::new();
        for block in [0, 1, 3] {
            let bytes = object[block * B..(block + 1) * B].to_vec();
            prove(&leaves, BlockIndex(block as u32), bytes)
                .unwrap()
                .add_to(&mut runs);
        }
        let blocks: Vec<BlockRange> = runs.iter().map(|run| run.verified().blocks()).collect();
        assert_eq!(blocks, [BlockRange::new(0, 2), BlockRange::new(3, 4)]);
        assert_eq!(runs[0].chunks().concat(), object[..2 * B]);
    }

    #[test]
    fn leaves_come_piecewise_and_go_page_by_page() {
        for blocks in [1u32, 255, 256, 257, 700] {
            let geometry = Geometry::new(u64::from(blocks) << 14, BlockSize::MIN).unwrap();
            let values: Vec<Cv> = (0..blocks)
                .map(|i| *blake3::hash(&i.to_le_bytes()).as_bytes())
                .collect();
            let leaves = Leaves::empty(ObjectKey::of_root(Root([7; 32]), geometry));
            let middle = blocks as usize / 2;
            leaves.insert(BlockIndex(blocks / 2), &values[middle..]);
            assert_eq!(leaves.are_complete(), middle == 0, "{blocks}");
            assert_eq!(leaves.leaf(BlockIndex(0)).is_some(), middle == 0);
            leaves.insert(BlockIndex(0), &values[..middle]);
            assert!(leaves.are_complete(), "{blocks}");
            assert_eq!(leaves.all(), Some(values.clone()));
            assert_eq!(leaves.leaf(BlockIndex(blocks)), None);
            // Pages that do not end within these blocks stay.
            leaves.forget(BlockRange::new(5.min(blocks), blocks.min(600)));
            for block in 0..blocks {
                let is_known = block >= blocks.min(600) / 256 * 256;
                assert_eq!(leaves.leaf(BlockIndex(block)).is_some(), is_known);
            }
        }
    }
}
