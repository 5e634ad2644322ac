//! The store: an index of local files that hold objects, so that local blocks are not fetched again.
//!
//! It holds no second copy of the user's files: it records references to them and only reads them. Bytes read from a holding may
//! be wrong, because its file can change or disappear at any time. So they are judged before they count, and a holding whose file
//! is missing or replaced is forgotten silently.
//!
//! Streamed blocks are cached in the store's own sparse files (`cached.rs`), which it keeps within limits.

mod cached;
mod collect;
mod leaves;
mod room;

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use crate::format::{geometry::Geometry, manifest::Tree, tree::Root};

use super::{
    error::DiskError,
    files::{self, NotedPaths, Stamp},
    state::{Adopted, Allowed, Arrival, Arrived, Holding, Provenance, State, StateError, Wanted},
};

use cached::Objects;
use leaves::Header;

pub use cached::{Damage, OwnObject, Reads};
pub use collect::HoldingChange;

/// Candidates that are checked for each wanted seed: the files of some may be missing.
const CANDIDATES_A_SEED: usize = 4;

/// The open store of a folder.
#[derive(Debug)]
pub struct Store {
    state: State,
    folder: PathBuf,
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The index failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// A file failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// An open holding that may have bytes of the wanted object.
#[derive(Debug)]
pub struct Seed {
    /// The record in the index.
    pub holding: Holding,
    /// A regular file in the recorded version. It can change at any time: read it, do not map it.
    pub file: File,
}

/// A file of the user that is all of an object, for [`Store::adopt_all`].
#[derive(Clone, Debug)]
pub struct NewHolding {
    /// Its path.
    pub path: PathBuf,
    /// The version that was proven.
    pub stamp: Stamp,
    /// The tree of the object.
    pub tree: Tree,
    /// Where it came from.
    pub provenance: Provenance,
    /// The front of its manifest, if it came with one.
    pub front: Option<Vec<u8>>,
    /// From which URL as which version, if it was fetched.
    pub arrived: Option<Arrived>,
    /// Unix seconds.
    pub at: u64,
}

impl NewHolding {
    /// The record of the file; `None`: the file is missing or was modified.
    fn adopted(&self, paths: &mut NotedPaths) -> Option<Adopted> {
        let path = paths.of(&self.path)?;
        let entry = files::noted_entry(&path)?;
        (entry.stamp() == self.stamp).then(|| Adopted {
            path,
            stamp: self.stamp,
            provenance: self.provenance.clone(),
            at: self.at,
        })
    }
}

impl Store {
    /// Opens the store in this folder, or creates it. A lost index is rebuilt from the own objects.
    pub fn open(folder: &Path) -> Result<Store, StateError> {
        let mut store = Store {
            state: State::open(folder)?,
            folder: folder.to_owned(),
        };
        if !store.state.has_own()? {
            // Only errors of the index count: files that cannot be read now are left to a later scan.
            if let Err(StoreError::State(cause)) = store.scan_objects(&mut |_| ()) {
                return Err(cause);
            }
        }
        Ok(store)
    }

    /// Opens the own object of this root, or creates it, to cache streamed blocks. `None`: not possible now, or not with this
    /// geometry.
    pub fn own_object(
        &mut self,
        root: Root,
        geometry: Geometry,
        provenance: Provenance,
    ) -> Result<Option<OwnObject>, StoreError> {
        let header = Header {
            root,
            geometry,
            provenance,
        };
        let Some(objects) = Objects::open(&self.folder, true)? else {
            return Ok(None);
        };
        let Some(own) = objects.open_or_create(&header)? else {
            return Ok(None);
        };
        let path = objects.path_of(root.to_string().as_ref());
        let noted = self.state.holding_at(&path)?;
        if let Some(blocks) = noted
            .filter(|noted| noted.geometry == geometry)
            .and_then(|noted| noted.blocks)
        {
            own.claim(&blocks);
        }
        self.note_cached(&own)?;
        Ok(Some(own))
    }

    /// The index, with everything else that is remembered.
    pub fn state(&mut self) -> &mut State {
        &mut self.state
    }

    /// Records that a file of the user is all of the object of this tree. Returns `false` if the file is missing by now or has
    /// another length.
    pub fn adopt(
        &mut self,
        path: &Path,
        tree: &Tree,
        provenance: Provenance,
        at: u64,
    ) -> Result<bool, StateError> {
        let Some(path) = files::noted_path(path) else {
            return Ok(false);
        };
        let length = tree.geometry().length();
        let found = files::open_noted(&path).filter(|(_, entry)| entry.length == length);
        let Some((_, entry)) = found else {
            return Ok(false);
        };
        let adopted = Adopted {
            path,
            stamp: entry.stamp(),
            provenance,
            at,
        };
        self.state.adopt(&adopted, tree)?;
        Ok(true)
    }

