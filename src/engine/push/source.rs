//! Reading the source once, part after part: the SHA-256 of each part, and the leaves of its blocks.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesOrdered};
use parking_lot::Mutex;
use tokio::time::sleep;

use crate::{
    disk::{
        error::{DiskError, FileOperation},
        files::{self, Version},
        regions, temporary,
    },
    engine::{
        blocking::{self, StopWhenDropped},
        error::Error,
        upload::content::Stored,
    },
    format::{
        digests::{Algorithm, DigestHasher},
        geometry::{BlockSize, ByteRange},
        ingest::Finished,
        tree::{Cv, PartHasher},
        upload::Sha256,
    },
    policy::parts::PartPlan,
};

use super::growing::{self, GrowingParts};

/// Bytes that are read at a time.
const CHUNK: usize = 256 * 1024;

/// A part of the source, described.
pub struct SourcePart {
    pub index: u32,
    /// In the object.
    pub bytes: ByteRange,
    pub sha256: Sha256,
    pub leaves: Arc<[Cv]>,
    /// Its only block is the whole object.
    pub is_whole: bool,
    /// Where its bytes are read again.
    pub stored: Stored,
}

/// What was read of a source, from the first part to the last.
pub struct Whole {
    pub parts: Vec<Finished>,
    pub leaves: Vec<Cv>,
}

/// A regular file, and the version of it that is pushed.
pub struct SourceFile {
    file: Arc<File>,
    path: Arc<Path>,
    version: Version,
}

impl SourceFile {
    /// Opens it. A file that was modified just now is read when a later write can be told by its time stamp.
    pub async fn open(path: &Path) -> Result<SourceFile, Error> {
        let path: Arc<Path> = path.into();
        let opened = blocking::on_disk({
            let path = path.clone();
            move || {
                let file = files::open_for_reading(&path)?;
                let version = Version::of(&file, &path)?;
                Ok((Arc::new(file), version))
            }
        });
        let (file, version) = opened.await?;
        SourceFile::settled(file, path, version).await
    }

    /// A file that is open.
    pub async fn of(file: Arc<File>, path: Arc<Path>) -> Result<SourceFile, Error> {
        let version = version_of(file.clone(), path.clone()).await?;
        SourceFile::settled(file, path, version).await
    }

    async fn settled(
        file: Arc<File>,
        path: Arc<Path>,
        mut version: Version,
    ) -> Result<SourceFile, Error> {
        let unsettled = version.unsettled();
        if !unsettled.is_zero() {
            sleep(unsettled).await;
            version = version_of(file.clone(), path.clone()).await?;
        }
        Ok(SourceFile {
            file,
            path,
            version,
        })
    }

    pub fn length(&self) -> u64 {
        self.version.stamp().length
    }

    /// For messages, and to open it once more.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads bytes of it. Blocks.
    pub fn read(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, at)
    }

    /// Which file it is, under any name.
    pub fn identity(&self) -> (u64, u64) {
        let stamp = self.version.stamp();
        (stamp.device, stamp.inode)
    }

    /// Fails if the file was written to since it was opened.
    pub async fn check_unchanged(&self) -> Result<(), Error> {
        let now = version_of(self.file.clone(), self.path.clone()).await?;
        match now.has_bytes_of(&self.version) {
            true => Ok(()),
            false => Err(self.changed()),
        }
    }

    pub fn changed(&self) -> Error {
        let path = self.path.to_path_buf();
        DiskError::ChangedWhileRead { path }.into()
    }
}

async fn version_of(file: Arc<File>, path: Arc<Path>) -> Result<Version, DiskError> {
    blocking::on_disk(move || Version::of(&file, &path)).await
}

/// A stream that is read once.
pub type Pipe = Box<dyn Read + Send>;

/// Reads parts ahead, and returns them in order.
pub struct Reader {
    plan: PartPlan,
    from: From,
    described: FuturesOrdered<Describe>,
    /// Parts that are read at a time.
    at_once: usize,
    stop: StopWhenDropped,
}

enum From {
    File {
        source: Arc<SourceFile>,
        left: VecDeque<u32>,
    },
    Growing(GrowingParts),
    Pipe {
        pipe: Arc<Mutex<Pipe>>,
        /// The next part; `None`: the stream ended.
        next: Option<u32>,
        start: u64,
    },
}

impl Reader {
    /// These parts of a file, whose length the plan has.
    pub fn of_file(source: Arc<SourceFile>, plan: PartPlan, parts: Vec<u32>) -> Reader {
        let left = parts.into();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Reader::new(plan, From::File { source, left }, cores)
    }

    /// All parts of a stream.
    pub fn of_pipe(pipe: Pipe, plan: PartPlan) -> Reader {
        let from = From::Pipe {
            pipe: Arc::new(Mutex::new(pipe)),
            next: Some(0),
            start: 0,
        };
        Reader::new(plan, from, 1)
    }

    /// The parts of a file that grows, until it has ended: not the last one, if that is not full.
    pub fn of_growing(parts: GrowingParts, plan: PartPlan) -> Reader {
        Reader::new(plan, From::Growing(parts), 1)
    }

