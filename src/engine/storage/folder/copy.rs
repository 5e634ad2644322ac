//! Copying blocks of a part from a file that was published here. Each counts only once it was read where it was copied to, and has
//! its leaf.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::{
    disk::{
        error::{DiskError, FileOperation},
        files, regions,
        staging::{Content, Place, Upload},
    },
    format::{geometry::ByteRange, tree::PartHasher},
    policy::parts::PartPlan,
};

use super::{
    super::{
        Base, CopyRange, Destination, OfferedPart, StorageError,
        copies::{SENT_RANGES_MAX, joined},
    },
    Active, Phase, Shared, Turn, phase_error, range_of,
    receive::RESERVE_BYTES,
};

/// Bytes that are copied in one step.
const STEP_BYTES: u64 = 1 << 20;

/// A part that gets copies.
struct Copying<'a> {
    active: &'a Active,
    part: &'a OfferedPart,
    plan: &'a PartPlan,
    /// Of the part.
    range: ByteRange,
    /// Where the part begins in the file.
    file: File,
    path: PathBuf,
    at: u64,
}

impl Shared {
    /// Copies what the base has of a part, and says what is missing. Without leaves nothing is proven, so nothing is copied.
    pub fn copy(
        &self,
        handle: &str,
        plan: &PartPlan,
        part: &OfferedPart,
        (base, copies): (&Base, &[CopyRange]),
    ) -> Result<Destination, StorageError> {
        let range = range_of(plan, part)?;
        let blocks = plan.block_size().blocks_for(part.length);
        let leaves = part.leaves.as_deref();
        let are_all = leaves.is_some_and(|leaves| leaves.len() as u64 == blocks);
        let place = Place {
            root: self.staging.root(),
            path: &base.name,
            replace: true,
        };
        let as_sent = || {
            let from = self.held(handle, plan, part)?;
            Ok(Destination::Server { from })
        };
        if !are_all || plan.is_whole(part.index, part.length) {
            return as_sent();
        }
        let Some(published) = place.published(base.root, base.length)? else {
            return as_sent();
        };
        let active = self.active(handle);
        let Ok(turn) = Turn::take(&active, part.index) else {
            return Ok(Destination::Server { from: 0 });
        };
        let upload = self.upload(handle)?;
        // Looked at in the turn: who had it before may have made the part whole.
        if has_record(&upload, part)? {
            drop(turn);
            return as_sent();
        }
        let (file, path, at) = upload.file(Content::Kept, part.index, range.start)?;
        let copying = Copying {
            active: &active,
            part,
            plan,
            range,
            file,
            path,
            at,
        };
        let mut missing = copying.missing(&[ByteRange::new(0, part.length)])?;
        if upload.bytes_free()? < RESERVE_BYTES {
            return Err(StorageError::Full);
        }
        let mut came = 0;
        for (from, to) in ranges_of(copies, base, &missing) {
            copying.copy(&published, from, to)?;
            let lacks = copying.missing(&[to])?;
            let lacking: u64 = lacks.iter().map(|range| range.length()).sum();
            came += to.length() - lacking;
            missing = without(&missing, to);
            missing.extend(lacks);
            missing.sort_unstable_by_key(|range| range.start);
        }
        Ok(Destination::Rest {
            send: joined(&missing, SENT_RANGES_MAX, plan.block_size()),
            copied: came,
        })
    }
}

/// Whether the part, or another content of it, is whole already.
fn has_record(upload: &Upload, part: &OfferedPart) -> Result<bool, DiskError> {
    let kept = upload.record_header(Content::Kept, part.index)?;
    Ok(kept.is_some() || upload.record_header(Content::Newer, part.index)?.is_some())
}

