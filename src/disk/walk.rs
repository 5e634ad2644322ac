//! Listing the files below a folder. No link is followed.

use std::path::{Path, PathBuf};

use super::{
    error::DiskError,
    files::{Entry, EntryKind, Folder},
};

/// An entry that is no folder.
#[derive(Clone, Debug)]
pub struct Walked {
    /// Relative to the folder that was walked.
    pub path: PathBuf,
    /// What it is.
    pub entry: Entry,
}

impl Folder {
    /// All entries below this folder that are no folders themselves, in any order. `enters` decides of each folder, by its path,
    /// whether it is looked into. What appears or disappears meanwhile may be in the list or not.
    pub fn walk(&self, enters: impl Fn(&Path) -> bool) -> Result<Vec<Walked>, DiskError> {
        let mut found = Vec::new();
        // Paths, not open folders: a deep tree needs no more descriptors than a flat one.
        let mut folders = vec![PathBuf::new()];
        while let Some(path) = folders.pop() {
            let Some(folder) = self.below(&path)? else {
                continue;
            };
            for name in folder.all_names()? {
                let Some(entry) = folder.entry(&name)? else {
                    continue;
                };
                let path = path.join(&name);
                match entry.kind {
                    EntryKind::Folder if enters(&path) => folders.push(path),
                    EntryKind::Folder => (),
                    _ => found.push(Walked { path, entry }),
                }
            }
        }
        Ok(found)
    }
}
