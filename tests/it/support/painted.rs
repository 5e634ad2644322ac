//! Painted objects of any length, read with all cores.

use std::sync::atomic::{AtomicU64, Ordering};

use sapwood::{
    disk::{
        error::DiskError,
        regions::{REGION, Regions},
    },
    engine::hashing::TreeHasher,
    format::{geometry::BlockSize, manifest::Tree, paint},
};

/// A painted object that is nowhere: its regions are painted when they are read.
pub struct Painted {
    length: u64,
    taken: AtomicU64,
}

impl Painted {
    pub fn new(length: u64) -> Painted {
        Painted {
            length,
            taken: AtomicU64::new(0),
        }
    }
}

impl Regions for Painted {
    fn next(&self, buffer: &mut Vec<u8>) -> Result<Option<u64>, DiskError> {
        let start = self.taken.fetch_add(REGION as u64, Ordering::Relaxed);
        if start >= self.length {
            return Ok(None);
        }
        buffer.resize((self.length - start).min(REGION as u64) as usize, 0);
        paint::fill(start, buffer);
        Ok(Some(start))
    }
}

/// The tree of a painted object, and the bytes of its pieces section.
pub fn tree_and_pieces(length: u64, block_size: BlockSize, hints: bool) -> (Tree, Vec<u8>) {
    let mut pieces = Vec::new();
    let hasher = TreeHasher {
        block_size,
        may_grow: false,
        hints,
    };
    let tree = hasher.run(&Painted::new(length), "a painted object", &mut |some| {
        pieces.extend_from_slice(some);
        Ok(())
    });
    (tree.expect("painting does not fail"), pieces)
}

/// Lengths at which the tree of this block size changes its shape.
pub fn lengths(block_size: BlockSize) -> Vec<u64> {
    let b = block_size.bytes();
    let low = [
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
    ];
    low.into_iter()
        .chain([255 * b, 256 * b, 256 * b + 1, 257 * b + 5])
        .collect()
}

/// All block sizes, the smallest first.
pub fn block_sizes() -> impl Iterator<Item = BlockSize> {
    (14..=24).map(|bits| BlockSize::new(1 << bits).expect("a block size"))
}
