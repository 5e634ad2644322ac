//! Reading a whole file or stream once, with all cores: every worker takes the next region, reads it into its own buffer and
//! works on it while it is in the cache.

use std::{
    fs::File,
    io::{self, Read},
    mem,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{
        LazyLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;

use crate::format::geometry::ByteRange;

use super::{
    error::{DiskError, FileOperation},
    files::{self, Entry, Stamp},
    holes::Holes,
};

/// How long a stopped stream may go unnoticed.
const STOPPED_TIME: Duration = Duration::from_millis(50);

/// The user stopped this program.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// Bytes of local files and streams that this process has read to hash, judge or search them.
static READ: AtomicU64 = AtomicU64::new(0);

/// How many bytes of local files and streams this process has read: for a program that shows its progress.
pub fn bytes_read() -> u64 {
    READ.load(Ordering::Relaxed)
}

/// Counts bytes that were read, or are in a hole.
pub fn note_read(bytes: u64) {
    READ.fetch_add(bytes, Ordering::Relaxed);
}

/// Ends all reading of whole files and streams in this process: a signal asked it to end.
pub fn stop() {
    STOPPED.store(true, Ordering::Relaxed);
}

/// Allows it again, in a process that does not end by the signal.
pub fn allow_again() {
    STOPPED.store(false, Ordering::Relaxed);
}

/// Fails after [`stop`]; `path` is what is being read.
pub fn check_not_stopped(path: &Path) -> Result<(), DiskError> {
    match STOPPED.load(Ordering::Relaxed) {
        true => Err(DiskError::Stopped {
            path: path.to_owned(),
        }),
        false => Ok(()),
    }
}

/// Bytes of a region: large enough that a system call costs little, small enough to stay in the cache of a core.
pub const REGION: usize = 256 * 1024;
/// The most bytes of a region.
pub const REGION_MAX: usize = 1 << 20;

/// What a region holds.
#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    /// These bytes.
    Read(&'a [u8]),
    /// So many zeros, which were not read: they are in a hole of the file.
    Hole(usize),
}

/// Zeros in the place of a hole. They are never written, so that the system need not give memory for them.
static ZEROS: LazyLock<Vec<u8>> = LazyLock::new(|| vec![0; REGION_MAX]);

impl<'a> Content<'a> {
    /// The bytes, also those of a hole.
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Content::Read(bytes) => bytes,
            Content::Hole(length) => &ZEROS[..length],
        }
    }
}

/// Something that is read region by region, from several threads.
pub trait Regions: Sync {
    /// Reads the next region that no thread has taken and returns its place; `None` at the end. The buffer is only
    /// shorter than a region at the end.
    fn next(&self, buffer: &mut Vec<u8>) -> Result<Option<u64>, DiskError>;

    /// The same, without reading holes.
    fn next_content<'b>(
        &self,
        buffer: &'b mut Vec<u8>,
    ) -> Result<Option<(u64, Content<'b>)>, DiskError> {
        let start = self.next(buffer)?;
        Ok(start.map(|start| (start, Content::Read(buffer))))
    }
}

/// A regular file. Regions are read in parallel.
pub struct FileRegions {
    file: File,
    path: PathBuf,
    before: Entry,
    holes: Holes,
    /// Bytes of a region.
    region: usize,
    taken: AtomicU64,
    /// Where the last region ends.
    end: u64,
}

impl FileRegions {
    /// Opens a user's file for reading.
    pub fn open(path: &Path) -> Result<FileRegions, DiskError> {
        FileRegions::of(files::open_for_reading(path)?, path)
    }

    /// A file that is open already.
    pub fn of(file: File, path: &Path) -> Result<FileRegions, DiskError> {
        let before = Entry::of(&file, path)?;
        Ok(FileRegions {
            holes: Holes::of(&file),
            file,
            path: path.to_owned(),
            before,
            region: REGION,
            taken: AtomicU64::new(0),
            end: before.length,
        })
    }

    /// Only these bytes.
    #[must_use]
    pub fn within(self, bytes: ByteRange) -> FileRegions {
        FileRegions {
            taken: AtomicU64::new(bytes.start),
            end: bytes.end.min(self.length()),
            ..self
        }
    }

    /// Regions of so many bytes, where the work needs more than [`REGION`] at once.
    #[must_use]
    pub fn in_regions_of(self, region: usize) -> FileRegions {
        FileRegions { region, ..self }
    }

    /// Its bytes when it was opened.
    pub fn length(&self) -> u64 {
        self.before.length
    }

