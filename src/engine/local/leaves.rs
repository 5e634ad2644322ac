//! The leaves of an object, in memory or beside its target.

use std::{ops::Deref, path::Path};

use crate::{
    disk::{error::DiskError, leaf_pages::LeafPages},
    format::{
        judge::{Leaves, ObjectKey},
        leaves::BLOCKS_IN_MEMORY,
    },
};

/// Leaves, and the file that keeps them if they are many.
pub struct KeptLeaves {
    leaves: Leaves,
    pages: Option<LeafPages>,
}

impl KeptLeaves {
    /// None yet. `target`: the file that the object will become.
    pub fn empty(object: ObjectKey, target: &Path) -> Result<KeptLeaves, DiskError> {
        if object.geometry().blocks() <= BLOCKS_IN_MEMORY {
            let leaves = Leaves::empty(object);
            return Ok(KeptLeaves {
                leaves,
                pages: None,
            });
        }
        let folder = target.parent().filter(|path| !path.as_os_str().is_empty());
        let pages = LeafPages::create(folder.unwrap_or(Path::new(".")))?;
        Ok(KeptLeaves {
            leaves: Leaves::stored(object, Box::new(pages.clone())),
            pages: Some(pages),
        })
    }

    /// Fails if the file could not be written or read.
    pub fn check(&self) -> Result<(), DiskError> {
        self.pages.as_ref().map_or(Ok(()), LeafPages::check)
    }

    pub fn into_leaves(self) -> Leaves {
        self.leaves
    }
}

impl Deref for KeptLeaves {
    type Target = Leaves;

    fn deref(&self) -> &Leaves {
        &self.leaves
    }
}
