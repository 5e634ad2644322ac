//! Reading files that may change, a piece at a time.

use std::{
    fs::File,
    io::{self, IoSliceMut},
    os::unix::fs::FileExt,
    path::Path,
};

use rustix::{
    fs,
    io::{Errno, ReadWriteFlags, preadv2},
};

use crate::format::geometry::ByteRange;

use super::files::Version;

/// Bytes of this version of a file. A file that was changed is an error: its bytes may be of two versions.
pub fn read(file: &File, version: &Version, bytes: ByteRange) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; bytes.length() as usize];
    file.read_exact_at(&mut buffer, bytes.start)?;
    check(file, version)?;
    Ok(buffer)
}

/// The same without waiting for a disk; `None`: not all of these bytes are in memory, or the file system cannot tell.
pub fn read_if_cached(
    file: &File,
    version: &Version,
    bytes: ByteRange,
) -> Option<io::Result<Vec<u8>>> {
    let mut buffer = vec![0; bytes.length() as usize];
    let slices = &mut [IoSliceMut::new(&mut buffer)];
    let read = match preadv2(file, slices, bytes.start, ReadWriteFlags::NOWAIT) {
        Ok(count) if count == buffer.len() => Ok(()),
        // Such a file system does not know the flag, and has no disk to wait for.
        Err(Errno::OPNOTSUPP) if is_in_memory(file) => file.read_exact_at(&mut buffer, bytes.start),
        _ => return None,
    };
    Some(read.and_then(|()| check(file, version)).map(|()| buffer))
}

/// Whether all files of this file system are in memory.
fn is_in_memory(file: &File) -> bool {
    const TMPFS: u32 = 0x0102_1994;
    const RAMFS: u32 = 0x8584_58f6;
    // Of other widths on other systems.
    fs::fstatfs(file).is_ok_and(|system| [TMPFS, RAMFS].contains(&(system.f_type as u32)))
}

/// Fails if the file has other bytes than in this version.
fn check(file: &File, version: &Version) -> io::Result<()> {
    match Version::of(file, Path::new("")) {
        Ok(now) if now.has_bytes_of(version) => Ok(()),
        _ => Err(io::Error::other("the file changed while it was sent")),
    }
}
