//! Manifests as local files: finding, reading and checking them.

use std::{
    ffi::OsString,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::{
    disk::{
        error::{DiskError, FileOperation},
        files::{self, Entry},
    },
    format::{
        geometry::ByteRange,
        layout::FRONT_BYTES,
        reader::{Manifest, WholeReader},
        signature::SignatureArea,
        statement::{MAGIC, Refused, Statement},
    },
};

use super::error::Error;

/// An open manifest file whose statement and tree are read; its pieces can still be read from it.
pub struct ManifestFile {
    /// The statement and the tree.
    pub manifest: Manifest,
    /// Its path.
    pub path: PathBuf,
    file: File,
}

/// The default path of the manifest of a file.
pub fn beside(object: &Path) -> PathBuf {
    let mut path = OsString::from(object);
    path.push(".sapwood");
    path.into()
}

impl ManifestFile {
    /// Opens and reads a manifest, with every check that does not need the object.
    pub fn open(path: &Path) -> Result<ManifestFile, Error> {
        let (file, reader) = read_through(path, |reader| reader)?;
        let manifest = reader.finish().map_err(|cause| refused(path, cause))?;
        Ok(ManifestFile {
            manifest,
            path: path.to_owned(),
            file,
        })
    }

    /// Opens a path that is a manifest, or an object with its manifest beside it.
    pub fn open_of(path: &Path) -> Result<ManifestFile, Error> {
        match starts_like_a_manifest(path)? {
            true => ManifestFile::open(path),
            false => ManifestFile::open(&beside(path)).map_err(|cause| match cause {
                Error::Disk(cause) if cause.is_missing() => {
                    let why = format!("and {} is not a manifest itself", path.display());
                    Error::NoManifest {
                        place: beside(path).display().to_string(),
                        why,
                    }
                }
                other => other,
            }),
        }
    }

    /// Reads bytes of the pieces section; `start` counts from the start of the section.
    pub fn read_pieces(&self, start: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let at = self.manifest.tree.layout().pieces().start + start;
        self.file
            .read_exact_at(buffer, at)
            .map_err(|cause| DiskError::io(FileOperation::Read, &self.path, cause).into())
    }
}

/// A manifest file that passed the same checks, and of which no leaf is in memory.
pub struct CheckedFile {
    /// The bytes that are, or can be, signed.
    pub statement: Statement,
    /// Well-formed; whether it is valid depends on a key.
    pub signature: SignatureArea,
    path: PathBuf,
    file: File,
}

impl CheckedFile {
    /// Reads all of a file.
    pub fn open(path: &Path) -> Result<CheckedFile, Error> {
        let (file, reader) = read_through(path, WholeReader::only_checks)?;
        let checked = reader.finish_checks();
        let (statement, signature) = checked.map_err(|cause| refused(path, cause))?;
        Ok(CheckedFile {
            statement,
            signature,
            path: path.to_owned(),
            file,
        })
    }

    /// Reads these bytes of the manifest.
    pub fn read(&self, range: ByteRange) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; range.length() as usize];
        self.file
            .read_exact_at(&mut bytes, range.start)
            .map_err(|cause| DiskError::io(FileOperation::Read, &self.path, cause))?;
        Ok(bytes)
    }
}

fn refused(path: &Path, cause: Refused) -> Error {
    Error::Manifest {
        place: path.display().to_string(),
        cause,
    }
}

/// Reads a file from front to end.
fn read_through(
    path: &Path,
    kind: impl FnOnce(WholeReader) -> WholeReader,
) -> Result<(File, WholeReader), Error> {
    let file = files::open_for_reading(path)?;
    let length = Entry::of(&file, path)?.length;
    let refuse = |cause| refused(path, cause);
    let read = |range: ByteRange, buffer: &mut Vec<u8>| -> Result<(), Error> {
        buffer.resize(range.length() as usize, 0);
        file.read_exact_at(buffer, range.start)
            .map_err(|cause| match cause.kind() {
                io::ErrorKind::UnexpectedEof => refuse(Refused::Short { bytes: length }),
                _ => DiskError::io(FileOperation::Read, path, cause).into(),
            })
    };
    let mut buffer = Vec::new();
    read(
        ByteRange::new(0, length.min(FRONT_BYTES as u64)),
        &mut buffer,
    )?;
    let mut reader = kind(WholeReader::new(&buffer, Some(length)).map_err(refuse)?);
    while let Some(want) = reader.want() {
        read(want, &mut buffer)?;
        reader.give(&buffer).map_err(refuse)?;
    }
    Ok((file, reader))
}

/// Whether a file begins with the magic of manifests.
pub fn starts_like_a_manifest(path: &Path) -> Result<bool, Error> {
    let file = files::open_for_reading(path)?;
    let mut magic = [0; MAGIC.len()];
    match file.read_exact_at(&mut magic, 0) {
        Ok(()) => Ok(magic == MAGIC),
        Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(cause) => Err(DiskError::io(FileOperation::Read, path, cause).into()),
    }
}
