//! Giving staged files their names.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    path::{Path, PathBuf},
};

use crate::format::library::LibraryPath;

use super::{
    super::{
        error::DiskError,
        files::{self, Entry, Folder, Stamp, Version},
        machine::executable_mode,
    },
    Attributes, Replica, Staged,
    remove::remove_empty,
    spelling::{self, Target},
    split, unplanned,
};

/// A staged file and the name that it is to have.
#[derive(Debug)]
pub struct Placement {
    /// The file.
    pub staged: Staged,
    /// Its name.
    pub path: LibraryPath,
    /// The file that the plan found there, and that this one replaces. Anything else that is there stays, and this one is not placed.
    pub replaces: Option<Stamp>,
}

/// A file that is ready to be renamed.
struct Ready {
    staged: Staged,
    file: File,
    path: LibraryPath,
    replaces: Option<Stamp>,
    /// Its folder, by its place in [`Folders`].
    folder: usize,
}

/// A file that has its name.
struct Placed {
    entry: Entry,
    path: LibraryPath,
    folder: usize,
    is_new: bool,
}

impl Replica {
    /// Makes staged files durable, gives them their names and makes these durable, with as few syncs as possible. Missing folders are
    /// made. One result for each file, in the same order; a file whose result is an error is not in its place for sure.
    pub fn place(&self, batch: Vec<Placement>) -> Vec<Result<Entry, DiskError>> {
        let mut folders = Folders::default();
        let ready = batch
            .into_iter()
            .map(|placement| self.ready(placement, &mut folders));
        let ready: Vec<Result<Ready, DiskError>> = ready.collect();
        let ready = self.sync_files(ready, folders.were_made);
        let placed = ready
            .into_iter()
            .map(|ready| ready.and_then(|ready| self.place_one(ready, &folders)));
        let placed: Vec<Result<Placed, DiskError>> = placed.collect();
        let placed = self.check_spelling(placed, &folders);
        let failed = self.sync_folders(&folders);
        let durable = placed.into_iter().map(|placed| {
            let placed = placed?;
            match &failed[placed.folder] {
                None => Ok(placed.entry),
                Some(cause) => Err(cause.of_another(&self.path_of(&placed.path))),
            }
        });
        durable.collect()
    }

    /// Sets attributes of the file of the plan. A file with other names is replaced by a copy: they may lie outside.
    pub fn set_attributes(
        &self,
        path: &LibraryPath,
        stamp: Stamp,
        to: Attributes,
    ) -> Result<Entry, DiskError> {
        let shown = self.path_of(path);
        let (file, entry) = self.open_file(path)?;
        if !self.is_planned(&entry, stamp) {
            return Err(unplanned(&entry, shown));
        }
        if !entry.has_other_names() && self.staging_folder()?.is_ours(&entry) {
            return self.restamp(&file, &shown, stamp, to);
        }
        let placement = Placement {
            staged: self.stage_copy_of_planned(path, stamp, to)?,
            path: path.clone(),
            replaces: Some(stamp),
        };
        self.place(vec![placement]).pop().expect("one result")
    }

    /// Opens the folder, and the file if it is not open yet; sets the attributes that are not set yet.
    fn ready(&self, placement: Placement, folders: &mut Folders) -> Result<Ready, DiskError> {
        let Placement {
            mut staged,
            path,
            replaces,
        } = placement;
        let shown = self.path_of(&path);
        let (folder, name) = split(&path);
        let folder = folders.open(self, folder)?;
        let file = match staged.file.take() {
            Some(file) => file,
            None => {
                let opened = staged.staging.open_file_below(Path::new(&staged.name))?;
                let gone = || DiskError::Gone {
                    path: shown.clone(),
                };
                opened.map(|(file, _)| file).ok_or_else(gone)?
            }
        };
        if !Version::of(&file, &shown)?.has_bytes_of(&staged.version) {
            return Err(DiskError::ChangedAfterProof { path: shown });
        }
        if let Some((stamp, attributes)) = staged.moved {
            staged.version = self.restamp(&file, &shown, stamp, attributes)?.version();
        } else if replaces.is_some() {
            keep_mode(&mut staged, &file, &folders.open[folder], name, &shown)?;
        }
        Ok(Ready {
            staged,
            file,
            path,
            replaces,
            folder,
        })
    }

    /// Makes the files durable, and the folders that were made.
    fn sync_files(
        &self,
        ready: Vec<Result<Ready, DiskError>>,
        folders_were_made: bool,
    ) -> Vec<Result<Ready, DiskError>> {
        let are_synced = match folders_were_made {
            true => self.syncs.file_system(&self.folder),
            false => self.syncs.together(&self.folder, ready.len()),
        };
        if are_synced {
            return ready;
        }
        let sync = |ready: Result<Ready, DiskError>| {
            let ready = ready?;
            files::sync_all(&ready.file, &self.path_of(&ready.path))?;
            Ok(ready)
        };
        ready.into_iter().map(sync).collect()
    }

    /// Takes new names back that are not listed as they were given.
    fn check_spelling(
        &self,
        placed: Vec<Result<Placed, DiskError>>,
        folders: &Folders,
    ) -> Vec<Result<Placed, DiskError>> {
        let listed: Vec<_> = folders.open.iter().map(Target::listed).collect();
        let check = |placed: Result<Placed, DiskError>| {
            let placed = placed?;
            let (name, path) = (split(&placed.path).1, self.path_of(&placed.path));
            match &listed[placed.folder] {
                Ok(Some(listed)) if placed.is_new && !listed.contains(name) => {
                    folders.open[placed.folder].folder.remove(name)?;
                    let what = spelling::CHANGED;
                    Err(DiskError::Unsafe { path, what })
                }
                Ok(_) => Ok(placed),
                Err(cause) => Err(cause.of_another(&path)),
            }
        };
        placed.into_iter().map(check).collect()
    }

