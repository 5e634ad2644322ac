//! Making many files durable together.

use parking_lot::Mutex;

use super::{files::Folder, machine::syncfs_reports_failures};

/// Up to so many files or folders are synced one by one, each with a flush of the disk; for more, the whole file system costs less.
const SYNCED_SINGLY_MAX: usize = 8;

/// Syncs of whole file systems.
#[derive(Debug)]
pub struct Syncs {
    /// Whether a sync of a file system reports what it could not write.
    is_reliable: Mutex<bool>,
}

impl Default for Syncs {
    fn default() -> Syncs {
        Syncs {
            is_reliable: Mutex::new(syncfs_reports_failures()),
        }
    }
}

impl Syncs {
    /// Makes all durable that was written in the file system of this folder, where that costs less than to sync this many files or
    /// folders one by one. `false`: they are not durable, and have to be synced one by one.
    pub fn together(&self, folder: &Folder, count: usize) -> bool {
        count > SYNCED_SINGLY_MAX && self.file_system(folder)
    }

    /// Writes all that is changed in the file system. `false`: it cannot be said of which files that failed, or whether it did.
    pub fn file_system(&self, folder: &Folder) -> bool {
        // A failure is reported once: two batches take turns, and after one nobody relies on this any more.
        let mut is_reliable = self.is_reliable.lock();
        // Where it is not relied upon, files are synced faster after it.
        *is_reliable &= folder.sync_file_system();
        *is_reliable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each file of a group was synced by itself after all of them had been.
    #[test]
    fn many_are_synced_together_and_few_one_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Folder::open(folder.path()).unwrap();
        let syncs = Syncs {
            is_reliable: Mutex::new(true),
        };
        assert!(!syncs.together(&folder, SYNCED_SINGLY_MAX));
        assert!(syncs.together(&folder, SYNCED_SINGLY_MAX + 1));
        *syncs.is_reliable.lock() = false;
        assert!(
            !syncs.together(&folder, usize::MAX),
            "failures are not told"
        );
    }
}
