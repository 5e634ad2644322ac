//! The bytes of a part, as a request sends them.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;

use crate::{
    disk::error::{DiskError, FileOperation},
    engine::blocking,
    format::geometry::ByteRange,
    net::request::{Chunks, Content},
};

/// Bytes that are read at a time.
const CHUNK: u64 = 256 * 1024;

/// A range of an open file.
#[derive(Clone)]
pub struct Stored {
    /// The file.
    pub file: Arc<File>,
    /// For messages.
    pub path: Arc<Path>,
    /// Of the file.
    pub bytes: ByteRange,
}

/// Counts what is sent.
#[derive(Clone, Default)]
pub struct Counters {
    /// In this run, with all that was sent again.
    pub run: Arc<AtomicU64>,
    /// Of this part, in this request.
    pub part: Arc<AtomicU64>,
}

/// Ranges of a file, one after the other, as the content of one request.
pub struct StoredContent {
    stored: Stored,
    /// Of the file.
    ranges: Arc<[ByteRange]>,
    counters: Counters,
    failed: Arc<Mutex<Option<DiskError>>>,
}

impl StoredContent {
    /// These ranges of what is stored. It begins to count anew.
    pub fn new(stored: Stored, ranges: &[ByteRange], counters: &Counters) -> StoredContent {
        counters.part.store(0, Ordering::Relaxed);
        let start = stored.bytes.start;
        let of_file = |range: &ByteRange| ByteRange::new(start + range.start, start + range.end);
        StoredContent {
            ranges: ranges.iter().map(of_file).collect(),
            stored,
            counters: counters.clone(),
            failed: Arc::default(),
        }
    }

    /// Why the file could not be read, if that ended the request.
    pub fn failure(&self) -> Option<DiskError> {
        self.failed.lock().take()
    }
}

impl Content for StoredContent {
    fn length(&self) -> u64 {
        self.ranges.iter().map(|range| range.length()).sum()
    }

    fn chunks(&self) -> Chunks {
        let state = (
            self.stored.clone(),
            self.failed.clone(),
            self.ranges.clone(),
        );
        let start = (0, 0);
        stream::unfold((state, start), |(state, (index, done))| async move {
            let (stored, failed, ranges) = &state;
            let range = ranges.get(index)?;
            let at = range.start + done;
            let bytes = ByteRange::new(at, range.end.min(at + CHUNK));
            let chunk = blocking::on_disk({
                let stored = stored.clone();
                move || read(&stored, bytes)
            });
            let chunk = chunk.await.map_err(|cause| {
                *failed.lock() = Some(cause);
                io::Error::other("the source cannot be read")
            });
            let next = match bytes.end == range.end {
                true => (index + 1, 0),
                false => (index, bytes.end - range.start),
            };
            Some((chunk, (state, next)))
        })
        .boxed()
    }

    fn sent(&self, bytes: u64) {
        self.counters.run.fetch_add(bytes, Ordering::Relaxed);
        self.counters.part.fetch_add(bytes, Ordering::Relaxed);
    }
}

fn read(stored: &Stored, bytes: ByteRange) -> Result<Bytes, DiskError> {
    let mut chunk = vec![0; bytes.length() as usize];
    match stored.file.read_exact_at(&mut chunk, bytes.start) {
        Ok(()) => Ok(chunk.into()),
        Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => {
            Err(DiskError::ChangedWhileRead {
                path: stored.path.to_path_buf(),
            })
        }
        Err(cause) => Err(DiskError::io(FileOperation::Read, &stored.path, cause)),
    }
}
