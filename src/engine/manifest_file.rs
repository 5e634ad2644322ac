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
        temporary,
    },
    format::{
        geometry::ByteRange,
        layout::FRONT_BYTES,
        reader::{Manifest, Page, WholeReader},
        signature::SignatureArea,
        statement::{self, Header, MAGIC, Refused, Statement},
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
        ManifestFile::read(files::open_for_reading(path)?, path)
    }

    /// A manifest in memory, which is kept in a temporary file. `place` names it.
    pub fn of_bytes(bytes: &[u8], place: &Path) -> Result<ManifestFile, Error> {
        let (file, path) = temporary::spool()?;
        files::write_at(&file, &path, bytes, 0)?;
        ManifestFile::read(file, place)
    }

    /// The same for a file that is open.
    pub fn of_open(file: File, path: &Path) -> Result<ManifestFile, Error> {
        ManifestFile::read(file, path)
    }

    fn read(file: File, path: &Path) -> Result<ManifestFile, Error> {
        let (file, reader) = read_through(file, path, |reader| reader)?;
        let manifest = reader.finish().map_err(|cause| refused(path, cause))?;
        Ok(ManifestFile {
            manifest,
            path: path.to_owned(),
            file,
        })
    }

    /// Reads bytes of the pieces section; `start` counts from the start of the section.
    pub fn read_pieces(&self, start: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let at = self.manifest.tree.layout().pieces().start + start;
        self.read_at(buffer, at)
    }

    /// Reads these bytes of the manifest.
    pub fn read_range(&self, range: ByteRange) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; range.length() as usize];
        self.read_at(&mut bytes, range.start)?;
        Ok(bytes)
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<(), Error> {
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
    /// Its path.
    pub path: PathBuf,
    file: File,
}

impl CheckedFile {
    /// Reads all of a file.
    pub fn open(path: &Path) -> Result<CheckedFile, Error> {
        CheckedFile::open_by_page(path, |_| ())
    }

    /// The same, handing on each page of leaves as soon as it is proven against the root.
    pub fn open_by_page(path: &Path, take: impl FnMut(Page) + Send) -> Result<CheckedFile, Error> {
        let file = files::open_for_reading(path)?;
        let (file, reader) = read_through(file, path, |reader| reader.by_page(take))?;
        let checked = reader.finish_checks();
        let (statement, signature) = checked.map_err(|cause| refused(path, cause))?;
        Ok(CheckedFile {
            statement,
            signature,
            path: path.to_owned(),
            file,
        })
    }

    /// Opens a path that is a manifest, or an object with its manifest beside it.
    pub fn open_of(path: &Path, take: impl FnMut(Page) + Send) -> Result<CheckedFile, Error> {
        if starts_like_a_manifest(path)? {
            return CheckedFile::open_by_page(path, take);
        }
        let beside = beside(path);
        CheckedFile::open_by_page(&beside, take).map_err(|cause| match cause {
            Error::Disk(cause) if cause.is_missing() => Error::NoManifest {
                place: beside.display().to_string(),
                why: format!("and {} is not a manifest itself", path.display()),
            },
            other => other,
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
fn read_through<'a>(
    file: File,
    path: &Path,
    kind: impl FnOnce(WholeReader<'a>) -> WholeReader<'a>,
) -> Result<(File, WholeReader<'a>), Error> {
    let (length, front) = read_front(&file, path)?;
    let refuse = |cause| refused(path, cause);
    let mut buffer = Vec::new();
    let mut reader = kind(WholeReader::new(&front, Some(length)).map_err(refuse)?);
    while let Some(want) = reader.want() {
        buffer.resize(want.length() as usize, 0);
        read_exact(&file, path, want.start, &mut buffer, length)?;
        reader.give(&buffer).map_err(refuse)?;
    }
    Ok((file, reader))
}

/// A manifest file, and what its statement says, with no check of the other bytes.
pub fn read_header(path: &Path) -> Result<(File, Header), Error> {
    let file = files::open_for_reading(path)?;
    let (_, front) = read_front(&file, path)?;
    let (statement, _) = statement::read_front(&front).map_err(|cause| refused(path, cause))?;
    Ok((file, statement.header().clone()))
}

/// The length of a file and its first bytes, as many as a front has.
fn read_front(file: &File, path: &Path) -> Result<(u64, Vec<u8>), Error> {
    let length = Entry::of(file, path)?.length;
    let mut front = vec![0; length.min(FRONT_BYTES as u64) as usize];
    read_exact(file, path, 0, &mut front, length)?;
    Ok((length, front))
}

fn read_exact(
    file: &File,
    path: &Path,
    at: u64,
    buffer: &mut [u8],
    length: u64,
) -> Result<(), Error> {
    file.read_exact_at(buffer, at)
        .map_err(|cause| match cause.kind() {
            io::ErrorKind::UnexpectedEof => refused(path, Refused::Short { bytes: length }),
            _ => DiskError::io(FileOperation::Read, path, cause).into(),
        })
}

/// Whether there is a manifest with a signature at this path. Reads only its front.
pub fn is_signed(path: &Path) -> bool {
    let front = files::open_for_reading(path)
        .map_err(Error::from)
        .and_then(|file| read_front(&file, path))
        .map(|(_, front)| statement::read_front(&front));
    matches!(front, Ok(Ok((_, signature))) if signature != SignatureArea::Unsigned)
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
