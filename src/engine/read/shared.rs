//! The state that readers, the transfer and its spans share: where each reader is, which blocks are in memory, what failed.

use std::{collections::BTreeMap, sync::Arc, task::Waker};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    disk::error::DiskError,
    engine::{cache::ObjectCache, error::Error, transfer::sink::BlockSink},
    format::{
        blockset::BlockSet,
        geometry::{BlockIndex, BlockRange, ByteRange, Geometry},
        judge::{Leaves, Proven, Verified},
    },
};

use super::{
    Tuning,
    failures::Failures,
    length::Length,
    memory::Memory,
    plan::{self, Ahead, Plan, Sequence},
    state::WrongBlock,
};

/// How many wrong blocks are remembered.
const WRONG_MAX: usize = 1000;

/// See the module.
pub struct Shared {
    pub leaves: Arc<Leaves>,
    pub cache: ObjectCache,
    pub tuning: Tuning,
    /// There is something to do for the transfer.
    pub changed: Notify,
    /// The length was proven, or an attempt to prove it failed.
    pub length_changed: Notify,
    pub state: Mutex<State>,
}

pub struct State {
    pub memory: Memory,
    pub readers: BTreeMap<Sequence, Place>,
    next: Sequence,
    pub failures: Failures,
    pub length: Length,
    /// In this run.
    proven: BlockSet,
    wrong: Vec<WrongBlock>,
    /// All handles are gone.
    closed: bool,
    /// What is wanted may have changed.
    pub is_due: bool,
}

/// A reader.
pub struct Place {
    /// What it has not taken yet.
    pub rest: ByteRange,
    pub ahead: Ahead,
    /// Since when it waits for the block with its next byte.
    pub waits: Option<(Sequence, Waker)>,
    /// Why it ends.
    pub error: Option<Arc<Error>>,
}

impl Place {
    /// The block with its next byte; `None` at its end.
    pub fn block(&self, geometry: &Geometry) -> Option<BlockIndex> {
        (!self.rest.is_empty()).then(|| geometry.block_at(self.rest.start))
    }

    fn needs(&self, geometry: &Geometry, block: BlockIndex) -> bool {
        self.ahead.covers(block) && self.block(geometry).is_some_and(|at| at <= block)
    }
}

impl Shared {
    pub fn new(leaves: Arc<Leaves>, cache: ObjectCache, tuning: Tuning, length: Length) -> Shared {
        let blocks = leaves.geometry().blocks();
        Shared {
            leaves,
            cache,
            tuning,
            changed: Notify::new(),
            length_changed: Notify::new(),
            state: Mutex::new(State {
                memory: Memory::new(tuning.memory_bytes),
                readers: BTreeMap::new(),
                next: 0,
                failures: Failures::default(),
                length,
                proven: BlockSet::empty(blocks),
                wrong: Vec::new(),
                closed: false,
                is_due: true,
            }),
        }
    }

    pub fn geometry(&self) -> &Geometry {
        self.leaves.geometry()
    }

    /// Adds a reader of these bytes.
    pub fn add_reader(&self, bytes: ByteRange) -> Sequence {
        let mut state = self.state.lock();
        let id = state.take_sequence();
        let place = Place {
            rest: bytes,
            ahead: Ahead::default(),
            waits: None,
            error: None,
        };
        state.readers.insert(id, place);
        drop(state);
        self.plan_again();
        id
    }

    /// Gives up what only this reader needed.
    pub fn remove_reader(&self, id: Sequence) {
        self.state.lock().readers.remove(&id);
        self.plan_again();
    }

