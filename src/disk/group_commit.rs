//! Small objects that are published together: written without names, synced together, then named, and their folders synced.
//!
//! The order for each of them is that of [`super::destination`]: lock -> write -> sync -> name -> sync folder -> remove journal.
//! There is no part: a kill before the name leaves nothing but the empty journal, which is the lock.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    path::PathBuf,
};

use super::{
    destination::{Destination, Locked},
    durable::Syncs,
    error::DiskError,
    files::{self, Entry, Folder},
};

/// A whole object that is proven, for a destination where no part is.
#[derive(Debug)]
pub struct Whole {
    /// Its destination.
    pub locked: Locked,
    /// All of it.
    pub bytes: bytes::Bytes,
    /// Fail if the name exists by then.
    pub no_clobber: bool,
}

/// What became of a whole object.
#[derive(Debug)]
pub enum Outcome {
    /// It has its name, and is durable.
    Published(Entry),
    /// This file system has no files without names: a part is needed.
    NeedsPart(Locked),
    /// Neither.
    Failed(DiskError),
}

/// An object in a file without a name.
struct Unnamed {
    locked: Locked,
    file: File,
    no_clobber: bool,
}

/// Publishes these objects; one outcome for each, in the same order.
pub fn publish(batch: Vec<Whole>, syncs: &Syncs) -> Vec<Outcome> {
    let written: Vec<_> = batch.into_iter().map(write).collect();
    let synced = sync(written, syncs);
    let named: Vec<_> = synced
        .into_iter()
        .map(|file| file.and_then(Unnamed::name))
        .collect();
    let mut folders: HashMap<PathBuf, Option<DiskError>> = HashMap::new();
    named
        .into_iter()
        .map(|named| named.and_then(|named| end(named, &mut folders).map_err(failed)))
        .map(|ended| ended.map_or_else(|outcome| outcome, Outcome::Published))
        .collect()
}

/// What ends an object before it is published.
type Step<T> = Result<T, Outcome>;

fn failed(cause: DiskError) -> Outcome {
    Outcome::Failed(cause)
}

fn write(whole: Whole) -> Step<Unnamed> {
    let Whole {
        locked,
        bytes,
        no_clobber,
    } = whole;
    let destination = locked.destination();
    let file = match destination.folder.create_unnamed() {
        Ok(Some(file)) => file,
        Ok(None) => return Err(Outcome::NeedsPart(locked)),
        Err(cause) => return Err(failed(cause)),
    };
    files::write_at(&file, &destination.path(), &bytes, 0).map_err(failed)?;
    Ok(Unnamed {
        locked,
        file,
        no_clobber,
    })
}

/// Makes the files durable: those of one file system together, if they are many.
fn sync(written: Vec<Step<Unnamed>>, syncs: &Syncs) -> Vec<Step<Unnamed>> {
    let written: Vec<Step<(Unnamed, u64)>> = written
        .into_iter()
        .map(|step| {
            let unnamed = step?;
            let path = unnamed.locked.destination().path();
            let device = Entry::of(&unnamed.file, &path).map_err(failed)?.device;
            Ok((unnamed, device))
        })
        .collect();
    let mut file_systems: HashMap<u64, (&Folder, usize)> = HashMap::new();
    for (unnamed, device) in written.iter().flatten() {
        let folder: &Folder = &unnamed.locked.destination().folder;
        file_systems.entry(*device).or_insert((folder, 0)).1 += 1;
    }
    let are_synced = |(device, (folder, count)): (u64, (&Folder, usize))| {
        syncs.together(folder, count).then_some(device)
    };
    let synced: HashSet<u64> = file_systems.into_iter().filter_map(are_synced).collect();
    let one = |step: Step<(Unnamed, u64)>| {
        let (unnamed, device) = step?;
        if !synced.contains(&device) {
            let path = unnamed.locked.destination().path();
            files::sync_all(&unnamed.file, &path).map_err(failed)?;
        }
        Ok(unnamed)
    };
    written.into_iter().map(one).collect()
}

/// A file that has its name, which is not durable yet.
struct Named {
    locked: Locked,
    entry: Entry,
}

impl Unnamed {
    fn name(self) -> Step<Named> {
        let entry = self.name_entry().map_err(failed)?;
        Ok(Named {
            locked: self.locked,
            entry,
        })
    }

    fn name_entry(&self) -> Result<Entry, DiskError> {
        let destination = self.locked.destination();
        let Destination { folder, name, .. } = destination;
        let path = destination.path();
        if !folder.link_open(&self.file, name)? {
            if self.no_clobber {
                return Err(DiskError::Exists { path });
            }
            let existing = folder.entry(name)?.filter(|entry| folder.is_ours(entry));
            if let Some(existing) = existing {
                files::set_mode(&self.file, &path, existing.mode_to_keep())?;
            }
            folder.replace_by_open(&self.file, name)?;
        }
        Entry::of(&self.file, &path)
    }
}

/// Makes the name durable, and gives the lock back. `folders`: those that were synced, and how that failed.
fn end(
    named: Named,
    folders: &mut HashMap<PathBuf, Option<DiskError>>,
) -> Result<Entry, DiskError> {
    let Named { mut locked, entry } = named;
    let folder = &locked.destination().folder;
    if !folders.contains_key(&folder.path) {
        folders.insert(folder.path.clone(), folder.sync().err());
    }
    if let Some(cause) = &folders[&folder.path] {
        return Err(cause.of_another(&locked.destination().path()));
    }
    locked.release()?;
    Ok(entry)
}
