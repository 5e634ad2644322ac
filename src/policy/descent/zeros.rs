//! Zeros, which need no source.

use std::sync::LazyLock;

use crate::format::{
    anchors::{self, BlockAnchor, Tag, WINDOW},
    geometry::{BlockIndex, ByteRange, Geometry},
    tree::{Cv, PartHasher},
};

use super::level::{Window, block_window};

/// Zeros are hashed in steps of this.
pub static ZEROS: LazyLock<Vec<u8>> = LazyLock::new(|| vec![0; 64 << 10]);

/// The tag of 64 zeros.
static ZERO_TAG: LazyLock<Tag> = LazyLock::new(|| Tag::of(anchors::gear(&[0; WINDOW])));

/// Anchors that say zeros where there are none may cost as much hashing as those that are right, and this much more.
const VAIN_BYTES_MAX: u64 = 1 << 30;

/// Finds zeros by proven values. Hashes only what an anchor says to be zeros, and less and less if that is wrong.
pub struct ZeroSearch {
    /// How much may be hashed in vain from now on.
    vain_bytes: u64,
}

impl Default for ZeroSearch {
    fn default() -> ZeroSearch {
        ZeroSearch {
            vain_bytes: VAIN_BYTES_MAX,
        }
    }
}

impl ZeroSearch {
    /// Whether a block is all zeros, by its proven leaf.
    pub fn is_zero_block(
        &mut self,
        geometry: &Geometry,
        block: BlockIndex,
        anchor: BlockAnchor,
        leaf: Cv,
    ) -> bool {
        let bytes = geometry.bytes_of(block);
        let window = block_window(anchor.0, bytes);
        self.are_zeros(bytes, geometry.blocks() == 1, window, leaf)
    }

    /// Whether the bytes of a node are all zeros.
    pub fn are_zeros(
        &mut self,
        bytes: ByteRange,
        whole: bool,
        window: Option<Window>,
        value: Cv,
    ) -> bool {
        let suspected = match window {
            Some(window) => window.place == bytes.start && window.tag == *ZERO_TAG,
            None => bytes.length() < WINDOW as u64,
        };
        // What is too much for now is looked at in smaller nodes.
        if !suspected || bytes.length() > self.vain_bytes {
            return false;
        }
        let are_zeros = hash_of_zeros(bytes, whole) == value;
        match are_zeros {
            true => self.vain_bytes = self.vain_bytes.saturating_add(bytes.length()),
            false => self.vain_bytes -= bytes.length(),
        }
        are_zeros
    }
}

/// The value of a node over zeros.
fn hash_of_zeros(bytes: ByteRange, whole: bool) -> Cv {
    let mut hasher = PartHasher::new(bytes.start);
    let mut rest = bytes.length();
    while rest > 0 {
        let count = rest.min(ZEROS.len() as u64);
        hasher.update(&ZEROS[..count as usize]);
        rest -= count;
    }
    match whole {
        true => hasher.root().0,
        false => hasher.value(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_that_lie_about_zeros_cost_little_and_true_ones_are_believed() {
        let node = |start: u64| ByteRange::new(start, start + VAIN_BYTES_MAX / 4);
        let window = |bytes: ByteRange| {
            Some(Window {
                tag: *ZERO_TAG,
                place: bytes.start,
            })
        };
        let (here, mut zeros) = (node(0), ZeroSearch::default());
        let value = hash_of_zeros(here, false);
        assert!(zeros.are_zeros(here, false, window(here), value));
        assert!(!zeros.are_zeros(here, false, None, value));
        for _ in 0..5 {
            assert!(!zeros.are_zeros(here, false, window(here), [7; 32]));
        }
        // Even what is zeros is not found any more.
        assert!(!zeros.are_zeros(here, false, window(here), value));
    }
}
