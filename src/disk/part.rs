//! The unfinished download.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, IoSlice},
    os::unix::fs::FileExt,
    path::PathBuf,
};

use parking_lot::Mutex;
use rustix::fs::{self, SeekFrom};

use crate::format::{
    blockset::BlockSet,
    geometry::{BlockIndex, BlockRange, ByteRange, Geometry},
    journal::Place,
    judge::{self, Leaves, ObjectKey, Proven, Verified, VerifiedBlocks},
    tree::{Cv, PartHasher, Root},
};

use super::{
    error::{DiskError, FileOperation},
    files::{self, Entry, Folder, Version},
    regions,
    seed::Seed,
};

/// The buffer for copying if the kernel cannot copy by itself.
const COPY_BYTES: u64 = 256 * 1024;
/// How often a part is hashed again, while another program goes on writing to it.
const HASHED_AGAIN_MAX: u32 = 3;

/// Proven blocks that are in a file now. INVARIANT: only [`Part`] makes it, after their write has returned or after it judged the
/// bytes in the file; journals and indexes record nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored(Verified);

impl Stored {
    /// What was judged.
    pub fn verified(self) -> Verified {
        self.0
    }

    /// The blocks that are there.
    pub fn blocks(self) -> BlockRange {
        self.0.blocks()
    }

    /// Both together, if the other follows directly in the same object.
    pub fn joined(self, next: Stored) -> Option<Stored> {
        self.0.joined(next.0).map(Stored)
    }
}

/// Any blocks of one object that are in a part, one bit each.
#[derive(Clone, Debug)]
pub struct StoredBlocks(VerifiedBlocks);

impl StoredBlocks {
    /// No block of this object.
    pub fn new(object: ObjectKey) -> StoredBlocks {
        StoredBlocks(VerifiedBlocks::new(object))
    }

    /// Adds blocks of the same object.
    pub fn insert(&mut self, stored: Stored) {
        self.0.insert(stored.0);
    }

    /// The blocks.
    pub fn blocks(&self) -> &BlockSet {
        self.0.blocks()
    }

    /// The blocks as ranges, in order.
    pub fn ranges(&self) -> impl Iterator<Item = Stored> + '_ {
        self.0.ranges().map(Stored)
    }
}

/// The hash of a block in a part, for [`Part::judge_node`]. Only [`Part`] makes it.
#[derive(Clone, Copy, Debug)]
pub struct HashedBlock {
    block: BlockIndex,
    value: Cv,
}

/// `FILE.part`, open.
#[derive(Debug)]
pub struct Part {
    file: File,
    path: PathBuf,
    /// The kernel allows one write into a file at a time, and waiting writers may spin: here they sleep.
    writing: Mutex<()>,
    /// The file when all of it was proven. A later version is the work of another program.
    settled: Mutex<Option<Version>>,
}

impl Part {
    /// A part in this file; `path` is for messages.
    pub fn new(file: File, path: PathBuf) -> Part {
        Part {
            file,
            path,
            writing: Mutex::new(()),
            settled: Mutex::new(None),
        }
    }

    /// The path of the part.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Writes neighbouring blocks at their offset, in one call if possible.
    pub fn write(&self, run: &Proven) -> Result<Stored, DiskError> {
        let verified = run.verified();
        let chunks = run.chunks().iter();
        let mut slices: Vec<IoSlice> = chunks.map(|bytes| IoSlice::new(bytes)).collect();
        let _one = self.writing.lock();
        files::write_slices_at(&self.file, &self.path, &mut slices, verified.bytes().start)?;
        Ok(Stored(verified))
    }

    /// Writes bytes of an object of unknown length, which cannot be proven before they are complete.
    pub fn write_unproven(&self, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
        files::write_at(&self.file, &self.path, bytes, offset)
    }

