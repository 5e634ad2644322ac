//! The state that readers, the transfer and its spans share: where each reader is, the blocks in memory, and what failed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    task::{Context as TaskContext, Waker},
};

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
    memory::Memory,
    plan::{self, Ahead, Plan},
    state::WrongBlock,
};

/// Bytes that a reader takes from memory at once: what it took is in memory beside the blocks of all readers.
const TAKE_BYTES: u64 = 256 << 10;
/// Bytes that a reader reads from the cache at once.
const CACHE_READ_BYTES: u64 = 1 << 20;
/// How many wrong blocks are remembered.
const WRONG_MAX: usize = 1000;

/// See the module.
pub struct Shared {
    pub leaves: Arc<Leaves>,
    pub cache: ObjectCache,
    pub tuning: super::Tuning,
    /// There is something to do for the transfer.
    pub changed: Notify,
    /// The length was proven, or cannot be proven now.
    pub length_changed: Notify,
    state: Mutex<State>,
}

/// The number of a reader, and of a failure: later ones are greater.
pub type Sequence = u64;

struct State {
    memory: Memory,
    readers: BTreeMap<Sequence, Place>,
    next: Sequence,
    /// Blocks that no source has right. A reader that began later tries again.
    failed: BTreeMap<BlockIndex, (Sequence, Arc<Error>)>,
    /// Blocks that came wrong from all sources; why is not known yet.
    undecided: BTreeSet<BlockIndex>,
    /// The source has another object now.
    replaced: Option<Arc<Error>>,
    length: Length,
    proven: BlockSet,
    wrong: Vec<WrongBlock>,
    /// All handles are gone.
    closed: bool,
    /// What is wanted may have changed.
    is_due: bool,
    /// The transfer failed: nothing is requested until a reader waits.
    halted: bool,
}

struct Length {
    proven: bool,
    /// Somebody waits for the proof.
    wanted: bool,
    failed: Option<(Sequence, Arc<Error>)>,
}

/// A reader.
struct Place {
    /// What it has not taken yet.
    rest: ByteRange,
    ahead: Ahead,
    /// It waits for the block with its next byte.
    waits: Option<Waker>,
    /// Why it ends.
    error: Option<Arc<Error>>,
}

/// What a reader can do now.
pub enum Next {
    /// The bytes that follow, without a gap.
    Take(Vec<bytes::Bytes>),
    /// Read these blocks from the cache; the first has the next byte.
    ReadCache(BlockRange),
    /// It is woken when there is more.
    Wait,
    Failed(Arc<Error>),
}

impl Shared {
    pub fn new(
        leaves: Arc<Leaves>,
        cache: ObjectCache,
        tuning: super::Tuning,
        proven: bool,
    ) -> Shared {
        let blocks = leaves.geometry().blocks();
        Shared {
            cache,
            tuning,
            changed: Notify::new(),
            length_changed: Notify::new(),
            state: Mutex::new(State {
                memory: Memory::new(tuning.memory_bytes),
                readers: BTreeMap::new(),
                next: 0,
                failed: BTreeMap::new(),
                undecided: BTreeSet::new(),
                replaced: None,
                length: Length {
                    proven,
                    wanted: !proven,
                    failed: None,
                },
                proven: BlockSet::empty(blocks),
                wrong: Vec::new(),
                closed: false,
                is_due: true,
                halted: false,
            }),
            leaves,
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
            ahead: Ahead::new(),
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

    /// What a reader can do now.
    pub fn next(&self, id: Sequence, cx: &TaskContext<'_>) -> Next {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(place) = state.readers.get_mut(&id) else {
            return Next::Wait;
        };
        if let Some(error) = place.error.clone() {
            return Next::Failed(error);
        }
        let block = self.geometry().block_at(place.rest.start);
        if let Some(proven) = state.memory.get(block) {
            let until = place.rest.end.min(place.rest.start + TAKE_BYTES);
            let chunks: Vec<bytes::Bytes> = proven
                .within(ByteRange::new(place.rest.start, until))
                .collect();
            let bytes = chunks.iter().map(|chunk| chunk.len() as u64).sum();
            self.advance(state, id, bytes);
            return Next::Take(chunks);
        }
        if self.is_cached(block) {
            let most = self.cache_read_blocks(state.readers.len());
            let end = plan::blocks_of(self.geometry(), state.readers[&id].rest).end;
            let blocks = BlockRange::new(block.0, end.min(block.0 + most));
            let stays =
                |block: &BlockIndex| self.is_cached(*block) && !state.memory.contains(*block);
            let count = blocks.iter().take_while(stays).count() as u32;
            return Next::ReadCache(BlockRange::new(block.0, block.0 + count.max(1)));
        }
        if let Some(error) = state.failure(id, block) {
            return Next::Failed(error);
        }
        let several = state.readers.len() > 1;
        if let Some(place) = state.readers.get_mut(&id) {
            let is_new = place.waits.is_none();
            place.waits = Some(cx.waker().clone());
            // The order of several readers depends on which of them wait.
            if is_new && (several || state.halted || !place.ahead.covers(block)) {
                state.is_due = true;
            }
            state.halted = false;
        }
        let is_due = state.is_due;
        drop(guard);
        if is_due {
            self.changed.notify_one();
        }
        Next::Wait
    }

    /// Takes what a reader read from the cache: the bytes that follow without a gap.
    pub fn take_cached(&self, id: Sequence, runs: &[Proven]) -> Vec<bytes::Bytes> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        for run in runs {
            state.note_proven(self, run.verified());
        }
        let Some(place) = state.readers.get(&id) else {
            return Vec::new();
        };
        let rest = place.rest;
        let follows = |run: &&Proven| {
            let bytes = run.verified().bytes();
            bytes.start <= rest.start && rest.start < bytes.end
        };
        let run = runs.iter().find(follows);
        let chunks: Vec<bytes::Bytes> = run.map_or(Vec::new(), |run| run.within(rest).collect());
        let bytes = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        self.advance(state, id, bytes);
        // What could not be read is fetched.
        state.is_due |= run.is_none();
        let is_due = state.is_due;
        drop(guard);
        if is_due {
            self.changed.notify_one();
        }
        chunks
    }

