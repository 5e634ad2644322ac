//! Why files go.

use std::sync::Arc;

use crate::disk::replica::Trash;

/// Why a local file is removed.
#[derive(Clone)]
pub enum Removal {
    /// Its content has another name now.
    Moved,
    /// The library does not list it. Without a trash it is deleted for good.
    Deleted(Option<Arc<Trash>>),
}

impl Removal {
    /// Where it goes; `None`: nowhere.
    pub fn trash(&self) -> Option<&Trash> {
        match self {
            Removal::Deleted(trash) => trash.as_deref(),
            Removal::Moved => None,
        }
    }
}