    /// Judges a block in the part; the buffer is at least as long as the block. `None`: the block is missing or wrong, or its
    /// leaf is unknown and must not be learned from the part.
    pub fn judge(
        &self,
        leaves: &Leaves,
        block: BlockIndex,
        buffer: &mut [u8],
    ) -> Result<Option<Stored>, DiskError> {
        let bytes = leaves.geometry().bytes_of(block);
        let buffer = &mut buffer[..bytes.length() as usize];
        // A read that cannot be judged is not worth its time.
        let is_known = leaves.are_first_use() || leaves.leaf(block).is_some();
        if !is_known || !self.read(buffer, bytes.start)? {
            return Ok(None);
        }
        Ok(judge::verify(leaves, block, buffer).ok().map(Stored))
    }

    /// Hashes a block in the part, a buffer at a time; `None`: the part ends before it does.
    pub fn hash(
        &self,
        geometry: &Geometry,
        block: BlockIndex,
        buffer: &mut [u8],
    ) -> Result<Option<HashedBlock>, DiskError> {
        let bytes = geometry.bytes_of(block);
        let mut hasher = PartHasher::new(bytes.start);
        let mut at = bytes.start;
        while at < bytes.end {
            let now = (bytes.end - at).min(buffer.len() as u64);
            let buffer = &mut buffer[..now as usize];
            if !self.read(buffer, at)? {
                return Ok(None);
            }
            hasher.update(buffer);
            at += now;
        }
        let value = hasher.leaf(geometry);
        Ok(Some(HashedBlock { block, value }))
    }

    /// Judges blocks in the part against the proven value of the node over them. The blocks were hashed before, on all cores.
    /// Returns their leaves too; `None`: they are wrong.
    pub fn judge_node(
        &self,
        object: &ObjectKey,
        blocks: BlockRange,
        node: Cv,
        hashed: &[HashedBlock],
    ) -> Option<(Stored, Vec<Cv>)> {
        let in_order = blocks.iter().eq(hashed.iter().map(|hashed| hashed.block));
        let values: Vec<Cv> = hashed.iter().map(|hashed| hashed.value).collect();
        let verified = in_order.then(|| judge::verify_node(object, blocks, node, &values))?;
        verified.ok().map(|verified| (Stored(verified), values))
    }

