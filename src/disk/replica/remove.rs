//! Removing files from the folder of a library: into the trash, or for good.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::format::library::LibraryPath;

use super::{
    super::{
        error::DiskError,
        files::{Folder, Stamp},
    },
    Replica, TRASH, split, unplanned,
};

/// How many runs may have a trash of the same time.
const SAME_TIME_MAX: u32 = 1000;

/// The trash of one run: a folder that is made with the first file that goes there.
#[derive(Debug)]
pub struct Trash {
    name: String,
    made: Mutex<Option<(Arc<Folder>, PathBuf)>>,
}

impl Trash {
    /// The trash of a run; `time` names its folder.
    pub fn new(time: &str) -> Trash {
        Trash {
            name: time.to_owned(),
            made: Mutex::new(None),
        }
    }

    /// The folder, and its path below that of the library.
    fn folder(&self, replica: &Replica) -> Result<(Arc<Folder>, PathBuf), DiskError> {
        let mut made = self.made.lock();
        if let Some((folder, path)) = &*made {
            return Ok((folder.clone(), path.clone()));
        }
        let all = replica.private_folder(TRASH)?;
        let mut name = self.name.clone();
        for number in 2..SAME_TIME_MAX {
            if all.make_folder(OsStr::new(&name), 0o700)? {
                break;
            }
            name = format!("{}.{number}", self.name);
        }
        let folder = Arc::new(all.folder_of_name(OsStr::new(&name))?);
        let path = Path::new(TRASH).join(name);
        *made = Some((folder.clone(), path.clone()));
        Ok((folder, path))
    }
}

impl Replica {
    /// Removes the file of the plan, or moves it to the trash and returns its path there, below the folder of the library. A file that
    /// is gone already is no error. It is durable with the next name that is.
    pub fn delete(
        &self,
        path: &LibraryPath,
        stamp: Stamp,
        trash: Option<&Trash>,
    ) -> Result<Option<PathBuf>, DiskError> {
        let Some((folder, name)) = self.folder_of(path)? else {
            return Ok(None);
        };
        match self.planned(&folder, name, stamp) {
            Err(DiskError::Gone { .. }) => return Ok(None),
            planned => planned?,
        };
        match trash {
            Some(trash) => {
                let (kept, place) = trash.folder(self)?;
                let (inner, _) = split(path);
                let kept = kept.make_below(inner, 0o700)?;
                self.take(&folder, name, stamp, &kept, name)?;
                Ok(Some(place.join(path.as_str())))
            }
            None => {
                let staging = self.staging_folder()?;
                let take = |own: &OsStr| match self.take(&folder, name, stamp, &staging, own) {
                    Ok(()) => Ok(Some(())),
                    Err(DiskError::Exists { .. }) => Ok(None),
                    Err(cause) => Err(cause),
                };
                let ((), own) = staging.with_unused_name(take)?;
                staging.remove(&own)?;
                Ok(None)
            }
        }
    }

    /// Moves the file of the plan out of its folder. Another one that took its place meanwhile gets its name back, or is kept beside it
    /// if that name is taken again.
    fn take(
        &self,
        folder: &Folder,
        name: &OsStr,
        stamp: Stamp,
        to: &Folder,
        as_name: &OsStr,
    ) -> Result<(), DiskError> {
        folder.rename_to(name, to, as_name, false)?;
        match to.entry(as_name)? {
            Some(taken) if !self.is_planned(&taken, stamp) => {
                match to.rename_to(as_name, folder, name, false) {
                    Err(DiskError::Exists { .. }) => drop(to.set_aside(as_name, folder, name)?),
                    renamed => renamed?,
                }
                Err(unplanned(&taken, folder.path_of(name)))
            }
            _ => Ok(()),
        }
    }

    /// Removes the folders of files that this run deleted or moved away, and the folders above these, as far as they are empty now.
    pub fn remove_emptied<'a>(
        &self,
        gone: impl IntoIterator<Item = &'a LibraryPath>,
    ) -> Result<(), DiskError> {
        let mut folders = BTreeSet::new();
        for path in gone {
            let above = Path::new(path.as_str()).ancestors().skip(1);
            folders.extend(above.filter(|path| !path.as_os_str().is_empty()));
        }
        // Those below come after those above them.
        for path in folders.into_iter().rev() {
            let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
                continue;
            };
            if let Some(above) = self.folder.below(above)? {
                above.remove_folder(name)?;
            }
        }
        Ok(())
    }
}

/// How deep empty folders may be that are in the way of a file.
const EMPTY_DEPTH_MAX: u32 = 64;

/// Removes a folder that has no files: a kill left it, or a user made it. Returns whether it is gone.
pub(super) fn remove_empty(folder: &Folder, name: &OsStr, depth: u32) -> Result<bool, DiskError> {
    let Some(inner) = folder.below(Path::new(name))? else {
        return Ok(false);
    };
    for name in inner.names()? {
        if depth == EMPTY_DEPTH_MAX || !remove_empty(&inner, OsStr::new(&name), depth + 1)? {
            return Ok(false);
        }
    }
    folder.remove_folder(name)
}
