//! What failed, and which readers that ends: those that wait for it. Who comes later tries again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    engine::error::Error,
    format::geometry::{BlockIndex, FANOUT},
};

use super::plan::Sequence;

/// See the module.
#[derive(Default)]
pub struct Failures {
    /// Blocks that came wrong from every source.
    pub blocks: BTreeMap<BlockIndex, (Sequence, Arc<Error>)>,
    /// The same, while it is not known whether the object was replaced.
    pub undecided: BTreeSet<BlockIndex>,
    /// Pages of the manifest that could not be read: nobody waits for them.
    pub pages: BTreeSet<u32>,
    /// The source has another object now. This one stays failed.
    pub replaced: Option<Arc<Error>>,
    /// The transfer failed: nothing is requested until somebody waits.
    pub halted: bool,
}

impl Failures {
    /// Whether nothing is to be requested.
    pub fn stops_all(&self) -> bool {
        self.halted || self.replaced.is_some()
    }

    pub fn replaced(&self) -> Option<Arc<Error>> {
        self.replaced.clone()
    }

    /// Somebody waits.
    pub fn end_halt(&mut self) {
        self.halted = false;
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

    /// Forgets that a block failed.
    pub fn try_again(&mut self, block: BlockIndex) {
        self.blocks.remove(&block);
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
