//! The files of a folder, and what they hold.

use std::path::Path;

use crate::{
    disk::{
        error::DiskError,
        files::{Entry, Folder, is_staged_uploads, process_of_temporary},
    },
    format::{library::LibraryPath, tree::Root},
};

/// What a file holds: its root, and its pieces if it is small.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    pub root: Root,
    pub pieces: Vec<u8>,
}

/// All entries of a folder that are no folders, and that a library could list.
pub fn listable(folder: &Folder) -> Result<Vec<(LibraryPath, Entry)>, DiskError> {
    let is_temporary = |path: &Path| path.file_name().and_then(process_of_temporary).is_some();
    // What a server takes that serves the same folder.
    let is_staged = |path: &Path| path.iter().any(is_staged_uploads);
    let path_of = |path: &Path| {
        path.to_str()
            .filter(|_| !is_temporary(path) && !is_staged(path))
            .and_then(LibraryPath::new)
    };
    let walked = folder.walk(|path| path_of(path).is_some())?.into_iter();
    let listed = walked.filter_map(|walked| Some((path_of(&walked.path)?, walked.entry)));
    Ok(listed.collect())
}
