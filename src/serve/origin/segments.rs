//! Segments: pieces of a file of one size, each with its SHA-256 digest, for programs that know no BLAKE3 trees.

use std::{fs::File, mem, path::Path};

use crate::{
    disk::{
        files::Version,
        regions::{self, FileRegions, Regions},
        temporary::{Replaces, Temporary},
    },
    engine::error::Error,
    format::digests::{Algorithm, DigestHasher},
};

/// The segments are larger where there would be more: a description then has at most 4,096 x about 130 bytes, half a megabyte.
const SEGMENTS_MAX: u64 = 4096;
/// So that a file of 4 GiB or less has segments of this size.
const SEGMENT_BYTES_MIN: u64 = 1 << 20;
/// Bytes of a segment of a file of this length.
pub fn bytes_of_each(length: u64) -> u64 {
    let mut bytes = SEGMENT_BYTES_MIN;
    while length.div_ceil(bytes) > SEGMENTS_MAX {
        bytes *= 2;
    }
    bytes
}

/// Writes the SHA-256 digests of the segments of a file, in order, into a new file.
pub fn digest(file: File, version: &Version, to: &Path) -> Result<(), Error> {
    let regions = FileRegions::of(file, to)?;
    let segment = bytes_of_each(version.stamp().length);
    let mut digests = Vec::new();
    let mut hasher = DigestHasher::new(Algorithm::Sha256);
    let mut buffer = Vec::new();
    let mut inside = 0;
    // A region is a part of a segment: both are powers of two.
    while regions.next(&mut buffer)?.is_some() {
        hasher.update(&buffer);
        inside += buffer.len() as u64;
        if inside == segment {
            let whole = mem::replace(&mut hasher, DigestHasher::new(Algorithm::Sha256));
            digests.extend_from_slice(whole.finish().value());
            inside = 0;
        }
    }
    if inside > 0 {
        digests.extend_from_slice(hasher.finish().value());
    }
    regions.check_unchanged()?;
    regions::check_not_stopped(to)?;
    let temporary = Temporary::create(to, Replaces::Nothing)?;
    temporary.write_at(&digests, 0)?;
    Ok(temporary.publish(None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_has_at_most_some_thousand_segments() {
        let mib = 1 << 20;
        for (length, bytes) in [
            (0, mib),
            (1, mib),
            (4096 * mib, mib),
            (4096 * mib + 1, 2 * mib),
            (64 << 30, 16 * mib),
            (u64::MAX >> 1, 1 << 51),
        ] {
            assert_eq!(bytes_of_each(length), bytes, "{length}");
        }
    }
}
