//! `objects/ROOT.leaves`: the header of an own object, and the known leaves of its blocks (store.md).

use std::{fs::File, io, os::unix::fs::FileExt, path::PathBuf};

use crate::{
    disk::{
        error::{DiskError, FileOperation},
        files,
        state::Provenance,
    },
    format::{
        geometry::{BlockIndex, BlockRange, BlockSize, Geometry},
        tree::{self, Cv, Root},
    },
};

const MAGIC: [u8; 8] = *b"\x89SAPWLVS";
const VERSION: u16 = 1;
/// Of the header; the leaves follow it.
const HEADER_BYTES: usize = 4096;
/// What the check at the end of the header covers.
const CHECKED_BYTES: usize = HEADER_BYTES - 32;
/// Where the texts begin.
const TEXTS: usize = 64;
/// A leaf that is not known.
const UNKNOWN: Cv = [0; 32];

/// The file, open.
#[derive(Debug)]
pub(super) struct LeavesFile {
    file: File,
    path: PathBuf,
    geometry: Geometry,
}

/// The identity of an own object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub root: Root,
    pub geometry: Geometry,
    pub provenance: Provenance,
}

impl Header {
    fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..48].copy_from_slice(&self.root.0);
        bytes[48..56].copy_from_slice(&self.geometry.length().to_le_bytes());
        bytes[56..64].copy_from_slice(&self.geometry.block_size().bytes().to_le_bytes());
        let Provenance {
            origin,
            url,
            key_id,
            name,
        } = &self.provenance;
        let mut at = TEXTS;
        // A URL may be of any length, so it comes last, and is left out if it does not fit.
        for text in [origin, key_id, name, url] {
            let text = text.as_deref().unwrap_or_default();
            let text = match at + 2 + text.len() <= CHECKED_BYTES {
                true => text,
                false => "",
            };
            if at + 2 <= CHECKED_BYTES {
                bytes[at..at + 2].copy_from_slice(&(text.len() as u16).to_le_bytes());
                bytes[at + 2..at + 2 + text.len()].copy_from_slice(text.as_bytes());
            }
            at += 2 + text.len();
        }
        let check = tree::value_of(0, &bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..].copy_from_slice(&check);
        bytes
    }

    fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Option<Header> {
        let number = |at: usize| {
            bytes[at..]
                .first_chunk()
                .map(|eight| u64::from_le_bytes(*eight))
        };
        let is_ours = bytes[..8] == MAGIC && bytes[8..10] == VERSION.to_le_bytes();
        if !is_ours || bytes[CHECKED_BYTES..] != tree::value_of(0, &bytes[..CHECKED_BYTES]) {
            return None;
        }
        let mut at = TEXTS;
        let mut text = || {
            let length = usize::from(u16::from_le_bytes(*bytes[at..].first_chunk()?));
            let text = bytes[..CHECKED_BYTES].get(at + 2..at + 2 + length)?;
            at += 2 + length;
            std::str::from_utf8(text)
                .ok()
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        };
        let (origin, key_id, name, url) = (text(), text(), text(), text());
        Some(Header {
            root: Root(*bytes[16..].first_chunk()?),
            geometry: Geometry::new(number(48)?, BlockSize::new(number(56)?)?)?,
            provenance: Provenance {
                origin,
                url,
                key_id,
                name,
            },
        })
    }
}

impl LeavesFile {
    /// Writes the header into a new file.
    pub fn begin(file: File, path: PathBuf, header: &Header) -> Result<LeavesFile, DiskError> {
        files::write_at(&file, &path, &header.to_bytes(), 0)?;
        let geometry = header.geometry;
        Ok(LeavesFile {
            file,
            path,
            geometry,
        })
    }

    /// Reads the header of a file; `None`: it has none that is whole.
    pub fn read(file: File, path: PathBuf) -> Result<Option<(LeavesFile, Header)>, DiskError> {
        let mut bytes = [0; HEADER_BYTES];
        match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => (),
            Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(cause) => return Err(DiskError::io(FileOperation::Read, &path, cause)),
        }
        Ok(Header::from_bytes(&bytes).map(|header| {
            let geometry = header.geometry;
            let leaves = LeavesFile {
                file,
                path,
                geometry,
            };
            (leaves, header)
        }))
    }

    fn place(block: u32) -> u64 {
        HEADER_BYTES as u64 + u64::from(block) * 32
    }

    /// Notes the leaf of a block.
    pub fn put(&self, block: BlockIndex, leaf: &Cv) -> Result<(), DiskError> {
        debug_assert!(block.0 < self.geometry.blocks());
        files::write_at(&self.file, &self.path, leaf, LeavesFile::place(block.0))
    }

    /// The leaves of some blocks, as far as they are known.
    pub fn get(&self, blocks: BlockRange) -> Result<Vec<Option<Cv>>, DiskError> {
        let mut leaves = vec![UNKNOWN; blocks.count() as usize];
        let bytes = leaves.as_flattened_mut();
        let (mut read, start) = (0, LeavesFile::place(blocks.start));
        while read < bytes.len() {
            match self.file.read_at(&mut bytes[read..], start + read as u64) {
                // Leaves behind the end of the file are not known.
                Ok(0) => break,
                Ok(count) => read += count,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => (),
                Err(cause) => return Err(DiskError::io(FileOperation::Read, &self.path, cause)),
            }
        }
        let known = |leaf: Cv| (leaf != UNKNOWN).then_some(leaf);
        Ok(leaves.into_iter().map(known).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(url: &str) -> Header {
        Header {
            root: Root([7; 32]),
            geometry: Geometry::new(100_000, BlockSize::MIN).unwrap(),
            provenance: Provenance {
                origin: Some("http://a".to_owned()),
                url: Some(url.to_owned()),
                key_id: None,
                name: Some("film".to_owned()),
            },
        }
    }

    #[test]
    fn headers_are_what_they_were_or_nothing() {
        let made = header("http://a/film");
        let bytes = made.to_bytes();
        assert_eq!(Header::from_bytes(&bytes), Some(made));
        for bit in (0..HEADER_BYTES * 8).step_by(61) {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::from_bytes(&flipped), None, "bit {bit}");
        }
        for length in [3900, CHECKED_BYTES, 70_000] {
            let read = Header::from_bytes(&header(&"u".repeat(length)).to_bytes()).unwrap();
            assert_eq!(read.provenance.url.is_some(), length == 3900);
            assert_eq!(read.provenance.name.as_deref(), Some("film"));
        }
    }

    #[test]
    fn leaves_that_were_put_are_known() {
        let path = PathBuf::from("-");
        let file = tempfile::tempfile().unwrap();
        let leaves =
            LeavesFile::begin(file.try_clone().unwrap(), path.clone(), &header("")).unwrap();
        leaves.put(BlockIndex(2), &[1; 32]).unwrap();
        let (read, _) = LeavesFile::read(file, path.clone()).unwrap().unwrap();
        let all = read.get(BlockRange::new(0, 7)).unwrap();
        assert_eq!(all[2], Some([1; 32]));
        assert_eq!(all.iter().flatten().count(), 1);
        let empty = tempfile::tempfile().unwrap();
        assert!(LeavesFile::read(empty, path).unwrap().is_none());
    }
}