    /// Why the names in each folder are not durable.
    fn sync_folders(&self, folders: &Folders) -> Vec<Option<DiskError>> {
        if self.syncs.together(&self.folder, folders.open.len()) {
            return folders.open.iter().map(|_| None).collect();
        }
        let sync = |target: &Target| target.folder.sync().err();
        folders.open.iter().map(sync).collect()
    }

    fn place_one(&self, ready: Ready, folders: &Folders) -> Result<Placed, DiskError> {
        let Ready {
            mut staged,
            path,
            replaces,
            folder,
            ..
        } = ready;
        let target = &folders.open[folder];
        let (shown, name) = (self.path_of(&path), split(&path).1);
        let proven = |entry: Entry| entry.version().has_bytes_of(&staged.version);
        if !staged.staging.entry(&staged.name)?.is_some_and(proven) {
            return Err(DiskError::ChangedAfterProof { path: shown });
        }
        let stamp = staged.version.stamp();
        let is_new = match replaces {
            Some(planned) => !self.exchange(&mut staged, &target.folder, name, planned)?,
            None => true,
        };
        if is_new {
            name_new(&mut staged, target, name)?;
        }
        match target.folder.entry(name)? {
            Some(entry) if entry.stamp() == stamp => Ok(Placed {
                entry,
                path,
                folder,
                is_new,
            }),
            _ => Err(DiskError::ChangedAfterProof { path: shown }),
        }
    }

    /// Puts a staged file in the place of the one that the plan found there. `false`: there is none now.
    fn exchange(
        &self,
        staged: &mut Staged,
        folder: &Folder,
        name: &OsStr,
        planned: Stamp,
    ) -> Result<bool, DiskError> {
        let Some(entry) = folder.entry(name)? else {
            return Ok(false);
        };
        if !self.is_planned(&entry, planned) {
            return Err(unplanned(&entry, folder.path_of(name)));
        }
        let staging = staged.staging.clone();
        if !staging.exchange(&staged.name, folder, name)? {
            staging.rename_to(&staged.name, folder, name, true)?;
            staged.is_kept = true;
            return Ok(true);
        }
        staged.is_kept = false;
        // What has the staged name now is another file if somebody was faster.
        match staging.entry(&staged.name)? {
            Some(other) if !self.is_planned(&other, planned) => {
                give_back(staged, folder, name)?;
                Err(unplanned(&other, folder.path_of(name)))
            }
            _ => Ok(true),
        }
    }
}

/// Gives its name back to a file that a staged one has taken it from. Who may lose it meanwhile is kept beside it.
fn give_back(staged: &mut Staged, folder: &Folder, name: &OsStr) -> Result<(), DiskError> {
    let staging = staged.staging.clone();
    staged.is_kept = true;
    staging.exchange(&staged.name, folder, name)?;
    let own = staged.version.stamp();
    match staging.entry(&staged.name)? {
        Some(entry) if entry.stamp() != own => {
            staging.set_aside(&staged.name, folder, name).map(drop)
        }
        _ => {
            staged.is_kept = false;
            Ok(())
        }
    }
}

/// Gives a staged file a name that is free.
fn name_new(staged: &mut Staged, target: &Target, name: &OsStr) -> Result<(), DiskError> {
    let staging = staged.staging.clone();
    let rename = || staging.rename_to(&staged.name, &target.folder, name, false);
    let mut renamed = rename();
    if matches!(renamed, Err(DiskError::Exists { .. })) && remove_empty(&target.folder, name, 0)? {
        renamed = rename();
    }
    match renamed {
        Ok(()) => {
            staged.is_kept = true;
            Ok(())
        }
        Err(DiskError::Exists { path }) => {
            target.check_distinct(name)?;
            let entry = target.folder.entry(name)?;
            let changed = DiskError::ChangedSince { path: path.clone() };
            Err(entry.map_or(changed, |entry| unplanned(&entry, path)))
        }
        Err(cause) => Err(cause),
    }
}

/// Gives a staged file the permissions of the one that it replaces, but for those to execute it.
fn keep_mode(
    staged: &mut Staged,
    file: &File,
    target: &Target,
    name: &OsStr,
    path: &Path,
) -> Result<(), DiskError> {
    let entry = Entry::of(file, path)?;
    let existing = target.folder.entry(name)?;
    let existing = existing.filter(|existing| staged.staging.is_ours(existing));
    let mode = existing.map_or(entry.mode, |existing| {
        executable_mode(existing.mode_to_keep(), entry.is_executable())
    });
    if mode != entry.mode {
        files::set_mode(file, path, mode)?;
        staged.version = Version::of(file, path)?;
    }
    Ok(())
}

/// The folders of a batch.
#[derive(Default)]
struct Folders {
    open: Vec<Target>,
    by_path: HashMap<PathBuf, usize>,
    were_made: bool,
}

impl Folders {
    /// The place of a folder, which is made if it is missing.
    fn open(&mut self, replica: &Replica, path: &Path) -> Result<usize, DiskError> {
        if let Some(at) = self.by_path.get(path) {
            return Ok(*at);
        }
        let (target, was_made) = Target::open(replica, path)?;
        self.were_made |= was_made;
        self.open.push(target);
        self.by_path.insert(path.to_owned(), self.open.len() - 1);
        Ok(self.open.len() - 1)
    }
}
