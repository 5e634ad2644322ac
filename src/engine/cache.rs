//! What is on this machine of an object that is streamed, and what is added to it. Never an error of the stream: what cannot
//! be read here is fetched, and what cannot be kept is not.

use std::{fs::File, os::unix::fs::FileExt, sync::Arc};

use crate::{
    disk::{
        state::{Allowed, Provenance, Wanted},
        store::{OwnObject, Store, StoreError},
    },
    format::{
        geometry::{BlockIndex, BlockRange, Geometry},
        judge::{self, Verified},
        tree::{Cv, Root},
    },
};

use super::{blocking, context::StoreHandle, events::Events, trust::warned};

/// So many holdings are looked at for one that has all of the object.
const SEEDS_MAX: usize = 4;

/// See the module. Clones are of the same.
#[derive(Clone)]
pub struct Kept {
    geometry: Geometry,
    place: Place,
}

#[derive(Clone)]
enum Place {
    Nowhere,
    /// A file of the user's that is all of it.
    File(Arc<File>),
    Own(Arc<Own>),
}

/// An own object. What was kept is noted at the latest when it is let go, however the stream ended.
struct Own {
    object: OwnObject,
    store: StoreHandle,
}

impl Own {
    fn note(&self) {
        self.store.with_now(|store| store.note_kept(&self.object));
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.note();
    }
}

/// Some blocks of an object, as far as they are here.
pub struct Here {
    /// Of all blocks that were asked for; what is missing is zeros.
    pub bytes: Vec<u8>,
    /// To be fetched.
    pub missing: Vec<BlockRange>,
}

impl Kept {
    /// Looks for what the store in this folder has. Trouble with it is one warning.
    pub async fn open(
        store: &StoreHandle,
        (root, geometry): (Root, Geometry),
        provenance: Provenance,
        events: &mut dyn Events,
    ) -> Kept {
        let found = store.with(move |store| find(store, root, geometry, provenance));
        let place = match warned(found.await, events) {
            Some(Found::File(file)) => Place::File(Arc::new(file)),
            Some(Found::Own(object)) => Place::Own(Arc::new(Own {
                object: *object,
                store: store.clone(),
            })),
            Some(Found::Nothing) | None => Place::Nowhere,
        };
        Kept { geometry, place }
    }

    /// Reads and judges what is here of some blocks; `leaves` are theirs.
    pub async fn read(&self, blocks: BlockRange, leaves: &[Cv]) -> Here {
        let (kept, leaves) = (self.clone(), leaves.to_vec());
        blocking::run(move || kept.read_now(blocks, &leaves)).await
    }

    fn nothing(&self, blocks: BlockRange) -> Here {
        let length = self.geometry.bytes_of_range(blocks).length();
        Here {
            bytes: vec![0; length as usize],
            missing: vec![blocks],
        }
    }

    fn read_now(&self, blocks: BlockRange, leaves: &[Cv]) -> Here {
        let Here { mut bytes, .. } = self.nothing(blocks);
        let start = self.geometry.bytes_of_range(blocks).start;
        let mut missing: Vec<BlockRange> = Vec::new();
        for (block, leaf) in blocks.iter().zip(leaves) {
            let place = self.geometry.bytes_of(block);
            let buffer = &mut bytes[(place.start - start) as usize..(place.end - start) as usize];
            if self.read_block(block, *leaf, buffer).is_some() {
                continue;
            }
            match missing.last_mut() {
                Some(last) if last.end == block.0 => last.end += 1,
                _ => missing.push(BlockRange::one(block)),
            }
        }
        Here { bytes, missing }
    }

    fn read_block(&self, block: BlockIndex, leaf: Cv, buffer: &mut [u8]) -> Option<Verified> {
        match &self.place {
            Place::Nowhere => None,
            Place::Own(own) => own.object.read(block, leaf, buffer),
            Place::File(file) => {
                let place = self.geometry.bytes_of(block);
                file.read_exact_at(buffer, place.start).ok()?;
                judge::verify_one(&self.geometry, block, leaf, buffer).ok()
            }
        }
    }

    /// Keeps blocks that came and were proven; `bytes` and `leaves` are theirs.
    pub async fn keep(&self, verified: Verified, leaves: &[Cv], bytes: &[u8]) {
        let Place::Own(own) = &self.place else {
            return;
        };
        let (own, leaves, bytes) = (own.clone(), leaves.to_vec(), bytes.to_vec());
        let keep = move || {
            if let Err(error) = own.object.keep(verified, &leaves, &bytes) {
                tracing::debug!("not kept: {error}");
            }
            if own.object.is_due() {
                own.note();
            }
        };
        // What was not kept is fetched again, and no more.
        blocking::run(keep).await;
    }
}

/// Where the blocks of an object are, or may be kept.
enum Found {
    File(File),
    Own(Box<OwnObject>),
    Nothing,
}

fn find(
    store: &mut Store,
    root: Root,
    geometry: Geometry,
    provenance: Provenance,
) -> Result<Found, StoreError> {
    let allowed = Allowed {
        origin: provenance.origin.clone(),
        key_id: provenance.key_id.clone(),
        ..Allowed::default()
    };
    let wanted = Wanted {
        root,
        url: provenance.url.clone(),
        tags: Vec::new(),
    };
    let mut seeds = store.seeds(&allowed, &wanted, SEEDS_MAX)?.into_iter();
    let whole = seeds.find(|seed| seed.holding.root == root && !seed.holding.own);
    if let Some(seed) = whole {
        return Ok(Found::File(seed.file));
    }
    let own = store.own_object(root, geometry, provenance)?;
    Ok(own.map_or(Found::Nothing, |own| Found::Own(Box::new(own))))
}
