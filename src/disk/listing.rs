//! The entries of folders.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{fd::AsFd, unix::ffi::OsStrExt},
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
    for name in names(folder)? {
        let name = name?;
        if !wanted(&name) {
            continue;
        }
        if entries.len() == most {
            return Ok((entries, true));
        }
        // One that is gone by now is none.
        if let Ok(stat) = fs::statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
            entries.push(Listed {
                name,
                version: Entry::new(&stat).version(),
            });
        }
    }
    Ok((entries, false))
}

/// The names in an open folder, in any order, as the file system has them.
fn names(folder: impl AsFd) -> io::Result<impl Iterator<Item = io::Result<OsString>>> {
    let names = fs::Dir::read_from(folder)?.filter_map(|entry| match entry {
        Err(cause) => Some(Err(cause.into())),
        Ok(entry) => match entry.file_name().to_bytes() {
            b"." | b".." => None,
            name => Some(Ok(OsStr::from_bytes(name).to_owned())),
        },
    });
    Ok(names)
}

impl Folder {
    /// All names in this folder, in any order, as the file system has them.
    pub fn all_names(&self) -> Result<Vec<OsString>, DiskError> {
        let read = || names(&self.fd)?.collect::<io::Result<_>>();
        read().map_err(|cause| DiskError::io(FileOperation::Read, &self.path, cause))
    }

    /// The names in this folder, in any order, without those that are not UTF-8, because none of ours are.
    pub fn names(&self) -> Result<Vec<String>, DiskError> {
        let names = self.all_names()?.into_iter();
        Ok(names.filter_map(|name| name.into_string().ok()).collect())
    }
}
