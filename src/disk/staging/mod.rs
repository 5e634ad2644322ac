//! Uploads that are not published yet: a folder below the served one, with a folder for each (upload.md, "Staging").
//!
//! The bytes of a part are synced before its record is written, so that a record proves them after any crash. A file that is written
//! whole gets its name when it is durable.

mod publish;

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::format::{
    geometry::ByteRange,
    upload::{
        HASH_BYTES, HEADER_BYTES, PART_BYTES_MAX, PartRecord, RecordHeader, SessionId, Sha256,
    },
};

use super::{
    error::{DiskError, FileOperation},
    files::{self, EntryKind, Folder, STAGED_UPLOADS},
    locks, machine, regions,
};

pub use publish::{Intent, Place};

/// Locked by the process that uses the folder.
const LOCK: &str = "lock";
/// What tells the folder from all others: a random UUID.
const ID: &str = "storage.id";
const ID_BYTES: u64 = 36;
/// The bytes of all parts at their places.
const OBJECT: &str = "object";
/// A copy of a part is made in steps of this size.
const COPY_BYTES: usize = 256 * 1024;
/// More than any record: that of a part of [`PART_BYTES_MAX`] in the smallest blocks has 10 MiB of leaves and anchors and 8 MiB of pieces.
const RECORD_BYTES_MAX: u64 =
    (HEADER_BYTES + HASH_BYTES) as u64 + PART_BYTES_MAX / (16 << 10) * 40 + PART_BYTES_MAX / 512;

/// More than a length and a SHA-256 in text.
const BEGUN_BYTES_MAX: u64 = 100;

/// The staged uploads of a folder, locked for this process.
#[derive(Debug)]
pub struct Staging {
    root: Arc<Folder>,
    folder: Folder,
    _lock: File,
}

/// What has arrived of one upload.
#[derive(Debug)]
pub struct Upload {
    folder: Folder,
}

/// Which content of a part is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The one that is published.
    Kept,
    /// Another one that may take its place.
    Newer,
}

/// A folder of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// What it takes of the disk, in bytes.
    pub bytes: u64,
}

impl Staging {
    /// Opens the staged uploads of a folder. Fails with [`DiskError::Busy`] if another server has them.
    pub fn open(path: &Path) -> Result<Staging, DiskError> {
        let root = Arc::new(Folder::open(path)?);
        let name = OsStr::new(STAGED_UPLOADS);
        let is_new = root.make_folder(name, 0o700)?;
        let folder = root.folder_of_name(name)?;
        let entry = folder.own_entry()?;
        if !folder.is_ours(&entry) {
            let (path, what) = (root.path_of(name), "owned by another user");
            return Err(DiskError::Unsafe { path, what });
        }
        if entry.mode & 0o077 != 0 {
            folder.set_mode(0o700)?;
        }
        let lock = folder.open_own_or_create(OsStr::new(LOCK))?;
        let path = folder.path_of(OsStr::new(LOCK));
        if !locks::try_lock(&lock, &path)? {
            return Err(DiskError::Busy { path });
        }
        if is_new {
            root.sync()?;
        }
        let staging = Staging {
            root,
            folder,
            _lock: lock,
        };
        staging.remove_temporaries()?;
        Ok(staging)
    }

    /// Removes what a server that was killed was writing here. Nobody else writes: the folder is locked.
    fn remove_temporaries(&self) -> Result<(), DiskError> {
        for name in self.folder.all_names()? {
            if files::process_of_temporary(&name).is_some() {
                self.folder.remove(&name)?;
            }
        }
        Ok(())
    }

    /// Where uploads are published.
    pub fn root(&self) -> &Arc<Folder> {
        &self.root
    }

    /// The folder itself, for what belongs to all uploads.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// What tells the folder from all others. It is made if it is missing.
    pub fn id(&self) -> Result<String, DiskError> {
        let own = Upload {
            folder: self.folder.again()?,
        };
        if let Some(bytes) = own.read(ID, ID_BYTES)?
            && let Ok(id) = String::from_utf8(bytes)
            && id.parse::<SessionId>().is_ok()
        {
            return Ok(id);
        }
        let id = SessionId::from_random(machine::random()?).to_string();
        own.write(ID, id.as_bytes())?;
        Ok(id)
    }

