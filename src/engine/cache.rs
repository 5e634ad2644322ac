//! What is on this machine of an object that is streamed, and what is added to it. Never an error of the stream: what cannot
//! be read here is fetched, and what cannot be kept is not.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

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

use super::events::{Event, Events};

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
    store: Mutex<Store>,
}

impl Own {
    fn note(&self) {
        let mut store = self
            .store
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Err(error) = store.note_kept(&self.object) {
            tracing::debug!("not noted: {error}");
        }
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
        folder: Option<&Path>,
        (root, geometry): (Root, Geometry),
        provenance: Provenance,
        events: &mut dyn Events,
    ) -> Kept {
        let place = match folder.map(Path::to_owned) {
            None => Place::Nowhere,
            Some(folder) => {
                let find = move || find(folder, root, geometry, provenance);
                match tokio::task::spawn_blocking(find).await {
                    Ok(Ok(place)) => place,
                    Ok(Err(error)) => {
                        let message = error.to_string();
                        events.event(Event::Warning { message });
                        Place::Nowhere
                    }
                    Err(_) => Place::Nowhere,
                }
            }
        };
        Kept { geometry, place }
    }

    /// Reads and judges what is here of some blocks; `leaves` are theirs.
    pub async fn read(&self, blocks: BlockRange, leaves: &[Cv]) -> Here {
        let (kept, leaves) = (self.clone(), leaves.to_vec());
        let read = move || kept.read_now(blocks, &leaves);
        match tokio::task::spawn_blocking(read).await {
            Ok(here) => here,
            Err(_) => self.nothing(blocks),
        }
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
        drop(tokio::task::spawn_blocking(keep).await);
    }
}

fn find(
    folder: PathBuf,
    root: Root,
    geometry: Geometry,
    provenance: Provenance,
) -> Result<Place, StoreError> {
    let mut store = Store::open(&folder)?;
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
        return Ok(Place::File(Arc::new(seed.file)));
    }
    let own = store.own_object(root, geometry, provenance)?;
    Ok(match own {
        Some(object) => {
            let store = Mutex::new(store);
            Place::Own(Arc::new(Own { object, store }))
        }
        None => Place::Nowhere,
    })
}
