//! The descent in a manifest that is read range by range, over local seeds.

use std::{sync::Arc, time::Instant};

use crate::{
    engine::{blocking, context::Context, error::Error, remote::manifest::OpenManifest},
    format::{
        blockset::BlockSet,
        geometry::{BlockIndex, BlockRange, ByteRange},
        judge::Leaves,
        tree::Cv,
    },
    policy::descent::{Descent, Find, Patchwork, Source},
};

use super::{leaves::KeptLeaves, seeds::Seeds};

/// Blocks whose bytes hash to the proven node over them.
pub struct Whole {
    pub blocks: BlockRange,
    pub value: Cv,
    pub from: Source,
}

/// What the search found, and the seeds that contain it.
pub struct Search {
    pub seeds: Seeds,
    pub found: Finds,
    /// The leaves of the blocks that were not found under a whole node.
    pub leaves: Leaves,
}

/// Places of local bytes. How much memory they take follows from what is here, and not from how many blocks there are.
pub struct Finds {
    pub whole: Vec<Whole>,
    /// Single blocks of zeros, whose leaves are known.
    pub zeros: BlockSet,
    /// Blocks that can be assembled, partly from fetched pieces.
    pub patched: Patchwork,
    /// How many more parts may be noted of such blocks.
    parts_left: u64,
}

/// Parts of blocks that are noted: at least this many, and one more for so many bytes of the seeds.
const PARTS_MIN: u64 = 1 << 18;
const SEED_BYTES_A_PART: u64 = 4096;

impl Finds {
    /// Nothing, in an object of so many blocks.
    pub fn nothing(blocks: u32) -> Finds {
        Finds {
            whole: Vec::new(),
            zeros: BlockSet::empty(blocks),
            patched: Vec::new(),
            parts_left: PARTS_MIN,
        }
    }

    fn note(&mut self, find: Find, leaves: &Leaves) {
        match find {
            Find::Whole {
                blocks,
                value,
                from: Source::Zeros,
            } if blocks.count() == 1 => {
                let block = BlockIndex(blocks.start);
                // The value of a node over one block is its leaf.
                leaves.insert(block, &[value]);
                self.zeros.insert(block);
            }
            Find::Whole {
                blocks,
                value,
                from,
            } => self.whole.push(Whole {
                blocks,
                value,
                from,
            }),
            Find::Patched { block, parts } if parts.len() as u64 <= self.parts_left => {
                self.parts_left -= parts.len() as u64;
                self.patched.push((block, parts));
            }
            Find::Patched { .. } | Find::Missing { .. } => (),
        }
    }
}

/// Searches seeds for the object of a manifest. `top`: the part of its tree that was read already.
pub async fn search(
    context: &Context,
    manifest: &OpenManifest,
    mut leaves: KeptLeaves,
    mut seeds: Seeds,
    mut top: Option<(ByteRange, Vec<u8>)>,
) -> Result<Search, Error> {
    let (layout, root) = (manifest.header().layout(), manifest.header().root);
    let mut descent = {
        let trees: Vec<Arc<_>> = seeds.trees();
        // Sorting the anchors of large seeds takes long.
        blocking::run(move || Descent::new(layout, root, trees)).await
    };
    let mut found = Finds::nothing(layout.geometry.blocks());
    found.parts_left = PARTS_MIN.max(seeds.bytes() / SEED_BYTES_A_PART);
    while !descent.is_done() {
        let wants = descent.wants();
        if !wants.is_empty() {
            let mut ascending: Vec<ByteRange> = wants;
            ascending.sort_unstable_by_key(|range| range.start);
            let began = Instant::now();
            let given = match top.take().filter(|(range, _)| ascending == [*range]) {
                Some(top) => vec![top],
                None => manifest.read_ranges(context, &ascending).await?,
            };
            let arrived = given.iter().map(|(range, _)| range.length()).sum();
            seeds.time.note_arrived(arrived, began.elapsed());
            for (range, bytes) in given {
                seeds.note_manifest(range.length());
                descent
                    .give(range, &bytes)
                    .map_err(|cause| Error::Manifest {
                        place: manifest.place().to_owned(),
                        cause,
                    })?;
            }
        }
        (descent, seeds, leaves) = blocking::run(move || {
            seeds.time.begin();
            descent.advance(&mut seeds);
            seeds.time.end();
            for (first, page) in descent.take_leaves() {
                leaves.insert(first, &page);
            }
            (descent, seeds, leaves)
        })
        .await;
        leaves.check()?;
        for find in descent.take_finds() {
            found.note(find, &leaves);
        }
    }
    for find in descent.take_finds() {
        found.note(find, &leaves);
    }
    found.patched.sort_unstable_by_key(|(block, _)| block.0);
    Ok(Search {
        seeds,
        found,
        leaves: leaves.into_leaves(),
    })
}
