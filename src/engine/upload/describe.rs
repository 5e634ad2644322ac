//! Describing a part of an upload in one pass over its bytes: its SHA-256, and the leaves, anchors and pieces of its blocks. Both ends
//! do the same, so that the receiver needs no hint of the sender, and parts join to the manifest of the whole without reading again.
//!
//! A part is described by one thread, in order; several parts at a time use several cores.

use std::{fs::File, io, mem, os::unix::fs::FileExt, path::Path};

use sha2::Digest as _;

use crate::{
    disk::{
        error::{DiskError, FileOperation},
        regions::{self, REGION},
    },
    format::{
        anchors::{self, BlockAnchor},
        geometry::{BlockSize, ByteRange},
        pieces,
        tree::{Cv, PartHasher, Root},
        upload::{PartRecord, RecordHeader, SessionId, Sha256},
    },
};

/// What is known of a part after all of its bytes were seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedPart {
    /// Its place in the object.
    pub bytes: ByteRange,
    /// Of the object.
    pub block_size: BlockSize,
    /// Of its bytes.
    pub sha256: Sha256,
    /// One for each block.
    pub leaves: Vec<Cv>,
    /// One for each block.
    pub anchors: Vec<BlockAnchor>,
    /// As the manifest holds them.
    pub pieces: Vec<u8>,
}

impl DescribedPart {
    /// The record of the part.
    pub fn into_record(self, session: SessionId, index: u32, is_whole: bool) -> PartRecord {
        PartRecord {
            header: RecordHeader {
                session,
                index,
                block_size: self.block_size,
                bytes: self.bytes,
                is_whole,
                sha256: self.sha256,
            },
            leaves: self.leaves,
            anchors: self.anchors,
            pieces: self.pieces,
        }
    }
}

/// Describes a part whose bytes come in order, in steps of any length.
pub struct PartDescriber {
    start: u64,
    block_size: BlockSize,
    sha256: sha2::Sha256,
    /// Of the block that is incomplete, with its bytes so far and the anchor of these.
    block: PartHasher,
    block_length: u64,
    anchor: BlockAnchor,
    leaves: Vec<Cv>,
    anchors: Vec<BlockAnchor>,
    pieces: Vec<u8>,
    /// The first block of the object as if there was no other.
    first_block: Option<Root>,
    /// The beginning of a section that is incomplete.
    section: Vec<u8>,
}

