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
        judge::{self, Leaves, Proven},
        tree::Root,
    },
};

use super::events::{Event, Events};

/// So many holdings are looked at for one that has all of the object.
const SEEDS_MAX: usize = 4;

/// See the module. Clones are of the same.
#[derive(Clone)]
pub struct Kept {
    leaves: Arc<Leaves>,
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
pub struct CacheRead {
    /// Ascending.
    pub proven: Vec<Proven>,
    /// To be fetched, ascending.
    pub missing: Vec<BlockRange>,
}

impl Kept {
    /// Looks for what the store in this folder has of the object of these leaves. Trouble with it is one warning.
    pub async fn open(
        folder: Option<&Path>,
        root: Root,
        leaves: Arc<Leaves>,
        provenance: Provenance,
        events: &mut dyn Events,
    ) -> Kept {
        let place = match folder.map(Path::to_owned) {
            None => Place::Nowhere,
            Some(folder) => {
                let geometry = *leaves.geometry();
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
        Kept { leaves, place }
    }

    /// Reads and judges what is here of some blocks, whose leaves are known.
    pub async fn read(&self, blocks: BlockRange) -> CacheRead {
        let kept = self.clone();
        let read = move || kept.read_now(blocks);
        match tokio::task::spawn_blocking(read).await {
            Ok(read) => read,
            Err(_) => CacheRead {
                proven: Vec::new(),
                missing: vec![blocks],
            },
        }
    }

    fn read_now(&self, blocks: BlockRange) -> CacheRead {
        let mut proven = Vec::new();
        let mut missing: Vec<BlockRange> = Vec::new();
        for block in blocks.iter() {
            if let Some(read) = self.read_block(block) {
                read.add_to(&mut proven);
                continue;
            }
            match missing.last_mut() {
                Some(last) if last.end == block.0 => last.end += 1,
                _ => missing.push(BlockRange::one(block)),
            }
        }
        CacheRead { proven, missing }
    }

    fn read_block(&self, block: BlockIndex) -> Option<Proven> {
        match &self.place {
            Place::Nowhere => None,
            Place::Own(own) => own.object.read(&self.leaves, block),
            Place::File(file) => {
                let place = self.leaves.geometry().bytes_of(block);
                let mut bytes = vec![0; place.length() as usize];
                file.read_exact_at(&mut bytes, place.start).ok()?;
                judge::prove(&self.leaves, block, bytes).ok()
            }
        }
    }

    /// Keeps blocks that came and were proven.
    pub async fn keep(&self, proven: Proven) {
        let Place::Own(own) = &self.place else {
            return;
        };
        let (own, leaves) = (own.clone(), self.leaves.clone());
        let keep = move || {
            if let Err(error) = own.object.keep(&proven, &leaves) {
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
