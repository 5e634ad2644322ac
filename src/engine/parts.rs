//! Manifests by many machines: each describes a range of an object as a part (part.md); the parts are joined.

use std::{
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
        geometry::{BlockSize, ByteRange, Geometry},
        manifest::{Particulars, Tree},
        part::{self, PartHeader, RefusedPart},
        statement::{Refused, name_is_allowed},
    },
};

use super::{
    create::{CreateOptions, Described},
    error::{Error, PartsApart},
    hashing::TreeHasher,
    sign::Signer,
};

/// Describes these bytes of a file as a part, which appears complete or not at all. `range` finds them by the length of the file.
pub fn describe(
    file: &Path,
    range: impl FnOnce(u64) -> Option<ByteRange>,
    out: &Path,
    options: &CreateOptions,
) -> Result<PartHeader, Error> {
    let place = file.display().to_string();
    let regions = FileRegions::open(file)?;
    let length = regions.length();
    let block_size = options.block_size.unwrap_or(BlockSize::auto(length));
    let many = || Error::TooManyBlocks {
        place: place.clone(),
    };
    let geometry = Geometry::new(length, block_size).ok_or_else(many)?;
    let bytes = range(length);
    let header = bytes.and_then(|bytes| PartHeader::of_bytes(geometry, !options.no_hints, bytes));
    let header = header.ok_or_else(|| Error::PartRange {
        place: place.clone(),
        block_size: block_size.bytes(),
        length,
    })?;
    if files::is_same_file(file, out) {
        let path = out.to_owned();
        let what = "the file that the part describes";
        return Err(DiskError::Conflict { path, what }.into());
    }
    let temporary = Temporary::create(out, Replaces::Part)?;
    let hasher = TreeHasher {
        block_size,
        may_grow: false,
        hints: header.hints,
    };
    let mut at = header.pieces().start;
    let mut pieces = |bytes: &[u8]| {
        temporary.write_at(bytes, at)?;
        at += bytes.len() as u64;
        Ok(())
    };
    let (leaves, anchors) = hasher.run_part(regions, &header, &place, &mut pieces)?;
    temporary.write_at(&part::front(&header, &leaves, &anchors), 0)?;
    let hash = hash_of(temporary.file(), &temporary.path(), &header)?;
    temporary.write_at(&hash, header.pieces().end)?;
    temporary.publish(None)?;
    Ok(header)
}

/// The hash at the end of a part.
fn hash_of(file: &File, path: &Path, header: &PartHeader) -> Result<[u8; 32], Error> {
    let mut hasher = blake3::Hasher::new();
    regions::copy(
        file,
        path,
        ByteRange::new(0, header.pieces().end),
        |bytes| {
            hasher.update(bytes);
            Ok::<(), DiskError>(())
        },
    )?;
    Ok(*hasher.finalize().as_bytes())
}

/// A part that was read and is not damaged.
struct Part {
    header: PartHeader,
    path: PathBuf,
    file: File,
}

impl Part {
    fn open(path: &Path) -> Result<Part, Error> {
        let refuse = |cause| Error::Part {
            place: path.display().to_string(),
            cause,
        };
        let file = files::open_for_reading(path)?;
        let found = Entry::of(&file, path)?.length;
        let mut front = vec![0; found.min(part::HEADER_BYTES as u64) as usize];
        read(&file, path, 0, &mut front)?;
        let header = PartHeader::read(&front).map_err(refuse)?;
        let expected = header.length();
        if found != expected {
            return Err(refuse(RefusedPart::Length { expected, found }));
        }
        let mut hash = [0; part::HASH_BYTES];
        read(&file, path, header.pieces().end, &mut hash)?;
        match hash_of(&file, path, &header)? == hash {
            true => Ok(Part {
                header,
                path: path.to_owned(),
                file,
            }),
            false => Err(refuse(RefusedPart::Checksum)),
        }
    }

    fn read(&self, range: ByteRange) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; range.length() as usize];
        read(&self.file, &self.path, range.start, &mut bytes)?;
        Ok(bytes)
    }
}

fn read(file: &File, path: &Path, at: u64, buffer: &mut [u8]) -> Result<(), Error> {
    file.read_exact_at(buffer, at)
        .map_err(|cause| DiskError::io(FileOperation::Read, path, cause).into())
}

/// Joins parts, given in any order, to the manifest of their object, and returns its tree.
pub fn join(
    parts: &[PathBuf],
    out: &Path,
    options: &CreateOptions,
    signer: Option<&Signer>,
) -> Result<Tree, Error> {
    let name = options.name.clone().unwrap_or_else(|| default_name(out));
    if !name_is_allowed(&name) {
        let place = out.display().to_string();
        let cause = Refused::Name;
        return Err(Error::Manifest { place, cause });
    }
    Temporary::check(out, Replaces::Manifest)?;
    let parts: Result<Vec<Part>, Error> = parts.iter().map(|path| Part::open(path)).collect();
    let mut parts = parts?;
    parts.sort_by_key(|part| part.header.blocks.start);
    check(&parts)?;
    let described = joined(&parts)?;
    let particulars = Particulars {
        name,
        sequence: options.sequence,
        published: options.published,
        expires: options.expires,
        digests: Vec::new(),
    };
    described.publish(out, particulars, signer)?;
    Ok(described.tree)
}

/// The name of the object, as the name of its manifest gives it.
pub fn default_name(out: &Path) -> String {
    let name = out
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let name = name.strip_suffix(".sapwood").unwrap_or_default();
    crate::format::statement::default_name(name)
}

/// Whether each block is in exactly one part.
fn check(parts: &[Part]) -> Result<(), Error> {
    let apart = |part: &Part, why| Error::PartsApart {
        place: part.path.display().to_string(),
        why,
    };
    let Some((first, last)) = parts.first().zip(parts.last()) else {
        return Ok(());
    };
    let mut next = 0;
    for part in parts {
        let (header, bytes) = (&part.header, part.header.bytes());
        if (header.geometry, header.hints) != (first.header.geometry, first.header.hints) {
            return Err(apart(part, PartsApart::OtherObject));
        }
        if bytes.start > next {
            return Err(apart(
                part,
                PartsApart::Gap(ByteRange::new(next, bytes.start)),
            ));
        }
        if bytes.start < next || (header.geometry.length() == 0 && parts.len() > 1) {
            return Err(apart(part, PartsApart::Overlap(bytes.start)));
        }
        next = bytes.end;
    }
    let length = first.header.geometry.length();
    match next == length {
        true => Ok(()),
        false => Err(apart(last, PartsApart::Gap(ByteRange::new(next, length)))),
    }
}

fn joined(parts: &[Part]) -> Result<Described, Error> {
    let header = parts[0].header;
    let (mut leaves, mut anchors) = (Vec::new(), Vec::new());
    let (spool, spool_path) = temporary::spool()?;
    let mut spooled = 0;
    for part in parts {
        leaves.extend(part::leaves_of(&part.read(part.header.leaves())?));
        anchors.extend(part::anchors_of(&part.read(part.header.anchors())?));
        regions::copy(&part.file, &part.path, part.header.pieces(), |bytes| {
            files::write_at(&spool, &spool_path, bytes, spooled)?;
            spooled += bytes.len() as u64;
            Ok::<(), DiskError>(())
        })?;
    }
    Ok(Described {
        tree: Tree::new(header.geometry, leaves, header.hints.then_some(anchors)),
        digests: Vec::new(),
        pieces: header.hints.then_some((spool, spool_path, spooled)),
        pack: None,
    })
}