impl PartDescriber {
    /// A part that begins at this offset of its object, a border of blocks.
    pub fn new(start: u64, block_size: BlockSize) -> PartDescriber {
        debug_assert!(start.is_multiple_of(block_size.bytes()));
        PartDescriber {
            start,
            block_size,
            sha256: sha2::Sha256::new(),
            block: PartHasher::new(start),
            block_length: 0,
            anchor: BlockAnchor::NONE,
            leaves: Vec::new(),
            anchors: Vec::new(),
            pieces: Vec::new(),
            first_block: None,
            section: Vec::new(),
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.sha256.update(bytes);
        let whole = self.section_bytes();
        while !bytes.is_empty() {
            if self.section.is_empty() && bytes.len() >= whole {
                let (section, rest) = bytes.split_at(whole);
                self.take(section);
                bytes = rest;
                continue;
            }
            let missing = whole - self.section.len();
            let (some, rest) = bytes.split_at(missing.min(bytes.len()));
            self.section.extend_from_slice(some);
            bytes = rest;
            if self.section.len() == whole {
                self.take_section();
            }
        }
    }

    /// The leaves of the blocks that are complete.
    pub fn leaves(&self) -> &[Cv] {
        &self.leaves
    }

    /// The bytes taken so far.
    pub fn length(&self) -> u64 {
        self.leaves.len() as u64 * self.block_size.bytes()
            + self.block_length
            + self.section.len() as u64
    }

    /// Of the bytes taken so far.
    pub fn sha256_so_far(&self) -> Sha256 {
        Sha256(self.sha256.clone().finalize().into())
    }

    /// The part ends here. `is_whole`: its only block is the whole object, so that its leaf is the root.
    pub fn finish(mut self, is_whole: bool) -> DescribedPart {
        let length = self.length();
        self.take_section();
        if self.block_length > 0 || (is_whole && self.leaves.is_empty()) {
            self.close_block();
        }
        if let (true, Some(root)) = (is_whole, self.first_block) {
            self.leaves[0] = root.0;
        }
        DescribedPart {
            bytes: ByteRange::new(self.start, self.start + length),
            block_size: self.block_size,
            sha256: Sha256(self.sha256.finalize().into()),
            leaves: self.leaves,
            anchors: self.anchors,
            pieces: self.pieces,
        }
    }

    /// Bytes that are worked on at a time, so that they stay in the cache of a core: a whole number of cells and pieces.
    fn section_bytes(&self) -> usize {
        self.block_size.bytes().min(REGION as u64) as usize
    }

    fn take_section(&mut self) {
        let mut section = mem::take(&mut self.section);
        self.take(&section);
        section.clear();
        self.section = section;
    }

    fn take(&mut self, section: &[u8]) {
        self.block.update(section);
        let anchor = anchors::anchor_of(section);
        self.anchor = self.anchor.merge(anchor, self.block_length as u32);
        pieces::append_pieces(section, &mut self.pieces);
        self.block_length += section.len() as u64;
        if self.block_length == self.block_size.bytes() {
            self.close_block();
        }
    }

    fn close_block(&mut self) {
        if self.start == 0 && self.leaves.is_empty() {
            self.first_block = Some(self.block.root());
        }
        // An empty object has one block, and nothing but a root.
        let leaf = match (self.block_length, self.first_block) {
            (0, Some(root)) => root.0,
            _ => self.block.value(),
        };
        self.leaves.push(leaf);
        self.anchors
            .push(mem::replace(&mut self.anchor, BlockAnchor::NONE));
        let next = self.start + self.leaves.len() as u64 * self.block_size.bytes();
        self.block = PartHasher::new(next);
        self.block_length = 0;
    }
}

/// Describes these bytes of an open file. Blocks.
pub fn of_file(
    file: &File,
    path: &Path,
    bytes: ByteRange,
    block_size: BlockSize,
    is_whole: bool,
) -> Result<DescribedPart, DiskError> {
    let mut describer = PartDescriber::new(bytes.start, block_size);
    update_from(&mut describer, file, path, bytes)?;
    Ok(describer.finish(is_whole))
}

/// Has a describer take bytes of an open file. Blocks. A file that ends before has changed since its length was looked at.
pub fn update_from(
    describer: &mut PartDescriber,
    file: &File,
    path: &Path,
    bytes: ByteRange,
) -> Result<(), DiskError> {
    let mut buffer = vec![0; bytes.length().min(REGION as u64) as usize];
    let mut at = bytes.start;
    while at < bytes.end {
        regions::check_not_stopped(path)?;
        let count = buffer.len().min((bytes.end - at) as usize);
        match file.read_exact_at(&mut buffer[..count], at) {
            Ok(()) => describer.update(&buffer[..count]),
            Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => {
                let path = path.to_owned();
                return Err(DiskError::ChangedWhileRead { path });
            }
            Err(cause) => return Err(DiskError::io(FileOperation::Read, path, cause)),
        }
        at += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        disk::regions::StreamRegions,
        engine::hashing::TreeHasher,
        format::{geometry::Geometry, manifest::Tree, paint},
    };

    fn described(
        start: u64,
        bytes: &[u8],
        block_size: BlockSize,
        step: usize,
        is_whole: bool,
    ) -> DescribedPart {
        let mut describer = PartDescriber::new(start, block_size);
        for (index, some) in bytes.chunks(step.max(1)).enumerate() {
            assert_eq!(describer.length(), (index * step) as u64);
            describer.update(some);
        }
        describer.finish(is_whole)
    }

    /// Parts, in whatever steps their bytes come, join to what one pass over the whole object gives.
    #[test]
    fn parts_join_to_the_tree_of_the_whole() {
        let b = BlockSize::MIN.bytes();
        for (block_size, lengths) in [
            (
                BlockSize::MIN,
                vec![0, 1, 1023, b - 1, b, b + 1, 4 * b, 4 * b + 5, 9 * b + 77],
            ),
            (BlockSize::new(1 << 19).unwrap(), vec![5, 1 << 19, 3 << 19]),
        ] {
            for length in lengths {
                let bytes = paint::bytes(0, length as usize);
                let is_whole = length <= block_size.bytes();
                let settings = TreeHasher {
                    block_size,
                    may_grow: false,
                    hints: true,
                };
                let regions = StreamRegions::new(bytes.as_slice(), Path::new("-"), |_| ());
                let mut whole_pieces = Vec::new();
                let mut sink = |some: &[u8]| {
                    whole_pieces.extend_from_slice(some);
                    Ok(())
                };
                let whole = settings.run(&regions, "-", &mut sink).unwrap();
                for step in [1000, 16384, 1 << 20] {
                    let part = 2 * block_size.bytes() as usize;
                    let mut parts: Vec<DescribedPart> = bytes
                        .chunks(part)
                        .enumerate()
                        .map(|(index, some)| {
                            let start = (index * part) as u64;
                            let part = described(start, some, block_size, step, is_whole);
                            assert_eq!(part.sha256.0, *sha2::Sha256::digest(some));
                            part
                        })
                        .collect();
                    if parts.is_empty() {
                        parts.push(described(0, &[], block_size, step, is_whole));
                    }
                    let leaves = parts.iter().flat_map(|part| part.leaves.clone()).collect();
                    let anchors = parts.iter().flat_map(|part| part.anchors.clone()).collect();
                    let pieces: Vec<u8> =
                        parts.iter().flat_map(|part| part.pieces.clone()).collect();
                    let geometry = Geometry::new(length, block_size).unwrap();
                    assert_eq!(
                        Tree::new(geometry, leaves, Some(anchors)),
                        whole,
                        "{length}"
                    );
                    assert_eq!(pieces, whole_pieces, "{length}");
                }
            }
        }
    }

    #[test]
    fn a_file_that_became_shorter_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, [7; 100]).unwrap();
        let file = File::open(&path).unwrap();
        let of = |end| of_file(&file, &path, ByteRange::new(0, end), BlockSize::MIN, true);
        assert_eq!(of(100).unwrap().bytes, ByteRange::new(0, 100));
        let shorter = of(101);
        assert!(matches!(shorter, Err(DiskError::ChangedWhileRead { .. })));
    }
}
