//! The judge: the only place that decides whether bytes are the right ones at their place.
//!
//! Whatever suggests where bytes may be found (network, mirrors, the store, old versions, journals, hints) may be wrong. Only a
//! [`Verified`] range counts as held, and a sink, a pipe or a cache gets nothing but [`Proven`] bytes. Both name their object.
//! INVARIANT: nothing outside this file makes one.

use bytes::Bytes;

use super::{
    blockset::BlockSet,
    geometry::{BlockIndex, BlockRange, ByteRange, Geometry},
    tree::{self, Cv, PartHasher},
};

pub use super::leaves::{Leaves, ObjectKey};

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
        self.object.geometry().bytes_of_range(self.blocks)
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

/// Any blocks of one object that were verified, one bit each. INVARIANT: only the judge makes it.
#[derive(Clone, Debug)]
pub struct VerifiedBlocks {
    object: ObjectKey,
    blocks: BlockSet,
}

impl VerifiedBlocks {
    /// No block of this object.
    pub fn new(object: ObjectKey) -> VerifiedBlocks {
        let blocks = BlockSet::empty(object.geometry().blocks());
        VerifiedBlocks { object, blocks }
    }

    /// Adds blocks.
    ///
    /// # Panics
    /// If they are of another object.
    pub fn insert(&mut self, verified: Verified) {
        assert_eq!(verified.object, self.object, "blocks of one object");
        self.blocks.insert_range(verified.blocks);
    }

    /// The blocks.
    pub fn blocks(&self) -> &BlockSet {
        &self.blocks
    }

    /// The blocks as ranges, in order.
    pub fn ranges(&self) -> impl Iterator<Item = Verified> + '_ {
        let object = self.object;
        let ranges = self.blocks.ranges();
        ranges.map(move |blocks| Verified { object, blocks })
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

/// Why a block is not proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unproven {
    /// It is another one.
    Wrong(Mismatch),
    /// Its leaf is not known, and not learned from what comes first.
    Unknown,
}

/// A block that is not proven, and the blocks that were proven before it and not taken yet.
#[derive(Debug)]
#[allow(missing_docs, reason = "see the type")]
pub struct Broken {
    pub before: Option<Proven>,
    pub why: Unproven,
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

    /// Judges the current block, which is whole, and goes on with the next one. The bytes of one that is not proven are dropped.
    ///
    /// # Panics
    /// If bytes are missing.
    pub fn finish(&mut self, leaves: &Leaves) -> Result<(), Box<Broken>> {
        let block = self.block;
        let length = self.geometry.bytes_of(block).length();
        assert_eq!(self.filled, length, "the bytes of block {block}");
        debug_assert_eq!(self.geometry, *leaves.geometry());
        (self.block, self.filled) = (BlockIndex(block.0 + 1), 0);
        match compare(leaves, block, self.hasher.leaf(&self.geometry)) {
            Ok(verified) => {
                let before = self.proven.map(|(before, _)| before);
                let all = before.map_or(Some(verified), |before| before.joined(verified));
                let all = all.expect("the same leaves for all blocks of a run");
                self.proven = Some((all, self.chunks.len()));
                Ok(())
            }
            Err(why) => {
                let before = self.take_proven();
                self.chunks.clear();
                Err(Box::new(Broken { before, why }))
            }
        }
    }

    /// The blocks that proved since the last time.
    pub fn take_proven(&mut self) -> Option<Proven> {
        let (verified, count) = self.proven.take()?;
        let current = self.chunks.split_off(count);
        let chunks = std::mem::replace(&mut self.chunks, current);
        Some(Proven { verified, chunks })
    }
}

/// Compares what a block was hashed to with its leaf.
fn compare(leaves: &Leaves, block: BlockIndex, found: Cv) -> Result<Verified, Unproven> {
    let expected = match leaves.leaf(block) {
        Some(leaf) => leaf,
        None if leaves.are_first_use() => leaves.get_or_insert(block, found),
        None => return Err(Unproven::Unknown),
    };
    let (object, blocks) = (*leaves.object(), BlockRange::one(block));
    match found == expected {
        true => Ok(Verified { object, blocks }),
        false => Err(Unproven::Wrong(Mismatch {
            blocks,
            expected,
            found,
        })),
    }
}

/// Judges the bytes of one block against its leaf.
pub fn verify(leaves: &Leaves, block: BlockIndex, bytes: &[u8]) -> Result<Verified, Unproven> {
    compare(
        leaves,
        block,
        tree::leaf_of(leaves.geometry(), block, bytes),
    )
}

/// Judges the bytes of one block against its leaf, as [`verify`] does, and hands them on.
///
/// # Panics
/// If their number is not the length of the block.
pub fn prove(
    leaves: &Leaves,
    block: BlockIndex,
    bytes: impl Into<Bytes>,
) -> Result<Proven, Unproven> {
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
    let found = match blocks == object.geometry().all() {
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
    use crate::format::{geometry::BlockSize, paint, tree::Root};

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
        let Err(Unproven::Wrong(wrong)) = verify(&leaves, BlockIndex(1), &flipped) else {
            panic!("a wrong block");
        };
        assert_eq!(Some(wrong.expected), leaves.leaf(BlockIndex(1)));
        let unknown = Leaves::empty(*leaves.object());
        assert_eq!(
            verify(&unknown, BlockIndex(1), blocks[1]),
            Err(Unproven::Unknown)
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
                    let Unproven::Wrong(mismatch) = one.why else {
                        panic!("all leaves are known");
                    };
                    wrong.push(mismatch.blocks.start);
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
}