    /// Reads at an offset of the object; `false` if the part ends before the buffer is full.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> Result<bool, DiskError> {
        regions::note_read(buffer.len() as u64);
        match self.file.read_exact_at(buffer, offset) {
            Ok(()) => Ok(true),
            Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(cause) => Err(DiskError::io(FileOperation::Read, &self.path, cause)),
        }
    }

    /// Copies bytes of a seed to an offset of the object, shared if the file system supports it; holes stay holes. `false`: the
    /// seed could not be read there.
    pub fn copy_from(&self, seed: &Seed, place: u64, into: ByteRange) -> Result<bool, DiskError> {
        let end = place + into.length();
        let mut at = place;
        while at < end {
            let here = |at: u64| into.start + (at - place);
            let data = seed.data_from(at, end);
            self.make_zeros(ByteRange::new(here(at), here(data.start)))?;
            if !self.copy_data_from(seed, data, here(data.start))? {
                return Ok(false);
            }
            at = data.end;
        }
        Ok(true)
    }

    fn copy_data_from(&self, seed: &Seed, data: ByteRange, to: u64) -> Result<bool, DiskError> {
        let mut at = data.start;
        while at < data.end {
            let (to, length) = (to + (at - data.start), data.end - at);
            let copied = files::copy_range(seed.file(), at, &self.file, &self.path, to, length)?;
            at += match copied {
                Some(copied) => copied,
                None => {
                    let mut buffer = vec![0; length.min(COPY_BYTES) as usize];
                    if !seed.read(&mut buffer, at) {
                        return Ok(false);
                    }
                    files::write_at(&self.file, &self.path, &buffer, to)?;
                    buffer.len() as u64
                }
            };
        }
        Ok(true)
    }

    /// Makes bytes of the object zeros: a hole, if the file system supports holes.
    pub fn make_zeros(&self, range: ByteRange) -> Result<(), DiskError> {
        // After the end there is nothing to change.
        let end = range.end.min(self.length()?);
        if end <= range.start
            || files::punch_hole(&self.file, &self.path, ByteRange::new(range.start, end))?
        {
            return Ok(());
        }
        let zeros = vec![0; COPY_BYTES as usize];
        let mut at = range.start;
        while at < end {
            let now = (end - at).min(COPY_BYTES);
            files::write_at(&self.file, &self.path, &zeros[..now as usize], at)?;
            at += now;
        }
        Ok(())
    }

    /// Extends a part that is shorter than the object, so that zeros at its end can be read.
    pub fn lengthen(&self, length: u64) -> Result<(), DiskError> {
        match self.length()? < length {
            true => self.set_length(length),
            false => Ok(()),
        }
    }

    /// Its entry on the disk.
    pub fn entry(&self) -> Result<Entry, DiskError> {
        Entry::of(&self.file, &self.path)
    }

    /// Its length so far, holes included.
    pub fn length(&self) -> Result<u64, DiskError> {
        Ok(self.entry()?.length)
    }

    /// Sets the length of the object: truncates a longer part, and extends one that ends in a hole.
    pub fn set_length(&self, length: u64) -> Result<(), DiskError> {
        files::set_length(&self.file, &self.path, length)
    }

    /// All of the object was proven: cuts off what is behind it, and notes the version of the file for [`Part::is_still`].
    pub fn settle(&self, length: u64) -> Result<(), DiskError> {
        if self.length()? != length {
            self.set_length(length)?;
        }
        *self.settled.lock() = Some(self.version()?);
        Ok(())
    }

    /// Whether the part is this object. It is hashed again if anything wrote to it since it was settled.
    pub fn is_still(&self, root: Root) -> Result<bool, DiskError> {
        let mut settled = self.settled.lock();
        for _ in 0..=HASHED_AGAIN_MAX {
            let now = self.version()?;
            if *settled == Some(now) {
                return Ok(true);
            }
            tracing::info!("{} changed; it is hashed again", self.path.display());
            if self.root()? != root {
                return Ok(false);
            }
            *settled = Some(now);
        }
        Ok(false)
    }

    fn version(&self) -> Result<Version, DiskError> {
        Version::of(&self.file, &self.path)
    }

    /// The root of all bytes in the file.
    fn root(&self) -> Result<Root, DiskError> {
        let mut hasher = PartHasher::new(0);
        let mut buffer = vec![0; COPY_BYTES as usize];
        let mut at = 0;
        loop {
            match self.file.read_at(&mut buffer, at) {
                Ok(0) => return Ok(hasher.root()),
                Ok(count) => {
                    hasher.update(&buffer[..count]);
                    at += count as u64;
                }
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => (),
                Err(cause) => return Err(DiskError::io(FileOperation::Read, &self.path, cause)),
            }
        }
    }

    /// Sets the permission bits.
    pub fn set_mode(&self, mode: u32) -> Result<(), DiskError> {
        let mut settled = self.settled.lock();
        let was_settled = *settled == Some(self.version()?);
        files::set_mode(&self.file, &self.path, mode)?;
        // This change of the attributes is ours.
        if was_settled {
            *settled = Some(self.version()?);
        }
        Ok(())
    }

    /// Gives the file of this part another name in its folder.
    pub fn rename(
        &self,
        folder: &Folder,
        from: &OsStr,
        to: &OsStr,
        replace: bool,
    ) -> Result<(), DiskError> {
        folder.rename_open(&self.file, from, to, replace)
    }

    /// Makes the data durable.
    pub fn sync_data(&self) -> Result<(), DiskError> {
        files::sync_data(&self.file, &self.path)
    }

    /// Makes data and attributes durable.
    pub fn sync_all(&self) -> Result<(), DiskError> {
        files::sync_all(&self.file, &self.path)
    }

    /// The blocks that have only data, no holes. The judge decides whether they are right.
    pub fn blocks_with_data(&self, geometry: &Geometry) -> Result<BlockSet, DiskError> {
        let mut blocks = BlockSet::empty(geometry.blocks());
        let length = self.length()?.min(geometry.length());
        for data in self.data(length)? {
            blocks.insert_range(geometry.blocks_within(data));
        }
        Ok(blocks)
    }

    /// How many bytes are data, not holes.
    pub fn bytes_of_data(&self) -> Result<u64, DiskError> {
        Ok(self.bytes_shown_as_data()?.min(self.bytes_allocated()?))
    }

    /// Whether [`Part::blocks_with_data`] leaves out the holes: some file systems show them as data.
    pub fn shows_holes(&self) -> Result<bool, DiskError> {
        Ok(self.bytes_shown_as_data()? <= self.bytes_allocated()?)
    }

    fn bytes_shown_as_data(&self) -> Result<u64, DiskError> {
        let data = self.data(self.length()?)?;
        Ok(data.into_iter().map(ByteRange::length).sum())
    }

    fn bytes_allocated(&self) -> Result<u64, DiskError> {
        fs::fstat(&self.file)
            // In units of 512 bytes, whatever the block size of the file system is.
            .map(|stat| stat.st_blocks as u64 * 512)
            .map_err(|cause| DiskError::io(FileOperation::Inspect, &self.path, cause))
    }

    /// The ranges before `length` that are data, not holes.
    fn data(&self, length: u64) -> Result<Vec<ByteRange>, DiskError> {
        let mut data = Vec::new();
        let mut at = 0;
        while at < length {
            let (start, end) = match fs::seek(&self.file, SeekFrom::Data(at)) {
                Ok(start) => match fs::seek(&self.file, SeekFrom::Hole(start)) {
                    Ok(end) => (start, end),
                    Err(cause) => {
                        return Err(DiskError::io(FileOperation::Read, &self.path, cause));
                    }
                },
                // No data from here on.
                Err(rustix::io::Errno::NXIO) => break,
                // This file system cannot show holes: all may be data.
                Err(rustix::io::Errno::INVAL) => (at, length),
                Err(cause) => return Err(DiskError::io(FileOperation::Read, &self.path, cause)),
            };
            data.push(ByteRange::new(start.min(length), end.min(length)));
            at = end;
        }
        Ok(data)
    }

    /// Frees the disk space of all but these blocks. `false`: this file system cannot do it.
    pub fn keep_only(&self, blocks: &BlockSet, geometry: &Geometry) -> Result<bool, DiskError> {
        let size = geometry.block_size().bytes();
        let mut from = 0;
        let end = BlockRange::new(geometry.blocks(), geometry.blocks());
        for kept in blocks.ranges().chain([end]) {
            // Whole blocks, beyond the end of the object too: of a page that is cut in two nothing is given back.
            let hole = ByteRange::new(u64::from(from) * size, u64::from(kept.start) * size);
            if !hole.is_empty() && !files::punch_hole(&self.file, &self.path, hole)? {
                return Ok(false);
            }
            from = kept.end;
        }
        Ok(true)
    }

    /// Where the part is, for the journal.
    pub fn place(&self) -> Result<Place, DiskError> {
        let entry = Entry::of(&self.file, &self.path)?;
        let local = fs::fstatfs(&self.file)
            .is_ok_and(|stat| !REMOTE_FILE_SYSTEMS.contains(&(stat.f_type as u32)));
        Ok(Place {
            boot_id: boot_id(),
            device: entry.device,
            inode: entry.inode,
            local,
        })
    }
}

