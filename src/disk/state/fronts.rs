//! The fronts of manifests, for files that arrived with one: with the leaves of the object they are all that verifying needs.

use std::{os::unix::ffi::OsStrExt, path::Path};

use rusqlite::{OptionalExtension, Transaction, params};

use crate::format::{layout::FRONT_BYTES, tree::Root};

use super::{State, StateError};

impl State {
    /// Keeps the front of the manifest of a recorded file, for as long as it is recorded as this object.
    pub fn keep_front(&mut self, path: &Path, root: Root, front: &[u8]) -> Result<(), StateError> {
        self.change(|transaction| keep(transaction, path, root, front))
    }

    /// The front of the manifest of the file at this path.
    pub fn front_at(&self, path: &Path) -> Result<Option<Vec<u8>>, StateError> {
        let query = "SELECT front FROM holdings WHERE path = ?1";
        let found: Option<Option<Vec<u8>>> = self.look(|connection| {
            let row = connection
                .prepare_cached(query)?
                .query_row(params![path.as_os_str().as_bytes()], |row| row.get(0));
            row.optional()
        })?;
        Ok(found.flatten().map(|mut front| {
            front.resize(FRONT_BYTES, 0);
            front
        }))
    }
}

/// See [`State::keep_front`]. The zeros at the end of a front, which are most of it, are not kept.
pub(super) fn keep(
    transaction: &Transaction,
    path: &Path,
    root: Root,
    front: &[u8],
) -> rusqlite::Result<()> {
    let update = "UPDATE holdings SET front = ?2 WHERE path = ?1
        AND object IN (SELECT id FROM objects WHERE root = ?3)";
    let end = front
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    let row = params![path.as_os_str().as_bytes(), &front[..end], root.0];
    transaction.prepare_cached(update)?.execute(row).map(drop)
}