    /// Makes the folder of an upload, if it is missing.
    pub fn begin(&self, name: &str) -> Result<(), DiskError> {
        if self.folder.make_folder(OsStr::new(name), 0o700)? {
            self.folder.sync()?;
        }
        Ok(())
    }

    /// An upload. `None`: there is none of this name.
    pub fn upload(&self, name: &str) -> Result<Option<Upload>, DiskError> {
        let folder = self.folder.below(Path::new(name))?;
        Ok(folder.map(|folder| Upload { folder }))
    }

    /// Removes an upload, if there is one.
    pub fn remove(&self, name: &str) -> Result<(), DiskError> {
        let Some(upload) = self.upload(name)? else {
            return Ok(());
        };
        for file in upload.folder.all_names()? {
            upload.folder.remove(&file)?;
        }
        self.folder.remove_folder(OsStr::new(name))?;
        self.folder.sync()
    }

    /// All uploads.
    pub fn list(&self) -> Result<Vec<Listed>, DiskError> {
        let mut listed = Vec::new();
        for name in self.folder.names()? {
            let is_folder = |kind| kind == Some(EntryKind::Folder);
            let entry = self.folder.entry(OsStr::new(&name))?;
            if !is_folder(entry.map(|entry| entry.kind)) {
                continue;
            }
            let Some(upload) = self.upload(&name)? else {
                continue;
            };
            let mut bytes = 0;
            for file in upload.folder.all_names()? {
                let entry = upload.folder.entry(&file)?;
                bytes += entry.map_or(0, |entry| entry.allocated);
            }
            listed.push(Listed { name, bytes });
        }
        Ok(listed)
    }
}

impl Upload {
    /// The file for the bytes of a part, and its path; and where in it the part begins that begins here in the object.
    pub fn file(
        &self,
        content: Content,
        index: u32,
        start: u64,
    ) -> Result<(File, PathBuf, u64), DiskError> {
        let (name, start) = match content {
            Content::Kept => (OBJECT.to_owned(), start),
            Content::Newer => (format!("{index}.new"), 0),
        };
        let name = OsStr::new(&name);
        let file = self.folder.open_own_or_create(name)?;
        Ok((file, self.folder.path_of(name), start))
    }

    /// Bytes of the object, as far as they have arrived. `None`: it has its name, or nothing arrived.
    pub fn read_object(&self, bytes: ByteRange) -> Result<Option<Vec<u8>>, DiskError> {
        let Some((file, _)) = self.folder.open_file_below(Path::new(OBJECT))? else {
            return Ok(None);
        };
        let path = self.folder.path_of(OsStr::new(OBJECT));
        let mut read = vec![0; bytes.length() as usize];
        match file.read_exact_at(&mut read, bytes.start) {
            Ok(()) => Ok(Some(read)),
            Err(cause) => Err(DiskError::io(FileOperation::Read, &path, cause)),
        }
    }

    /// The record of a part. `None`: there is none, or it is damaged.
    pub fn record(&self, content: Content, index: u32) -> Result<Option<PartRecord>, DiskError> {
        let bytes = self.read(&record_name(content, index), RECORD_BYTES_MAX)?;
        let record = bytes.and_then(|bytes| PartRecord::read(&bytes).ok());
        Ok(record.filter(|record| record.header.index == index))
    }

    /// What a record says of a part, without its blocks, and without a look at whether it is damaged.
    pub fn record_header(
        &self,
        content: Content,
        index: u32,
    ) -> Result<Option<RecordHeader>, DiskError> {
        let bytes = self.read(&record_name(content, index), HEADER_BYTES as u64)?;
        let header = bytes.and_then(|bytes| RecordHeader::read(&bytes).ok());
        Ok(header.filter(|header| header.index == index))
    }

