//! Holes: stretches of a sparse file that read as zeros and take no room on the disk.

use std::{fs::File, os::unix::fs::MetadataExt};

use parking_lot::Mutex;
use rustix::fs::{self, SeekFrom};

use crate::format::geometry::ByteRange;

/// File systems that are believed, because what they call a hole becomes what is proven (statfs(2)): ext2 to ext4, XFS, tmpfs. Others
/// are read: ZFS before 2.2.2 showed data that was written a moment ago as a hole, and a file system of another machine, or one in
/// user space, shows whatever it likes.
const BELIEVED: [u32; 3] = [0xEF53, 0x5846_5342, 0x0102_1994];
/// The unit of the room that a file takes (stat(2)).
const UNIT: u64 = 512;

/// The holes of a file, found as they are needed. The offset of the open file is changed by this.
pub struct Holes {
    is_sparse: bool,
    /// The one that was found last.
    last: Mutex<ByteRange>,
}

impl Holes {
    /// Of this file. One that takes as much room as it has bytes has none.
    pub fn of(file: &File) -> Holes {
        let has_room_left = |file: &File| {
            let metadata = file.metadata();
            metadata.is_ok_and(|metadata| metadata.blocks().saturating_mul(UNIT) < metadata.len())
        };
        let is_believed = |file: &File| {
            fs::fstatfs(file).is_ok_and(|system| BELIEVED.contains(&(system.f_type as u32)))
        };
        Holes {
            is_sparse: has_room_left(file) && is_believed(file),
            last: Mutex::new(ByteRange::new(0, 0)),
        }
    }

    /// Whether these bytes, which were in the file when it was opened, are all in a hole now.
    pub fn contain(&self, file: &File, bytes: ByteRange) -> bool {
        if !self.is_sparse {
            return false;
        }
        let mut last = self.last.lock();
        if last.start <= bytes.start && bytes.end <= last.end {
            return true;
        }
        let data = match fs::seek(file, SeekFrom::Data(bytes.start)) {
            Ok(data) => data,
            // There is no data from here on.
            Err(rustix::io::Errno::NXIO) => u64::MAX,
            Err(_) => bytes.start,
        };
        if data < bytes.end {
            return false;
        }
        *last = ByteRange::new(bytes.start, data);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::files;
    use std::path::Path;

    const UNIT: u64 = 64 * 1024;

    #[test]
    fn data_is_never_in_a_hole() {
        // Files in memory have holes on every Linux.
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        files::set_length(&file, Path::new("-"), 40 * UNIT).unwrap();
        let data = [3, 4, 9, 20];
        for at in data {
            files::write_at(&file, Path::new("-"), b"x", at * UNIT + 77).unwrap();
        }
        let holes = Holes::of(&file);
        for start in 0..40 {
            for end in start + 1..=40 {
                let has_data = data.iter().any(|at| (start..end).contains(at));
                let bytes = ByteRange::new(start * UNIT, end * UNIT);
                assert_eq!(holes.contain(&file, bytes), !has_data, "{start} to {end}");
            }
        }
        let full = tempfile::tempfile_in("/dev/shm").unwrap();
        files::write_at(&full, Path::new("-"), &vec![0; UNIT as usize], 0).unwrap();
        let holes = Holes::of(&full);
        assert!(!holes.contain(&full, ByteRange::new(0, UNIT)));
    }
}
