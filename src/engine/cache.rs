//! Cached blocks of an object that is streamed. A cache error never fails the stream: unreadable blocks are fetched, unwritable
//! blocks are not cached.

use std::{fs::File, os::unix::fs::FileExt, sync::Arc};

use parking_lot::Mutex;

use crate::{
    disk::{
        error::DiskError,
        state::{Allowed, Provenance, Wanted},
        store::{OwnObject, Store, StoreError},
    },
    format::{
        blockset::BlockSet,
        geometry::{BlockIndex, BlockRange, Geometry},
        judge::{self, Leaves, Proven, Verified},
        tree::Root,
    },
};

use super::{
    blocking, context::StoreHandle, events::Events, transfer::sink::BlockSink, trust::warned,
};

/// The most holdings that are checked for a complete copy of the object.
const SEEDS_MAX: usize = 4;

/// The blocks of one object in the store. Clones share them.
#[derive(Clone)]
pub struct ObjectCache {
    leaves: Arc<Leaves>,
    place: Place,
}

#[derive(Clone)]
enum Place {
    Nowhere,
    File(Arc<UserFile>),
    Own(Arc<Own>),
}

/// A file of the user that was the complete object when it was added.
struct UserFile {
    file: File,
    /// Blocks that may be read: all that were not found to be wrong.
    held: Mutex<BlockSet>,
}

/// A cache file of the store. Its new blocks are recorded in the index when this is dropped at the latest, however the stream
/// ended.
struct Own {
    object: OwnObject,
    store: StoreHandle,
}

impl Own {
    fn note(&self) {
        self.store
            .with_blocking(|store| store.note_cached(&self.object));
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.note();
    }
}

impl ObjectCache {
    /// Finds the object of these leaves in the store. A store error is one warning.
    pub async fn open(
        store: &StoreHandle,
        root: Root,
        leaves: Arc<Leaves>,
        provenance: Provenance,
        events: &mut dyn Events,
    ) -> ObjectCache {
        let geometry = *leaves.geometry();
        let found = store.with(move |store| find(store, root, geometry, provenance));
        let place = match warned(found.await, events) {
            Some(Found::File(file)) => Place::File(Arc::new(UserFile {
                file,
                held: Mutex::new(BlockSet::full(geometry.blocks())),
            })),
            Some(Found::Own(object)) => Place::Own(Arc::new(Own {
                object: *object,
                store: store.clone(),
            })),
            Some(Found::Nothing) | None => Place::Nowhere,
        };
        ObjectCache { leaves, place }
    }

    /// Whether a block is there, as far as is known without reading it.
    pub fn holds(&self, block: BlockIndex) -> bool {
        match &self.place {
            Place::Nowhere => false,
            Place::File(user) => user.held.lock().contains(block),
            Place::Own(own) => own.object.holds(block),
        }
    }

    /// The blocks that it holds.
    pub fn held(&self) -> BlockSet {
        match &self.place {
            Place::Nowhere => BlockSet::empty(self.leaves.geometry().blocks()),
            Place::File(user) => user.held.lock().clone(),
            Place::Own(own) => own.object.held(),
        }
    }

    /// Reads and judges these blocks, whose leaves are known, up to the first one that cannot be read.
    pub async fn read(&self, blocks: BlockRange) -> Vec<Proven> {
        let cache = self.clone();
        blocking::run(move || cache.read_now(blocks)).await
    }

    fn read_now(&self, blocks: BlockRange) -> Vec<Proven> {
        let mut proven = Vec::new();
        let read = blocks.iter().map_while(|block| self.read_block(block));
        read.for_each(|read| read.add_to(&mut proven));
        proven
    }

    fn read_block(&self, block: BlockIndex) -> Option<Proven> {
        match &self.place {
            Place::Nowhere => None,
            Place::Own(own) => own.object.read(&self.leaves, block, own.store.reads()),
            Place::File(user) => {
                let place = self.leaves.geometry().bytes_of(block);
                let mut bytes = vec![0; place.length() as usize];
                let read = user.file.read_exact_at(&mut bytes, place.start).is_ok();
                let proven = read.then(|| judge::prove(&self.leaves, block, bytes).ok());
                let proven = proven.flatten();
                if proven.is_none() {
                    user.held.lock().remove(block);
                }
                proven
            }
        }
    }

    /// Records the new blocks in the index.
    pub async fn note(&self) {
        if let Place::Own(own) = &self.place {
            let own = own.clone();
            blocking::run(move || own.note()).await;
        }
    }
}

/// A block that cannot be written is not cached, and is fetched again the next time.
impl BlockSink for ObjectCache {
    fn put(&self, run: Proven) -> Result<Verified, DiskError> {
        if let Place::Own(own) = &self.place {
            if let Err(error) = own.object.keep(&run, &self.leaves) {
                tracing::debug!("not cached: {error}");
            }
            if own.object.is_due() {
                let own = own.clone();
                blocking::detach(move || own.note());
            }
        }
        Ok(run.verified())
    }
}

/// Where the blocks of an object are, or may be written.
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
