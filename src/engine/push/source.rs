//! A source that is a file, and the description of its parts: the SHA-256 of each, and the leaves of its blocks.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::time::sleep;

use crate::{
    disk::{
        error::{DiskError, FileOperation},
        files::{self, Version},
        regions,
    },
    engine::{blocking, error::Error, upload::content::Stored},
    format::{
        digests::{Algorithm, DigestHasher},
        geometry::{BlockSize, ByteRange},
        ingest::Finished,
        tree::{Cv, PartHasher},
        upload::Sha256,
    },
    policy::parts::PartPlan,
};

/// Bytes that are read at a time.
pub const CHUNK: usize = 256 * 1024;

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

/// Reads and describes a part of a file.
pub fn of_file(
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
pub fn each_chunk(
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

pub fn check_not_stopped(path: &Path, stop: &AtomicBool) -> Result<(), DiskError> {
    match stop.load(Ordering::Relaxed) {
        true => Err(DiskError::Stopped {
            path: path.to_owned(),
        }),
        false => regions::check_not_stopped(path),
    }
}

/// Hashes a part as its bytes come.
pub struct Describer {
    block_size: u64,
    sha256: DigestHasher,
    /// Of the last block.
    block: PartHasher,
    in_block: u64,
    next_block: u64,
    leaves: Vec<Cv>,
}

impl Describer {
    pub fn new(block_size: BlockSize, start: u64) -> Describer {
        Describer {
            block_size: block_size.bytes(),
            sha256: DigestHasher::new(Algorithm::Sha256),
            block: PartHasher::new(start),
            in_block: 0,
            next_block: start + block_size.bytes(),
            leaves: Vec::new(),
        }
    }

    pub fn update(&mut self, mut bytes: &[u8]) {
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

    pub fn finish(
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

#[cfg(test)]
mod tests {
    use super::*;

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
