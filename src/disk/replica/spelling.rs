//! Names that a file system does not keep apart, or not as they were given: it folds the case of letters, or composes them (NFC, NFD).
//! Names are never changed to fit: a file that cannot have its exact name is refused.

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    path::Path,
};

use super::{
    super::{error::DiskError, files::Folder},
    Replica,
};

/// An entry with another spelling has the name.
const NOT_DISTINCT: &str = "a name that this file system does not tell from another one there";
/// A file that was made under this name is listed under another one.
pub const CHANGED: &str = "a name that this file system would change";

/// A folder that files are placed in.
pub struct Target {
    pub folder: Folder,
    /// The file system may take different names for one there.
    folds: bool,
}

impl Target {
    /// Opens a folder below that of the library; what is missing is made. `true`: something was missing.
    pub fn open(replica: &Replica, path: &Path) -> Result<(Target, bool), DiskError> {
        let (folder, was_made) = match replica.folder.below(path)? {
            Some(folder) => (folder, false),
            None => (replica.folder.make_below(path, 0o777)?, true),
        };
        let folds = folder.folds_case() || replica.folds_names()?;
        if folds {
            check_folders(&replica.folder, path)?;
        }
        Ok((Target { folder, folds }, was_made))
    }

    /// The names in it, where they may differ from those that were given.
    pub fn listed(&self) -> Result<Option<HashSet<OsString>>, DiskError> {
        let listed = self.folds.then(|| self.folder.all_names());
        let listed = listed.transpose()?;
        Ok(listed.map(|names| names.into_iter().collect()))
    }

    /// Fails if an entry of another spelling has this name.
    pub fn check_distinct(&self, name: &OsStr) -> Result<(), DiskError> {
        match self.listed()? {
            Some(listed) if !listed.contains(name) => Err(DiskError::Unsafe {
                path: self.folder.path_of(name),
                what: NOT_DISTINCT,
            }),
            _ => Ok(()),
        }
    }
}

/// Fails if a folder on this path has another spelling.
fn check_folders(folder: &Folder, path: &Path) -> Result<(), DiskError> {
    let mut folder = folder.again()?;
    for name in path {
        if !folder.all_names()?.iter().any(|listed| listed == name) {
            return Err(DiskError::Unsafe {
                path: folder.path_of(name),
                what: NOT_DISTINCT,
            });
        }
        folder = folder.folder_of_name(name)?;
    }
    Ok(())
}

impl Replica {
    /// Whether the file system may take different names for one, or change them. It is tried once, in the staging folder.
    fn folds_names(&self) -> Result<bool, DiskError> {
        if let Some(folds) = self.folds.get() {
            return Ok(*folds);
        }
        let staging = self.staging_folder()?;
        let folds = folds(&staging)?;
        Ok(*self.folds.get_or_init(|| folds))
    }
}

/// Whether a file can be found under other spellings of its name, or is listed under another one.
fn folds(folder: &Folder) -> Result<bool, DiskError> {
    const COMPOSED: &str = "\u{e9}";
    const DECOMPOSED: &str = "e\u{301}";
    let with = |name: &OsStr, end: &str| {
        let mut name = name.to_owned();
        name.push(end);
        name
    };
    let (_, base) = folder.create_unused()?;
    let name = with(&base, COMPOSED);
    let tried = || -> Result<bool, DiskError> {
        folder.rename(&base, &name, false)?;
        let mut others = [with(&base, DECOMPOSED), name.to_ascii_uppercase()].into_iter();
        let is_found = |other: OsString| folder.entry(&other).is_ok_and(|entry| entry.is_some());
        Ok(others.any(is_found) || !folder.all_names()?.contains(&name))
    };
    // A file system that cannot hold the name does not hold every name.
    let folds = tried().unwrap_or(true);
    folder.remove(&name)?;
    folder.remove(&base)?;
    Ok(folds)
}