/// File systems whose data can be lost without a reboot of this machine (statfs(2)): NFS, SMB, CIFS, SMB2, 9P, FUSE,
/// Ceph, AFS, Coda, GFS2, OCFS2.
const REMOTE_FILE_SYSTEMS: [u32; 11] = [
    0x6969,
    0x517B,
    0xFF53_4D42,
    0xFE53_4D42,
    0x0102_1997,
    0x6573_5546,
    0x00C3_6400,
    0x5346_414F,
    0x7375_7245,
    0x0116_1970,
    0x7461_636F,
];

/// The ID of this boot of the machine; zeros if it is unknown.
fn boot_id() -> [u8; 16] {
    let mut id = [0; 16];
    if let Ok(text) = std::fs::read_to_string("/proc/sys/kernel/random/boot_id") {
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        if hex::decode_to_slice(digits, &mut id).is_err() {
            id = [0; 16];
        }
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{geometry::BlockSize, paint, tree};

    const B: usize = 16 << 10;

    /// A part with nothing in it, an object, and its leaves.
    fn part(length: usize) -> (Part, Vec<u8>, Leaves) {
        let part = Part::new(tempfile::tempfile().unwrap(), PathBuf::from("-"));
        let object = paint::bytes(0, length);
        let geometry = Geometry::new(length as u64, BlockSize::MIN).unwrap();
        let blocks = geometry.all().iter().zip(object.chunks(B));
        let values = blocks.map(|(block, bytes)| tree::leaf_of(&geometry, block, bytes));
        let leaves = Leaves::new(geometry, values.collect());
        (part, object, leaves)
    }

    #[test]
    fn what_is_written_is_judged_where_it_lies() {
        let (part, object, leaves) = part(3 * B + 9);
        let mut runs = Vec::new();
        for block in 1..4 {
            let bytes = object[block * B..object.len().min((block + 1) * B)].to_vec();
            let proven = judge::prove(&leaves, BlockIndex(block as u32), bytes).unwrap();
            proven.add_to(&mut runs);
        }
        let stored = part.write(&runs[0]).unwrap();
        assert_eq!(stored.blocks(), BlockRange::new(1, 4));
        let mut buffer = vec![0; B];
        let mut judged = |block| part.judge(&leaves, BlockIndex(block), &mut buffer).unwrap();
        assert_eq!(judged(0), None, "a hole");
        let (two, three) = (judged(2).unwrap(), judged(3).unwrap());
        assert_eq!(two.joined(three).unwrap().blocks(), BlockRange::new(2, 4));
        assert_eq!(three.joined(two), None);
        part.write_unproven(b"x", 2 * B as u64).unwrap();
        assert_eq!(judged(2), None, "another byte");
        part.set_length(object.len() as u64 - 1).unwrap();
        assert_eq!(judged(3), None, "too short");
        let unknown = Leaves::empty(*leaves.object());
        let judged = part.judge(&unknown, BlockIndex(1), &mut buffer);
        assert_eq!(judged.unwrap(), None, "its leaf is not known");
    }

    #[test]
    fn nodes_are_judged_over_exactly_their_blocks() {
        let (part, object, leaves) = part(4 * B);
        part.write_unproven(&object, 0).unwrap();
        let geometry = leaves.geometry();
        let mut buffer = vec![0; 1000];
        let hashes = geometry.all().iter();
        let hashes = hashes.map(|block| part.hash(geometry, block, &mut buffer).unwrap().unwrap());
        let hashes: Vec<HashedBlock> = hashes.collect();
        let values = leaves.all().unwrap();
        let node = tree::merge(&values[2..]);
        let judge = |start, end, hashed: &[HashedBlock]| {
            part.judge_node(leaves.object(), BlockRange::new(start, end), node, hashed)
        };
        let (stored, found) = judge(2, 4, &hashes[2..]).unwrap();
        assert_eq!(stored.blocks(), BlockRange::new(2, 4));
        assert_eq!(found, values[2..]);
        assert!(judge(0, 2, &hashes[2..]).is_none(), "other places");
        assert!(judge(0, 2, &hashes[..2]).is_none(), "other bytes");
        assert!(judge(2, 4, &hashes[2..3]).is_none(), "too few");
        part.set_length(object.len() as u64 - 1).unwrap();
        let short = part.hash(geometry, BlockIndex(3), &mut buffer).unwrap();
        assert!(short.is_none());
    }
}
