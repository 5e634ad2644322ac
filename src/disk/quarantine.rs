//! Files that do not verify are kept under another name.

use std::path::{Path, PathBuf};

use super::{
    error::DiskError,
    files::{self, Folder},
};

/// Renames a file that does not verify to `FILE.quarantined`, or the next free name of that kind, and returns that path.
pub fn quarantine(path: &Path) -> Result<PathBuf, DiskError> {
    let (folder, name) = files::split(path).ok_or(DiskError::Unsafe {
        path: path.to_owned(),
        what: "no file name",
    })?;
    let folder = Folder::open(&folder)?;
    folder.set_aside(&name, &folder, &name)
}
