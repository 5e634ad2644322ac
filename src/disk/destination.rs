//! The destination of a download: the target, its part and its journal, and the order of steps that publishes a complete file or
//! nothing.
//!
//! lock journal -> open part -> (prove, write, checkpoint, barrier) ... -> all proven -> sync part -> check that nothing else wrote
//! to it -> rename -> sync folder -> remove journal. A kill between any two steps leaves a state that the next run continues.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crate::format::{
    blockset::BlockSet,
    geometry::{BlockIndex, BlockRange, ByteRange},
    journal::{self, Claims, Identity},
    tree::{Cv, Root},
};

use super::{
    error::{DiskError, FileOperation},
    files::{self, Entry, EntryKind, Folder},
    journal::{FileKeeper, Journal, JournalKeeper},
    locks,
    machine::{default_mode, unix_time},
    part::Part,
};

/// How long to wait for a lock: after a kill the kernel releases the lock only when the process has ended. A lock that is held
/// longer is in use.
const LOCK_WAIT: Duration = Duration::from_millis(200);

/// The target of a download.
#[derive(Debug)]
pub struct Destination {
    pub(super) folder: Arc<Folder>,
    pub(super) name: OsString,
    part_name: OsString,
    journal_name: OsString,
}

impl Destination {
    /// `target` must name a regular file or nothing, in an existing folder.
    pub fn new(target: &Path) -> Result<Destination, DiskError> {
        let (folder, name) = files::split(target).ok_or_else(|| DiskError::Unsafe {
            path: target.to_owned(),
            what: "no file name",
        })?;
        let folder = Folder::open(&folder).map_err(|cause| match cause {
            // Name the target: it cannot be created in this folder.
            DiskError::Io { source, .. } => DiskError::io(FileOperation::Create, target, source),
            other => other,
        })?;
        Destination::in_folder(Arc::new(folder), name)
    }

    /// The same in a folder that is open.
    pub fn in_folder(folder: Arc<Folder>, name: OsString) -> Result<Destination, DiskError> {
        let path = folder.path_of(&name);
        if files::is_own(&name) {
            return Err(DiskError::Conflict {
                path,
                what: "a name of unfinished downloads; choose another name",
            });
        }
        let destination = Destination {
            folder,
            part_name: files::with_suffix(&name, ".part"),
            journal_name: files::with_suffix(&name, ".part.journal"),
            name,
        };
        let what = match destination.existing()?.map(|entry| entry.kind) {
            None | Some(EntryKind::Regular) => return Ok(destination),
            Some(EntryKind::Folder) => "a folder",
            Some(EntryKind::Link) => "a symbolic link",
            Some(EntryKind::Special) => "not a regular file",
        };
        Err(DiskError::Unsafe { path, what })
    }

    /// The final name.
    pub fn path(&self) -> PathBuf {
        self.folder.path_of(&self.name)
    }

    /// `FILE.part`.
    pub fn part_path(&self) -> PathBuf {
        self.folder.path_of(&self.part_name)
    }

    /// The file under the final name, if there is one.
    pub fn existing(&self) -> Result<Option<Entry>, DiskError> {
        self.folder.entry(&self.name)
    }

    /// Whether there is nothing under the name of the part.
    pub fn has_no_part(&self) -> Result<bool, DiskError> {
        Ok(self.folder.entry(&self.part_name)?.is_none())
    }

    /// Whether an earlier run left a part.
    pub fn has_part(&self) -> Result<bool, DiskError> {
        let part = self.folder.entry(&self.part_name)?;
        Ok(part.is_some_and(|part| part.length > 0))
    }

    /// Free bytes in the file system of the target.
    pub fn bytes_free(&self) -> Result<u64, DiskError> {
        self.folder.bytes_free()
    }

