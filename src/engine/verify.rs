//! Checking a local file against its manifest or a root.

use std::{fmt::Display, fs::File, os::unix::fs::FileExt, path::Path};

use crate::{
    disk::{
        destination::Locked,
        error::{DiskError, FileOperation},
        files::{self, Entry, EntryKind},
        regions::{self, FileRegions},
    },
    engine::blocking,
    format::{
        digests::{Algorithm, Digest},
        geometry::{BlockSize, ByteRange, Geometry},
        manifest::Tree,
        pack::{BadIndex, BadPack},
        statement::Refused,
        tree::{self, Root},
        trust::Trust,
    },
    policy::conditions::BY_ROOT,
};

use super::{
    error::Error,
    events::{Damaged, Event, Events},
    hashing::{Digests, TreeHasher},
    manifest_file::ManifestFile,
    pack,
};

/// What a file is checked against.
#[allow(missing_docs, reason = "fields are named after their types")]
pub enum Against {
    /// Only the root is known: damage is detected, but not located.
    Root(Root),
    /// Every damaged block is reported. The tree is that of a trusted manifest.
    Tree { tree: Box<Tree>, trust: Trust },
    /// Every damaged block is reported, and the digests in the manifest are checked too; its hints if `hints` is true. They
    /// prove nothing about the file, and take longer than all the rest.
    Manifest {
        manifest: Box<ManifestFile>,
        trust: Trust,
        hints: bool,
    },
}

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields are named after their types")]
pub enum Verdict {
    /// The file is the object.
    Verified,
    /// Each damaged place was reported as an event.
    Damaged { blocks: u32 },
}

/// Reads the file once and compares. Damage is an event and a verdict, not an error.
pub fn verify(path: &Path, against: &Against, events: &mut dyn Events) -> Result<Verdict, Error> {
    match against {
        Against::Root(root) => {
            let tree = tree_of_file(path, &mut Digests::new([]))?;
            let bytes = ByteRange::new(0, tree.geometry().length());
            if tree.root() == *root {
                let (path, root, trust) = (path.to_owned(), *root, BY_ROOT);
                events.event(Event::Verified {
                    path,
                    root,
                    bytes_total: bytes.length(),
                    trust,
                });
                return Ok(Verdict::Verified);
            }
            let (expected, found) = (Some(root.0), Some(tree.root().0));
            events.event(Event::Damaged(Damaged {
                path: path.to_owned(),
                block: None,
                bytes,
                expected,
                found,
            }));
            Ok(Verdict::Damaged { blocks: 1 })
        }
        Against::Tree { tree, trust } => {
            let verdict = against_tree(path, tree, events)?;
            if verdict == Verdict::Verified {
                events.event(Event::Verified {
                    path: path.to_owned(),
                    root: tree.root(),
                    bytes_total: tree.geometry().length(),
                    trust: *trust,
                });
            }
            Ok(verdict)
        }
        Against::Manifest {
            manifest,
            trust,
            hints,
        } => against_manifest(path, manifest, *trust, *hints, events),
    }
}

/// The same with nothing but the tree: reports the damaged blocks.
pub fn against_tree(
    path: &Path,
    expected: &Tree,
    events: &mut dyn Events,
) -> Result<Verdict, Error> {
    let geometry = expected.geometry();
    let regions = FileRegions::open(path)?;
    let length = regions.length();
    if length != geometry.length() {
        return other_length(path, expected, length, events);
    }
    let hasher = TreeHasher {
        block_size: geometry.block_size(),
        may_grow: false,
        hints: false,
    };
    let place = path.display().to_string();
    let mut no_pieces = |_: &[u8]| Ok(());
    let found = hasher.run_file(&regions, &place, &mut Digests::new([]), &mut no_pieces)?;
    Ok(match damaged_blocks(path, expected, &found, events) {
        0 => Verdict::Verified,
        blocks => Verdict::Damaged { blocks },
    })
}

/// The root of a file.
pub fn root_of_file(path: &Path) -> Result<Root, Error> {
    Ok(tree_of_file(path, &mut Digests::new([]))?.root())
}

/// The root of an open file; `path` is for messages.
pub fn root_of_open(file: File, path: &Path) -> Result<Root, Error> {
    let regions = FileRegions::of(file, path)?;
    Ok(tree_of(&regions, path, &mut Digests::new([]))?.root())
}

