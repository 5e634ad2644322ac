//! What is in the folder: its files, and the roots of those of which they are known or worth reading.

use std::{collections::HashMap, io::Read, path::Path, sync::Arc};

use parking_lot::Mutex;

use crate::{
    disk::{
        error::{DiskError, FileOperation},
        files::{Entry, EntryKind, Folder, Version},
        regions,
    },
    engine::{blocking, error::Error, library::earlier::Earlier, verify::root_of_open},
    format::{
        library::{self, LibraryPath, SMALL_BYTES_MAX},
        pieces,
        tree::Root,
    },
    policy::sync::{Local, Wishes},
};

use super::{
    content::{Content, listable},
    index::{OpenIndex, SyncFolder},
    state,
};

/// The files of a folder that a library could list.
#[derive(Default)]
pub struct Here {
    pub files: Vec<Local>,
    /// Of each of them.
    pub entries: Vec<Entry>,
    /// Files whose content is known, each in the version that has it.
    pub known: HashMap<LibraryPath, (Version, Content)>,
    /// The state of the last run says all this.
    pub is_all_in_state: bool,
}

/// Looks at the folder. Reads what may have content that the index wants.
pub async fn look(
    folder: SyncFolder,
    wishes: Wishes,
    index: Arc<OpenIndex>,
) -> Result<Here, Error> {
    blocking::run(move || match folder.folder() {
        None => Ok(Here::default()),
        Some(folder) => Here::look(folder, &wishes, index.entries()),
    })
    .await
}

impl Here {
    fn look(folder: &Folder, wishes: &Wishes, listed: &[library::Entry]) -> Result<Here, Error> {
        let mut here = Here::default();
        let state = state::read(folder)?;
        for (path, entry) in listable(folder)? {
            here.add(path, entry, state.as_ref());
        }
        here.take_pieces(state.as_ref());
        let to_read = wishes.to_read(listed, &here.files);
        here.is_all_in_state = to_read.is_empty()
            && state.is_some_and(|state| state.index.entries().len() == here.known.len());
        here.read(folder, &to_read)?;
        Ok(here)
    }

    fn add(&mut self, path: LibraryPath, entry: Entry, state: Option<&Earlier>) {
        let is_regular = entry.kind == EntryKind::Regular;
        let known = state.filter(|_| is_regular);
        let known = known.and_then(|state| state.still_has(&path, &entry));
        let root = match (known, is_regular && entry.length == 0) {
            (None, true) => Some(Root(*blake3::hash(b"").as_bytes())),
            (known, _) => known.map(|known| known.root),
        };
        if let Some(root) = root {
            let pieces = Vec::new();
            let content = Content { root, pieces };
            self.known.insert(path.clone(), (entry.version(), content));
        }
        self.files.push(Local {
            path,
            is_regular,
            length: entry.length,
            modified_ns: entry.modified_ns(),
            is_executable: entry.is_executable(),
            root,
        });
        self.entries.push(entry);
    }

    /// The pieces of what is known come from the state too.
    fn take_pieces(&mut self, state: Option<&Earlier>) {
        for (entry, pieces) in state.iter().flat_map(|state| state.pieces()) {
            if let Some((_, content)) = self.known.get_mut(&entry.path)
                && content.root == entry.root
            {
                content.pieces = pieces.to_vec();
            }
        }
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
            let known = (self.entries[index].version(), content);
            self.known.insert(self.files[index].path.clone(), known);
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
    Ok(is_same.then_some(Content { root, pieces }))
}