    fn new(plan: PartPlan, from: From, at_once: usize) -> Reader {
        Reader {
            plan,
            from,
            described: FuturesOrdered::new(),
            at_once,
            stop: StopWhenDropped::default(),
        }
    }

    /// The next part; `None` at the end. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<SourcePart>, Error> {
        while self.described.len() < self.at_once
            && let Some(work) = self.describe_next()?
        {
            self.described.push_back(work);
        }
        let Some(part) = self.described.next().await else {
            return Ok(None);
        };
        let part = part?;
        if let From::Pipe { next, start, .. } = &mut self.from {
            match &part {
                Some(part) => *start = part.bytes.end,
                None => *next = None,
            }
        }
        Ok(part)
    }

    /// The work that describes one more part.
    fn describe_next(&mut self) -> Result<Option<Describe>, Error> {
        let (plan, stop) = (self.plan, self.stop.0.clone());
        match &mut self.from {
            From::File { source, left } => {
                let Some(index) = left.pop_front() else {
                    return Ok(None);
                };
                let source = source.clone();
                let work = move || of_file(&source, &plan, index, &stop);
                Ok(Some(blocking::run(work).boxed()))
            }
            From::Growing(parts) => {
                let (index, source) = (parts.next, parts.source.clone());
                parts.next += 1;
                let finished = parts.finished.clone();
                let described = growing::describe(source, finished, plan, index, stop);
                Ok(Some(described.boxed()))
            }
            From::Pipe { pipe, next, start } => {
                let Some(index) = *next else { return Ok(None) };
                let Some(bytes) = plan.part(index) else {
                    let length = *start + 1;
                    let cause = plan.with_length(length).expect_err("there is no such part");
                    return Err(Error::PartSize { cause });
                };
                *next = Some(index + 1);
                let pipe = pipe.clone();
                let work = move || of_pipe(&mut pipe.lock(), &plan, index, bytes, &stop);
                Ok(Some(blocking::run(work).boxed()))
            }
        }
    }
}

type Describe = BoxFuture<'static, Result<Option<SourcePart>, DiskError>>;

/// Reads and describes a part of a file.
fn of_file(
    source: &SourceFile,
    plan: &PartPlan,
    index: u32,
    stop: &AtomicBool,
) -> Result<Option<SourcePart>, DiskError> {
    let Some(bytes) = plan.part(index) else {
        return Ok(None);
    };
    let stored = Stored {
        file: source.file.clone(),
        path: source.path.clone(),
        bytes,
    };
    let mut describer = Describer::new(plan.block_size(), bytes.start);
    each_chunk(&stored, stop, |_, chunk| {
        describer.update(chunk);
        Ok(())
    })?;
    Ok(Some(describer.finish(plan, index, bytes, stored)))
}

/// Reads a range of a file, and takes each chunk with its place.
pub(super) fn each_chunk(
    from: &Stored,
    stop: &AtomicBool,
    mut take: impl FnMut(u64, &[u8]) -> Result<(), DiskError>,
) -> Result<(), DiskError> {
    let (path, bytes) = (&from.path, from.bytes);
    let mut buffer = vec![0; CHUNK];
    let mut at = bytes.start;
    while at < bytes.end {
        check_not_stopped(path, stop)?;
        let chunk = &mut buffer[..(bytes.end - at).min(CHUNK as u64) as usize];
        match from.file.read_exact_at(chunk, at) {
            Ok(()) => take(at, chunk)?,
            Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => {
                let path = path.to_path_buf();
                return Err(DiskError::ChangedWhileRead { path });
            }
            Err(cause) => return Err(DiskError::io(FileOperation::Read, path, cause)),
        }
        at += chunk.len() as u64;
    }
    Ok(())
}

/// Reads the next part of a stream into a file without a name. `None`: the stream ended before it.
fn of_pipe(
    pipe: &mut Pipe,
    plan: &PartPlan,
    index: u32,
    most: ByteRange,
    stop: &AtomicBool,
) -> Result<Option<SourcePart>, DiskError> {
    let (spool, path) = temporary::spool()?;
    let mut describer = Describer::new(plan.block_size(), most.start);
    let mut buffer = Vec::with_capacity(CHUNK);
    let mut length = 0;
    while length < most.length() {
        check_not_stopped(Path::new("-"), stop)?;
        buffer.clear();
        let wanted = (most.length() - length).min(CHUNK as u64);
        let read = pipe.by_ref().take(wanted).read_to_end(&mut buffer);
        regions::check_not_stopped(Path::new("-"))?;
        read.map_err(|cause| DiskError::io(FileOperation::Read, Path::new("-"), cause))?;
        describer.update(&buffer);
        files::write_at(&spool, &path, &buffer, length)?;
        length += buffer.len() as u64;
        if (buffer.len() as u64) < wanted {
            break;
        }
    }
    if length == 0 && index > 0 {
        return Ok(None);
    }
    let bytes = ByteRange::new(most.start, most.start + length);
    let stored = Stored {
        file: Arc::new(spool),
        path: path.into(),
        bytes: ByteRange::new(0, length),
    };
    Ok(Some(describer.finish(plan, index, bytes, stored)))
}

