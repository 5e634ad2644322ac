//! Files that do not verify are kept under another name.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

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
    set_aside(&Folder::open(&folder)?, &name, &name)
}

/// Renames a file to the first free one of `NAME.quarantined`, `NAME.2.quarantined` ...; nothing is replaced.
pub(super) fn set_aside(folder: &Folder, file: &OsStr, name: &OsStr) -> Result<PathBuf, DiskError> {
    let mut number = 1;
    loop {
        let suffix = match number {
            1 => ".quarantined".to_owned(),
            _ => format!(".{number}.quarantined"),
        };
        let quarantined = files::with_suffix(name, &suffix);
        match folder.rename(file, &quarantined, false) {
            Err(DiskError::Exists { .. }) => number += 1,
            outcome => {
                outcome?;
                folder.sync()?;
                return Ok(folder.path_of(&quarantined));
            }
        }
    }
}
