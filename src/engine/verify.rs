//! Checking a local file against its manifest or a root.

use std::{io::Read, os::unix::fs::FileExt, path::Path, sync::Mutex};

use crate::{
    core::{
        digests::{Algorithm, Digest, DigestHasher},
        geometry::{BlockSize, ByteRange, Geometry},
        manifest::Tree,
        statement::Refused,
        tree::{self, Root},
        trust::Trust,
    },
    disk::{
        error::{DiskError, Doing},
        files,
        regions::{self, FileRegions},
    },
};

use super::{
    error::Error,
    events::{Damaged, Event, Events},
    manifest_file::ManifestFile,
    survey::Survey,
};

/// What a file is checked against.
#[allow(missing_docs, reason = "fields are named after their types")]
pub enum Against {
    /// Only the root is known: damage is found, not placed.
    Root(Root),
    /// Every damaged block is named, and the manifest's own hints are checked too.
    Manifest { manifest: Box<ManifestFile>, trust: Trust },
}

/// How a file compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields are named after their types")]
pub enum Verdict {
    /// It is the object.
    Verified,
    /// Each place was told as an event.
    Damaged { blocks: u32 },
}

/// Reads the file once and compares. Damage is an event and a verdict, not an error.
pub fn verify(path: &Path, against: &Against, events: &mut dyn Events) -> Result<Verdict, Error> {
    match against {
        Against::Root(root) => {
            let tree = survey_file(path, BlockSize::DEFAULT, false, &mut |_| Ok(()))?;
            let bytes = ByteRange::new(0, tree.geometry().length());
            if tree.root() == *root {
                let (path, root, trust) = (path.to_owned(), *root, Trust::Root);
                events.event(Event::Verified { path, root, bytes_total: bytes.length(), trust });
                return Ok(Verdict::Verified);
            }
            let (expected, found) = (Some(root.0), Some(tree.root().0));
            events.event(Event::Damaged(Damaged { path: path.to_owned(), block: None, bytes, expected, found }));
            Ok(Verdict::Damaged { blocks: 1 })
        }
        Against::Manifest { manifest, trust } => against_manifest(path, manifest, *trust, events),
    }
}

/// The root of a file, with its length.
pub fn root_of_file(path: &Path) -> Result<Root, Error> {
    Ok(survey_file(path, BlockSize::DEFAULT, false, &mut |_| Ok(()))?.root())
}

/// The root of a file and some digests of it.
pub fn digests_of_file(path: &Path, algorithms: &[Algorithm]) -> Result<(Root, Vec<Digest>), Error> {
    let root = root_of_file(path)?;
    let mut digests = vec![Digest::new(Algorithm::Blake3, root.0.to_vec()).expect("a root is a BLAKE3 digest")];
    let mut hashers: Vec<DigestHasher> =
        algorithms.iter().filter(|a| **a != Algorithm::Blake3).map(|algorithm| DigestHasher::new(*algorithm)).collect();
    let mut file = files::open_for_reading(path)?;
    let mut buffer = vec![0; regions::REGION];
    loop {
        let count = file.read(&mut buffer).map_err(|cause| DiskError::io(Doing::Read, path, cause))?;
        if count == 0 {
            break;
        }
        for hasher in &mut hashers {
            hasher.update(&buffer[..count]);
        }
    }
    digests.extend(hashers.into_iter().map(DigestHasher::finish));
    Ok((root, digests))
}

fn survey_file(path: &Path, block_size: BlockSize, hints: bool, pieces: super::survey::PiecesSink) -> Result<Tree, Error> {
    let regions = FileRegions::open(path)?;
    // Larger blocks where so many of this size would not be an object.
    let mut block_size = block_size;
    while Geometry::new(regions.length(), block_size).is_none() {
        let place = || Error::TooManyBlocks { place: path.display().to_string() };
        block_size = block_size.doubled().ok_or_else(place)?;
    }
    let tree = Survey { block_size, may_grow: false, hints }.run(&regions, &path.display().to_string(), pieces)?;
    regions.check_unchanged()?;
    Ok(tree)
}

fn against_manifest(path: &Path, manifest: &ManifestFile, trust: Trust, events: &mut dyn Events) -> Result<Verdict, Error> {
    let expected = &manifest.manifest.tree;
    let geometry = *expected.geometry();
    let length = files::open_for_reading(path)?.metadata().map_err(|cause| DiskError::io(Doing::Inspect, path, cause))?.len();
    if length != geometry.length() {
        return other_length(path, expected, length, events);
    }
    let hints = manifest.manifest.statement.header().hints();
    // Pieces are compared as they come; whether a difference is the object's fault is known at the end.
    let wrong_piece: Mutex<bool> = Mutex::new(false);
    let mut at = 0;
    let mut buffer = Vec::new();
    let tree = survey_file(path, geometry.block_size(), hints, &mut |pieces| {
        buffer.resize(pieces.len(), 0);
        manifest.read_pieces(at, &mut buffer)?;
        at += pieces.len() as u64;
        if buffer != pieces {
            *wrong_piece.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = true;
        }
        Ok(())
    })?;
    let mut damaged = 0;
    for block in geometry.all().iter() {
        let (expected, found) = (expected.leaves()[block.0 as usize], tree.leaves()[block.0 as usize]);
        if expected != found {
            damaged += 1;
            let bytes = geometry.bytes_of(block);
            let (expected, found) = (Some(expected), Some(found));
            events.event(Event::Damaged(Damaged { path: path.to_owned(), block: Some(block), bytes, expected, found }));
        }
    }
    if damaged > 0 {
        return Ok(Verdict::Damaged { blocks: damaged });
    }
    let refuse = |cause| Error::Manifest { place: manifest.path.display().to_string(), cause };
    if let Some(block) = expected.anchors().iter().zip(tree.anchors()).position(|(a, b)| a != b) {
        return Err(refuse(Refused::BlockAnchor(block as u32)));
    }
    if wrong_piece.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
        return Err(refuse(Refused::Pieces));
    }
    let (root, bytes_total) = (tree.root(), length);
    events.event(Event::Verified { path: path.to_owned(), root, bytes_total, trust });
    Ok(Verdict::Verified)
}

/// A file of another length: every block is judged by itself, missing and extra bytes are named.
fn other_length(path: &Path, expected: &Tree, length: u64, events: &mut dyn Events) -> Result<Verdict, Error> {
    let geometry = expected.geometry();
    let file = files::open_for_reading(path)?;
    let mut buffer = vec![0; geometry.block_size().bytes() as usize];
    let mut damaged = 0;
    let mut tell = |block, bytes, expected, found| {
        events.event(Event::Damaged(Damaged { path: path.to_owned(), block, bytes, expected, found }));
        damaged += 1;
    };
    for block in geometry.all().iter() {
        let (bytes, leaf) = (geometry.bytes_of(block), expected.leaves()[block.0 as usize]);
        if bytes.end > length {
            tell(Some(block), bytes, Some(leaf), None);
            continue;
        }
        let buffer = &mut buffer[..bytes.length() as usize];
        file.read_exact_at(buffer, bytes.start).map_err(|cause| DiskError::io(Doing::Read, path, cause))?;
        let found = tree::leaf_of(geometry, block, buffer);
        if found != leaf {
            tell(Some(block), bytes, Some(leaf), Some(found));
        }
    }
    if length > geometry.length() {
        tell(None, ByteRange::new(geometry.length(), length), None, None);
    }
    Ok(Verdict::Damaged { blocks: damaged })
}
