//! The index that a folder has from an earlier run.

use std::{
    ffi::OsStr,
    io::Read,
    ops::Range,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;

use crate::{
    disk::{
        error::{DiskError, FileOperation},
        files::{Entry, Folder},
    },
    engine::manifest_file::CheckedFile,
    format::{
        library::{self, Index, IndexHeader, LibraryPath, RefusedIndex},
        tree::Root,
    },
};

/// An index and its bytes.
pub struct Earlier {
    /// Its entries.
    pub index: Index,
    /// The root of the bytes.
    pub root: Root,
    bytes: Bytes,
    /// Where in them the pieces of each entry are.
    pieces: Vec<Range<u64>>,
    /// A file whose attributes changed later was not seen by the run that made the index.
    made: Duration,
}

impl Earlier {
    /// Reads the index of a folder. `None`: there is none, or none that its manifest proves, so that every file is to be read.
    pub fn read(folder: &Folder) -> Result<Option<Earlier>, DiskError> {
        let manifest = folder.path_of(OsStr::new(library::MANIFEST));
        let Ok(manifest) = CheckedFile::open(&manifest) else {
            return Ok(None);
        };
        let read = Earlier::read_proven(folder, manifest.statement.header().root)?;
        Ok(read.and_then(Result::ok))
    }

    /// Reads the index of this root. `None`: it is not there.
    pub fn read_proven(
        folder: &Folder,
        root: Root,
    ) -> Result<Option<Result<Earlier, RefusedIndex>>, DiskError> {
        let Some((mut file, entry)) = folder.open_file_below(Path::new(library::NAME))? else {
            return Ok(None);
        };
        let path = folder.path_of(OsStr::new(library::NAME));
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .map_err(|cause| DiskError::io(FileOperation::Read, &path, cause))?;
        let is_proven = *blake3::hash(&bytes).as_bytes() == root.0;
        Ok(is_proven.then(|| Earlier::of_file(bytes, root, &entry)))
    }

    /// The index in a file with these bytes, whose root this is.
    pub fn of_file(bytes: Vec<u8>, root: Root, entry: &Entry) -> Result<Earlier, RefusedIndex> {
        Ok(Earlier {
            made: since_1970(entry.changed),
            ..Earlier::of(bytes, root)?
        })
    }

    /// The index of these bytes, whose root this is. It knows nothing of files.
    pub fn of(bytes: Vec<u8>, root: Root) -> Result<Earlier, RefusedIndex> {
        let header = IndexHeader::read(&bytes, bytes.len() as u64)?;
        let range = header.entries();
        let entries = &bytes[range.start as usize..range.end as usize];
        let index = Index::read(&header, entries)?;
        Ok(Earlier {
            pieces: index.pieces(&header).map(|(_, range)| range).collect(),
            index,
            root,
            made: Duration::ZERO,
            bytes: bytes.into(),
        })
    }

    /// All of its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether a file is what the index says, as far as its attributes show: of the same length and time, and not touched since
    /// the index was made: its place among the entries.
    pub fn still_has(&self, path: &LibraryPath, entry: &Entry) -> Option<usize> {
        let place = self.index.place_of(path)?;
        is_still(&self.index.entries()[place], entry, self.made).then_some(place)
    }

    /// The pieces of an entry; none of a large one.
    pub fn pieces(&self, entry: usize) -> Bytes {
        let range = &self.pieces[entry];
        self.bytes.slice(range.start as usize..range.end as usize)
    }
}

/// Whether a file is what an index says that was made at this time.
pub fn is_still(known: &library::Entry, entry: &Entry, made: Duration) -> bool {
    let is_same = known.length == entry.length && Some(known.modified_ns) == entry.modified_ns();
    is_same && since_1970(entry.attributes_changed) < made
}

/// A time before 1970 counts as 1970.
pub fn since_1970((seconds, nanoseconds): (i64, u64)) -> Duration {
    Duration::new(seconds.max(0) as u64, nanoseconds as u32)
}

/// The time to give to an index whose run began then: whatever is touched later is read again by the next run. The clock of file
/// systems is behind by up to one tick.
pub fn time_of_index(began: SystemTime) -> SystemTime {
    began
        .checked_sub(Duration::from_secs(1))
        .unwrap_or(UNIX_EPOCH)
}
