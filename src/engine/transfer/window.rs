//! Proven blocks in memory that wait for a reader.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::{
    disk::error::DiskError,
    format::{
        geometry::{BlockIndex, BlockRange},
        judge::{Proven, Verified},
    },
};

use super::sink::BlockSink;

/// Holds runs of blocks until they are taken in the order of the object. Its memory is bounded only by the blocks that the caller
/// wants and has not taken.
#[derive(Default)]
pub struct Window(Mutex<Runs>);

#[derive(Default)]
struct Runs {
    /// Keyed by their first block; none of them is empty.
    runs: BTreeMap<u32, Proven>,
    /// Blocks before this one were taken.
    next: u32,
}

impl Window {
    /// A window that starts at this block.
    pub fn new(first: BlockIndex) -> Window {
        Window(Mutex::new(Runs {
            runs: BTreeMap::new(),
            next: first.0,
        }))
    }

    /// The next blocks, as many as are present without a gap.
    pub fn take(&self) -> Option<Proven> {
        let mut window = self.0.lock();
        let next = window.next;
        loop {
            let (start, run) = window.runs.pop_first()?;
            let end = run.verified().blocks().end;
            if start > next {
                window.runs.insert(start, run);
                return None;
            }
            // A block that arrived twice is taken once.
            if end > next {
                window.next = end;
                return Some(match start == next {
                    true => run,
                    false => run.narrowed(BlockRange::new(next, end)),
                });
            }
        }
    }

    /// The first block that was not taken.
    pub fn next(&self) -> BlockIndex {
        BlockIndex(self.0.lock().next)
    }
}

impl BlockSink for Window {
    fn put(&self, run: Proven) -> Result<Verified, DiskError> {
        let verified = run.verified();
        let mut window = self.0.lock();
        let (start, end) = (verified.blocks().start, verified.blocks().end);
        // A block that was taken is not stored again. Of two runs with the same start the longer one stays.
        let longer = |known: &Proven| known.verified().blocks().end < end;
        if end > window.next && window.runs.get(&start).is_none_or(longer) {
            window.runs.insert(start, run);
        }
        Ok(verified)
    }
}
