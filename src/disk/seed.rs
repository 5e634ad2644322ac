//! A local file that may hold wanted bytes. It belongs to the user: it is read and never mapped, since one that is cut short while
//! it is mapped would kill the process.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use rustix::fs::{self, SeekFrom};

use crate::core::geometry::ByteRange;

use super::{
    error::DiskError,
    files::{self, Entry, Stamp},
};

/// See the module. What cannot be read of it is just not there.
#[derive(Debug)]
pub struct Seed {
    file: File,
    path: PathBuf,
    stamp: Stamp,
}

impl Seed {
    /// Opens a regular file.
    pub fn open(path: &Path) -> Result<Seed, DiskError> {
        Seed::of(files::open_for_reading(path)?, path)
    }

    /// A file that is open already.
    pub fn of(file: File, path: &Path) -> Result<Seed, DiskError> {
        let stamp = Entry::of(&file, path)?.stamp();
        Ok(Seed {
            file,
            path: path.to_owned(),
            stamp,
        })
    }

    /// Where it was.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its bytes when it was opened.
    pub fn length(&self) -> u64 {
        self.stamp.length
    }

    /// Which version of which file it is.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Fills the buffer from this place; whether it could.
    pub fn read(&self, buffer: &mut [u8], place: u64) -> bool {
        self.file.read_exact_at(buffer, place).is_ok()
    }

    /// The first stretch of data from here on, up to `end`; before it is a hole. Empty at the end: only a hole is left.
    pub fn data_from(&self, at: u64, end: u64) -> ByteRange {
        let seek = |from| fs::seek(&self.file, from).ok();
        match fs::seek(&self.file, SeekFrom::Data(at)) {
            Ok(start) if start >= end => ByteRange::new(end, end),
            Ok(start) => {
                let stop = seek(SeekFrom::Hole(start)).unwrap_or(end);
                ByteRange::new(start, stop.clamp(start, end))
            }
            Err(rustix::io::Errno::NXIO) if at < self.length() && end <= self.length() => {
                ByteRange::new(end, end)
            }
            // A file system that does not tell, or a file that became shorter: reading will show.
            Err(_) => ByteRange::new(at, end),
        }
    }
}
