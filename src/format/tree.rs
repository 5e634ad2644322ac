//! The BLAKE3 tree over blocks: leaves, nodes, the root (manifest.md, section 2).

use std::{fmt, str::FromStr};

use blake3::hazmat::{self, HasherExt, Mode};

use super::geometry::{BlockIndex, FANOUT, Geometry};

/// A BLAKE3 chaining value: of a block (its leaf) or of a node.
pub type Cv = [u8; 32];

/// The BLAKE3 hash of a whole object, which is its name; what `b3sum` prints.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Root(pub [u8; 32]);

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a root: not 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a root is 64 hexadecimal digits, as b3sum prints them")]
pub struct NotARoot;

impl FromStr for Root {
    type Err = NotARoot;

    fn from_str(text: &str) -> Result<Root, NotARoot> {
        let mut root = [0; 32];
        hex::decode_to_slice(text.trim(), &mut root).map_err(|_| NotARoot)?;
        Ok(Root(root))
    }
}

/// Hashes one part of an object, in steps of any length, to its chaining value.
///
/// A part has a power-of-two number of 1 KiB chunks and starts at a multiple of its own size; only the last part of an object may
/// be shorter. Blocks are parts, and so are the sections of a block that are hashed in parallel.
pub struct PartHasher {
    hasher: blake3::Hasher,
}

impl PartHasher {
    /// `offset`: where the part starts in the object, in bytes.
    pub fn new(offset: u64) -> PartHasher {
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(offset);
        PartHasher { hasher }
    }

    /// Hashes the next bytes of the part.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// The chaining value of a part that is not the whole object.
    pub fn value(&self) -> Cv {
        self.hasher.finalize_non_root()
    }

    /// The root, when the part is the whole object.
    pub fn root(&self) -> Root {
        Root(*self.hasher.finalize().as_bytes())
    }

    /// The leaf of a block: its chaining value, or the root if there is no other block.
    pub fn leaf(&self, geometry: &Geometry) -> Cv {
        match geometry.blocks() {
            1 => self.root().0,
            _ => self.value(),
        }
    }
}

/// The chaining value of a part of an object at this offset; see [`PartHasher`].
pub fn value_of(offset: u64, bytes: &[u8]) -> Cv {
    let mut hasher = PartHasher::new(offset);
    hasher.update(bytes);
    hasher.value()
}

/// The leaf of a block from its bytes.
pub fn leaf_of(geometry: &Geometry, block: BlockIndex, bytes: &[u8]) -> Cv {
    let mut hasher = PartHasher::new(geometry.bytes_of(block).start);
    hasher.update(bytes);
    hasher.leaf(geometry)
}

/// Merges the chaining values of neighbouring parts of equal size into that of the subtree over them. The subtree must start at a
/// multiple of its size, and only the last part of the object may be shorter.
///
/// # Panics
/// If `values` is empty.
pub fn merge(values: &[Cv]) -> Cv {
    match values {
        [] => panic!("a node has at least one child"),
        [only] => *only,
        _ => {
            let (left, right) = values.split_at(left_part(values.len()));
            hazmat::merge_subtrees_non_root(&merge(left), &merge(right), Mode::Hash)
        }
    }
}

/// Merges the chaining values of all parts of an object into its root. The value of a single part must be the root already.
///
/// # Panics
/// If `values` is empty.
pub fn merge_root(values: &[Cv]) -> Root {
    match values {
        [only] => Root(*only),
        _ => {
            let (left, right) = values.split_at(left_part(values.len()));
            Root(*hazmat::merge_subtrees_root(&merge(left), &merge(right), Mode::Hash).as_bytes())
        }
    }
}

/// How many of `count` parts are in the left subtree: the largest power of two below `count`.
fn left_part(count: usize) -> usize {
    count.next_power_of_two() / 2
}

/// The levels of nodes between these leaves and the root, the lowest first; none up to 256 leaves.
pub fn nodes_above(leaves: &[Cv]) -> Vec<Vec<Cv>> {
    let mut levels: Vec<Vec<Cv>> = Vec::new();
    loop {
        let below = levels.last().map_or(leaves, Vec::as_slice);
        if below.len() <= FANOUT as usize {
            return levels;
        }
        let level = below.chunks(FANOUT as usize).map(merge).collect();
        levels.push(level);
    }
}

/// The root above all leaves of an object.
pub fn root_of(leaves: &[Cv]) -> Root {
    let levels = nodes_above(leaves);
    merge_root(levels.last().map_or(leaves, Vec::as_slice))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{geometry::BlockSize, paint};

    /// The lengths at which trees of this block size change their shape.
    fn lengths(b: u64) -> Vec<u64> {
        let mut all = vec![
            0,
            1,
            1023,
            1024,
            1025,
            b - 1,
            b,
            b + 1,
            2 * b - 1,
            2 * b,
            2 * b + 1,
            3 * b,
            5 * b + 7,
        ];
        if b == BlockSize::MIN.bytes() {
            all.extend([255 * b, 256 * b, 256 * b + 1, 257 * b + 5]);
        }
        all
    }

    #[test]
    fn leaves_merge_to_what_b3sum_prints() {
        for bits in 14..=20 {
            let size = BlockSize::new(1 << bits).unwrap();
            for length in lengths(size.bytes()) {
                let object = paint::bytes(0, length as usize);
                let geometry = Geometry::new(length, size).unwrap();
                let leaves: Vec<Cv> = geometry
                    .all()
                    .iter()
                    .map(|block| {
                        let at = geometry.bytes_of(block);
                        leaf_of(
                            &geometry,
                            block,
                            &object[at.start as usize..at.end as usize],
                        )
                    })
                    .collect();
                let expected = blake3::hash(&object);
                assert_eq!(
                    root_of(&leaves).0,
                    *expected.as_bytes(),
                    "{length} bytes in blocks of {}",
                    size.bytes()
                );
                assert_eq!(nodes_above(&leaves).len() as u32, geometry.levels());
            }
        }
    }

    #[test]
    fn a_leaf_is_bound_to_its_place() {
        let geometry = Geometry::new(1 << 20, BlockSize::MIN).unwrap();
        let bytes = vec![7; 1 << 14];
        assert_ne!(
            leaf_of(&geometry, BlockIndex(0), &bytes),
            leaf_of(&geometry, BlockIndex(1), &bytes)
        );
    }

    #[test]
    fn roots_as_text() {
        let root = Root(*blake3::hash(b"").as_bytes());
        assert_eq!(root.to_string().parse(), Ok(root));
        for bad in ["", "af13", &"g".repeat(64), &"0".repeat(65)] {
            assert_eq!(bad.parse::<Root>(), Err(NotARoot));
        }
    }
}
