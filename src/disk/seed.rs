//! A local file that may have wanted bytes. It belongs to the user: it is read and never mapped, because a file that is truncated
//! while it is mapped would kill the process.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use rustix::fs::{self, SeekFrom};

use crate::format::geometry::ByteRange;

use super::{
    error::{DiskError, FileOperation},
    files::{self, Entry, Stamp},
    regions::{self, FileRegions},
};

/// A local file that may have wanted bytes. Unreadable bytes count as missing.
#[derive(Debug)]
pub struct Seed {
    file: File,
    path: PathBuf,
    stamp: Stamp,
    /// The ranges that have data, not holes.
    data: OnceLock<Vec<ByteRange>>,
}

impl Seed {
    /// Opens a regular file.
    pub fn open(path: &Path) -> Result<Seed, DiskError> {
        Seed::of(files::open_for_reading(path)?, path)
    }

    /// Uses an open file.
    pub fn of(file: File, path: &Path) -> Result<Seed, DiskError> {
        let stamp = Entry::of(&file, path)?.stamp();
        Ok(Seed {
            file,
            path: path.to_owned(),
            stamp,
            data: OnceLock::new(),
        })
    }

    /// The path it was opened under.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length when it was opened.
    pub fn length(&self) -> u64 {
        self.stamp.length
    }

    /// The file and its version.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// All of it, to be read once.
    pub fn regions(&self) -> Result<FileRegions, DiskError> {
        let clone = self.file.try_clone();
        let file = clone.map_err(|cause| DiskError::io(FileOperation::Open, &self.path, cause))?;
        FileRegions::of(file, &self.path)
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Fills the buffer from this offset; returns whether it succeeded.
    pub fn read(&self, buffer: &mut [u8], place: u64) -> bool {
        regions::note_read(buffer.len() as u64);
        self.file.read_exact_at(buffer, place).is_ok()
    }

    /// The first stretch of data from here on, up to `end`; before it is a hole. Empty at the end: only a hole is left.
    pub fn data_from(&self, at: u64, end: u64) -> ByteRange {
        // Some file systems scan every page up to the next hole, so they are queried once.
        let data = self.data.get_or_init(|| self.stretches_of_data());
        let next = data.partition_point(|stretch| stretch.end <= at);
        match data.get(next) {
            Some(stretch) if stretch.start < end => {
                ByteRange::new(stretch.start.max(at), stretch.end.min(end))
            }
            // After the end that the file had, a read shows that there is nothing.
            None if end > self.length() => ByteRange::new(at, end),
            Some(_) | None => ByteRange::new(end, end),
        }
    }

    fn stretches_of_data(&self) -> Vec<ByteRange> {
        let mut stretches = Vec::new();
        let (mut at, length) = (0, self.length());
        while at < length {
            let start = match fs::seek(&self.file, SeekFrom::Data(at)) {
                Ok(start) => start.min(length),
                // No data from here on.
                Err(rustix::io::Errno::NXIO) => break,
                // This file system cannot show holes: all may be data.
                Err(_) => at,
            };
            let end = match fs::seek(&self.file, SeekFrom::Hole(start)) {
                Ok(end) => end.clamp(start, length),
                Err(_) => length,
            };
            if end == start {
                break;
            }
            stretches.push(ByteRange::new(start, end));
            at = end;
        }
        stretches
    }
}
