//! What is in the folder: its files, and the roots of those of which they are known or worth reading.

use std::{io::Read, path::Path, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    disk::{
        error::{DiskError, FileOperation},
        files::{Entry, EntryKind, Folder},
        regions,
    },
    engine::{blocking, error::Error, library::earlier::is_still, verify::root_of_open},
    format::{
        library::{LibraryPath, SMALL_BYTES_MAX},
        pieces,
        tree::Root,
    },
    policy::sync::{Local, Wishes},
};

use super::{
    content::{Content, Known, listable},
    index::{OpenIndex, SyncFolder},
    state::{self, StateFile},
};

/// What is seen of a folder before it is known what it is to be.
#[derive(Default)]
pub struct Seen {
    files: Vec<(LibraryPath, Entry)>,
    state: Option<StateFile>,
}

/// Lists the files of a folder, and reads the state of the last run.
pub async fn see(folder: SyncFolder) -> Result<Seen, Error> {
    blocking::run(move || match folder.folder() {
        None => Ok(Seen::default()),
        Some(folder) => Ok(Seen {
            state: state::read(folder)?,
            files: listable(folder)?,
        }),
    })
    .await
}

/// The files of a folder that a library could list, in the order of their paths.
#[derive(Default)]
pub struct Here {
    pub files: Vec<Local>,
    /// Of each of them.
    pub entries: Vec<Entry>,
    pub known: Known,
    /// The state of the last run says all this.
    pub is_all_in_state: bool,
}

/// What is known of the files that were seen. Reads what may have content that the index wants.
pub async fn look(
    folder: SyncFolder,
    seen: Seen,
    wishes: Wishes,
    index: Arc<OpenIndex>,
) -> Result<Here, Error> {
    blocking::run(move || match folder.folder() {
        None => Ok(Here::default()),
        Some(folder) => Here::look(folder, seen, &wishes, &index),
    })
    .await
}

impl Here {
    fn look(
        folder: &Folder,
        seen: Seen,
        wishes: &Wishes,
        index: &OpenIndex,
    ) -> Result<Here, Error> {
        let mut here = Here::default();
        let state = seen.state.and_then(|file| file.state(&index.file));
        let of_state = state.iter().flat_map(|state| state.file.index.entries());
        let mut of_state = of_state.enumerate().peekable();
        let mut count = 0;
        for (path, entry) in seen.files {
            while of_state.next_if(|(_, known)| known.path < path).is_some() {}
            let known = of_state.next_if(|(_, known)| known.path == path);
            let content = known
                .zip(state.as_ref())
                .and_then(|((place, known), state)| {
                    let has_it =
                        entry.kind == EntryKind::Regular && is_still(known, &entry, state.made);
                    has_it.then(|| Content {
                        root: known.root,
                        pieces: state.file.pieces(place),
                    })
                });
            count += usize::from(content.is_some());
            here.add(path, entry, content);
        }
        let to_read = wishes.to_read(index.entries(), &here.files);
        here.is_all_in_state = to_read.is_empty()
            && state.is_some_and(|state| state.file.index.entries().len() == count);
        here.read(folder, &to_read)?;
        Ok(here)
    }

    fn add(&mut self, path: LibraryPath, entry: Entry, known: Option<Content>) {
        let is_regular = entry.kind == EntryKind::Regular;
        let empty = || Content {
            root: Root(*blake3::hash(b"").as_bytes()),
            pieces: Bytes::new(),
        };
        let is_empty = is_regular && entry.length == 0;
        let known = known.or_else(|| is_empty.then(empty));
        self.files.push(Local {
            path,
            is_regular,
            length: entry.length,
            modified_ns: entry.modified_ns(),
            is_executable: entry.is_executable(),
            root: known.as_ref().map(|content| content.root),
        });
        let known = known.map(|content| (entry.version(), content));
        self.known.here.push(known);
        self.entries.push(entry);
    }

    /// Reads these files: small ones on all cores, one core a file; of the larger ones one after the other.
    fn read(&mut self, folder: &Folder, which: &[usize]) -> Result<(), Error> {
        let is_small = |index: &usize| self.files[*index].length <= SMALL_BYTES_MAX;
        let (small, large): (Vec<usize>, Vec<usize>) = which.iter().partition(|i| is_small(i));
        let found = Mutex::new(Vec::with_capacity(which.len()));
        regions::for_each_item(&small, |_, index| -> Result<(), Error> {
            let content = self.content(folder, *index)?;
            found
                .lock()
                .extend(content.map(|content| (*index, content)));
            Ok(())
        })?;
        let mut found = found.into_inner();
        for index in large {
            let content = self.content(folder, index)?;
            found.extend(content.map(|content| (index, content)));
        }
        for (index, content) in found {
            self.files[index].root = Some(content.root);
            self.known.here[index] = Some((self.entries[index].version(), content));
        }
        Ok(())
    }

    /// The content of a file. `None`: it cannot be read, or changed meanwhile: it is what has no content that anybody wants.
    fn content(&self, folder: &Folder, index: usize) -> Result<Option<Content>, Error> {
        let path = Path::new(self.files[index].path.as_str());
        regions::check_not_stopped(path)?;
        let content = try_content(folder, path, self.entries[index]);
        // A run that is stopped ends; any other file is replaced, or stays.
        regions::check_not_stopped(path)?;
        Ok(content.ok().flatten())
    }
}

/// The same; an error: it could not be read.
fn try_content(folder: &Folder, path: &Path, seen: Entry) -> Result<Option<Content>, Error> {
    let is_seen = |entry: Entry| entry.version() == seen.version();
    let Some((file, entry)) = folder.open_file_below(path)? else {
        return Ok(None);
    };
    if !is_seen(entry) {
        return Ok(None);
    }
    let shown = folder.path_of(path.as_os_str());
    let mut pieces = Vec::new();
    let root = match entry.length {
        0..=SMALL_BYTES_MAX => {
            let mut bytes = Vec::with_capacity(entry.length as usize + 1);
            (&file)
                .take(SMALL_BYTES_MAX + 1)
                .read_to_end(&mut bytes)
                .map_err(|cause| DiskError::io(FileOperation::Read, &shown, cause))?;
            pieces::append_pieces(&bytes, &mut pieces);
            Root(*blake3::hash(&bytes).as_bytes())
        }
        _ => root_of_open(
            file.try_clone()
                .map_err(|cause| DiskError::io(FileOperation::Open, &shown, cause))?,
            &shown,
        )?,
    };
    let is_same = is_seen(Entry::of(&file, &shown)?);
    let pieces = pieces.into();
    Ok(is_same.then_some(Content { root, pieces }))
}
