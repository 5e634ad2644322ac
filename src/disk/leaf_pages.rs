//! The leaves of a large object, in a file without a name beside the target: the disk that has room for the object has room for them.

use std::{fs::File, os::unix::fs::FileExt, path::Path, sync::Arc};

use parking_lot::Mutex;

use crate::format::{geometry::FANOUT, leaves::PageStore, tree::Cv};

use super::{
    error::{DiskError, FileOperation},
    files, temporary,
};

/// Bytes of a full page.
const PAGE_BYTES: u64 = FANOUT as u64 * 32;

/// See the module. Clones share the file. It disappears when the last one is dropped.
#[derive(Clone, Debug)]
pub struct LeafPages {
    file: Arc<File>,
    folder: Arc<Path>,
    /// The first call that failed.
    failed: Arc<Mutex<Option<DiskError>>>,
}

impl LeafPages {
    /// Creates the file in this folder.
    pub fn create(folder: &Path) -> Result<LeafPages, DiskError> {
        let (file, path) = temporary::spool_in(folder)?;
        Ok(LeafPages {
            file: Arc::new(file),
            folder: path.into(),
            failed: Arc::default(),
        })
    }

    /// Fails if a call failed.
    pub fn check(&self) -> Result<(), DiskError> {
        self.failed.lock().take().map_or(Ok(()), Err)
    }

    fn note(&self, done: Result<(), DiskError>) -> bool {
        let is_done = done.is_ok();
        if let Err(cause) = done {
            self.failed.lock().get_or_insert(cause);
        }
        is_done
    }
}

impl PageStore for LeafPages {
    fn put(&self, page: u32, leaves: &[Cv]) -> bool {
        let at = u64::from(page) * PAGE_BYTES;
        self.note(files::write_at(
            &self.file,
            &self.folder,
            leaves.as_flattened(),
            at,
        ))
    }

    fn get(&self, page: u32, leaves: &mut [Cv]) -> bool {
        let at = u64::from(page) * PAGE_BYTES;
        let read = self.file.read_exact_at(leaves.as_flattened_mut(), at);
        self.note(read.map_err(|cause| DiskError::io(FileOperation::Read, &self.folder, cause)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_read_as_they_were_put_and_leave_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let pages = LeafPages::create(folder.path()).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let full = [[3; 32]; FANOUT as usize];
        assert!(pages.put(2, &full) && pages.put(3, &[[4; 32]; 5]));
        let mut read = [[0; 32]; FANOUT as usize];
        assert!(pages.get(2, &mut read) && read == full);
        assert!(pages.get(3, &mut read[..5]) && read[4] == [4; 32]);
        pages.check().unwrap();
        assert!(!pages.get(3, &mut read));
        assert!(pages.check().is_err());
    }
}
