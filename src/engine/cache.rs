//! Cached blocks of an object that is streamed. A cache error never fails the stream: unreadable blocks are fetched, unwritable
//! blocks are not cached.

use std::{fs::File, os::unix::fs::FileExt, sync::Arc};

use crate::{
    disk::{
        error::DiskError,
        state::{Allowed, Provenance, Wanted},
        store::{OwnObject, Store, StoreError},
    },
    format::{
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
    /// A file of the user that is the complete object.
    File(Arc<File>),
    Own(Arc<Own>),
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
            .with_blocking(|store| store.note_kept(&self.object));
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.note();
    }
}

/// The result of a read: proven blocks and missing ones.
pub struct CacheRead {
    /// Ascending.
    pub proven: Vec<Proven>,
    /// To be fetched, ascending.
    pub missing: Vec<BlockRange>,
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
            Some(Found::File(file)) => Place::File(Arc::new(file)),
            Some(Found::Own(object)) => Place::Own(Arc::new(Own {
                object: *object,
                store: store.clone(),
            })),
            Some(Found::Nothing) | None => Place::Nowhere,
        };
        ObjectCache { leaves, place }
    }

    /// Reads and judges the cached ones of these blocks, whose leaves are known.
    pub async fn read(&self, blocks: BlockRange) -> CacheRead {
        let cache = self.clone();
        blocking::run(move || cache.read_now(blocks)).await
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
