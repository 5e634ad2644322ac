//! Files in the staging folder, to be named later.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

use crate::format::{
    library::LibraryPath,
    tree::{PartHasher, Root},
};

use super::{
    super::{
        error::{DiskError, FileOperation},
        files::{self, Entry, Folder, Stamp, Version},
        machine::executable_mode,
        regions,
    },
    Attributes, Replica, unplanned,
};

/// The buffer of a copy.
const COPY_BYTES: usize = 256 * 1024;

/// A file in the staging folder. Dropping it removes it there, but for one that a fetch published.
#[derive(Debug)]
pub struct Staged {
    pub(super) staging: Arc<Folder>,
    pub(super) name: OsString,
    /// As it was when it was proven, or when its name was staged.
    pub(super) version: Version,
    /// It is opened when it is placed if it is not open yet.
    pub(super) file: Option<File>,
    /// Of a file that still has its old name: its stamp in the plan, and what is set only when it gets its new name.
    pub(super) moved: Option<(Stamp, Attributes)>,
    pub(super) is_kept: bool,
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.is_kept {
            // The next run removes what is left.
            let _ = self.staging.remove(&self.name);
        }
    }
}

impl Staged {
    fn of(staging: Arc<Folder>, name: OsString, file: File) -> Result<Staged, DiskError> {
        let version = Version::of(&file, &staging.path_of(&name))?;
        Ok(Staged {
            staging,
            name,
            version,
            file: Some(file),
            moved: None,
            is_kept: false,
        })
    }
}

impl Staged {
    /// The same without an open file, if it may wait long.
    #[must_use]
    pub fn closed(mut self) -> Staged {
        self.file = None;
        self
    }
}

impl Replica {
    /// Stages these bytes, which were proven.
    pub fn stage_bytes(&self, bytes: &[u8], of: Attributes) -> Result<Staged, DiskError> {
        let writes = |file: &File, path: &Path| files::write_at(file, path, bytes, 0);
        self.stage_new(of, writes)
    }

    /// Stages a file that will lose its present name, without copying it if possible. It must still be the file of the plan.
    /// Until it is placed it keeps its name and attributes.
    pub fn stage_move(
        &self,
        from: &LibraryPath,
        stamp: Stamp,
        of: Attributes,
    ) -> Result<Staged, DiskError> {
        let gone = || DiskError::Gone {
            path: self.path_of(from),
        };
        let (folder, name) = self.folder_of(from)?.ok_or_else(gone)?;
        let entry = self.planned(&folder, name, stamp)?;
        // The attributes of a file belong to all its names, also to those outside.
        let linked = match entry.has_other_names() {
            true => None,
            false => self.link(&folder, name, stamp, of)?,
        };
        match linked {
            Some(linked) => Ok(linked),
            None => self.stage_copy_of_planned(from, stamp, of),
        }
    }

    /// Stages a copy of a file, sharing its data if possible, and proves it by its root.
    pub fn stage_copy(
        &self,
        from: &LibraryPath,
        root: Root,
        of: Attributes,
    ) -> Result<Staged, DiskError> {
        let (source, _) = self.open_file(from)?;
        let copies = |file: &File, path: &Path| match copy(&source, file, path)? == root {
            true => Ok(()),
            false => Err(DiskError::ChangedSince {
                path: self.path_of(from),
            }),
        };
        self.stage_new(of, copies)
    }

    /// Stages a file that a fetch published in the staging folder under this name. A run that ends before it is placed leaves it
    /// there for the next one.
    pub fn stage_named(&self, name: &OsStr, of: Attributes) -> Result<Staged, DiskError> {
        let staging = self.staging_folder()?;
        let path = staging.path_of(name);
        let Some((file, entry)) = staging.open_file_below(Path::new(name))? else {
            return Err(DiskError::Gone { path });
        };
        if let Some(what) = staging.suspicious(&entry) {
            return Err(DiskError::Unsafe { path, what });
        }
        of.give(&file, &path, &entry)?;
        let mut staged = Staged::of(staging, name.to_owned(), file)?;
        // Large files may wait long, and many at a time.
        staged.file = None;
        staged.is_kept = true;
        Ok(staged)
    }

