//! The judge: the only place that decides whether bytes are the right ones at their place.
//!
//! Whatever suggests where bytes may be found (network, mirrors, the store, old versions, journals, hints) may be wrong. Only
//! a [`Verified`] range counts as held, and only [`verify`] and [`verify_node`] make one.

use std::sync::OnceLock;

use super::{
    geometry::{BlockIndex, BlockRange, Geometry},
    tree::{self, Cv, PartHasher},
};

/// Blocks whose bytes were hashed and found to be the object's. It can only be had from the judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    blocks: BlockRange,
}

impl Verified {
    /// The blocks that were judged.
    pub fn blocks(self) -> BlockRange {
        self.blocks
    }

    /// Both together, if the other follows directly.
    pub fn joined(self, next: Verified) -> Option<Verified> {
        let blocks = BlockRange {
            start: self.blocks.start,
            end: next.blocks.end,
        };
        (self.blocks.end == next.blocks.start).then_some(Verified { blocks })
    }
}

/// Bytes that are not what the tree wants at this place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The place.
    pub blocks: BlockRange,
    /// What should be there.
    pub expected: Cv,
    /// What was there.
    pub found: Cv,
}

/// What the judge compares with: the geometry and the leaves of one object.
#[derive(Debug)]
pub struct Leaves {
    geometry: Geometry,
    values: Values,
}

#[derive(Debug)]
enum Values {
    /// Proven against a root.
    Proven(Vec<Cv>),
    /// There is no manifest: the first bytes that come for a block are trusted, and no others after them.
    FirstUse(Vec<OnceLock<Cv>>),
}

impl Leaves {
    /// Leaves that were proven against a root, one for each block.
    ///
    /// # Panics
    /// If their number is another.
    pub fn new(geometry: Geometry, values: Vec<Cv>) -> Leaves {
        assert_eq!(values.len(), geometry.blocks() as usize, "one leaf a block");
        Leaves {
            geometry,
            values: Values::Proven(values),
        }
    }

    /// Leaves of an object without a manifest, learned from what arrives first; these were learned in earlier runs.
    pub fn first_use(
        geometry: Geometry,
        known: impl IntoIterator<Item = (BlockIndex, Cv)>,
    ) -> Leaves {
        let values: Vec<OnceLock<Cv>> = geometry.all().iter().map(|_| OnceLock::new()).collect();
        for (block, leaf) in known {
            if let Some(value) = values.get(block.0 as usize) {
                value.get_or_init(|| leaf);
            }
        }
        Leaves {
            geometry,
            values: Values::FirstUse(values),
        }
    }

    /// Whether they are learned from what arrives.
    pub fn are_first_use(&self) -> bool {
        matches!(self.values, Values::FirstUse(_))
    }

    /// All leaves, as soon as all are known.
    pub fn all(&self) -> Option<Vec<Cv>> {
        match &self.values {
            Values::Proven(values) => Some(values.clone()),
            Values::FirstUse(values) => values.iter().map(|value| value.get().copied()).collect(),
        }
    }

    /// Where the blocks are.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The leaf of a block; `None`: nothing came for it yet.
    pub fn leaf(&self, block: BlockIndex) -> Option<Cv> {
        match &self.values {
            Values::Proven(values) => values.get(block.0 as usize).copied(),
            Values::FirstUse(values) => values.get(block.0 as usize)?.get().copied(),
        }
    }

    fn compare(&self, block: BlockIndex, found: Cv) -> Result<Verified, Mismatch> {
        let expected = match &self.values {
            Values::Proven(values) => values[block.0 as usize],
            Values::FirstUse(values) => *values[block.0 as usize].get_or_init(|| found),
        };
        let blocks = BlockRange::one(block);
        match found == expected {
            true => Ok(Verified { blocks }),
            false => Err(Mismatch {
                blocks,
                expected,
                found,
            }),
        }
    }
}

/// Leaves of an object that are proven one after another, until all are known.
#[derive(Clone, Debug)]
pub struct Gathered {
    geometry: Geometry,
    values: Vec<Option<Cv>>,
}

impl Gathered {
    /// None is known.
    pub fn new(geometry: Geometry) -> Gathered {
        Gathered {
            geometry,
            values: vec![None; geometry.blocks() as usize],
        }
    }

    /// Where the blocks are.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Takes proven leaves of neighbouring blocks.
    pub fn insert(&mut self, first: BlockIndex, leaves: &[Cv]) {
        let known = &mut self.values[first.0 as usize..];
        for (known, leaf) in known.iter_mut().zip(leaves) {
            *known = Some(*leaf);
        }
    }

