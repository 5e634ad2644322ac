//! The files of a folder, and what they hold.

use std::{collections::HashMap, path::Path};

use bytes::Bytes;

use crate::{
    disk::{
        error::DiskError,
        files::{Entry, Folder, Version, is_staged_uploads, process_of_temporary},
    },
    format::{library::LibraryPath, tree::Root},
    policy::sync::Local,
};

/// What a file holds: its root, and its pieces if it is small.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    pub root: Root,
    pub pieces: Bytes,
}

/// Files whose content is known, each in the version that has it.
#[derive(Default)]
pub struct Known {
    /// Of each file that was here.
    pub here: Vec<Option<(Version, Content)>>,
    /// Of those that were placed.
    pub placed: HashMap<LibraryPath, (Version, Content)>,
}

impl Known {
    /// By their paths. `here`: the files that were here.
    pub fn by_path<'a>(
        &'a self,
        here: &'a [Local],
    ) -> HashMap<&'a LibraryPath, &'a (Version, Content)> {
        let of_here = here.iter().zip(&self.here);
        let of_here = of_here.filter_map(|(local, known)| Some((&local.path, known.as_ref()?)));
        of_here.chain(&self.placed).collect()
    }
}

/// All entries of a folder that are no folders, and that a library could list, in the order of their paths.
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
    let mut listed: Vec<_> = listed.collect();
    listed.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(listed)
}