/// What is to be copied: a place in the base, and whole blocks of the part that are missing.
fn ranges_of(copies: &[CopyRange], base: &Base, missing: &[ByteRange]) -> Vec<(u64, ByteRange)> {
    let mut ranges = Vec::new();
    for copy in copies {
        for lack in missing {
            let start = lack.start.max(copy.at);
            let end = lack.end.min(copy.at + copy.length);
            if start >= end {
                continue;
            }
            let to = ByteRange::new(start, end);
            ranges.extend(copy.source(to, base.length).map(|from| (from.start, to)));
        }
    }
    ranges
}

/// Ranges without the bytes of one.
fn without(ranges: &[ByteRange], one: ByteRange) -> Vec<ByteRange> {
    let parts = ranges.iter().flat_map(|range| {
        let before = (range.start, range.end.min(one.start));
        let after = (range.start.max(one.end), range.end);
        [before, after]
    });
    let parts = parts.filter(|(start, end)| start < end);
    parts
        .map(|(start, end)| ByteRange::new(start, end))
        .collect()
}

impl Copying<'_> {
    /// The blocks in these ranges of the part that do not have their leaf in the file.
    fn missing(&self, ranges: &[ByteRange]) -> Result<Vec<ByteRange>, StorageError> {
        let block = self.plan.block_size().bytes();
        let mut missing: Vec<ByteRange> = Vec::new();
        let mut buffer = vec![0; block.min(self.part.length) as usize];
        for range in ranges {
            let mut start = range.start;
            while start < range.end {
                let end = (start + block).min(range.end);
                if !self.is_here(ByteRange::new(start, end), &mut buffer)? {
                    match missing.last_mut() {
                        Some(last) if last.end == start => last.end = end,
                        _ => missing.push(ByteRange::new(start, end)),
                    }
                }
                start = end;
            }
        }
        Ok(missing)
    }

    /// Whether a block of the part has its leaf in the file.
    fn is_here(&self, bytes: ByteRange, buffer: &mut [u8]) -> Result<bool, StorageError> {
        let buffer = &mut buffer[..bytes.length() as usize];
        regions::check_not_stopped(&self.path)?;
        match self.file.read_exact_at(buffer, self.at + bytes.start) {
            Ok(()) => (),
            Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(cause) => {
                return Err(DiskError::io(FileOperation::Read, &self.path, cause).into());
            }
        }
        let mut hasher = PartHasher::new(self.range.start + bytes.start);
        hasher.update(buffer);
        let block = bytes.start / self.plan.block_size().bytes();
        let leaves = self.part.leaves.as_deref().unwrap_or_default();
        Ok(leaves.get(block as usize) == Some(&hasher.value()))
    }

    /// Copies bytes of another file to blocks of the part. A file that ends before leaves them as they are.
    fn copy(&self, from: &File, place: u64, to: ByteRange) -> Result<(), StorageError> {
        let mut done = 0;
        while done < to.length() {
            // As a writer does: what is published or removed meanwhile is not written to.
            let phase = self.active.phase.read();
            if *phase != Phase::Open {
                return Err(phase_error(*phase, self.part.index));
            }
            regions::check_not_stopped(&self.path)?;
            let (place, offset) = (place + done, self.at + to.start + done);
            let length = (to.length() - done).min(STEP_BYTES);
            let copied = files::copy_range(from, place, &self.file, &self.path, offset, length)?;
            done += match copied {
                Some(copied) => copied,
                None => {
                    match copy_by_reading(from, place, (&self.file, &self.path), offset, length)? {
                        0 => return Ok(()),
                        copied => copied,
                    }
                }
            };
        }
        Ok(())
    }
}

/// The same, where the kernel cannot do it. 0: the file ends, or cannot be read.
fn copy_by_reading(
    from: &File,
    place: u64,
    (to, path): (&File, &Path),
    offset: u64,
    length: u64,
) -> Result<u64, DiskError> {
    let mut buffer = vec![0; length as usize];
    let count = from.read_at(&mut buffer, place).unwrap_or_default();
    files::write_at(to, path, &buffer[..count], offset)?;
    Ok(count as u64)
}
