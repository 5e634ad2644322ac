//! The store: an index over files that hold objects, so that what is here is not fetched again.
//!
//! It holds no second copy of the user's files: they are noted by reference and only read. Whatever is read from a holding may
//! be wrong, because its file can change or go at any time. So it is judged before it counts, and a holding that is gone, or
//! is another file by now, is forgotten silently.
//!
//! Blocks that were streamed are in sparse files of its own (`cached.rs`), which it keeps within limits.

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
    files::{self, Stamp},
    state::{Adopted, Allowed, Holding, Provenance, State, StateError, Wanted},
};

use cached::Objects;
use leaves::Header;

pub use cached::{Damage, OwnObject};
pub use collect::News;

/// So many candidates are looked at for each seed that is wanted: some of them may be gone.
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
    /// Its index.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its files.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// A holding that may have bytes of the wanted object, open.
#[derive(Debug)]
pub struct Seed {
    /// What the index knows of it.
    pub holding: Holding,
    /// Regular, and the version that was noted. It can change at any time; it is to be read, not mapped.
    pub file: File,
}

impl Store {
    /// Opens the store in this folder, making it if it is not there. An index that was lost is made anew from the own objects.
    pub fn open(folder: &Path) -> Result<Store, StateError> {
        let mut store = Store {
            state: State::open(folder)?,
            folder: folder.to_owned(),
        };
        if !store.state.has_own()? {
            // What cannot be read now is found the next time, or never.
            if let Err(StoreError::State(cause)) = store.look_through(&mut |_| ()) {
                return Err(cause);
            }
        }
        Ok(store)
    }

    /// Opens the own object of this root, or makes it, for blocks that are streamed. `None`: not now, or not with this geometry.
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
        self.note_kept(&own)?;
        Ok(Some(own))
    }

    /// What is remembered beside the holdings.
    pub fn state(&mut self) -> &mut State {
        &mut self.state
    }

    /// Notes that a file of the user's is all of the object of this tree. Returns whether it could be: a file that is gone by
    /// now, or has another length, cannot.
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

    /// The holdings that are most likely to have bytes of a wanted object, best first and open; at most so many.
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

    /// Opens a holding. One that is gone, is no regular file, or was written to since it was noted is forgotten.
    pub fn open_holding(&mut self, holding: &Holding) -> Result<Option<File>, StateError> {
        match files::open_noted(&holding.path) {
            Some((file, entry)) if holding.own || entry.stamp() == holding.stamp => Ok(Some(file)),
            _ => {
                self.state.forget(holding)?;
                Ok(None)
            }
        }
    }

    /// The tree of a holding's object, if all of it is known; with anchors if they were ever made.
    pub fn tree_of(&self, holding: &Holding) -> Result<Option<Tree>, StateError> {
        match self.state.tree_of(holding.root, holding.geometry)? {
            None if holding.own => Ok(self.tree_of_own(holding)),
            tree => Ok(tree),
        }
    }

    /// Of an own object that became whole the leaves are all beside it.
    fn tree_of_own(&self, holding: &Holding) -> Option<Tree> {
        let objects = Objects::open(&self.folder, false).ok()??;
        let leaves = objects.leaves_of(holding.root, &holding.geometry).ok()??;
        let tree = Tree::new(holding.geometry, leaves, None);
        (tree.root() == holding.root).then_some(tree)
    }

    /// The tree of a file of the user's that was noted in this very version, under whatever name.
    pub fn tree_of_file(&self, stamp: &Stamp) -> Result<Option<Tree>, StateError> {
        match self.state.holding_with(stamp)? {
            Some(holding) => self.state.tree_of(holding.root, holding.geometry),
            None => Ok(None),
        }
    }

    /// Keeps the anchors of an object that were made for the first time, so that it is found by them from now on. Does nothing
    /// if there is no holding of it with this block size.
    pub fn keep_anchors(&mut self, tree: &Tree) -> Result<(), StateError> {
        self.state.keep_anchors(tree)
    }

    /// Forgets a holding that turned out not to be what the index says.
    pub fn forget(&mut self, holding: &Holding) -> Result<(), StateError> {
        self.state.forget(holding).map(drop)
    }

    /// Notes that a holding was of use.
    pub fn note_used(&mut self, holding: &Holding, at: u64) -> Result<(), StateError> {
        self.state.note_used(holding, at)
    }
}

#[cfg(test)]
mod tests;