    /// Which version of it that was.
    pub fn stamp(&self) -> Stamp {
        self.before.stamp()
    }

    /// The same file read from front to end; `witness` sees its bytes in order. What was appended since it was opened is not read.
    pub fn in_order<'a>(&'a self, witness: impl FnMut(&[u8]) + Send + 'a) -> StreamRegions<'a> {
        let bytes = (&self.file).take(self.before.length);
        StreamRegions::new(bytes, &self.path, witness).in_regions_of(self.region)
    }

    /// Fails if the file was written to since it was opened.
    pub fn check_unchanged(&self) -> Result<(), DiskError> {
        match Entry::of(&self.file, &self.path)?.stamp() == self.before.stamp() {
            true => Ok(()),
            false => Err(DiskError::ChangedWhileRead {
                path: self.path.clone(),
            }),
        }
    }

    /// Fails if its path names another file by now, or none.
    pub fn check_in_place(&self) -> Result<(), DiskError> {
        let file = (self.before.device, self.before.inode);
        let named = self.path.metadata();
        match named.is_ok_and(|named| (named.dev(), named.ino()) == file) {
            true => Ok(()),
            false => Err(DiskError::ChangedWhileRead {
                path: self.path.clone(),
            }),
        }
    }
}

impl FileRegions {
    /// The next region that no thread has taken.
    fn take(&self) -> Result<Option<ByteRange>, DiskError> {
        check_not_stopped(&self.path)?;
        let start = self.taken.fetch_add(self.region as u64, Ordering::Relaxed);
        let end = self.end.min(start.saturating_add(self.region as u64));
        Ok((start < end).then(|| ByteRange::new(start, end)))
    }

    fn read(&self, region: ByteRange, buffer: &mut Vec<u8>) -> Result<(), DiskError> {
        buffer.resize(region.length() as usize, 0);
        match self.file.read_exact_at(buffer, region.start) {
            Ok(()) => Ok(()),
            Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => {
                Err(DiskError::ChangedWhileRead {
                    path: self.path.clone(),
                })
            }
            Err(cause) => Err(DiskError::io(FileOperation::Read, &self.path, cause)),
        }
    }
}

impl Regions for FileRegions {
    fn next(&self, buffer: &mut Vec<u8>) -> Result<Option<u64>, DiskError> {
        let Some(region) = self.take()? else {
            return Ok(None);
        };
        self.read(region, buffer)?;
        note_read(region.length());
        Ok(Some(region.start))
    }

    fn next_content<'b>(
        &self,
        buffer: &'b mut Vec<u8>,
    ) -> Result<Option<(u64, Content<'b>)>, DiskError> {
        let Some(region) = self.take()? else {
            return Ok(None);
        };
        note_read(region.length());
        if self.holes.contain(&self.file, region) {
            let hole = Content::Hole(region.length() as usize);
            return Ok(Some((region.start, hole)));
        }
        self.read(region, buffer)?;
        Ok(Some((region.start, Content::Read(buffer))))
    }
}

/// Something that is read in order: a pipe, or a file whose bytes are needed in order too. One worker reads while the others
/// work.
pub struct StreamRegions<'a> {
    path: PathBuf,
    /// Bytes of a region.
    region: usize,
    state: Mutex<Stream<'a>>,
}

/// Sees all bytes of a stream, in order.
type Witness<'a> = Box<dyn FnMut(&[u8]) + Send + 'a>;

struct Stream<'a> {
    reader: Box<dyn Read + Send + 'a>,
    witness: Witness<'a>,
    at: u64,
    ended: bool,
}

impl<'a> StreamRegions<'a> {
    /// Reads to the end; `witness` sees all bytes in their order, `path` is for messages.
    pub fn new(
        reader: impl Read + Send + 'a,
        path: &Path,
        witness: impl FnMut(&[u8]) + Send + 'a,
    ) -> StreamRegions<'a> {
        let stream = Stream {
            reader: Box::new(reader),
            witness: Box::new(witness),
            at: 0,
            ended: false,
        };
        StreamRegions {
            path: path.to_owned(),
            region: REGION,
            state: Mutex::new(stream),
        }
    }

    /// See [`FileRegions::in_regions_of`].
    #[must_use]
    pub fn in_regions_of(self, region: usize) -> StreamRegions<'a> {
        StreamRegions { region, ..self }
    }
}

