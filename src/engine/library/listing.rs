//! Which files below a folder a library lists (library.md, section 3).

use std::{collections::BTreeSet, ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

use crate::{
    disk::{
        error::DiskError,
        files::{self, Entry, EntryKind, Folder},
        walk::Walked,
    },
    format::{
        library::{self, LibraryPath},
        tree::Root,
    },
};

/// A file that the library lists.
pub struct Listed {
    /// Relative to the folder.
    pub path: LibraryPath,
    /// As it was when the folder was read.
    pub entry: Entry,
}

impl Listed {
    /// Its entry in the index, if this is its root.
    pub fn entry_of(&self, root: Root) -> library::Entry {
        library::Entry {
            path: self.path.clone(),
            length: self.entry.length,
            root,
            // A time that cannot be said is no reason to leave a file out.
            modified_ns: self.entry.modified_ns().unwrap_or_default(),
            is_executable: self.entry.is_executable(),
        }
    }
}

/// The files to list, in the order of the index, and how many entries are left out. `enters` decides of each folder whether it is
/// looked into, `lists` of each file whether it belongs to the library; both by its path.
pub fn list(
    folder: &Folder,
    enters: impl Fn(&Path) -> bool + Sync,
    lists: impl Fn(&Path) -> bool,
) -> Result<(Vec<Listed>, u64), DiskError> {
    let is_ours = |path: &Path| {
        let name = path.iter().next().unwrap_or_default().as_bytes();
        let start = name.get(..library::NAME.len()).unwrap_or_default();
        start.eq_ignore_ascii_case(library::NAME.as_bytes())
            || path.iter().any(files::is_staged_uploads)
    };
    let is_temporary = |path: &Path| {
        path.file_name()
            .and_then(files::process_of_temporary)
            .is_some()
    };
    let walked = folder.walk(|path| !is_ours(path) && enters(path))?;
    let names: BTreeSet<&Path> = walked.iter().map(|walked| walked.path.as_path()).collect();
    let is_manifest = |path: &Path| {
        let bytes = path.as_os_str().as_bytes();
        // Its pack is no file of the library either.
        let manifest = bytes.strip_suffix(b".pack").unwrap_or(bytes);
        let object = manifest.strip_suffix(b".sapwood");
        object.is_some_and(|object| names.contains(Path::new(OsStr::from_bytes(object))))
    };
    let (mut files, mut left_out) = (Vec::new(), 0);
    for Walked { path, entry } in &walked {
        if is_ours(path) || !lists(path) {
            continue;
        }
        let listed = path.to_str().and_then(LibraryPath::new);
        let is_file = entry.kind == EntryKind::Regular;
        match listed.filter(|_| is_file && !is_manifest(path) && !is_temporary(path)) {
            Some(path) => files.push(Listed {
                path,
                entry: *entry,
            }),
            None => left_out += 1,
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok((files, left_out))
}