    /// Locks the destination for this run. The journal is the lock file.
    pub fn lock(mut self) -> Result<Locked, DiskError> {
        let began = Instant::now();
        loop {
            self = match self.try_lock()? {
                Ok(locked) => return Ok(locked),
                Err(busy) if began.elapsed() < LOCK_WAIT => busy,
                Err(busy) => return Err(DiskError::Busy { path: busy.path() }),
            };
            thread::sleep(LOCK_WAIT / 20);
        }
    }

    /// The same without a wait. `Err`: another run has it now.
    pub fn try_lock(self) -> Result<Result<Locked, Destination>, DiskError> {
        let path = self.folder.path_of(&self.journal_name);
        loop {
            let file = self.folder.open_own_or_create(&self.journal_name)?;
            if !locks::try_lock(&file, &path)? {
                return Ok(Err(self));
            }
            // The run that held the lock before may have finished and removed the file that we opened.
            if self.folder.is_still(&self.journal_name, &file)? {
                return Ok(Ok(Locked {
                    destination: self,
                    journal: file,
                    released: false,
                }));
            }
        }
    }
}

/// A destination that no other run can use. Dropping it removes an empty part and its journal, and keeps a part that the next run
/// can resume.
#[derive(Debug)]
pub struct Locked {
    destination: Destination,
    journal: File,
    /// Published or discarded: another run may use the names already.
    released: bool,
}

/// What a part and its journal hold for a later run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Held {
    /// Bytes of the object.
    pub bytes: u64,
    /// They were proven against a manifest.
    pub with_manifest: bool,
}

/// What was found under the name of the part.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "sizes are in bytes")]
pub enum Found {
    /// No part.
    Nothing,
    /// A part of this object with its journal.
    Part,
    /// A part of another object, or without a journal: its blocks are judged, and the file is ours from now on.
    Seed { bytes: u64 },
    /// A part of another object or version, useless without a manifest: this many bytes were dropped. `url`: the URL of the
    /// object, if that was another one.
    Outdated { bytes: u64, url: Option<String> },
}

/// A part that can be written to.
pub struct Opened {
    /// Open, and owned by this run.
    pub part: Arc<Part>,
    /// Open for this run.
    pub journal: Journal,
    /// Blocks that are probably in the part and must be judged: those that the journal names, and other data in the part.
    pub claimed: BlockSet,
    /// Of an object without a manifest: the leaves of the claimed blocks.
    pub leaves: BTreeMap<BlockIndex, Cv>,
    /// What an earlier run left.
    pub found: Found,
}

impl Locked {
    /// What is locked.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// Opens the part and its journal for this object. `keeper`: where to keep the journal instead of its file.
    pub fn open(
        &self,
        identity: &Identity,
        url: &str,
        keeper: Option<Box<dyn JournalKeeper>>,
    ) -> Result<Opened, DiskError> {
        let Destination {
            folder,
            part_name,
            journal_name,
            ..
        } = &self.destination;
        let part = Arc::new(Part::new(
            folder.open_own_or_create(part_name)?,
            folder.path_of(part_name),
        ));
        let mut keeper = match keeper {
            Some(keeper) => keeper,
            None => {
                let file = self.journal.try_clone().map_err(|cause| {
                    DiskError::io(FileOperation::Open, &folder.path_of(journal_name), cause)
                })?;
                Box::new(FileKeeper::new(file, folder.path_of(journal_name)))
            }
        };
        let (place, time, length) = (part.place()?, unix_time(), part.length()?);
        let bytes = keeper.read()?;
        let read = journal::read(&bytes, &place);
        // A damaged journal claims nothing, but it still shows that this program wrote the part.
        let outdated = journal::is_journal(&bytes).then(|| outdated(read.as_ref(), url, length));
        if let Some(claims) = &read
            && length > 0
            && claims.are_of(identity, url)
        {
            let mut claimed = plausible_claims(claims, length);
            if identity.root.is_some() && part.shows_holes()? {
                let mut found = part.blocks_with_data(&identity.geometry)?;
                found.remove_all(&claims.dropped);
                claimed.insert_all(&found);
            }
            let journal = Journal::resume(keeper, identity, claims, place, time)?;
            return Ok(Opened {
                part,
                journal,
                claimed,
                leaves: claims.leaves.clone(),
                found: Found::Part,
            });
        }
        let (claimed, found) = without_claims(&part, identity, outdated)?;
        let mut journal = Journal::begin(keeper, identity, url, place, time)?;
        if identity.root.is_none() {
            // After a power cut, a part with bytes and no journal would look like a file of the user.
            journal.sync()?;
            folder.sync()?;
        }
        Ok(Opened {
            part,
            journal,
            claimed,
            leaves: BTreeMap::new(),
            found,
        })
    }