impl Regions for StreamRegions<'_> {
    fn next(&self, buffer: &mut Vec<u8>) -> Result<Option<u64>, DiskError> {
        let mut stream = self.state.lock();
        if stream.ended {
            return Ok(None);
        }
        buffer.clear();
        let read = stream
            .reader
            .by_ref()
            .take(self.region as u64)
            .read_to_end(buffer);
        check_not_stopped(&self.path)?;
        read.map_err(|cause| DiskError::io(FileOperation::Read, &self.path, cause))?;
        stream.ended = buffer.len() < self.region;
        (stream.witness)(buffer);
        let start = stream.at;
        stream.at += buffer.len() as u64;
        note_read(buffer.len() as u64);
        Ok((!buffer.is_empty()).then_some(start))
    }
}

/// A stream that is read by a thread of its own, so that [`stop`] ends a read that waits for bytes.
pub struct StoppableStream {
    chunks: mpsc::Receiver<io::Result<Vec<u8>>>,
    chunk: io::Cursor<Vec<u8>>,
}

impl StoppableStream {
    /// Starts to read the stream.
    pub fn new(mut stream: impl Read + Send + 'static) -> io::Result<StoppableStream> {
        let (sender, chunks) = mpsc::sync_channel(2);
        let read = move || {
            let mut buffer = vec![0; REGION];
            loop {
                let chunk = match stream.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(count) => Ok(buffer[..count].to_vec()),
                    Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
                    Err(cause) => Err(cause),
                };
                let ends = chunk.is_err();
                // Nobody takes it when the reading has ended.
                if sender.send(chunk).is_err() || ends {
                    return;
                }
            }
        };
        thread::Builder::new().spawn(read)?;
        Ok(StoppableStream {
            chunks,
            chunk: io::Cursor::default(),
        })
    }
}

impl Read for StoppableStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.chunk.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            match self.chunks.recv_timeout(STOPPED_TIME) {
                Ok(chunk) => drop(mem::replace(&mut self.chunk, io::Cursor::new(chunk?))),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(0),
                Err(mpsc::RecvTimeoutError::Timeout) if STOPPED.load(Ordering::Relaxed) => {
                    return Err(io::Error::other("stopped"));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => (),
            }
        }
    }
}

/// Passes a range of a file to `take` in buffers.
pub fn copy<E: From<DiskError>>(
    file: &File,
    path: &Path,
    range: ByteRange,
    mut take: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut buffer = vec![0; REGION.min(range.length() as usize)];
    let mut at = range.start;
    while at < range.end {
        check_not_stopped(path)?;
        let count = buffer.len().min((range.end - at) as usize);
        let read = file.read_exact_at(&mut buffer[..count], at);
        read.map_err(|cause| DiskError::io(FileOperation::Read, path, cause))?;
        take(&buffer[..count])?;
        at += count as u64;
    }
    Ok(())
}

/// Works on all regions with all cores. `work` is called from several threads, in any order; the first error ends it.
pub fn for_each<E: From<DiskError> + Send>(
    regions: &impl Regions,
    work: impl Fn(u64, Content) -> Result<(), E> + Sync,
) -> Result<(), E> {
    on_all_cores(Vec::new, |buffer| match regions.next_content(buffer)? {
        None => Ok(false),
        Some((start, content)) => work(start, content).map(|()| true),
    })
}

/// Works on each item with all cores. The same holds for `work`.
pub fn for_each_item<T: Sync, E: Send>(
    items: &[T],
    work: impl Fn(usize, &T) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let taken = AtomicUsize::new(0);
    on_all_cores(
        || (),
        |()| {
            let index = taken.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else {
                return Ok(false);
            };
            work(index, item).map(|()| true)
        },
    )
}

/// Calls `step` on all cores until it returns `false`, or an error, which ends all. Each core has a state of its own.
fn on_all_cores<S, E: Send>(
    state: impl Fn() -> S + Sync,
    step: impl Fn(&mut S) -> Result<bool, E> + Sync,
) -> Result<(), E> {
    let failed: Mutex<Option<E>> = Mutex::new(None);
    let worker = || {
        let mut state = state();
        while failed.lock().is_none() {
            match step(&mut state) {
                Ok(true) => (),
                Ok(false) => return,
                Err(cause) => {
                    failed.lock().get_or_insert(cause);
                }
            }
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 1..workers {
            // Fewer threads do it too.
            if thread::Builder::new().spawn_scoped(scope, worker).is_err() {
                break;
            }
        }
        worker();
    });
    match failed.into_inner() {
        Some(cause) => Err(cause),
        None => Ok(()),
    }
}
