//! Files that appear under their name only when they are complete: manifests, keys, receipts.

use std::{
    ffi::OsString,
    fs::File,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use super::{
    error::{DiskError, FileOperation},
    files::{self, EntryKind, Folder},
};

/// A file that is being written. Dropping it removes what was written.
#[derive(Debug)]
pub struct Temporary {
    folder: Folder,
    file: File,
    name: OsString,
    target: OsString,
    published: bool,
}

impl Temporary {
    /// Whether a file may be called `target`: before work is done whose result would go there.
    pub fn check(target: &Path) -> Result<(), DiskError> {
        Temporary::place(target).map(drop)
    }

    /// Begins a file that will be called `target`. An existing one is replaced when this one is published.
    pub fn create(target: &Path) -> Result<Temporary, DiskError> {
        let (folder, name) = Temporary::place(target)?;
        let (file, own) = create_unused(&folder, target)?;
        Ok(Temporary {
            folder,
            file,
            name: own,
            target: name,
            published: false,
        })
    }

    fn place(target: &Path) -> Result<(Folder, OsString), DiskError> {
        let unsafe_target = |what| DiskError::Unsafe {
            path: target.to_owned(),
            what,
        };
        let (folder, name) = files::split(target).ok_or(unsafe_target("no file name"))?;
        let folder = Folder::open(&folder)?;
        match folder.entry(&name)?.map(|entry| entry.kind) {
            None | Some(EntryKind::Regular) => (),
            Some(EntryKind::Folder) => return Err(unsafe_target("a folder")),
            Some(EntryKind::Link | EntryKind::Special) => {
                return Err(unsafe_target("not a regular file"));
            }
        }
        Ok((folder, name))
    }

    /// Appends at this place; the caller keeps count.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
        files::write_at(&self.file, &self.path(), bytes, offset)
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it is while it is unfinished.
    pub fn path(&self) -> PathBuf {
        self.folder.path_of(&self.name)
    }

    /// Makes it durable and gives it its name. `mode`: `None` keeps that of the file it replaces, else the user's default.
    pub fn publish(mut self, mode: Option<u32>, replace: bool) -> Result<(), DiskError> {
        let mode_before = self.folder.entry(&self.target)?.map(|entry| entry.mode);
        let mode = mode.or(mode_before).unwrap_or_else(files::default_mode);
        files::set_mode(&self.file, &self.path(), mode)?;
        files::sync_all(&self.file, &self.path())?;
        self.folder.rename(&self.name, &self.target, replace)?;
        self.published = true;
        self.folder.sync()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.published {
            // A failure does no harm: the next run uses another name.
            let _ = self.folder.remove(&self.name);
        }
    }
}

/// A file without a name, for bytes that do not fit into memory. It is gone when it is closed.
pub fn spool() -> Result<(File, PathBuf), DiskError> {
    let path = std::env::temp_dir();
    let folder = Folder::open(&path)?;
    let (file, name) = create_unused(&folder, &path)?;
    folder.remove(&name)?;
    Ok((file, path))
}

/// A new file under an unused name. The process is part of it, so only our own earlier leftovers can be in the way;
/// it is short, so that it fits wherever the final name fits.
fn create_unused(folder: &Folder, path: &Path) -> Result<(File, OsString), DiskError> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..100 {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = OsString::from(format!(".sapwood-{}-{number}", std::process::id()));
        if let Some(file) = folder.create(&name, 0o600)? {
            return Ok((file, name));
        }
    }
    Err(DiskError::io(
        FileOperation::Create,
        path,
        std::io::ErrorKind::AlreadyExists,
    ))
}