    /// All handles are gone: the transfer ends.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_one();
    }

    pub fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// The transfer decides anew what it wants.
    pub fn plan_again(&self) {
        self.state.lock().is_due = true;
        self.changed.notify_one();
    }

    /// What is wanted now, if that may have changed since the last time.
    pub fn plan(&self, knows_page: impl Fn(u32) -> bool) -> Option<Plan> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if !std::mem::take(&mut state.is_due) {
            return None;
        }
        let geometry = self.geometry();
        let last = state.length.is_wanted().then(|| geometry.last());
        let waiting = state.readers.values().filter(|place| place.waits.is_some());
        let waiting = waiting.filter_map(|place| place.block(geometry));
        state.failures.try_pages_again(waiting.chain(last));
        if state.failures.stops_all() {
            return Some(Plan::default());
        }
        let mut readers: Vec<plan::Reader<'_>> = state
            .readers
            .iter_mut()
            .filter(|(_, place)| place.error.is_none() && !place.rest.is_empty())
            .map(|(id, place)| plan::Reader {
                id: *id,
                rest: place.rest,
                waits_since: place.waits.as_ref().map(|(since, _)| *since),
                ahead: &mut place.ahead,
            })
            .collect();
        let (memory, failures) = (&state.memory, &state.failures);
        let blocks = plan::Blocks {
            geometry,
            is_in_memory: &|block| memory.contains(block),
            is_cached: &|block| self.cache.holds(block),
            has_failed: &|block| failures.has_failed(block),
            knows_page: &knows_page,
        };
        let tuning = Tuning {
            memory_bytes: memory.bytes_max(),
            ..self.tuning
        };
        let mut plan = plan::plan(&blocks, &mut readers, last, &tuning);
        plan.pages.retain(|page| !failures.has_failed_page(*page));
        Some(plan)
    }

    /// The blocks in memory.
    pub fn in_memory(&self) -> Vec<Verified> {
        self.state.lock().memory.verified().collect()
    }

    /// Keeps at most so many bytes in memory from now on, beside the blocks that readers need.
    pub fn limit_memory(&self, bytes: u64) {
        let bytes = bytes.min(self.tuning.memory_bytes);
        let mut state = self.state.lock();
        if state.memory.bytes_max() == bytes {
            return;
        }
        state.memory.limit(bytes);
        state.shrink_memory(self.geometry());
        drop(state);
        self.plan_again();
    }

    /// Notes blocks that were read from the cache.
    pub fn note_proven(&self, verified: Verified) {
        self.state.lock().note_proven(self, verified);
    }

    /// Plans again if a reader needs one of these blocks, which were proven, and the sink no longer has it.
    pub fn plan_again_without(&self, verified: Verified) {
        let mut state = self.state.lock();
        let is_missed = |block: BlockIndex| {
            let mut readers = state.readers.values();
            readers.any(|place| place.needs(self.geometry(), block))
                && !state.memory.contains(block)
                && !self.cache.holds(block)
        };
        if verified.blocks().iter().any(is_missed) {
            state.is_due = true;
        }
    }

    /// Wakes the readers whose block can be read from the cache now, because its leaf is known.
    pub fn wake_cached(&self) {
        let mut state = self.state.lock();
        let mut wakers = Vec::new();
        for place in state.readers.values_mut() {
            let block = place.block(self.geometry());
            if block.is_some_and(|block| self.is_cached(block)) {
                wakers.extend(place.waits.take());
            }
        }
        drop(state);
        wake(wakers);
    }

    /// Whether a block can be read from the cache and judged.
    pub fn is_cached(&self, block: BlockIndex) -> bool {
        self.cache.holds(block) && self.leaves.leaf(block).is_some()
    }

    /// Remembers a block that came wrong.
    pub fn note_wrong(&self, wrong: WrongBlock) {
        let mut state = self.state.lock();
        let same =
            |known: &WrongBlock| (known.block, &known.source) == (wrong.block, &wrong.source);
        state.wrong.retain(|known| !same(known));
        if state.wrong.len() >= WRONG_MAX {
            state.wrong.remove(0);
        }
        state.wrong.push(wrong);
    }

    /// Blocks that were proven in this run, wrong blocks, what the readers have not taken, and whether the length is proven.
    pub fn snapshot(&self) -> (BlockSet, Vec<WrongBlock>, Vec<ByteRange>, bool) {
        let state = self.state.lock();
        let readers = state.readers.values().map(|place| place.rest).collect();
        let (proven, wrong) = (state.proven.clone(), state.wrong.clone());
        (proven, wrong, readers, state.length.is_proven())
    }
}

impl State {
    pub fn take_sequence(&mut self) -> Sequence {
        self.next += 1;
        self.next
    }

    /// Drops blocks for which there is no room, but none that a reader needs.
    fn shrink_memory(&mut self, geometry: &Geometry) {
        let readers = &self.readers;
        self.memory.shrink(|block| {
            let mut places = readers.values();
            places.any(|place| place.needs(geometry, block))
        });
    }

    /// Notes blocks that were proven in this run.
    pub fn note_proven(&mut self, shared: &Shared, verified: Verified) {
        self.proven.insert_range(verified.blocks());
        if verified.blocks().contains(shared.geometry().last()) && !self.length.is_proven() {
            self.length.prove();
            shared.length_changed.notify_waiters();
        }
    }
}

pub fn wake(wakers: Vec<(Sequence, Waker)>) {
    for (_, waker) in wakers {
        waker.wake();
    }
}

/// Keeps blocks in memory, wakes the readers that wait for them, and writes them into the cache.
impl BlockSink for Shared {
    fn put(&self, run: Proven) -> Result<Verified, DiskError> {
        let verified = run.verified();
        let mut wakers = Vec::new();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        for block in verified.blocks().iter() {
            state.memory.put(run.narrowed(BlockRange::one(block)));
        }
        for place in state.readers.values_mut() {
            let block = place.block(self.geometry());
            if block.is_some_and(|block| verified.blocks().contains(block)) {
                wakers.extend(place.waits.take());
            }
        }
        state.shrink_memory(self.geometry());
        state.note_proven(self, verified);
        drop(guard);
        wake(wakers);
        self.cache.put(run)
    }
}
