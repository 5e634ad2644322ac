//! What a reader takes, from memory or from the cache.

use std::task::Context;

use bytes::Bytes;

use crate::format::{
    geometry::{BlockIndex, BlockRange, ByteRange},
    judge::Proven,
};

use super::{
    plan::{self, Sequence},
    shared::{Shared, State},
};

/// Bytes that a reader takes from memory at once: they are in memory beside the blocks of all readers.
const TAKE_BYTES: u64 = 256 << 10;
/// Bytes that a reader reads from the cache at once. It has two such reads in memory: one that was made, and the next one.
const CACHE_READ_BYTES: u64 = 1 << 20;
/// Of the memory for blocks, a quarter is as much as the cache reads of all readers take beside it.
const CACHE_READS_PER_MEMORY: u64 = 4;

/// What a reader can do now.
pub enum Next {
    /// The bytes that follow, without a gap.
    Take(Vec<Bytes>),
    /// Read these blocks from the cache; the first has the next byte.
    ReadCache(BlockRange),
    /// It is woken when there is more.
    Wait,
    Failed(std::sync::Arc<crate::engine::error::Error>),
}

impl Shared {
    /// What a reader can do now.
    pub fn next(&self, id: Sequence, cx: &Context<'_>) -> Next {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(place) = state.readers.get(&id) else {
            return Next::Wait;
        };
        if let Some(error) = &place.error {
            return Next::Failed(error.clone());
        }
        let Some(block) = place.block(self.geometry()) else {
            return Next::Wait;
        };
        if let Some(proven) = state.memory.get(block) {
            let until = place.rest.end.min(place.rest.start + TAKE_BYTES);
            let bytes = ByteRange::new(place.rest.start, until);
            let chunks: Vec<Bytes> = proven.within(bytes).collect();
            self.advance(state, id, &chunks);
            return Next::Take(chunks);
        }
        if let Some(blocks) = self.cached_run(state, id) {
            return Next::ReadCache(blocks);
        }
        if let Some(error) = state.failures.error(id, block) {
            return Next::Failed(error);
        }
        let now = state.take_sequence();
        state.failures.end_halt();
        if let Some(place) = state.readers.get_mut(&id) {
            let since = place.waits.as_ref().map_or(now, |(since, _)| *since);
            // Its block may have been in the cache when the transfer planned, or have failed; with several readers the order changes.
            state.is_due |= place.waits.is_none();
            place.waits = Some((since, cx.waker().clone()));
            state.failures.try_again(block);
        }
        if state.is_due {
            self.changed.notify_one();
        }
        Next::Wait
    }

    /// The next blocks of a reader, if they can be read from the cache.
    pub fn next_cached(&self, id: Sequence) -> Option<BlockRange> {
        let state = self.state.lock();
        self.cached_run(&state, id)
    }

    fn cached_run(&self, state: &State, id: Sequence) -> Option<BlockRange> {
        let place = state.readers.get(&id)?;
        let all = plan::blocks_of(self.geometry(), place.rest);
        let share = state.memory.bytes_max() / CACHE_READS_PER_MEMORY;
        let bytes = CACHE_READ_BYTES.min(share / state.readers.len() as u64);
        let most = (bytes / self.geometry().block_size().bytes()).max(1) as u32;
        let can_read =
            |block: &BlockIndex| self.is_cached(*block) && !state.memory.contains(*block);
        let all = BlockRange::new(all.start, all.end.min(all.start + most));
        let count = all.iter().take_while(can_read).count() as u32;
        (count > 0).then(|| BlockRange::new(all.start, all.start + count))
    }

    /// Takes what a reader read from the cache: the bytes that follow without a gap.
    pub fn take_cached(&self, id: Sequence, runs: &[Proven]) -> Vec<Bytes> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        for run in runs {
            state.note_proven(self, run.verified());
        }
        let Some(rest) = state.readers.get(&id).map(|place| place.rest) else {
            return Vec::new();
        };
        let follows = |run: &&Proven| {
            let bytes = run.verified().bytes();
            bytes.start <= rest.start && rest.start < bytes.end
        };
        let run = runs.iter().find(follows);
        let chunks: Vec<Bytes> = run.map_or(Vec::new(), |run| run.within(rest).collect());
        self.advance(state, id, &chunks);
        if chunks.is_empty() {
            // What could not be read is fetched.
            state.is_due = true;
            self.changed.notify_one();
        }
        chunks
    }

    /// A reader took these bytes.
    fn advance(&self, state: &mut State, id: Sequence, chunks: &[Bytes]) {
        let Some(place) = state.readers.get_mut(&id) else {
            return;
        };
        let bytes: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        place.rest.start += bytes;
        place.ahead.took(bytes);
        if place
            .block(self.geometry())
            .is_some_and(|block| place.ahead.is_due(block))
        {
            state.is_due = true;
            self.changed.notify_one();
        }
    }
}
