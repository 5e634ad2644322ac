//! The journal of a running transfer: shared with the thread that syncs, and written at the end, whatever that is.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use parking_lot::{Mutex, MutexGuard};

use crate::disk::{error::DiskError, journal::Journal, part::Part};

/// The journal, shared with the thread that syncs, and closed when the run is over.
pub type SharedJournal = Arc<Mutex<Journal>>;

/// Writes what is proven into the journal when the run ends in any way, also by being dropped.
pub struct LastCheckpoint {
    pub journal: SharedJournal,
    pub stop: Arc<AtomicBool>,
}

impl Drop for LastCheckpoint {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A journal that cannot be written costs fetching again, which the next run will see for itself.
        let _ = lock(&self.journal).checkpoint();
    }
}

pub fn lock(journal: &SharedJournal) -> MutexGuard<'_, Journal> {
    journal.lock()
}

/// Syncs the part and marks what the first so many records claim as durable. A sync that fails takes those claims back.
pub fn sync(journal: &SharedJournal, part: &Part, records: u64) -> Result<(), DiskError> {
    match part.sync_data() {
        Ok(()) => lock(journal).barrier(records),
        Err(cause) => {
            lock(journal).sync_failed()?;
            Err(cause)
        }
    }
}