    /// The leaf of a block, if it is known.
    pub fn leaf(&self, block: BlockIndex) -> Option<Cv> {
        self.values.get(block.0 as usize).copied().flatten()
    }

    /// All of them; `None`: some are not known.
    pub fn complete(self) -> Option<Leaves> {
        let values: Option<Vec<Cv>> = self.values.into_iter().collect();
        Some(Leaves::new(self.geometry, values?))
    }
}

/// Judges the bytes of one block against its leaf.
pub fn verify(leaves: &Leaves, block: BlockIndex, bytes: &[u8]) -> Result<Verified, Mismatch> {
    leaves.compare(block, tree::leaf_of(&leaves.geometry, block, bytes))
}

/// Judges a block whose bytes were hashed as they came.
pub fn verify_hashed(
    leaves: &Leaves,
    block: BlockIndex,
    hasher: &PartHasher,
) -> Result<Verified, Mismatch> {
    leaves.compare(block, hasher.leaf(&leaves.geometry))
}

/// Judges the bytes of one block against its leaf, when that was proven but not all others are known.
pub fn verify_one(
    geometry: &Geometry,
    block: BlockIndex,
    leaf: Cv,
    bytes: &[u8],
) -> Result<Verified, Mismatch> {
    let hashed = tree::leaf_of(geometry, block, bytes);
    verify_node(geometry, BlockRange::one(block), leaf, &[hashed])
}

/// Judges blocks whose bytes were hashed to these values against the proven value of the node over exactly them.
pub fn verify_node(
    geometry: &Geometry,
    blocks: BlockRange,
    node: Cv,
    hashed: &[Cv],
) -> Result<Verified, Mismatch> {
    assert_eq!(hashed.len(), blocks.count() as usize, "one value a block");
    let found = match blocks == geometry.all() {
        true => tree::merge_root(hashed).0,
        false => tree::merge(hashed),
    };
    match found == node {
        true => Ok(Verified { blocks }),
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

    #[test]
    fn only_the_right_bytes_at_their_place() {
        let b = BlockSize::MIN.bytes() as usize;
        let object = paint::bytes(0, 2 * b + 9);
        let geometry = Geometry::new(object.len() as u64, BlockSize::MIN).unwrap();
        let blocks: Vec<&[u8]> = object.chunks(b).collect();
        let values: Vec<Cv> = geometry
            .all()
            .iter()
            .map(|i| tree::leaf_of(&geometry, i, blocks[i.0 as usize]))
            .collect();
        let first_two = tree::merge(&values[..2]);
        let leaves = Leaves::new(geometry, values);
        for i in geometry.all().iter() {
            assert_eq!(
                verify(&leaves, i, blocks[i.0 as usize]).unwrap().blocks(),
                BlockRange::one(i)
            );
        }
        assert!(verify(&leaves, BlockIndex(0), blocks[1]).is_err());
        let mut flipped = blocks[1].to_vec();
        flipped[b - 1] ^= 1;
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
        assert!(verify_node(&geometry, two, first_two, &hash(0..2, &blocks)).is_ok());
        assert!(verify_node(&geometry, two, first_two, &hash(0..2, &blocks[1..])).is_err());
        let root = *blake3::hash(&object).as_bytes();
        assert!(verify_node(&geometry, geometry.all(), root, &hash(0..3, &blocks)).is_ok());
    }

    #[test]
    fn without_a_manifest_the_first_bytes_count_and_no_others_after_them() {
        let geometry = Geometry::new(2 << 14, BlockSize::MIN).unwrap();
        let (one, two) = (vec![1; 1 << 14], vec![2; 1 << 14]);
        let known = tree::leaf_of(&geometry, BlockIndex(0), &one);
        let leaves = Leaves::first_use(geometry, [(BlockIndex(0), known), (BlockIndex(9), known)]);
        assert!(verify(&leaves, BlockIndex(0), &two).is_err());
        assert!(leaves.all().is_none() && leaves.leaf(BlockIndex(1)).is_none());
        assert!(verify(&leaves, BlockIndex(1), &two).is_ok());
        assert!(verify(&leaves, BlockIndex(1), &one).is_err());
        assert_eq!(
            leaves.all().map(|all| tree::root_of(&all).0),
            Some(*blake3::hash(&[one, two].concat()).as_bytes())
        );
    }
}