fn check_not_stopped(path: &Path, stop: &AtomicBool) -> Result<(), DiskError> {
    match stop.load(Ordering::Relaxed) {
        true => Err(DiskError::Stopped {
            path: path.to_owned(),
        }),
        false => regions::check_not_stopped(path),
    }
}

/// Hashes a part as its bytes come.
pub(super) struct Describer {
    block_size: u64,
    sha256: DigestHasher,
    /// Of the last block.
    block: PartHasher,
    in_block: u64,
    next_block: u64,
    leaves: Vec<Cv>,
}

impl Describer {
    pub(super) fn new(block_size: BlockSize, start: u64) -> Describer {
        Describer {
            block_size: block_size.bytes(),
            sha256: DigestHasher::new(Algorithm::Sha256),
            block: PartHasher::new(start),
            in_block: 0,
            next_block: start + block_size.bytes(),
            leaves: Vec::new(),
        }
    }

    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        self.sha256.update(bytes);
        while !bytes.is_empty() {
            if self.in_block == self.block_size {
                self.leaves.push(self.block.value());
                self.block = PartHasher::new(self.next_block);
                self.next_block += self.block_size;
                self.in_block = 0;
            }
            let left = self.block_size - self.in_block;
            let (some, rest) = bytes.split_at(bytes.len().min(left as usize));
            self.block.update(some);
            self.in_block += some.len() as u64;
            bytes = rest;
        }
    }

    pub(super) fn finish(
        mut self,
        plan: &PartPlan,
        index: u32,
        bytes: ByteRange,
        stored: Stored,
    ) -> SourcePart {
        let is_whole = plan.is_whole(index, bytes.length());
        self.leaves.push(match is_whole {
            true => self.block.root().0,
            false => self.block.value(),
        });
        let digest = self.sha256.finish();
        let sha256 = digest.value().try_into();
        SourcePart {
            index,
            bytes,
            sha256: Sha256(sha256.expect("a SHA-256 has 32 bytes")),
            leaves: self.leaves.into(),
            is_whole,
            stored,
        }
    }
}

/// Where the bytes come from.
pub enum Input {
    /// A regular file.
    File(PathBuf),
    /// A stream, read once; its length is not known.
    Pipe(Pipe),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{paint, tree};

    async fn parts(mut reader: Reader) -> Vec<SourcePart> {
        let mut parts = Vec::new();
        while let Some(part) = reader.next().await.unwrap() {
            parts.push(part);
        }
        parts
    }

    #[tokio::test]
    async fn the_leaves_of_all_parts_make_the_root() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let (block, part) = (BlockSize::new(1 << 20).unwrap(), 5 << 20);
        for length in [
            0,
            1,
            1 << 20,
            (1 << 20) + 1,
            5 << 20,
            (5 << 20) + 1,
            11 << 20,
        ] {
            let bytes = paint::bytes(0, length);
            std::fs::write(&path, &bytes).unwrap();
            let expected = *blake3::hash(&bytes).as_bytes();
            let length = length as u64;
            let plan = PartPlan::new(Some(length), part, block).unwrap();
            let source = Arc::new(SourceFile::open(&path).await.unwrap());
            let indices = (0..plan.count().unwrap()).collect();
            let of_file = parts(Reader::of_file(source, plan, indices)).await;
            let pipe = Box::new(io::Cursor::new(bytes.clone()));
            let plan = PartPlan::new(None, part, block).unwrap();
            let of_pipe = parts(Reader::of_pipe(pipe, plan)).await;
            for parts in [&of_file, &of_pipe] {
                let leaves: Vec<Cv> = parts.iter().flat_map(|part| part.leaves.to_vec()).collect();
                assert_eq!(tree::root_of(&leaves).0, expected, "{length}");
                assert_eq!(parts.last().unwrap().bytes.end, length);
                for part in parts {
                    let mut read = vec![0; part.bytes.length() as usize];
                    let at = part.stored.bytes.start;
                    part.stored.file.read_exact_at(&mut read, at).unwrap();
                    let start = part.bytes.start as usize;
                    assert!(read == bytes[start..start + read.len()], "{length}");
                }
            }
            let same = |(one, other): (&SourcePart, &SourcePart)| one.sha256 == other.sha256;
            assert!(of_file.iter().zip(&of_pipe).all(same));
            assert_eq!(of_file.len(), of_pipe.len());
        }
    }

    #[tokio::test]
    async fn a_write_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, b"one").unwrap();
        let source = SourceFile::open(&path).await.unwrap();
        source.check_unchanged().await.unwrap();
        // At once, and with the same length.
        std::fs::write(&path, b"two").unwrap();
        let changed = source.check_unchanged().await.unwrap_err();
        assert!(changed.to_string().contains("changed"), "{changed}");
    }
}
