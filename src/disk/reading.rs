//! Reading files that may change, a piece at a time.

use std::{
    fs::File,
    io::{self, IoSliceMut},
    os::unix::fs::FileExt,
    path::Path,
};

use rustix::io::{ReadWriteFlags, preadv2};

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
    match preadv2(file, slices, bytes.start, ReadWriteFlags::NOWAIT) {
        Ok(count) if count == buffer.len() => Some(check(file, version).map(|()| buffer)),
        _ => None,
    }
}

/// Fails if the file has other bytes than in this version.
fn check(file: &File, version: &Version) -> io::Result<()> {
    match Version::of(file, Path::new("")) {
        Ok(now) if now.has_bytes_of(version) => Ok(()),
        _ => Err(io::Error::other("the file changed while it was sent")),
    }
}
