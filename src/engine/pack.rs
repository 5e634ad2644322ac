//! Making the pack of an object while it is hashed (pack.md, 5), and checking one (pack.md, 4).

use std::{
    ffi::OsString,
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::{
    disk::{
        error::{DiskError, FileOperation},
        files::{self, Entry},
        regions::{self, FileRegions},
        temporary::{self, Replaces, Temporary},
    },
    format::{
        compression::{PackOptions, PackedFrame},
        geometry::ByteRange,
        manifest::Tree,
        pack::{self, BadPack, FRAME, FRONT_BYTES, PackIndex, PackLayout, PackedLengths},
        tree::Root,
    },
};

use super::error::Error;

/// A pack that saves less than one byte of so many is not made.
const SAVES_MIN: u64 = 32;

/// The path of the pack that belongs to a manifest.
pub fn beside(manifest: &Path) -> PathBuf {
    let mut path = OsString::from(manifest);
    path.push(".pack");
    path.into()
}

/// The parts of a pack outside of memory, until all of them are known.
pub struct PackParts {
    table: Spool,
    frames: Spool,
    pieces: Spool,
    lengths: PackedLengths,
    /// Bytes that a reader moves for all of the object.
    packed_bytes: u64,
    plain_bytes: u64,
    /// The index, when the pack was published.
    index: Option<Vec<u8>>,
}

struct Spool {
    file: File,
    path: PathBuf,
    bytes: u64,
}

impl Spool {
    fn new(folder: &Path) -> Result<Spool, Error> {
        let (file, path) = temporary::spool_in(folder)?;
        Ok(Spool {
            file,
            path,
            bytes: 0,
        })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        files::write_at(&self.file, &self.path, bytes, self.bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

impl PackParts {
    /// Of an object of which nothing was read. The folder is that of the pack, which has room for it.
    pub fn new(folder: &Path) -> Result<PackParts, Error> {
        Ok(PackParts {
            table: Spool::new(folder)?,
            frames: Spool::new(folder)?,
            pieces: Spool::new(folder)?,
            lengths: PackedLengths::default(),
            packed_bytes: 0,
            plain_bytes: 0,
            index: None,
        })
    }

    /// Takes the next frame.
    pub fn push(&mut self, packed: &PackedFrame) -> Result<(), Error> {
        self.lengths.push(packed.frame.len(), &packed.lengths);
        let table: Vec<u8> = packed
            .lengths
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .collect();
        self.table.append(&table)?;
        self.frames.append(&packed.frame)?;
        self.pieces.append(&packed.pieces)?;
        let plain = packed.plain_bytes;
        self.plain_bytes += plain;
        self.packed_bytes += match packed.frame.len() as u64 {
            0 => plain,
            length => length,
        };
        Ok(())
    }

    /// Whether the pack is made: it saves enough, or is to be whole. An empty object has none.
    pub fn is_wanted(&self, options: PackOptions) -> bool {
        let saves = self.packed_bytes < self.plain_bytes - self.plain_bytes / SAVES_MIN;
        self.plain_bytes > 0 && (saves || options.whole)
    }

    /// Writes the pack as a file, which appears, or is replaced, when it is complete. Returns its length.
    pub fn publish(&mut self, path: &Path, tree: &Tree) -> Result<u64, Error> {
        let layout = PackLayout::new(self.plain_bytes).expect("an empty object has no pack");
        let temporary = Temporary::create(path, Replaces::Pack)?;
        let mut hasher = blake3::Hasher::new();
        let mut at = 0;
        let mut append = |bytes: &[u8]| -> Result<(), Error> {
            hasher.update(bytes);
            temporary.write_at(bytes, at)?;
            at += bytes.len() as u64;
            Ok(())
        };
        append(&pack::front(self.plain_bytes, tree.root()))?;
        for spool in [&self.table, &self.frames, &self.pieces] {
            let all = ByteRange::new(0, spool.bytes);
            regions::copy(&spool.file, &spool.path, all, &mut append)?;
        }
        temporary.publish(None)?;
        let blake3 = *hasher.finalize().as_bytes();
        self.index = Some(self.lengths.to_index(layout, blake3));
        Ok(at)
    }

    /// The index of the pack that was published, for its manifest.
    pub fn index(&self) -> Option<&[u8]> {
        self.index.as_deref()
    }
}

/// Writes the front of a pack alone, which says that the object hardly compresses (library.md, 1).
pub fn publish_front(path: &Path, tree: &Tree) -> Result<(), Error> {
    let temporary = Temporary::create(path, Replaces::Pack)?;
    temporary.write_at(&pack::front(tree.geometry().length(), tree.root()), 0)?;
    Ok(temporary.publish(None)?)
}

/// Checks that a pack, whose index this is, is that of an object that was proven, on all cores. Reads the object once and the pack twice.
pub fn check(object: &Path, root: Root, index: &[u8], pack: &Path) -> Result<(), Error> {
    let regions = FileRegions::open(object)?.in_regions_of(FRAME as usize);
    let length = regions.length();
    let refuse = |cause: BadPack| Error::Pack {
        place: pack.display().to_string(),
        cause,
    };
    let index = PackIndex::from_bytes(index, length).map_err(|cause| refuse(cause.into()))?;
    let layout = PackLayout::new(length).expect("its index was read");
    let file = files::open_for_reading(pack)?;
    let (expected, found) = (index.head.length, Entry::of(&file, pack)?.length);
    if found != expected {
        return Err(refuse(BadPack::Length { expected, found }));
    }
    let read = |range: ByteRange| -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; range.length() as usize];
        let read = file.read_exact_at(&mut bytes, range.start);
        read.map_err(|cause| DiskError::io(FileOperation::Read, pack, cause))?;
        Ok(bytes)
    };
    if read(ByteRange::new(0, FRONT_BYTES as u64))? != pack::front(length, root) {
        return Err(refuse(BadPack::Front));
    }
    let places = index.places(layout);
    regions::for_each(&regions, |start, content| {
        let number = start / FRAME;
        let (frame, pieces) = places[number as usize];
        let table = read(layout.table_of_frame(number))?;
        let packed = PackedFrame {
            plain_bytes: layout.frame(number).length(),
            frame: read(frame)?,
            lengths: table
                .as_chunks()
                .0
                .iter()
                .map(|n| u16::from_le_bytes(*n))
                .collect(),
            pieces: read(pieces)?,
        };
        packed.check(start, content.bytes()).map_err(refuse)
    })?;
    regions.check_unchanged()?;
    // The frames were read on all cores, in no order; the hash needs the bytes in order.
    let mut hasher = blake3::Hasher::new();
    regions::copy(&file, pack, ByteRange::new(0, found), |bytes| {
        hasher.update(bytes);
        Ok::<(), Error>(())
    })?;
    match *hasher.finalize().as_bytes() == index.head.blake3 {
        true => Ok(()),
        false => Err(refuse(BadPack::Checksum)),
    }
}
