//! A folder that is kept in step with a library.
//!
//! Files are made in a staging folder, proven there, and then named, so that each name of a listed file leads to the old file or to
//! the new one, whole, at any moment: stage -> set attributes -> sync -> rename -> sync folders. What is below the folder is reached
//! through open folders, without links on the way, so that nothing outside is touched, whatever lies in the folder and whoever
//! changes it meanwhile. A file that is not the one that the run was planned with stays as it is.

mod place;
mod remove;
mod spelling;
mod stage;

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;

use crate::format::library::LibraryPath;

use super::{
    durable::Syncs,
    error::DiskError,
    files::{self, Entry, EntryKind, Folder, MadeFolder, Stamp},
    machine::{default_mode, executable_mode, is_running},
};

pub use place::Placement;
pub use remove::Trash;
pub use stage::Staged;

/// The name of the staging folder.
pub const STAGING: &str = "library.sapwood.staging";
/// The name of the folder of deleted files.
pub const TRASH: &str = "library.sapwood.trash";

/// What a library says of a file beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// When it was last modified, in nanoseconds since 1970.
    pub modified_ns: i64,
    /// Whether those who may read it may execute it.
    pub is_executable: bool,
}

impl Attributes {
    fn modified(self) -> SystemTime {
        let since = Duration::from_nanos(self.modified_ns.unsigned_abs());
        match self.modified_ns < 0 {
            true => UNIX_EPOCH - since,
            false => UNIX_EPOCH + since,
        }
    }

    /// Gives them to a file whose entry is this one.
    fn give(self, file: &File, path: &Path, now: &Entry) -> Result<(), DiskError> {
        if now.is_executable() != self.is_executable {
            let mode = executable_mode(now.mode_to_keep(), self.is_executable);
            files::set_mode(file, path, mode)?;
        }
        if now.modified_ns() != Some(self.modified_ns) {
            files::set_modified(file, path, self.modified())?;
        }
        Ok(())
    }
}

/// A folder that is kept in step with a library, locked for this run.
#[derive(Debug)]
pub struct Replica {
    /// Those that are still empty are removed before the lock is given back.
    _made: Vec<MadeFolder>,
    folder: Folder,
    staging: Mutex<Option<Arc<Folder>>>,
    /// Whether the file system folds names, once it was tried.
    folds: OnceLock<bool>,
    /// The permission bits of new files.
    mode: u32,
    syncs: Syncs,
    /// Files whose attributes this run has set: from their old stamp to the new one. They are still the files of the plan.
    restamped: Mutex<HashMap<Stamp, Stamp>>,
}

impl Replica {
    /// Opens a folder and locks it. Fails with [`DiskError::Busy`] if another run has it. If it is missing, it is made with all folders
    /// above it; a run that puts nothing into it leaves none of them.
    pub fn open(path: &Path) -> Result<Replica, DiskError> {
        let made = MadeFolder::make_all(path)?;
        let folder = Folder::open(path)?;
        folder.lock()?;
        Ok(Replica {
            _made: made,
            folder,
            staging: Mutex::new(None),
            folds: OnceLock::new(),
            mode: default_mode(),
            syncs: Syncs::default(),
            restamped: Mutex::new(HashMap::new()),
        })
    }

    /// To look at what is there.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The path of a file, for messages.
    pub fn path_of(&self, path: &LibraryPath) -> PathBuf {
        self.folder.path_of(OsStr::new(path.as_str()))
    }

    /// A failure at a staged file, as one at the file of the library that it is to become.
    pub fn of_staged(&self, cause: DiskError, path: &LibraryPath) -> DiskError {
        let staging = self.folder.path_of(OsStr::new(STAGING));
        cause.of_staged(&staging, &self.path_of(path))
    }

    /// The staging folder, opened once more. It is made if it is missing.
    pub fn staging(&self) -> Result<Folder, DiskError> {
        self.staging_folder()?.again()
    }

