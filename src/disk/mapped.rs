//! Files of our own store in memory: their blocks are judged and handed on without a copy. The only unsafe code of the crate.
//!
//! # Why it is sound
//!
//! A slice of mapped memory must not change while it exists, and its pages must stay readable. Both are true of an own object
//! (`objects/ROOT`, see `manifest-spec/store.md`) while its shared lock is held, and of no other file: files of users are read.
//!
//! - **The lock.** A mapping holds the open file whose shared lock it needs, so the lock lasts as long as the last slice. Where the
//!   file system has no locks, nothing is mapped. Every version of this program removes such a file, or punches holes into it, only
//!   under the exclusive lock.
//! - **No truncation.** The file is as long as the object before it is mapped. This program never shortens it.
//! - **No other bytes.** Under the shared lock this program only writes blocks that the judge has proven to be those of the root.
//!   So a block changes at most from bytes that are not the object's to those that are, and never after it was judged. The judge
//!   may hash a block while another process writes it: then the hash is wrong, and the slice is dropped before anything else reads
//!   it.
//! - **Private.** The folder has the mode 0700: other users cannot open the file.
//!
//! # What remains
//!
//! Another program of the same user may write into the file or truncate it, and a disk or a network file system may fail to read a
//! page that was dropped from memory. Nothing in this process can prevent either: the process may end with SIGBUS, or send bytes
//! that changed after they were proven. To make that rare, [`Mapped::bytes`] first has the kernel read all pages
//! (`MADV_POPULATE_READ`), which reports an error instead. Systems without that call read the file as any other.

#![allow(
    unsafe_code,
    reason = "a mapping is unsafe by nature; the argument is above"
)]

use std::{fs::File, sync::Arc};

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions};

use crate::format::geometry::ByteRange;

/// An own object of the store, mapped. Clones share the mapping.
#[derive(Clone, Debug)]
pub struct Mapped(Arc<Mapping>);

#[derive(Debug)]
struct Mapping {
    map: Mmap,
    /// Has the shared lock. Declared after the map, so it is closed later.
    _locked: File,
}

/// A part of a mapping.
struct Slice {
    mapping: Arc<Mapping>,
    start: usize,
    end: usize,
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        &self.mapping.map[self.start..self.end]
    }
}

impl Mapped {
    /// Maps an own object of this length, of whose file the caller has the shared lock. `None`: this system cannot.
    pub fn of_own_object(file: &File, length: u64) -> Option<Mapped> {
        // The lock belongs to the open file, which both handles share.
        let locked = file.try_clone().ok()?;
        locked.try_lock_shared().ok()?;
        let is_long_enough = locked.metadata().ok()?.len() >= length;
        let length = usize::try_from(length).ok().filter(|_| is_long_enough)?;
        // SAFETY: see the module. The lock is held and the file is long enough.
        let map = unsafe { MmapOptions::new().len(length).map(&locked) }.ok()?;
        let mapping = Mapping {
            map,
            _locked: locked,
        };
        Some(Mapped(Arc::new(mapping)))
    }

    /// The bytes at this place, which may be wrong: the caller judges them. `None`: they cannot be read this way.
    pub fn bytes(&self, place: ByteRange) -> Option<Bytes> {
        let start = usize::try_from(place.start).ok()?;
        let end = usize::try_from(place.end).ok()?;
        if end > self.0.map.len() || !self.populate(start, end) {
            return None;
        }
        Some(Bytes::from_owner(Slice {
            mapping: self.0.clone(),
            start,
            end,
        }))
    }

    /// Reads the pages into memory. `false`: a page cannot be read, or this system cannot tell.
    #[cfg(target_os = "linux")]
    fn populate(&self, start: usize, end: usize) -> bool {
        let advice = memmap2::Advice::PopulateRead;
        self.0.map.advise_range(advice, start, end - start).is_ok()
    }

    #[cfg(not(target_os = "linux"))]
    fn populate(&self, _: usize, _: usize) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        disk::{files, part::Part},
        format::paint,
    };

    fn painted(length: usize) -> (tempfile::TempDir, File) {
        let folder = tempfile::tempdir().unwrap();
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(folder.path().join("object"))
            .unwrap();
        files::write_at(&file, folder.path(), &paint::bytes(0, length), 0).unwrap();
        (folder, file)
    }

    #[test]
    fn mapped_bytes_are_those_of_the_file() {
        let length = 3 * 16384 + 17;
        let (folder, file) = painted(length);
        let mapped = Mapped::of_own_object(&file, length as u64).unwrap();
        for (start, end) in [(0, length), (0, 0), (16384, 32768), (length - 1, length)] {
            let bytes = mapped
                .bytes(ByteRange::new(start as u64, end as u64))
                .unwrap();
            assert!(
                bytes == paint::bytes(start as u64, end - start),
                "{start}..{end}"
            );
        }
        let beyond = ByteRange::new(0, length as u64 + 1);
        assert!(mapped.bytes(beyond).is_none());
        // What a reader still has keeps mapping and lock.
        let bytes = mapped.bytes(ByteRange::new(5, 9)).unwrap();
        let other = File::open(folder.path().join("object")).unwrap();
        drop((mapped, file));
        assert!(bytes == paint::bytes(5, 4));
        assert!(other.try_lock().is_err(), "the lock went before the bytes");
        drop(bytes);
        assert!(other.try_lock().is_ok());
    }

    #[test]
    fn a_file_that_is_too_short_or_locked_is_not_mapped() {
        let (folder, file) = painted(16384);
        let other = File::open(folder.path().join("object")).unwrap();
        other.try_lock().unwrap();
        assert!(Mapped::of_own_object(&file, 16384).is_none());
        drop(other);
        assert!(Mapped::of_own_object(&file, 16385).is_none());
    }

    /// Without the check of the pages this ends the process.
    #[test]
    fn pages_that_went_away_are_an_error_and_no_signal() {
        let length = 64 * 1024;
        let (folder, file) = painted(length);
        let mapped = Mapped::of_own_object(&file, length as u64).unwrap();
        let part = Part::new(file, folder.path().join("object"));
        part.set_length(16384).unwrap();
        assert!(mapped.bytes(ByteRange::new(0, 16384)).is_some());
        assert!(mapped.bytes(ByteRange::new(16384, 32768)).is_none());
    }
}