    /// Whether a block can be read from the cache and judged.
    fn is_cached(&self, block: BlockIndex) -> bool {
        self.cache.holds(block) && self.leaves.leaf(block).is_some()
    }

    fn cache_read_blocks(&self, readers: usize) -> u32 {
        let share = self.tuning.memory_bytes / 2 / readers.max(1) as u64;
        let bytes = share.min(CACHE_READ_BYTES);
        (bytes / self.geometry().block_size().bytes()).max(1) as u32
    }

    /// A reader took so many bytes.
    fn advance(&self, state: &mut State, id: Sequence, bytes: u64) {
        let geometry = self.geometry();
        let Some(place) = state.readers.get_mut(&id) else {
            return;
        };
        place.rest.start += bytes;
        place.ahead.took(bytes);
        let at = plan::blocks_of(geometry, place.rest).start;
        if place.ahead.is_due(BlockIndex(at)) && !place.rest.is_empty() {
            state.is_due = true;
            self.changed.notify_one();
        }
    }

    /// What is wanted now, if that may have changed since the last time.
    pub fn plan(&self, knows_page: impl Fn(u32) -> bool) -> Option<Plan> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if !std::mem::take(&mut state.is_due) {
            return None;
        }
        if state.halted || state.replaced.is_some() {
            return Some(Plan::default());
        }
        let geometry = self.geometry();
        let last = (!state.length.proven && state.length.wanted).then(|| geometry.last());
        let readers = state.readers.iter_mut().rev();
        let mut readers: Vec<plan::Reader<'_>> = readers
            .filter(|(_, place)| place.error.is_none() && !place.rest.is_empty())
            .map(|(_, place)| plan::Reader {
                rest: place.rest,
                waits: place.waits.is_some(),
                ahead: &mut place.ahead,
            })
            .collect();
        let blocks = plan::Blocks {
            geometry,
            is_cached: &|block| self.cache.holds(block),
            is_here: &|block| state.memory.contains(block),
            has_failed: &|block| {
                state.failed.contains_key(&block) || state.undecided.contains(&block)
            },
            knows_page: &knows_page,
        };
        Some(plan::plan(&blocks, &mut readers, last, &self.tuning))
    }

    /// Whether a reader still needs any of these blocks although they were proven: the sink no longer has them.
    pub fn miss(&self, verified: Verified) {
        let mut state = self.state.lock();
        let is_missed = |block: BlockIndex| {
            state.needs(self.geometry(), block)
                && !state.memory.contains(block)
                && !self.cache.holds(block)
        };
        if verified.blocks().iter().any(is_missed) {
            state.is_due = true;
        }
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

    /// No source has this block right: it is not fetched until [`Shared::fail_block`] says why.
    pub fn begin_to_fail(&self, block: BlockIndex) {
        self.state.lock().undecided.insert(block);
        self.plan_again();
    }

    /// No source has this block right: the readers that reach it end with the error.
    pub fn fail_block(&self, block: BlockIndex, error: Error) {
        let error = Arc::new(error);
        let mut state = self.state.lock();
        let sequence = state.take_sequence();
        if let Error::Changed { .. } = *error {
            state.replaced = Some(error.clone());
        }
        state.undecided.remove(&block);
        state.failed.insert(block, (sequence, error.clone()));
        if block == self.geometry().last() {
            state.length.fail(sequence, &error);
        }
        let is_replaced = state.replaced.is_some();
        let mut wakers = Vec::new();
        for place in state.readers.values_mut() {
            let waits_for_it =
                place.rest.is_empty() || self.geometry().block_at(place.rest.start) == block;
            if place.waits.is_some() && (waits_for_it || is_replaced) {
                place.error = Some(error.clone());
                wakers.extend(place.waits.take());
            }
        }
        state.is_due = true;
        drop(state);
        self.wake(wakers);
        self.length_changed.notify_waiters();
    }

    /// The transfer failed: the readers that wait end with the error. The next one that waits tries again.
    pub fn fail(&self, error: Error) {
        let error = Arc::new(error);
        let mut state = self.state.lock();
        let sequence = state.take_sequence();
        if let Error::Changed { .. } = *error {
            state.replaced = Some(error.clone());
        }
        state.length.fail(sequence, &error);
        let mut wakers = Vec::new();
        for place in state.readers.values_mut() {
            if place.waits.is_some() {
                place.error = Some(error.clone());
                wakers.extend(place.waits.take());
            }
        }
        (state.halted, state.is_due) = (true, true);
        drop(state);
        self.wake(wakers);
        self.length_changed.notify_waiters();
    }

    fn wake(&self, wakers: Vec<Waker>) {
        for waker in wakers {
            waker.wake();
        }
        self.changed.notify_one();
    }

    pub fn length_is_proven(&self) -> bool {
        self.state.lock().length.proven
    }

    /// The length of an empty object needs no block.
    pub fn note_length_proven(&self) {
        self.state.lock().length.proven = true;
        self.length_changed.notify_waiters();
    }

    /// The length, as soon as it is proven. An attempt that fails from now on is the error.
    pub async fn proven_length(&self) -> Result<u64, Arc<Error>> {
        let since = self.state.lock().take_sequence();
        loop {
            let mut changed = std::pin::pin!(self.length_changed.notified());
            changed.as_mut().enable();
            {
                let mut state = self.state.lock();
                if state.length.proven {
                    return Ok(self.geometry().length());
                }
                if let Some(error) = &state.replaced {
                    return Err(error.clone());
                }
                if let Some((at, error)) = &state.length.failed
                    && *at > since
                {
                    return Err(error.clone());
                }
                // A new attempt.
                if !state.length.wanted {
                    (state.length.wanted, state.halted, state.is_due) = (true, false, true);
                    let last = self.geometry().last();
                    state.failed.remove(&last);
                    self.changed.notify_one();
                }
            }
            changed.await;
        }
    }

    /// Blocks that were proven in this run, wrong blocks, what the readers have not taken, and whether the length is proven.
    pub fn snapshot(&self) -> (BlockSet, Vec<WrongBlock>, Vec<ByteRange>, bool) {
        let state = self.state.lock();
        let readers = state.readers.values().map(|place| place.rest).collect();
        let proven = state.proven.clone();
        (proven, state.wrong.clone(), readers, state.length.proven)
    }
}