/// The tree of a file, without hints, and its digests by these algorithms.
pub fn digests_of_file(
    path: &Path,
    algorithms: &[Algorithm],
) -> Result<(Tree, Vec<Digest>), Error> {
    // The root of the tree is the BLAKE3 digest.
    let mut digests = Digests::new(
        algorithms
            .iter()
            .copied()
            .filter(|algorithm| *algorithm != Algorithm::Blake3),
    );
    let tree = tree_of_file(path, &mut digests)?;
    let root = tree.root().0.to_vec();
    let mut digests = digests.finish();
    digests.push(Digest::new(Algorithm::Blake3, root).expect("a root is a BLAKE3 digest"));
    Ok((tree, digests))
}

/// The tree of a file without a manifest.
fn tree_of_file(path: &Path, digests: &mut Digests) -> Result<Tree, Error> {
    tree_of(&FileRegions::open(path)?, path, digests)
}

fn tree_of(regions: &FileRegions, path: &Path, digests: &mut Digests) -> Result<Tree, Error> {
    let place = path.display().to_string();
    // Double the block size while the file would have too many blocks.
    let mut block_size = BlockSize::DEFAULT;
    while Geometry::new(regions.length(), block_size).is_none() {
        block_size = block_size.doubled().ok_or_else(|| Error::TooManyBlocks {
            place: place.clone(),
        })?;
    }
    let hasher = TreeHasher {
        block_size,
        may_grow: false,
        hints: false,
    };
    hasher.run_file(regions, &place, digests, &mut |_| Ok(()))
}

fn against_manifest(
    path: &Path,
    manifest: &ManifestFile,
    trust: Trust,
    hints: bool,
    events: &mut dyn Events,
) -> Result<Verdict, Error> {
    let expected = &manifest.manifest.tree;
    let geometry = *expected.geometry();
    let regions = FileRegions::open(path)?;
    let length = regions.length();
    if length != geometry.length() {
        return other_length(path, expected, length, events);
    }
    let header = manifest.manifest.statement.header();
    // A blake3 digest equals the root, which the reader of the manifest has checked.
    let claimed = || {
        header
            .digests
            .iter()
            .filter(|digest| digest.algorithm() != Algorithm::Blake3)
    };
    let mut digests = Digests::new(claimed().map(Digest::algorithm));
    let hasher = TreeHasher {
        block_size: geometry.block_size(),
        may_grow: false,
        hints: hints && header.hints(),
    };
    let place = path.display().to_string();
    // Pieces are compared as they come; only at the end is it known which of both is wrong.
    let mut wrong_piece = false;
    let mut at = 0;
    let mut buffer = Vec::new();
    let tree = hasher.run_file(&regions, &place, &mut digests, &mut |pieces| {
        buffer.resize(pieces.len(), 0);
        manifest.read_pieces(at, &mut buffer)?;
        at += pieces.len() as u64;
        if buffer != pieces {
            wrong_piece = true;
        }
        Ok(())
    })?;
    let damaged = damaged_blocks(path, expected, &tree, events);
    if damaged > 0 {
        return Ok(Verdict::Damaged { blocks: damaged });
    }
    if let Some((claimed, found)) = claimed()
        .zip(digests.finish())
        .find(|(claimed, found)| *claimed != found)
    {
        let (algorithm, expected, found) = (claimed.algorithm(), claimed.hex(), found.hex());
        return Err(Error::OtherDigest {
            place,
            algorithm,
            expected,
            found,
            quarantined: None,
        });
    }
    compare_hints(manifest, &tree, wrong_piece)?;
    check_pack(path, manifest, hints, events)?;
    let (root, bytes_total) = (tree.root(), length);
    events.event(Event::Verified {
        path: path.to_owned(),
        root,
        bytes_total,
        trust,
    });
    Ok(Verdict::Verified)
}

/// Reports each block that differs, and returns how many do.
fn damaged_blocks(path: &Path, expected: &Tree, found: &Tree, events: &mut dyn Events) -> u32 {
    let geometry = expected.geometry();
    let mut damaged = 0;
    for block in geometry.all().iter() {
        let (expected, found) = (
            expected.leaves()[block.0 as usize],
            found.leaves()[block.0 as usize],
        );
        if expected != found {
            damaged += 1;
            events.event(Event::Damaged(Damaged {
                path: path.to_owned(),
                block: Some(block),
                bytes: geometry.bytes_of(block),
                expected: Some(expected),
                found: Some(found),
            }));
        }
    }
    damaged
}