    /// Keeps the front of the manifest of a recorded file, for as long as it is recorded as this object.
    pub fn keep_front(&mut self, path: &Path, root: Root, front: &[u8]) -> Result<(), StateError> {
        match files::noted_path(path) {
            Some(path) => self.state.keep_front(&path, root, front),
            None => Ok(()),
        }
    }

    /// The file of the user that was recorded at this path, whatever is there now, and the front of the manifest that it came with.
    pub fn recorded_at(&self, path: &Path) -> Result<Option<(Holding, Vec<u8>)>, StateError> {
        let Some(path) = files::noted_path(path) else {
            return Ok(None);
        };
        let holding = self.state.holding_at(&path)?.filter(|holding| !holding.own);
        Ok(holding.zip(self.state.front_at(&path)?))
    }

    /// [`Store::adopt`] of many files in one transaction, with where they came from. Returns how many were recorded: not those
    /// that are missing or were modified by now.
    pub fn adopt_all(&mut self, files: &[NewHolding]) -> Result<usize, StateError> {
        let mut paths = NotedPaths::default();
        let found: Vec<_> = files
            .iter()
            .filter_map(|new| Some((new.adopted(&mut paths)?, new)))
            .collect();
        let count = found.len();
        if count > 0 {
            let described = |(adopted, new)| {
                let new: &NewHolding = new;
                let arrival = Arrival {
                    tree: &new.tree,
                    front: new.front.as_deref(),
                    arrived: new.arrived.as_ref(),
                };
                (adopted, arrival)
            };
            self.state.adopt_all(found.into_iter().map(described))?;
        }
        Ok(count)
    }

    /// The open holdings that are most likely to have bytes of a wanted object, best first, at most `most`.
    pub fn seeds(
        &mut self,
        allowed: &Allowed,
        wanted: &Wanted,
        most: usize,
    ) -> Result<Vec<Seed>, StateError> {
        let candidates = self
            .state
            .candidates(allowed, wanted, most * CANDIDATES_A_SEED)?;
        let mut seeds = Vec::new();
        for candidate in candidates {
            if seeds.len() == most {
                break;
            }
            let holding = candidate.holding;
            let file = self.open_holding(&holding)?;
            seeds.extend(file.map(|file| Seed { holding, file }));
        }
        Ok(seeds)
    }

    /// Opens a holding. Forgets it if its file is missing, is not regular, or was modified since it was recorded.
    pub fn open_holding(&mut self, holding: &Holding) -> Result<Option<File>, StateError> {
        match files::open_noted(&holding.path) {
            Some((file, entry)) if holding.own || entry.stamp() == holding.stamp => Ok(Some(file)),
            _ => {
                self.state.forget(holding)?;
                Ok(None)
            }
        }
    }

    /// The tree of a holding's object, if all of it is known; with anchors if they were ever computed.
    pub fn tree_of(&self, holding: &Holding) -> Result<Option<Tree>, StateError> {
        match self.state.tree_of(holding.root, holding.geometry)? {
            None if holding.own => Ok(self.tree_of_own(holding)),
            tree => Ok(tree),
        }
    }

    /// A complete own object has all its leaves in its file of leaves.
    fn tree_of_own(&self, holding: &Holding) -> Option<Tree> {
        let objects = Objects::open(&self.folder, false).ok()??;
        let leaves = objects.leaves_of(holding.root, &holding.geometry).ok()??;
        let tree = Tree::new(holding.geometry, leaves, None);
        (tree.root() == holding.root).then_some(tree)
    }

    /// The tree of a file of the user that was recorded in this version, under any name.
    pub fn tree_of_file(&self, stamp: &Stamp) -> Result<Option<Tree>, StateError> {
        match self.state.holding_with(stamp)? {
            Some(holding) => self.state.tree_of(holding.root, holding.geometry),
            None => Ok(None),
        }
    }

    /// Stores the anchors of an object that were computed for the first time, so that searches find the object by them. Does
    /// nothing if there is no holding of it with this block size.
    pub fn keep_anchors(&mut self, tree: &Tree) -> Result<(), StateError> {
        self.state.keep_anchors(tree)
    }

    /// Forgets a holding that differs from its record in the index.
    pub fn forget(&mut self, holding: &Holding) -> Result<(), StateError> {
        self.state.forget(holding).map(drop)
    }

    /// Records a use of a holding.
    pub fn note_used(&mut self, holding: &Holding, at: u64) -> Result<(), StateError> {
        self.state.note_used(holding, at)
    }
}

#[cfg(test)]
mod tests;
