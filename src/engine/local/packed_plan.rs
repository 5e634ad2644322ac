//! Which missing bytes of an update are fetched as pieces of the pack, and which as whole frames.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{
    engine::remote::source::packed::Pack,
    format::{
        blockset::BlockSet,
        geometry::{BlockIndex, BlockRange, ByteRange, Geometry, PIECE},
        pack::{CLUSTER, FRAME},
    },
    policy::descent::{Part, Patchwork},
};

/// The parts of blocks that come with a frame, in case that it does not arrive or is bad.
pub type WithoutFrames = HashMap<BlockIndex, Vec<Part>>;

/// Blocks to assemble, and the frames that are fetched whole for those in them.
pub struct PackedPlan {
    pub blocks: Patchwork,
    pub frames: HashSet<u64>,
    pub without_frames: WithoutFrames,
}

/// Adds the missing blocks of frames of which something is here. A frame that is fewer bytes than all that is missing of it gives
/// its blocks whole. Frames of which nothing is here are left to the transfer.
/// A block is one cluster or more.
pub fn plan(pack: &Pack, geometry: &Geometry, here: &BlockSet, patched: Patchwork) -> PackedPlan {
    let size = geometry.block_size().bytes();
    let mut frames = HashSet::new();
    let mut without_frames = HashMap::new();
    if size > FRAME {
        return PackedPlan {
            blocks: patched,
            frames,
            without_frames,
        };
    }
    let mut all: BTreeMap<BlockIndex, Vec<Part>> = patched.into_iter().collect();
    let a_frame = (FRAME / size) as u32;
    for frame in 0..geometry.length().div_ceil(FRAME) {
        let first = frame as u32 * a_frame;
        let blocks = BlockRange::new(first, geometry.blocks().min(first + a_frame));
        let is_absent = |block: &BlockIndex| !here.contains(*block) && !all.contains_key(block);
        let absent: Vec<BlockIndex> = blocks.iter().filter(is_absent).collect();
        if absent.len() == blocks.count() as usize {
            continue;
        }
        for block in &absent {
            all.insert(*block, whole(geometry, *block));
        }
        let patched = blocks.iter().filter_map(|block| all.get(&block));
        let pieces: u64 = patched.map(|parts| bytes_of_pieces(pack, parts)).sum();
        if pack
            .frame_bytes(frame)
            .is_some_and(|packed| packed < pieces)
        {
            frames.insert(frame);
            for block in blocks.iter() {
                if let Some(parts) = all.get_mut(&block) {
                    let parts = std::mem::replace(parts, whole(geometry, block));
                    without_frames.insert(block, parts);
                }
            }
        }
    }
    PackedPlan {
        blocks: all.into_iter().collect(),
        frames,
        without_frames,
    }
}

/// The bytes that are missing of blocks: all of those of which nothing is here, and the parts of these.
pub fn missing<'a>(
    geometry: &'a Geometry,
    here: &'a BlockSet,
    patched: &'a Patchwork,
) -> impl Iterator<Item = ByteRange> + 'a {
    let begun: HashSet<BlockIndex> = patched.iter().map(|(block, _)| *block).collect();
    let blocks = BlockRange::new(0, geometry.blocks());
    let absent = move |block: &BlockIndex| !here.contains(*block) && !begun.contains(block);
    let absent = blocks.iter().filter(absent);
    let absent = absent.map(|block| geometry.bytes_of(block));
    let parts = patched.iter().flat_map(|(_, parts)| parts);
    let parts = parts.filter(|part| part.from.is_none());
    absent.chain(parts.map(|part| part.bytes))
}

/// The parts of a block of which nothing is here.
fn whole(geometry: &Geometry, block: BlockIndex) -> Vec<Part> {
    let bytes = geometry.bytes_of(block);
    vec![Part { bytes, from: None }]
}

/// About how many bytes the missing pieces of these parts are, packed.
fn bytes_of_pieces(pack: &Pack, parts: &[Part]) -> u64 {
    let missing = parts.iter().filter(|part| part.from.is_none());
    let bytes = missing.map(|part| {
        let (mut at, mut sum) = (part.bytes.start, 0);
        while at < part.bytes.end {
            let cluster = at / CLUSTER;
            let end = part.bytes.end.min((cluster + 1) * CLUSTER);
            sum += match pack.cluster(cluster).length() {
                0 => end - at,
                packed => packed * (end - at).div_ceil(PIECE) / (CLUSTER / PIECE),
            };
            at = end;
        }
        sum
    });
    bytes.sum()
}