    /// Removes what killed runs left: in the staging folder, but for the names that are to be kept, and unfinished files beside it.
    pub fn clean_staging(&self, keeps: impl Fn(&OsStr) -> bool) -> Result<(), DiskError> {
        for name in self.folder.all_names()? {
            let is_left =
                files::process_of_temporary(&name).is_some_and(|process| !is_running(process));
            let is_file = |entry: Entry| entry.kind == EntryKind::Regular;
            if is_left && self.folder.entry(&name)?.is_some_and(is_file) {
                self.folder.remove(&name)?;
            }
        }
        let Some(staging) = self.folder.below(Path::new(STAGING))? else {
            return Ok(());
        };
        for name in staging.all_names()? {
            let is_folder = |entry: Entry| entry.kind == EntryKind::Folder;
            // We make no folders there.
            if !keeps(&name) && !staging.entry(&name)?.is_some_and(is_folder) {
                staging.remove(&name)?;
            }
        }
        Ok(())
    }

    /// Removes the staging folder if it is empty. No staged file may be left.
    pub fn remove_staging(&self) -> Result<(), DiskError> {
        *self.staging.lock() = None;
        self.folder.remove_folder(OsStr::new(STAGING)).map(drop)
    }

    fn staging_folder(&self) -> Result<Arc<Folder>, DiskError> {
        let mut staging = self.staging.lock();
        if let Some(open) = &*staging {
            return Ok(open.clone());
        }
        let open = Arc::new(self.private_folder(STAGING)?);
        *staging = Some(open.clone());
        Ok(open)
    }

    /// A folder of ours, which only its owner can access. It is made if it is missing.
    fn private_folder(&self, name: &str) -> Result<Folder, DiskError> {
        let name = OsStr::new(name);
        self.folder.make_folder(name, 0o700)?;
        let opened = self.folder.folder_of_name(name)?;
        let entry = opened.own_entry()?;
        if !opened.is_ours(&entry) {
            let (path, what) = (self.folder.path_of(name), "owned by another user");
            return Err(DiskError::Unsafe { path, what });
        }
        if entry.mode & 0o077 != 0 {
            opened.set_mode(0o700)?;
        }
        Ok(opened)
    }

    /// The folder of a file, and its name there. `None`: there is no such folder.
    fn folder_of<'a>(
        &self,
        path: &'a LibraryPath,
    ) -> Result<Option<(Folder, &'a OsStr)>, DiskError> {
        let (folder, name) = split(path);
        Ok(self.folder.below(folder)?.map(|folder| (folder, name)))
    }

    /// The regular file of this name, if it is the one that the run was planned with.
    fn planned(&self, folder: &Folder, name: &OsStr, stamp: Stamp) -> Result<Entry, DiskError> {
        let path = || folder.path_of(name);
        match folder.entry(name)? {
            None => Err(DiskError::Gone { path: path() }),
            Some(entry) if self.is_planned(&entry, stamp) => Ok(entry),
            Some(entry) => Err(unplanned(&entry, path())),
        }
    }

    fn is_planned(&self, entry: &Entry, stamp: Stamp) -> bool {
        let now = entry.stamp();
        entry.kind == EntryKind::Regular
            && (now == stamp || self.restamped.lock().get(&stamp) == Some(&now))
    }

    /// Sets attributes of an open file that has no other name, and remembers that it is still the file of the plan.
    fn restamp(
        &self,
        file: &File,
        path: &Path,
        planned: Stamp,
        to: Attributes,
    ) -> Result<Entry, DiskError> {
        to.give(file, path, &Entry::of(file, path)?)?;
        let entry = Entry::of(file, path)?;
        if entry.stamp() != planned {
            self.restamped.lock().insert(planned, entry.stamp());
        }
        Ok(entry)
    }
}

/// Another file or something else is there, where the file of the plan should be.
fn unplanned(entry: &Entry, path: PathBuf) -> DiskError {
    let what = match entry.kind {
        EntryKind::Regular => return DiskError::ChangedSince { path },
        EntryKind::Folder => "a folder, where a file is needed",
        EntryKind::Link => "a symbolic link",
        EntryKind::Special => "not a regular file",
    };
    DiskError::Unsafe { path, what }
}

/// The folder of a file, and its name there.
fn split(path: &LibraryPath) -> (&Path, &OsStr) {
    let (folder, name) = match path.as_str().rsplit_once('/') {
        Some((folder, name)) => (folder, name),
        None => ("", path.as_str()),
    };
    (Path::new(folder), OsStr::new(name))
}

#[cfg(test)]
mod tests;
