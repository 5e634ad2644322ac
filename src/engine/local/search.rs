//! The descent in a manifest that is read range by range, over local seeds.

use std::{sync::Arc, time::Instant};

use crate::{
    engine::{blocking, context::Context, error::Error, remote::manifest::OpenManifest},
    format::{
        geometry::{BlockRange, ByteRange},
        judge::{Leaves, ObjectKey},
        layout::Layout,
        tree::{Cv, Root},
    },
    policy::descent::{Descent, Find, Source},
};

use super::{patch::Blocks, seeds::Seeds};

/// Blocks whose bytes hash to the proven node over them.
pub struct Whole {
    pub blocks: BlockRange,
    pub value: Cv,
    pub from: Source,
}

/// What the search found, and the seeds that contain it.
pub struct Search {
    pub seeds: Seeds,
    pub whole: Vec<Whole>,
    /// Blocks that can be assembled, partly from fetched pieces.
    pub patched: Blocks,
    /// The leaves of the blocks that were not found under a whole node.
    pub leaves: Leaves,
}

/// Searches seeds for the object of a manifest. `top`: the part of its tree that was read already.
pub async fn search(
    context: &Context,
    manifest: &OpenManifest,
    (layout, root): (Layout, Root),
    mut seeds: Seeds,
    mut top: Option<(ByteRange, Vec<u8>)>,
) -> Result<Search, Error> {
    let mut descent = {
        let trees: Vec<Arc<_>> = seeds.trees();
        // Sorting the anchors of large seeds takes long.
        blocking::run(move || Descent::new(layout, root, trees)).await
    };
    let leaves = Leaves::empty(ObjectKey::of_root(root, layout.geometry));
    let (mut whole, mut patched): (_, Blocks) = (Vec::new(), Vec::new());
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
                descent
                    .give(range, &bytes)
                    .map_err(|cause| Error::Manifest {
                        place: manifest.place().to_owned(),
                        cause,
                    })?;
            }
        }
        (descent, seeds) = blocking::run(move || {
            seeds.time.begin();
            descent.advance(&mut seeds);
            seeds.time.end();
            (descent, seeds)
        })
        .await;
        for (first, page) in descent.take_leaves() {
            leaves.insert(first, &page);
        }
        for find in descent.take_finds() {
            sort_find(find, &mut whole, &mut patched);
        }
    }
    for find in descent.take_finds() {
        sort_find(find, &mut whole, &mut patched);
    }
    patched.sort_unstable_by_key(|(block, _)| block.0);
    Ok(Search {
        seeds,
        whole,
        patched,
        leaves,
    })
}

fn sort_find(find: Find, whole: &mut Vec<Whole>, patched: &mut Blocks) {
    match find {
        Find::Whole {
            blocks,
            value,
            from,
        } => whole.push(Whole {
            blocks,
            value,
            from,
        }),
        Find::Patched { block, parts } => patched.push((block, parts)),
        Find::Missing { .. } => (),
    }
}