    /// Bytes that may still be written on this disk.
    pub fn bytes_free(&self) -> Result<u64, DiskError> {
        self.folder.bytes_free()
    }

    /// Writes the record of a part whose bytes are durable.
    pub fn write_record(&self, content: Content, record: &PartRecord) -> Result<(), DiskError> {
        let name = record_name(content, record.header.index);
        self.write(&name, &record.to_bytes())
    }

    /// Notes that so many bytes of a part are durable, of which no client said a SHA-256.
    pub fn note_begun(&self, index: u32, length: u64, sha256: Sha256) -> Result<(), DiskError> {
        let text = format!("{length} {sha256}\n");
        self.write(&format!("{index}.begun"), text.as_bytes())
    }

    /// What was noted so of a part.
    pub fn begun(&self, index: u32) -> Result<Option<(u64, Sha256)>, DiskError> {
        let bytes = self.read(&format!("{index}.begun"), BEGUN_BYTES_MAX)?;
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        Ok(text.and_then(|text| {
            let (length, sha256) = text.strip_suffix('\n')?.split_once(' ')?;
            Some((length.parse().ok()?, sha256.parse().ok()?))
        }))
    }

    /// The part is not whole any more.
    pub fn forget_record(&self, content: Content, index: u32) -> Result<(), DiskError> {
        self.folder
            .remove(OsStr::new(&record_name(content, index)))?;
        self.folder.sync()
    }

    /// Puts the newer content of a part in the place of the one that was kept. A kill leaves the newer one, and the same can be done
    /// again.
    pub fn prefer_newer(&self, record: &RecordHeader) -> Result<(), DiskError> {
        let index = record.index;
        self.forget_record(Content::Kept, index)?;
        let (from, from_path, _) = self.file(Content::Newer, index, 0)?;
        let (to, path, at) = self.file(Content::Kept, index, record.bytes.start)?;
        let mut buffer = vec![0; COPY_BYTES];
        // An earlier content may have been longer.
        let mut from = from.take(record.bytes.length());
        let mut copied = 0;
        loop {
            regions::check_not_stopped(&path)?;
            let count = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
                Err(cause) => return Err(DiskError::io(FileOperation::Read, &from_path, cause)),
            };
            files::write_at(&to, &path, &buffer[..count], at + copied)?;
            copied += count as u64;
        }
        if copied != record.bytes.length() {
            return Err(DiskError::ChangedAfterProof { path: from_path });
        }
        files::sync_data(&to, &path)?;
        let newer = record_name(Content::Newer, index);
        let kept = record_name(Content::Kept, index);
        self.folder
            .rename(OsStr::new(&newer), OsStr::new(&kept), true)?;
        self.folder.remove(OsStr::new(&format!("{index}.new")))?;
        self.folder.sync()
    }

    /// Writes a small file, which gets its name when it is durable.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        let (file, own) = self.folder.create_unused()?;
        let path = self.folder.path_of(OsStr::new(name));
        let written = files::write_at(&file, &path, bytes, 0)
            .and_then(|()| files::sync_all(&file, &path))
            .and_then(|()| self.folder.rename_open(&file, &own, OsStr::new(name), true));
        if written.is_err() {
            // What is left goes with the upload.
            let _ = self.folder.remove(&own);
        }
        written?;
        self.folder.sync()
    }

    /// At most so many bytes of a file. `None`: there is none.
    fn read(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>, DiskError> {
        let Some((file, _)) = self.folder.open_file_below(Path::new(name))? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        let read = file.take(most).read_to_end(&mut bytes);
        read.map_err(|cause| {
            let path = self.folder.path_of(OsStr::new(name));
            DiskError::io(FileOperation::Read, &path, cause)
        })?;
        Ok(Some(bytes))
    }
}

fn record_name(content: Content, index: u32) -> String {
    match content {
        Content::Kept => format!("{index}.record"),
        Content::Newer => format!("{index}.new.record"),
    }
}
