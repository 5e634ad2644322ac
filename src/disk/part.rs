//! The unfinished download.

use std::{
    fs::File,
    io::{self, IoSlice},
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::Mutex,
};

use rustix::fs::{self, SeekFrom};

use crate::core::{
    blockset::BlockSet,
    geometry::{BlockRange, ByteRange, Geometry},
    journal::Place,
};

use super::{
    error::{DiskError, Doing},
    files::{self, Entry},
};

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
