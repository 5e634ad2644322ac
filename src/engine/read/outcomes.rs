//! How attempts end: with an error for those who wait, or with the proof of the length.

use std::{pin::pin, sync::Arc};

use crate::{
    engine::error::Error,
    format::geometry::{BlockIndex, FANOUT},
};

use super::{
    length::Length,
    plan::Sequence,
    shared::{Shared, wake},
};

/// What failed.
enum Failed<'a> {
    Block(BlockIndex),
    Pages(&'a [u32]),
    All,
}

impl Failed<'_> {
    fn includes(&self, block: BlockIndex) -> bool {
        match self {
            Failed::Block(failed) => *failed == block,
            Failed::Pages(pages) => pages.contains(&(block.0 / FANOUT)),
            Failed::All => true,
        }
    }
}

impl Shared {
    /// No source has this block right. It is not fetched, and who waits for it waits until [`Shared::fail_block`].
    pub fn begin_to_fail(&self, block: BlockIndex) {
        self.state.lock().failures.undecided.insert(block);
        self.plan_again();
    }

    /// Ends the readers that come to this block.
    pub fn fail_block(&self, block: BlockIndex, error: Error) {
        self.fail_some(&Failed::Block(block), error);
    }

    /// Ends the readers that wait for blocks of these pages.
    pub fn fail_pages(&self, pages: &[u32], error: Error) {
        self.fail_some(&Failed::Pages(pages), error);
    }

    /// Ends all readers that wait.
    pub fn fail(&self, error: Error) {
        self.fail_some(&Failed::All, error);
    }

    fn fail_some(&self, failed: &Failed<'_>, error: Error) {
        let error = Arc::new(error);
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let now = state.take_sequence();
        let failures = &mut state.failures;
        match failed {
            Failed::Block(block) => {
                failures.undecided.remove(block);
                failures.blocks.insert(*block, (now, error.clone()));
            }
            Failed::Pages(pages) => failures.pages.extend(*pages),
            Failed::All => failures.halted = true,
        }
        if let Error::Changed { .. } = *error {
            failures.replaced = Some(error.clone());
        }
        let includes = |block| failures.replaced.is_some() || failed.includes(block);
        if includes(self.geometry().last()) {
            state.length.fail(now, &error);
        }
        let mut wakers = Vec::new();
        for place in state.readers.values_mut() {
            let block = place.block(self.geometry());
            if place.waits.is_some() && block.is_some_and(includes) {
                place.error = Some(error.clone());
                wakers.extend(place.waits.take());
            }
        }
        state.is_due = true;
        drop(guard);
        wake(wakers);
        self.length_changed.notify_waiters();
        self.changed.notify_one();
    }

    pub fn length_is_proven(&self) -> bool {
        self.state.lock().length.is_proven()
    }

    /// An empty object was proven by its leaf alone.
    pub fn note_length_proven(&self) {
        self.state.lock().length.prove();
        self.length_changed.notify_waiters();
    }

    /// The length, as soon as it is proven. If an attempt fails from now on, its error.
    pub async fn proven_length(&self) -> Result<u64, Arc<Error>> {
        let since = self.state.lock().take_sequence();
        loop {
            let mut changed = pin!(self.length_changed.notified());
            changed.as_mut().enable();
            if let Some(length) = self.length_since(since) {
                return length;
            }
            changed.await;
        }
    }

    fn length_since(&self, since: Sequence) -> Option<Result<u64, Arc<Error>>> {
        let mut state = self.state.lock();
        match (&state.length, state.failures.replaced()) {
            (Length::Proven, _) => return Some(Ok(self.geometry().length())),
            (_, Some(error)) => return Some(Err(error)),
            (Length::Wanted, None) => return None,
            (Length::Failed(at, error), None) if *at > since => return Some(Err(error.clone())),
            (Length::Failed(..), None) => (),
        }
        state.length = Length::Wanted;
        let last = self.geometry().last();
        state.failures.try_again(last);
        state.failures.end_halt();
        state.is_due = true;
        self.changed.notify_one();
        None
    }
}
