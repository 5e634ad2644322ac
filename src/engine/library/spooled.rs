//! An index and its manifest in files without names, for a server that makes the library of a folder in which it may not write.

use std::{
    collections::HashMap,
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::{
    disk::{
        error::{DiskError, FileOperation},
        files::{self, Entry},
        temporary,
    },
    engine::{
        create::{self, CreateOptions, Input, Output},
        error::Error,
    },
    format::{
        library::{self, Index, IndexHeader, LibraryPath, RefusedIndex},
        tree::Root,
    },
};

/// An index and the manifest that proves it. They disappear with this value.
pub struct SpooledIndex {
    /// The root of the index.
    pub root: Root,
    /// Its bytes.
    pub index: File,
    /// Its manifest, which has no name and is not signed.
    pub manifest: File,
    path: PathBuf,
}

/// The entry of a file, and its pieces if it is small.
pub type EntryAndPieces = (library::Entry, Vec<u8>);

impl SpooledIndex {
    /// Makes an index of these files in this folder. `None`: it would be the one of this root.
    pub fn make(
        folder: &Path,
        entries: Vec<EntryAndPieces>,
        earlier: Option<Root>,
    ) -> Result<Option<SpooledIndex>, Error> {
        let bytes = library::write(entries).map_err(|cause| refused(folder, cause))?;
        let root = Root(*blake3::hash(&bytes).as_bytes());
        if earlier == Some(root) {
            return Ok(None);
        }
        let (index, path) = temporary::spool_in(folder)?;
        files::write_at(&index, &path, &bytes, 0)?;
        let (manifest, _) = temporary::spool_in(folder)?;
        let clone = |file: &File| {
            let failed = |cause| DiskError::io(FileOperation::Open, &path, cause);
            file.try_clone().map_err(failed)
        };
        let options = CreateOptions {
            block_size: Some(library::INDEX_BLOCK_SIZE),
            name: Some(String::new()),
            ..CreateOptions::default()
        };
        let input = Input::Open(clone(&index)?, path.clone());
        let output = Output::Stream(Box::new(clone(&manifest)?));
        create::create(input, output, &options, None)?;
        Ok(Some(SpooledIndex {
            root,
            index,
            manifest,
            path,
        }))
    }

    /// Its entries, by their paths.
    pub fn entries(&self) -> Result<HashMap<LibraryPath, EntryAndPieces>, Error> {
        let length = Entry::of(&self.index, &self.path)?.length;
        let mut bytes = vec![0; length as usize];
        let read = self.index.read_exact_at(&mut bytes, 0);
        read.map_err(|cause| DiskError::io(FileOperation::Read, &self.path, cause))?;
        let refuse = |cause| refused(&self.path, cause);
        let header = IndexHeader::read(&bytes, length).map_err(refuse)?;
        let slice = |range: std::ops::Range<u64>| &bytes[range.start as usize..range.end as usize];
        let index = Index::read(&header, slice(header.entries())).map_err(refuse)?;
        let entries = index.pieces(&header).map(|(entry, pieces)| {
            let pieces = slice(pieces).to_vec();
            (entry.path.clone(), (entry.clone(), pieces))
        });
        Ok(entries.collect())
    }
}

fn refused(place: &Path, cause: RefusedIndex) -> Error {
    Error::Index {
        place: place.display().to_string(),
        cause,
    }
}
