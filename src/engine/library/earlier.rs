//! The index that a folder has from an earlier run.

use std::{
    ffi::OsStr,
    io::Read,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{
    disk::{
        error::{DiskError, FileOperation},
        files::{Entry, Folder},
    },
    engine::manifest_file::CheckedFile,
    format::{
        library::{self, Index, IndexHeader, LibraryPath},
        tree::Root,
    },
};

/// An index and its bytes.
pub struct Earlier {
    pub index: Index,
    /// The root of the bytes.
    pub root: Root,
    bytes: Vec<u8>,
    header: IndexHeader,
    /// A file whose attributes changed later was not seen by the run that made the index.
    made: Duration,
}

impl Earlier {
    /// Reads the index of a folder. `None`: there is none, or none that its manifest proves, so that every file is to be read.
    pub fn read(folder: &Folder) -> Result<Option<Earlier>, DiskError> {
        let Some((mut file, entry)) = folder.open_file_below(Path::new(library::NAME))? else {
            return Ok(None);
        };
        let path = folder.path_of(OsStr::new(library::NAME));
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .map_err(|cause| DiskError::io(FileOperation::Read, &path, cause))?;
        let root = Root(*blake3::hash(&bytes).as_bytes());
        let manifest = folder.path_of(OsStr::new(library::MANIFEST));
        let is_proven = CheckedFile::open(&manifest)
            .is_ok_and(|manifest| manifest.statement.header().root == root);
        Ok(match is_proven {
            true => Earlier::parse(bytes, root, &entry),
            false => None,
        })
    }

    fn parse(bytes: Vec<u8>, root: Root, entry: &Entry) -> Option<Earlier> {
        let header = IndexHeader::read(&bytes, bytes.len() as u64).ok()?;
        let range = header.entries();
        let entries = &bytes[range.start as usize..range.end as usize];
        let index = Index::read(&header, entries).ok()?;
        let (seconds, nanoseconds) = entry.changed;
        Some(Earlier {
            index,
            root,
            header,
            made: Duration::new(u64::try_from(seconds).ok()?, nanoseconds as u32),
            bytes,
        })
    }

    /// Whether a file is what the index says, as far as its attributes show: of the same length and time, and not touched since
    /// the index was made.
    pub fn still_has(&self, path: &LibraryPath, entry: &Entry) -> Option<&library::Entry> {
        let known = self.index.find(path)?;
        let (seconds, nanoseconds) = entry.attributes_changed;
        let touched = Duration::new(u64::try_from(seconds).ok()?, nanoseconds as u32);
        let is_same = known.length == entry.length && Some(known.modified_ns) == modified_ns(entry);
        (is_same && touched < self.made).then_some(known)
    }

    /// The pieces of each small file, in the order of the entries.
    pub fn pieces(&self) -> impl Iterator<Item = (&library::Entry, &[u8])> {
        let pieces = self.index.pieces(&self.header);
        pieces.map(|(entry, range)| (entry, &self.bytes[range.start as usize..range.end as usize]))
    }
}

/// The time of the last change, as an index has it. `None`: an index cannot say it (before 1678, after 2262).
pub fn modified_ns(entry: &Entry) -> Option<i64> {
    let (seconds, nanoseconds) = entry.changed;
    seconds
        .checked_mul(1_000_000_000)?
        .checked_add(nanoseconds.cast_signed())
}

/// The time to give to an index whose run began then: whatever is touched later is read again by the next run. The clock of file
/// systems is behind by up to one tick.
pub fn time_of_index(began: SystemTime) -> SystemTime {
    began
        .checked_sub(Duration::from_secs(1))
        .unwrap_or(UNIX_EPOCH)
}
