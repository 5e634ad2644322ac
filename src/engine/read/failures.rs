//! What failed, and which readers that ends: those that wait for it. Who comes later tries again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    engine::error::Error,
    format::geometry::{BlockIndex, FANOUT},
};

use super::shared::{Sequence, Shared, wake};

/// See the module.
#[derive(Default)]
pub struct Failures {
    /// Blocks that came wrong from every source.
    blocks: BTreeMap<BlockIndex, (Sequence, Arc<Error>)>,
    /// The same, while it is not known whether the object was replaced.
    undecided: BTreeSet<BlockIndex>,
    /// Pages of the manifest that could not be read: nobody waits for them.
    pages: BTreeSet<u32>,
    /// The source has another object now. This one stays failed.
    replaced: Option<Arc<Error>>,
    /// The transfer failed: nothing is requested until somebody waits.
    halted: bool,
}

impl Failures {
    /// Whether nothing is to be requested.
    pub fn stops_all(&self) -> bool {
        self.halted || self.replaced.is_some()
    }

    pub fn replaced(&self) -> Option<Arc<Error>> {
        self.replaced.clone()
    }

    /// Somebody waits. Returns whether that changes anything.
    pub fn end_halt(&mut self) -> bool {
        std::mem::take(&mut self.halted)
    }

    /// Whether a block is not to be fetched for now.
    pub fn has_failed(&self, block: BlockIndex) -> bool {
        self.blocks.contains_key(&block) || self.undecided.contains(&block)
    }

    pub fn has_failed_page(&self, page: u32) -> bool {
        self.pages.contains(&page)
    }

    /// The error with which a reader ends that has come to this block.
    pub fn error(&self, reader: Sequence, block: BlockIndex) -> Option<Arc<Error>> {
        let of_block = self.blocks.get(&block);
        let since = of_block.filter(|(at, _)| *at > reader);
        self.replaced
            .clone()
            .or_else(|| since.map(|(_, error)| error.clone()))
    }

    /// Forgets that a block failed. Returns whether it had.
    pub fn try_again(&mut self, block: BlockIndex) -> bool {
        self.blocks.remove(&block).is_some()
    }

    /// Forgets the failures of the pages of these blocks, for which somebody waits.
    pub fn try_pages_again(&mut self, blocks: impl Iterator<Item = BlockIndex>) {
        if self.pages.is_empty() {
            return;
        }
        for block in blocks {
            self.pages.remove(&(block.0 / FANOUT));
        }
    }
}

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
}
