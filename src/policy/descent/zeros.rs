//! Zeros, which need no source.

use std::sync::LazyLock;

use crate::format::{
    anchors::{self, BlockAnchor, Tag, WINDOW},
    geometry::{BlockIndex, ByteRange, Geometry},
    tree::{Cv, PartHasher},
};

use super::level::{Window, block_window};

/// Zeros are hashed in steps of this.
pub static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// The tag of 64 zeros.
static ZERO_TAG: LazyLock<Tag> = LazyLock::new(|| Tag::of(anchors::gear(&[0; WINDOW])));

/// Whether a block is all zeros, by its proven leaf; its anchor only says whether that is worth a hash.
pub fn is_zero_block(
    geometry: &Geometry,
    block: BlockIndex,
    anchor: BlockAnchor,
    leaf: Cv,
) -> bool {
    let bytes = geometry.bytes_of(block);
    are_zeros(
        bytes,
        geometry.blocks() == 1,
        block_window(anchor.0, bytes),
        leaf,
    )
}

/// Whether the bytes of a node are all zeros; hashed only when its window says that they may be.
pub fn are_zeros(bytes: ByteRange, whole: bool, window: Option<Window>, value: Cv) -> bool {
    let suspected = match window {
        Some(window) => window.place == bytes.start && window.tag == *ZERO_TAG,
        None => bytes.length() < WINDOW as u64,
    };
    if !suspected {
        return false;
    }
    let mut hasher = PartHasher::new(bytes.start);
    let mut rest = bytes.length();
    while rest > 0 {
        let count = rest.min(ZEROS.len() as u64);
        hasher.update(&ZEROS[..count as usize]);
        rest -= count;
    }
    match whole {
        true => hasher.root().0 == value,
        false => hasher.value() == value,
    }
}
