//! The folders whose files are served under the same paths: that of the operator, and the one where uploads are published if it is
//! another.

use std::{
    fs::File,
    path::Path,
    sync::{Arc, OnceLock},
};

use crate::disk::{
    error::DiskError,
    files::{Folder, NotCached, Version},
};

/// One or two folders. What the first has counts.
#[derive(Clone, Debug)]
pub struct Folders(Arc<Both>);

#[derive(Debug)]
struct Both {
    first: Arc<Folder>,
    second: OnceLock<Arc<Folder>>,
}

impl Folders {
    pub fn new(first: Folder) -> Folders {
        Folders(Arc::new(Both {
            first: Arc::new(first),
            second: OnceLock::new(),
        }))
    }

    /// The one that is listed.
    pub fn first(&self) -> &Arc<Folder> {
        &self.0.first
    }

    /// Serves this one too, if it is another.
    pub fn add(&self, second: Arc<Folder>) -> Result<(), DiskError> {
        let id = |folder: &Folder| {
            let entry = folder.own_entry()?;
            Ok::<_, DiskError>((entry.device, entry.inode))
        };
        if id(&self.0.first)? != id(&second)? {
            // There is no third one.
            let _ = self.0.second.set(second);
        }
        Ok(())
    }

    /// See [`Folder::open_beneath`].
    pub fn open_beneath(&self, path: &Path) -> Result<Option<(File, Version)>, DiskError> {
        match (self.0.first.open_beneath(path)?, self.0.second.get()) {
            (None, Some(second)) => second.open_beneath(path),
            (opened, _) => Ok(opened),
        }
    }

    /// See [`Folder::open_beneath_if_cached`].
    pub fn open_beneath_if_cached(
        &self,
        path: &Path,
    ) -> Result<Option<(File, Version)>, NotCached> {
        match (
            self.0.first.open_beneath_if_cached(path)?,
            self.0.second.get(),
        ) {
            (None, Some(second)) => second.open_beneath_if_cached(path),
            (opened, _) => Ok(opened),
        }
    }
}