    /// Gives the part its final name. It must be settled, and the object of this root.
    pub fn publish(
        mut self,
        part: &Part,
        mut journal: Journal,
        root: Root,
        no_clobber: bool,
    ) -> Result<(), DiskError> {
        let Destination {
            folder,
            name,
            part_name,
            ..
        } = &self.destination;
        let existing = folder.entry(name)?.filter(|entry| folder.is_ours(entry));
        part.set_mode(existing.map_or_else(default_mode, |entry| entry.mode_to_keep()))?;
        if let Err(cause) = part.sync_all() {
            // The next run would read all of it from memory, judge it right, and rename a file that is not on the disk.
            journal.sync_failed()?;
            return Err(cause);
        }
        if !part.is_still(root)? {
            return Err(DiskError::ChangedAfterProof {
                path: part.path().to_owned(),
            });
        }
        part.rename(folder, part_name, name, !no_clobber)?;
        folder.sync()?;
        self.release()?;
        Ok(())
    }

    /// Renames a part that is wrong to `FILE.quarantined`, or the next free name of that kind, and returns that path.
    pub fn quarantine(mut self) -> Result<PathBuf, DiskError> {
        let Destination {
            folder,
            name,
            part_name,
            ..
        } = &self.destination;
        let quarantined = folder.set_aside(part_name, folder, name)?;
        self.release()?;
        Ok(quarantined)
    }

    /// Removes part and journal: the object is at the target already, or the part is useless.
    pub fn discard(mut self) -> Result<(), DiskError> {
        let Destination {
            folder, part_name, ..
        } = &self.destination;
        if let Some(part) = folder.open_own(part_name)? {
            drop(part);
            folder.remove(part_name)?;
        }
        self.release()?;
        Ok(())
    }

    /// Removes the journal: the object has its name, or nothing of it is left.
    pub(super) fn release(&mut self) -> Result<(), DiskError> {
        let Destination {
            folder,
            journal_name,
            ..
        } = &self.destination;
        folder.remove(journal_name)?;
        self.released = true;
        Ok(())
    }

    /// What a later run can resume from.
    pub fn held(&self) -> Result<Held, DiskError> {
        let Destination {
            folder,
            part_name,
            journal_name,
            ..
        } = &self.destination;
        let Some(part) = folder.open_own(part_name)? else {
            return Ok(Held::default());
        };
        let part = Part::new(part, folder.path_of(part_name));
        let clone = self.journal.try_clone().map_err(|cause| {
            DiskError::io(FileOperation::Open, &folder.path_of(journal_name), cause)
        })?;
        let bytes = FileKeeper::new(clone, folder.path_of(journal_name)).read()?;
        let claims = journal::read(&bytes, &part.place()?);
        claims.map_or(Ok(Held::default()), |claims| {
            let held = plausible_claims(&claims, part.length()?);
            Ok(Held {
                bytes: held.bytes(&claims.identity.geometry),
                with_manifest: claims.identity.root.is_some(),
            })
        })
    }