impl State {
    fn take_sequence(&mut self) -> Sequence {
        self.next += 1;
        self.next
    }

    /// Whether a reader needs a block now or soon.
    fn needs(&self, geometry: &Geometry, block: BlockIndex) -> bool {
        self.readers.values().any(|place| {
            !place.rest.is_empty()
                && geometry.block_at(place.rest.start) <= block
                && place.ahead.covers(block)
        })
    }

    /// The error with which a reader ends at this block. A failure before it began is forgotten.
    fn failure(&mut self, id: Sequence, block: BlockIndex) -> Option<Arc<Error>> {
        if let Some(error) = &self.replaced {
            return Some(error.clone());
        }
        let (at, error) = self.failed.get(&block)?;
        if *at > id {
            return Some(error.clone());
        }
        self.failed.remove(&block);
        self.is_due = true;
        None
    }

    fn note_proven(&mut self, shared: &Shared, verified: Verified) {
        self.proven.insert_range(verified.blocks());
        if !self.length.proven && verified.blocks().contains(shared.geometry().last()) {
            self.length.proven = true;
            shared.length_changed.notify_waiters();
        }
    }
}

impl Length {
    fn fail(&mut self, sequence: Sequence, error: &Arc<Error>) {
        if !self.proven && self.wanted {
            self.wanted = false;
            self.failed = Some((sequence, error.clone()));
        }
    }
}

/// Keeps blocks in memory for the readers that need them, wakes those that wait, and then writes them into the cache.
impl BlockSink for Shared {
    fn put(&self, run: Proven) -> Result<Verified, DiskError> {
        let verified = run.verified();
        let mut wakers = Vec::new();
        {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            for block in verified.blocks().iter() {
                state.memory.put(run.narrowed(BlockRange::one(block)));
                for place in state.readers.values_mut() {
                    if place.waits.is_some() && self.geometry().block_at(place.rest.start) == block
                    {
                        wakers.extend(place.waits.take());
                    }
                }
            }
            let (memory, readers) = (&mut state.memory, &state.readers);
            let is_needed = |block: BlockIndex| {
                readers.values().any(|place| {
                    !place.rest.is_empty()
                        && self.geometry().block_at(place.rest.start) <= block
                        && place.ahead.covers(block)
                })
            };
            memory.shrink(is_needed);
            state.note_proven(self, verified);
        }
        for waker in wakers {
            waker.wake();
        }
        self.cache.put(run)
    }
}
