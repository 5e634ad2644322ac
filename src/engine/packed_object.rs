//! An object of which only the manifest and a whole pack are here: its plain bytes, each block proven before it is given.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use crate::{
    disk::{
        error::{DiskError, FileOperation},
        files::Entry,
    },
    format::{
        compression,
        geometry::{BlockIndex, ByteRange, Geometry},
        judge::{self, Leaves},
        pack::{BadPack, FRAME, FRONT_BYTES, HEAD_BYTES, PackHead, PackIndex, PackLayout},
        tree::Root,
    },
};

use super::{
    error::Error,
    manifest_file::{self, ManifestFile},
    pack,
};

/// An open pack that has every frame of its object.
pub struct PackedObject {
    root: Root,
    leaves: Leaves,
    layout: PackLayout,
    /// Where each packed frame lies in the pack.
    frames: Vec<ByteRange>,
    pack: File,
    /// Of the pack.
    path: PathBuf,
}

/// Whether the pack beside a manifest is as long as its index says, or the front alone where there is no index. A run that was
/// killed may have left an earlier manifest beside a later pack.
pub fn has_pack(manifest: &Path) -> bool {
    let length = fs::metadata(pack::beside(manifest)).map(|found| found.len());
    let (Ok(length), Ok((file, header))) = (length, manifest_file::read_header(manifest)) else {
        return false;
    };
    let Some(section) = header.pack() else {
        return length == FRONT_BYTES as u64;
    };
    let mut head = [0; HEAD_BYTES];
    file.read_exact_at(&mut head, section.bytes.start).is_ok()
        && PackHead::read(&head).is_ok_and(|head| head.length == length)
}

impl PackedObject {
    /// Of a manifest and the pack beside it; their paths are for errors. `None`: the manifest has no index of a pack, the pack does
    /// not have all of the object, or is not the one of the index.
    pub fn open(
        manifest: (File, PathBuf),
        pack: (File, PathBuf),
    ) -> Result<Option<PackedObject>, Error> {
        let manifest = ManifestFile::of_open(manifest.0, &manifest.1)?;
        let header = manifest.manifest.statement.header();
        let (geometry, section) = (header.geometry, header.pack());
        let (Some(layout), Some(section)) = (PackLayout::new(geometry.length()), section) else {
            return Ok(None);
        };
        let index = manifest.read_range(section.bytes)?;
        let Ok(index) = PackIndex::from_bytes(&index, geometry.length()) else {
            return Ok(None);
        };
        let frames: Vec<ByteRange> = index
            .places(layout)
            .into_iter()
            .map(|(frame, _)| frame)
            .collect();
        let (pack, path) = pack;
        let is_whole = frames.iter().all(|frame| !frame.is_empty());
        if !is_whole || Entry::of(&pack, &path)?.length != index.head.length {
            return Ok(None);
        }
        let leaves = manifest.manifest.tree.leaves().to_vec();
        Ok(Some(PackedObject {
            root: header.root,
            leaves: Leaves::new(geometry, leaves),
            layout,
            frames,
            pack,
            path,
        }))
    }

    /// Of the object.
    pub fn root(&self) -> Root {
        self.root
    }

    /// Of the object.
    pub fn geometry(&self) -> &Geometry {
        self.leaves.geometry()
    }

    /// Where the unit begins that this offset is in: a frame or a block, whatever is larger.
    pub fn unit_at(&self, offset: u64) -> u64 {
        let unit = FRAME.max(self.geometry().block_size().bytes());
        offset / unit * unit
    }

    /// The bytes of the unit that begins here.
    pub fn read(&self, start: u64) -> Result<Bytes, Error> {
        let geometry = *self.geometry();
        let unit = FRAME.max(geometry.block_size().bytes());
        let unit = ByteRange::new(start, geometry.length().min(start + unit));
        let mut bytes = Vec::with_capacity(unit.length() as usize);
        for frame in unit.start / FRAME..unit.end.div_ceil(FRAME) {
            let plain = self.layout.frame(frame);
            let mut packed = vec![0; self.frames[frame as usize].length() as usize];
            self.pack
                .read_exact_at(&mut packed, self.frames[frame as usize].start)
                .map_err(|cause| DiskError::io(FileOperation::Read, &self.path, cause))?;
            let decoded = compression::unpack(&packed, &[], plain.length() as usize);
            bytes.extend(decoded.ok_or_else(|| self.bad(plain))?);
        }
        let bytes = Bytes::from(bytes);
        let blocks = geometry.block_at(unit.start).0..=geometry.block_at(unit.end - 1).0;
        for block in blocks.map(BlockIndex) {
            let place = geometry.bytes_of(block);
            let within = (place.start - start) as usize..(place.end - start) as usize;
            if judge::verify(&self.leaves, block, &bytes[within]).is_err() {
                return Err(self.bad(place));
            }
        }
        Ok(bytes)
    }

    fn bad(&self, bytes: ByteRange) -> Error {
        Error::Pack {
            place: self.path.display().to_string(),
            cause: BadPack::Content(bytes),
        }
    }
}
