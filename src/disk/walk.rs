//! Listing the files below a folder. No link is followed.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::{
    error::DiskError,
    files::{Entry, EntryKind, Folder},
    regions,
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
    pub fn walk(&self, enters: impl Fn(&Path) -> bool + Sync) -> Result<Vec<Walked>, DiskError> {
        // Paths, not open folders: a deep tree needs no more descriptors than a flat one.
        let mut folders = vec![PathBuf::new()];
        let found = Mutex::new(Vec::new());
        while !folders.is_empty() {
            let below = Mutex::new(Vec::new());
            let look = |_, path: &PathBuf| -> Result<(), DiskError> {
                let (entered, files) = self.look_into(path, &enters)?;
                below.lock().extend(entered);
                found.lock().extend(files);
                Ok(())
            };
            match &folders[..] {
                [path] => look(0, path)?,
                folders => regions::for_each_item(folders, look)?,
            }
            folders = below.into_inner();
        }
        Ok(found.into_inner())
    }

    /// The folders to look into in one below this folder, and its other entries that are no folders.
    fn look_into(
        &self,
        path: &Path,
        enters: impl Fn(&Path) -> bool,
    ) -> Result<(Vec<PathBuf>, Vec<Walked>), DiskError> {
        let (mut folders, mut files) = (Vec::new(), Vec::new());
        let Some(folder) = self.below(path)? else {
            return Ok((folders, files));
        };
        for name in folder.all_names()? {
            let Some(entry) = folder.entry(&name)? else {
                continue;
            };
            let path = path.join(&name);
            match entry.kind {
                EntryKind::Folder if enters(&path) => folders.push(path),
                EntryKind::Folder => (),
                _ => files.push(Walked { path, entry }),
            }
        }
        Ok((folders, files))
    }
}
