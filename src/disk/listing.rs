//! The entries of folders.

use std::{
    ffi::{CStr, OsStr, OsString},
    fs::File,
    io,
    os::unix::ffi::OsStrExt,
};

use rustix::fs::{self, AtFlags};

use super::{
    error::{DiskError, FileOperation},
    files::{Entry, Folder, Version},
};

/// An entry of a folder. A symbolic link is an entry of its own, and is not followed.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Any bytes but a slash and NUL.
    pub name: OsString,
    /// As it was when the folder was read.
    pub version: Version,
}

/// The entries of an open folder whose names are wanted, in any order, at most so many; `true`: there are more.
pub fn entries(
    folder: &File,
    most: usize,
    wanted: impl Fn(&OsStr) -> bool,
) -> io::Result<(Vec<Listed>, bool)> {
    let mut entries = Vec::new();
    for entry in fs::Dir::read_from(folder)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if is_itself_or_above(entry.file_name()) || !wanted(name) {
            continue;
        }
        if entries.len() == most {
            return Ok((entries, true));
        }
        // One that is gone by now is none.
        if let Ok(stat) = fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            entries.push(Listed {
                name: name.to_owned(),
                version: Entry::new(&stat).version(),
            });
        }
    }
    Ok((entries, false))
}

fn is_itself_or_above(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

impl Folder {
    /// The names in this folder, in any order, without those that are not UTF-8, because none of ours are.
    pub fn names(&self) -> Result<Vec<String>, DiskError> {
        let failed = |cause| DiskError::io(FileOperation::Read, &self.path, cause);
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(&self.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_str().unwrap_or_default();
            names.extend((!matches!(name, "" | "." | "..")).then(|| name.to_owned()));
        }
        Ok(names)
    }
}