    /// The object is at the target already: removes what earlier runs left of it; other files stay.
    pub fn discard_leftovers(self, identity: &Identity, url: &str) -> Result<(), DiskError> {
        let Destination {
            folder,
            name,
            part_name,
            journal_name,
            ..
        } = &self.destination;
        // The run that published it may have been killed before it synced the name, and a copy made by the user may not be synced
        // either.
        let path = self.destination.path();
        let published = folder.open_file_below(Path::new(name))?;
        let (published, _) = published.ok_or_else(|| DiskError::Gone { path: path.clone() })?;
        files::sync_all(&published, &path)?;
        folder.sync()?;
        let part = folder.entry(part_name)?;
        if part.is_some_and(|part| folder.suspicious(&part).is_some()) {
            return Ok(());
        }
        let part_bytes = part.map_or(0, |part| part.length);
        let clone = self.journal.try_clone().map_err(|cause| {
            DiskError::io(FileOperation::Open, &folder.path_of(journal_name), cause)
        })?;
        let bytes = FileKeeper::new(clone, folder.path_of(journal_name)).read()?;
        // Whether the part is ours does not depend on where it was last seen.
        let ours = journal::read(&bytes, &journal::Place::NOWHERE)
            .is_some_and(|claims| claims.are_of(identity, url));
        match part_bytes == 0 || ours {
            true => self.discard(),
            false => Ok(()),
        }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        let Destination {
            folder,
            part_name,
            journal_name,
            ..
        } = &self.destination;
        if self.released {
            return;
        }
        let ours_and_empty =
            |entry: Entry| entry.length == 0 && folder.suspicious(&entry).is_none();
        let journal_is_empty = self
            .journal
            .metadata()
            .is_ok_and(|journal| journal.len() == 0);
        // An empty part has nothing to resume from. A file that is not ours stays, without an empty journal beside it.
        match folder.entry(part_name) {
            Ok(Some(part)) if ours_and_empty(part) => {
                let _ = folder.remove(part_name);
                let _ = folder.remove(journal_name);
            }
            Ok(None) => drop(folder.remove(journal_name)),
            Ok(Some(_)) | Err(_) if journal_is_empty => drop(folder.remove(journal_name)),
            Ok(Some(_)) | Err(_) => (),
        }
    }
}

/// What a part of ours is if it is useless without a manifest.
fn outdated(claims: Option<&Claims>, url: &str, length: u64) -> Found {
    let is_other = |of_part: &String| !of_part.is_empty() && of_part != url;
    Found::Outdated {
        // The part may have holes: only what its journal claims could have been used.
        bytes: claims.map_or(length, |claims| {
            plausible_claims(claims, length).bytes(&claims.identity.geometry)
        }),
        url: claims.map(|claims| claims.url.clone()).filter(is_other),
    }
}

/// The claims and the kind of a part without a journal that claims anything of this object. `outdated`: the part is ours.
fn without_claims(
    part: &Part,
    identity: &Identity,
    outdated: Option<Found>,
) -> Result<(BlockSet, Found), DiskError> {
    let nothing = BlockSet::empty(identity.geometry.blocks());
    Ok(match (part.length()?, identity.root, outdated) {
        (0, _, _) => (nothing, Found::Nothing),
        (_, Some(_), _) => (
            part.blocks_with_data(&identity.geometry)?,
            Found::Seed {
                bytes: part.bytes_of_data()?,
            },
        ),
        (_, None, Some(outdated)) => {
            part.set_length(0)?;
            (nothing, outdated)
        }
        (_, None, None) => {
            return Err(DiskError::Unsafe {
                path: part.path().to_owned(),
                what: "not a download of ours",
            });
        }
    })
}

/// The claimed blocks that end within the part; without a manifest, only those with a recorded leaf.
fn plausible_claims(claims: &Claims, length: u64) -> BlockSet {
    let mut claimed = claims.claimed.clone();
    if claims.identity.root.is_none() {
        let unknown: Vec<_> = claimed
            .ranges()
            .flat_map(BlockRange::iter)
            .filter(|b| !claims.leaves.contains_key(b))
            .collect();
        for block in unknown {
            claimed.remove(block);
        }
    }
    let within_part = claims
        .identity
        .geometry
        .blocks_within(ByteRange::new(0, length));
    for block in (within_part.end..claims.identity.geometry.blocks()).map(BlockIndex) {
        claimed.remove(block);
    }
    claimed
}
