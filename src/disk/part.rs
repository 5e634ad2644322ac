//! The unfinished download.

use std::{
    fs::File,
    io::{self, IoSlice},
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::Mutex,
};

use rustix::fs::{self, SeekFrom};

use crate::format::{
    blockset::BlockSet,
    geometry::{BlockRange, ByteRange, Geometry},
    journal::Place,
};

use super::{
    error::{DiskError, Doing},
    files::{self, Entry},
    seed::Seed,
};

/// Where the kernel cannot copy by itself, so many bytes are read and written at a time.
const COPY_BYTES: u64 = 256 * 1024;

/// `FILE.part`, open.
#[derive(Debug)]
pub struct Part {
    file: File,
    path: PathBuf,
    /// The kernel lets one write into a file at a time, and those that wait for it may spin: here they sleep.
    writing: Mutex<()>,
}

impl Part {
    /// A part in this file; `path` is for messages.
    pub fn new(file: File, path: PathBuf) -> Part {
        Part {
            file,
            path,
            writing: Mutex::new(()),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Writes at a place of the object.
    pub fn write(&self, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
        files::write_at(&self.file, &self.path, bytes, offset)
    }

    /// Writes several pieces one behind the other, in as few calls as possible.
    pub fn write_slices(&self, slices: &mut [IoSlice], offset: u64) -> Result<(), DiskError> {
        let _one = self
            .writing
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        files::write_slices_at(&self.file, &self.path, slices, offset)
    }

    /// Reads from a place of the object; `false` if the part ends before the buffer is full.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> Result<bool, DiskError> {
        match self.file.read_exact_at(buffer, offset) {
            Ok(()) => Ok(true),
            Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(cause) => Err(DiskError::io(Doing::Read, &self.path, cause)),
        }
    }

    /// Copies bytes of a seed to a place of the object, shared where the file system can; holes stay holes. `false`: the seed could
    /// not be read there.
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
                    self.write(&buffer, to)?;
                    buffer.len() as u64
                }
            };
        }
        Ok(true)
    }

    /// Makes bytes of the object zeros: a hole, where the file system has them.
    pub fn make_zeros(&self, range: ByteRange) -> Result<(), DiskError> {
        // Behind the end there is nothing to be made zero.
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
            self.write(&zeros[..now as usize], at)?;
            at += now;
        }
        Ok(())
    }

    /// Gives a part that is shorter than the object its length, so that zeros at its end can be read.
    pub fn lengthen(&self, length: u64) -> Result<(), DiskError> {
        match self.length()? < length {
            true => self.set_length(length),
            false => Ok(()),
        }
    }

    /// What it is on the disk.
    pub fn entry(&self) -> Result<Entry, DiskError> {
        Entry::of(&self.file, &self.path)
    }

    /// Its bytes so far, holes included.
    pub fn length(&self) -> Result<u64, DiskError> {
        Ok(self.entry()?.length)
    }

    /// Cuts what is longer than the object, and gives a part that ends in a hole its length.
    pub fn set_length(&self, length: u64) -> Result<(), DiskError> {
        files::set_length(&self.file, &self.path, length)
    }

    /// Sets the permission bits.
    pub fn set_mode(&self, mode: u32) -> Result<(), DiskError> {
        files::set_mode(&self.file, &self.path, mode)
    }

    /// Makes the data durable.
    pub fn sync_data(&self) -> Result<(), DiskError> {
        files::sync_data(&self.file, &self.path)
    }

    /// Makes data and attributes durable.
    pub fn sync_all(&self) -> Result<(), DiskError> {
        files::sync_all(&self.file, &self.path)
    }

    /// The blocks that lie wholly in data, not in holes. Whether they are right is for the judge.
    pub fn blocks_with_data(&self, geometry: &Geometry) -> Result<BlockSet, DiskError> {
        let mut blocks = BlockSet::empty(geometry.blocks());
        let length = self.length()?.min(geometry.length());
        let mut at = 0;
        while at < length {
            let (start, end) = match fs::seek(&self.file, SeekFrom::Data(at)) {
                Ok(start) => match fs::seek(&self.file, SeekFrom::Hole(start)) {
                    Ok(end) => (start, end),
                    Err(cause) => return Err(DiskError::io(Doing::Read, &self.path, cause)),
                },
                // No data from here on.
                Err(rustix::io::Errno::NXIO) => break,
                // A file system that does not tell: all may be data.
                Err(rustix::io::Errno::INVAL) => (at, length),
                Err(cause) => return Err(DiskError::io(Doing::Read, &self.path, cause)),
            };
            blocks.insert_range(
                geometry.blocks_within(ByteRange::new(start.min(length), end.min(length))),
            );
            at = end;
        }
        Ok(blocks)
    }

    /// Gives the disk back what all but these blocks took. `false`: this file system cannot do it.
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

/// Which boot of the machine this is; zeros if it cannot be told.
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
