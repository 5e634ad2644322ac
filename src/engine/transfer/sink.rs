//! Sinks for proven blocks.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::{
    disk::{error::DiskError, journal::Journal, part::Part},
    format::judge::{Proven, Verified},
};

/// Takes proven blocks, in any order, from several threads at a time. Synchronous: it is called where blocking is allowed.
///
/// A sink never gets a byte that is not [`Proven`].
pub trait BlockSink: Send + Sync {
    /// Stores a run of blocks. The returned blocks are held from then on.
    fn put(&self, run: Proven) -> Result<Verified, DiskError>;
}

/// The journal of a part, shared by everything that writes to it.
pub type SharedJournal = Arc<Mutex<Journal>>;

/// Writes blocks into a part and records them in its journal.
pub struct PartSink {
    pub part: Arc<Part>,
    pub journal: SharedJournal,
}

impl BlockSink for PartSink {
    fn put(&self, run: Proven) -> Result<Verified, DiskError> {
        let stored = self.part.write(&run)?;
        self.journal.lock().note(stored);
        Ok(stored.verified())
    }
}
