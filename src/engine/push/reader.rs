//! Reading the source once, part after part, some of them at a time.

use std::{
    collections::VecDeque,
    io::Read,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesOrdered};
use parking_lot::Mutex;

use crate::{
    disk::{
        error::{DiskError, FileOperation},
        files, regions, temporary,
    },
    engine::{
        blocking::{self, StopWhenDropped},
        error::Error,
        upload::content::Stored,
    },
    format::geometry::ByteRange,
    policy::parts::PartPlan,
};

use super::{
    growing::{self, GrowingParts},
    source::{CHUNK, Describer, SourceFile, SourcePart, check_not_stopped, of_file},
};

/// Where the bytes come from.
pub enum Input {
    /// A regular file.
    File(PathBuf),
    /// A stream, read once; its length is not known.
    Pipe(Pipe),
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

#[cfg(test)]
mod tests {
    use std::{io, os::unix::fs::FileExt};

    use super::*;
    use crate::format::{
        geometry::BlockSize,
        paint,
        tree::{self, Cv},
    };

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
}