/// Checks that the hints of a manifest, whose object is verified, are those that were made of the object, if any were.
fn compare_hints(manifest: &ManifestFile, found: &Tree, wrong_piece: bool) -> Result<(), Error> {
    let refuse = |cause| Error::Manifest {
        place: manifest.path.display().to_string(),
        cause,
    };
    if let Some(block) = manifest
        .manifest
        .tree
        .anchors()
        .iter()
        .zip(found.anchors())
        .position(|(a, b)| a != b)
    {
        return Err(refuse(Refused::BlockAnchor(block as u32)));
    }
    match wrong_piece {
        true => Err(refuse(Refused::Pieces)),
        false => Ok(()),
    }
}

/// Checks the pack beside a manifest with its hints, if the manifest has its index. One that cannot be checked is a warning: a reader
/// can do without.
fn check_pack(
    path: &Path,
    manifest: &ManifestFile,
    hints: bool,
    events: &mut dyn Events,
) -> Result<(), Error> {
    let header = manifest.manifest.statement.header();
    let Some(section) = header.pack().filter(|_| hints) else {
        return Ok(());
    };
    let pack = pack::beside(&manifest.path);
    let mut not_checked = |cause: &dyn Display| {
        let message = format!("{} was not checked: {cause}", pack.display());
        events.event(Event::Warning { message });
        Ok(())
    };
    if !pack.exists() {
        return not_checked(&"it is missing");
    }
    let index = manifest.read_range(section.bytes)?;
    match pack::check(path, header.root, &index, &pack) {
        Err(Error::Pack {
            cause: BadPack::Index(cause @ BadIndex::Codec(_)),
            ..
        }) => not_checked(&cause),
        checked => checked,
    }
}

/// A file of another length: every block is judged by itself; missing and extra bytes are reported.
fn other_length(
    path: &Path,
    expected: &Tree,
    length: u64,
    events: &mut dyn Events,
) -> Result<Verdict, Error> {
    let geometry = expected.geometry();
    let file = files::open_for_reading(path)?;
    let mut buffer = vec![0; geometry.block_size().bytes() as usize];
    let mut damaged = 0;
    let mut report = |block, bytes, expected, found| {
        events.event(Event::Damaged(Damaged {
            path: path.to_owned(),
            block,
            bytes,
            expected,
            found,
        }));
        damaged += 1;
    };
    for block in geometry.all().iter() {
        regions::check_not_stopped(path)?;
        let (bytes, leaf) = (
            geometry.bytes_of(block),
            expected.leaves()[block.0 as usize],
        );
        if bytes.end > length {
            report(Some(block), bytes, Some(leaf), None);
            continue;
        }
        let buffer = &mut buffer[..bytes.length() as usize];
        file.read_exact_at(buffer, bytes.start)
            .map_err(|cause| DiskError::io(FileOperation::Read, path, cause))?;
        regions::note_read(bytes.length());
        let found = tree::leaf_of(geometry, block, buffer);
        if found != leaf {
            report(Some(block), bytes, Some(leaf), Some(found));
        }
    }
    if length > geometry.length() {
        report(None, ByteRange::new(geometry.length(), length), None, None);
    }
    Ok(Verdict::Damaged { blocks: damaged })
}

/// The tree of the file under the final name, and its digests by the algorithms of `wanted`; `None`: there is no file of this
/// length.
pub async fn digests_of_existing(
    locked: &Locked,
    length: u64,
    wanted: &[Digest],
) -> Result<Option<(Tree, Vec<Digest>)>, Error> {
    let other = |entry: Entry| entry.kind != EntryKind::Regular || entry.length != length;
    if locked.destination().existing()?.is_none_or(other) {
        return Ok(None);
    }
    let path = locked.destination().path();
    let mut algorithms: Vec<Algorithm> = wanted.iter().map(Digest::algorithm).collect();
    algorithms.sort();
    algorithms.dedup();
    // A file that cannot be read is no source of blocks; it is replaced when the object is proven.
    Ok(blocking::run(move || digests_of_file(&path, &algorithms))
        .await
        .ok())
}
