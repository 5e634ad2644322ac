//! Files that appear under their name only when they are complete: manifests, keys, receipts.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::format::{
    library, pack, part,
    receipt::{self, NotAReceipt, Receipt},
    statement::MAGIC,
};

use super::{
    error::{DiskError, FileOperation},
    files::{self, EntryKind, Folder},
    machine::default_mode,
};

/// The existing file that a new one may replace, besides an empty one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaces {
    /// None, not even an empty one.
    Nothing,
    /// A manifest.
    Manifest,
    /// The index of a library.
    Index,
    /// A part of a manifest.
    Part,
    /// A pack.
    Pack,
    /// A receipt.
    Receipt,
}

impl Replaces {
    /// How much of a file shows whether it is one.
    fn bytes(self) -> usize {
        match self {
            Replaces::Nothing => 0,
            Replaces::Manifest => MAGIC.len(),
            Replaces::Index => library::MAGIC.len(),
            Replaces::Part => part::MAGIC.len(),
            Replaces::Pack => pack::MAGIC.len(),
            Replaces::Receipt => receipt::BYTES_MAX,
        }
    }

    /// Whether a file that begins with these bytes is one.
    fn is_one(self, bytes: &[u8]) -> bool {
        match self {
            Replaces::Nothing => false,
            Replaces::Manifest => bytes == MAGIC,
            Replaces::Index => bytes == library::MAGIC,
            Replaces::Part => bytes == part::MAGIC,
            Replaces::Pack => bytes == pack::MAGIC,
            Replaces::Receipt => matches!(
                Receipt::from_json(bytes),
                Ok(_) | Err(NotAReceipt::Version { .. })
            ),
        }
    }

    fn or_refuse(self, file: &File, path: PathBuf) -> Result<(), DiskError> {
        let mut bytes = vec![0; self.bytes()];
        let mut read = 0;
        while read < bytes.len() {
            match file.read_at(&mut bytes[read..], read as u64) {
                Ok(0) => break,
                Ok(count) => read += count,
                Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => (),
                Err(cause) => return Err(DiskError::io(FileOperation::Read, &path, cause)),
            }
        }
        let what = match self {
            Replaces::Nothing => return Err(DiskError::Exists { path }),
            _ if read == 0 || self.is_one(&bytes[..read]) => return Ok(()),
            Replaces::Manifest => "a file that is not a manifest",
            Replaces::Index => "a file that is not the index of a library",
            Replaces::Part => "a file that is not a part of a manifest",
            Replaces::Pack => "a file that is not a pack",
            Replaces::Receipt => "a file that is not a receipt",
        };
        Err(DiskError::Unsafe { path, what })
    }
}

/// A file that is being written. Dropping it removes what was written.
#[derive(Debug)]
pub struct Temporary {
    folder: Folder,
    file: File,
    name: OsString,
    target: OsString,
    replaces: Replaces,
    published: bool,
}

impl Temporary {
    /// Checks that a file may be named `target`, before the work whose result goes there.
    pub fn check(target: &Path, replaces: Replaces) -> Result<(), DiskError> {
        let (folder, name) = Temporary::place(target)?;
        check_existing(&folder, &name, replaces)
    }

    /// Removes the file named `target`, if it is what may be replaced; succeeds if there is none.
    pub fn remove(target: &Path, replaces: Replaces) -> Result<(), DiskError> {
        let (folder, name) = Temporary::place(target)?;
        check_existing(&folder, &name, replaces)?;
        folder.remove(&name)
    }

    /// Creates a file that will be named `target`. What it may replace is replaced when this one is published.
    pub fn create(target: &Path, replaces: Replaces) -> Result<Temporary, DiskError> {
        let (folder, name) = Temporary::place(target)?;
        Temporary::in_folder(folder, name, replaces)
    }

    /// The same in a folder that is open.
    pub fn in_folder(
        folder: Folder,
        name: OsString,
        replaces: Replaces,
    ) -> Result<Temporary, DiskError> {
        check_existing(&folder, &name, replaces)?;
        let (file, own) = folder.create_unused().map_err(|cause| match cause {
            // The user knows the target only.
            DiskError::Io {
                operation, source, ..
            } => DiskError::io(operation, &folder.path_of(&name), source),
            other => other,
        })?;
        Ok(Temporary {
            folder,
            file,
            name: own,
            target: name,
            replaces,
            published: false,
        })
    }

    fn place(target: &Path) -> Result<(Folder, OsString), DiskError> {
        let (folder, name) = files::split(target).ok_or(DiskError::Unsafe {
            path: target.to_owned(),
            what: "not the name of a file",
        })?;
        Ok((Folder::open(&folder)?, name))
    }

    /// Writes at this offset; the caller keeps count.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
        files::write_at(&self.file, &self.path(), bytes, offset)
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its final path, for messages.
    pub fn path(&self) -> PathBuf {
        self.folder.path_of(&self.target)
    }

    /// Makes it durable and gives it its final name. `mode`: `None` keeps the mode of the file it replaces, else uses the user's
    /// default.
    pub fn publish(mut self, mode: Option<u32>) -> Result<(), DiskError> {
        let Temporary {
            folder,
            file,
            name,
            target,
            replaces,
            ..
        } = &self;
        let existing = folder
            .entry(target)?
            .filter(|entry| folder.is_ours(entry))
            .map(|entry| entry.mode_to_keep());
        let mode = mode.or(existing).unwrap_or_else(default_mode);
        files::set_mode(file, &self.path(), mode)?;
        files::sync_all(file, &self.path())?;
        check_existing(folder, target, *replaces)?;
        folder.rename_open(file, name, target, *replaces != Replaces::Nothing)?;
        self.published = true;
        self.folder.sync()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.published {
            // A failure is harmless: the next run uses another name.
            let _ = self.folder.remove(&self.name);
        }
    }
}

/// A file without a name, for bytes that do not fit into memory. It disappears when it is closed.
pub fn spool() -> Result<(File, PathBuf), DiskError> {
    spool_in(&std::env::temp_dir())
}

/// The same in this folder. The path is for messages.
pub fn spool_in(path: &Path) -> Result<(File, PathBuf), DiskError> {
    spool_of(&Folder::open(path)?)
}

/// The same in a folder that is open.
pub fn spool_of(folder: &Folder) -> Result<(File, PathBuf), DiskError> {
    let (file, name) = folder.create_unused()?;
    folder.remove(&name)?;
    Ok((file, folder.path_of(OsStr::new(""))))
}

/// Fails if there is a file that may not be replaced.
fn check_existing(folder: &Folder, name: &OsStr, replaces: Replaces) -> Result<(), DiskError> {
    let path = folder.path_of(name);
    let what = match folder.entry(name)?.map(|entry| entry.kind) {
        None => return Ok(()),
        Some(EntryKind::Regular) => match folder.open_file_below(Path::new(name))? {
            Some((file, _)) => return replaces.or_refuse(&file, path),
            None => "not a regular file",
        },
        Some(EntryKind::Folder) => "a folder",
        Some(EntryKind::Link | EntryKind::Special) => "not a regular file",
    };
    Err(DiskError::Unsafe { path, what })
}
