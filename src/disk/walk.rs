//! Listing the files below a folder. No link is followed.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use rustix::fs;

use super::{
    error::{DiskError, FileOperation},
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
            for name in folder.raw_names()? {
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

    /// A folder below this one. `None`: there is none, or a link on the way.
    pub fn below(&self, path: &Path) -> Result<Option<Folder>, DiskError> {
        let path = match path.as_os_str().is_empty() {
            true => Path::new("."),
            false => path,
        };
        let fd = self.open_unlinked(path, true)?;
        Ok(fd.map(|fd| Folder::of(fd, self.path_of(path.as_os_str()))))
    }

    /// Opens a regular file below this folder for reading. `None`: there is none, or a link on the way.
    pub fn open_file_below(&self, path: &Path) -> Result<Option<(File, Entry)>, DiskError> {
        let Some(fd) = self.open_unlinked(path, false)? else {
            return Ok(None);
        };
        let file = File::from(fd);
        let entry = Entry::of(&file, &self.path_of(path.as_os_str()))?;
        Ok((entry.kind == EntryKind::Regular).then_some((file, entry)))
    }

    /// The names in this folder as the system has them, in any order.
    fn raw_names(&self) -> Result<Vec<OsString>, DiskError> {
        let path = self.path_of(OsStr::new("."));
        let failed = |cause| DiskError::io(FileOperation::Read, &path, cause);
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(&self.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        Ok(names)
    }
}
