//! Objects and their manifests, in memory.

use std::{ops::Range, os::unix::fs::FileExt, path::PathBuf, sync::Arc};

use sapwood::format::{
    geometry::{BlockSize, Geometry},
    manifest::{self, Particulars, Tree},
    paint, statement,
    tree::{self, Cv},
};

/// What an object consists of. Large ones are made as they are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Bytes(Vec<u8>),
    /// The first so many bytes of the painting.
    Painted(u64),
    /// So many zeros.
    Zeros(u64),
    /// A file of this length.
    File(PathBuf, u64),
    /// One after the other, each repeated up to its length.
    Repeated(Arc<Vec<(Vec<u8>, u64)>>),
}

impl Content {
    pub fn length(&self) -> u64 {
        match self {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Painted(length) | Content::Zeros(length) | Content::File(_, length) => *length,
            Content::Repeated(parts) => parts.iter().map(|(_, length)| length).sum(),
        }
    }

    /// These bytes; places outside of the object read as 0xEE.
    pub fn read(&self, range: Range<u64>) -> Vec<u8> {
        let within = range.start.min(self.length())..range.end.min(self.length());
        let count = (within.end - within.start) as usize;
        let mut out = match self {
            Content::Bytes(bytes) => bytes[within.start as usize..within.end as usize].to_vec(),
            Content::Painted(_) => paint::bytes(within.start, count),
            Content::Zeros(_) => vec![0; count],
            Content::File(path, _) => {
                let mut bytes = vec![0; count];
                // A file that became shorter reads as zeros there.
                let _ = std::fs::File::open(path)
                    .and_then(|file| file.read_exact_at(&mut bytes, within.start));
                bytes
            }
            Content::Repeated(parts) => {
                let mut bytes = Vec::with_capacity(count);
                let mut start = 0;
                for (unit, length) in parts.iter() {
                    let end = within.end.min(start + length);
                    let mut at = within.start.max(start);
                    while at < end {
                        let from = ((at - start) % unit.len() as u64) as usize;
                        let now = (unit.len() - from).min((end - at) as usize);
                        bytes.extend_from_slice(&unit[from..from + now]);
                        at += now as u64;
                    }
                    start += length;
                }
                bytes
            }
        };
        out.resize((range.end - range.start) as usize, 0xEE);
        out
    }

    pub fn all(&self) -> Vec<u8> {
        self.read(0..self.length())
    }
}

pub fn block_size(bytes: u64) -> BlockSize {
    BlockSize::new(bytes).expect("a block size")
}

pub fn geometry(length: u64, block: u64) -> Geometry {
    Geometry::new(length, block_size(block)).expect("a possible geometry")
}

/// The tree of an object, without hints.
pub fn tree_of(content: &Content, block: u64) -> Tree {
    let geometry = geometry(content.length(), block);
    let leaves: Vec<Cv> = geometry
        .all()
        .iter()
        .map(|index| {
            let bytes = geometry.bytes_of(index);
            tree::leaf_of(&geometry, index, &content.read(bytes.start..bytes.end))
        })
        .collect();
    Tree::new(geometry, leaves, None)
}

/// The manifest of an object, without hints.
pub fn manifest_of(content: &Content, block: u64) -> Vec<u8> {
    manifest::to_bytes(&tree_of(content, block), None, Particulars::default())
}

/// The manifest of an object with another length and block size in its header: sound for every decoder.
pub fn manifest_with_false_geometry(content: &Content, block: u64, claimed: Geometry) -> Vec<u8> {
    let mut bytes = manifest_of(content, block);
    let (honest, _) = statement::read_front(&bytes).expect("it was just made");
    let header = statement::Header {
        geometry: claimed,
        ..honest.header().clone()
    };
    assert_eq!(
        header.layout().pages(),
        honest.header().layout().pages(),
        "a false geometry with as many blocks"
    );
    let lying = statement::Statement::new(header);
    let front = manifest::front(&lying, None);
    bytes[..front.len()].copy_from_slice(&front);
    bytes
}