    /// A copy without a root to prove it by: the file must be the one of the plan before and after.
    pub(super) fn stage_copy_of_planned(
        &self,
        from: &LibraryPath,
        stamp: Stamp,
        of: Attributes,
    ) -> Result<Staged, DiskError> {
        let (source, entry) = self.open_file(from)?;
        let path = self.path_of(from);
        if !self.is_planned(&entry, stamp) {
            return Err(DiskError::ChangedSince { path });
        }
        let before = entry.version();
        let copies = |file: &File, to: &Path| {
            copy(&source, file, to)?;
            match Version::of(&source, &path)?.has_bytes_of(&before) {
                true => Ok(()),
                false => Err(DiskError::ChangedSince { path: path.clone() }),
            }
        };
        self.stage_new(of, copies)
    }

    pub(super) fn open_file(&self, from: &LibraryPath) -> Result<(File, Entry), DiskError> {
        let opened = self.folder.open_file_below(Path::new(from.as_str()))?;
        opened.ok_or_else(|| DiskError::Gone {
            path: self.path_of(from),
        })
    }

    fn stage_new(
        &self,
        of: Attributes,
        write: impl FnOnce(&File, &Path) -> Result<(), DiskError>,
    ) -> Result<Staged, DiskError> {
        let staging = self.staging_folder()?;
        let mode = executable_mode(self.mode, of.is_executable);
        let create = |name: &OsStr| staging.create(name, mode);
        let (file, name) = staging.with_unused_name(create)?;
        let path = staging.path_of(&name);
        let written = write(&file, &path)
            .and_then(|()| files::set_modified(&file, &path, of.modified()))
            .and_then(|()| Staged::of(staging.clone(), name.clone(), file));
        if written.is_err() {
            // What is left is removed by the next run.
            let _ = staging.remove(&name);
        }
        written
    }

    /// Gives the file of the plan a second name in the staging folder. `None`: it cannot have one.
    fn link(
        &self,
        folder: &Folder,
        name: &OsStr,
        stamp: Stamp,
        of: Attributes,
    ) -> Result<Option<Staged>, DiskError> {
        let staging = self.staging_folder()?;
        let mut can_link = true;
        let link = |own: &OsStr| match folder.link_to(name, &staging, own) {
            Ok(is_linked) => {
                can_link = is_linked;
                Ok(Some(()))
            }
            Err(DiskError::Exists { .. }) => Ok(None),
            Err(cause) => Err(cause),
        };
        let ((), own) = staging.with_unused_name(link)?;
        if !can_link {
            return Ok(None);
        }
        let Some(entry) = staging.entry(&own)? else {
            let path = staging.path_of(&own);
            return Err(DiskError::Gone { path });
        };
        let staged = Staged {
            staging: staging.clone(),
            name: own,
            version: entry.version(),
            file: None,
            moved: Some((stamp, of)),
            is_kept: false,
        };
        // Another file may have taken the name since it was looked at.
        match self.is_planned(&entry, stamp) {
            true => Ok(Some(staged)),
            false => Err(unplanned(&entry, folder.path_of(name))),
        }
    }
}

/// Fills an empty file with the bytes of another one, and returns their root. Holes stay holes.
fn copy(from: &File, to: &File, path: &Path) -> Result<Root, DiskError> {
    let is_shared = files::share_data(from, to);
    let source = if is_shared { to } else { from };
    let mut hasher = PartHasher::new(0);
    let mut buffer = vec![0; COPY_BYTES];
    let mut at = 0;
    loop {
        regions::check_not_stopped(path)?;
        let count = match source.read_at(&mut buffer, at) {
            Ok(0) => break,
            Ok(count) => count,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
            Err(cause) => return Err(DiskError::io(FileOperation::Read, path, cause)),
        };
        let bytes = &buffer[..count];
        hasher.update(bytes);
        if !is_shared && bytes.iter().any(|byte| *byte != 0) {
            files::write_at(to, path, bytes, at)?;
        }
        at += count as u64;
    }
    if !is_shared {
        // What ends with zeros was not written to its end.
        files::set_length(to, path, at)?;
    }
    Ok(hasher.root())
}
