//! How large a file system is, and how much of it is free.

use rustix::fs;

use super::{
    error::{DiskError, FileOperation},
    files::Folder,
};

impl Folder {
    /// The size of this file system.
    pub fn bytes_of_disk(&self) -> Result<u64, DiskError> {
        let stat = self.file_system()?;
        Ok(stat.f_blocks.saturating_mul(stat.f_frsize))
    }

    /// Bytes of this file system that this process may still write.
    pub fn bytes_free(&self) -> Result<u64, DiskError> {
        let stat = self.file_system()?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn file_system(&self) -> Result<fs::StatVfs, DiskError> {
        fs::fstatvfs(&self.fd)
            .map_err(|cause| DiskError::io(FileOperation::Inspect, &self.path, cause))
    }
}
