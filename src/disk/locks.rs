//! Locks of files, which end with the process that holds them.

use std::{fs::File, os::fd::AsFd, path::Path};

use rustix::{fs, io::Errno};

use super::{
    error::{DiskError, FileOperation},
    files::Folder,
    lacking::{self, Lacking, is_unsupported},
};

/// Locks a file exclusively for as long as it is open, where the file system has locks; `false` if another process holds one.
pub fn try_lock(file: &File, path: &Path) -> Result<bool, DiskError> {
    lock(file, path, fs::FlockOperation::NonBlockingLockExclusive)
}

/// Takes a shared lock of a file for as long as it is open; `false` if another process holds it exclusively.
pub fn try_lock_shared(file: &File, path: &Path) -> Result<bool, DiskError> {
    lock(file, path, fs::FlockOperation::NonBlockingLockShared)
}

impl Folder {
    /// Locks this folder exclusively for as long as it is open.
    pub fn lock(&self) -> Result<(), DiskError> {
        let path = self.path.clone();
        match lock(
            &self.fd,
            &path,
            fs::FlockOperation::NonBlockingLockExclusive,
        )? {
            true => Ok(()),
            false => Err(DiskError::Busy { path }),
        }
    }
}

fn lock(file: impl AsFd, path: &Path, how: fs::FlockOperation) -> Result<bool, DiskError> {
    match fs::flock(file, how) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(cause) if cause == Errno::NOLCK || is_unsupported(cause) => {
            lacking::note(Lacking::Locks, path);
            Ok(true)
        }
        Err(cause) => Err(DiskError::io(FileOperation::Lock, path, cause)),
    }
}
