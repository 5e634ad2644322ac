//! Holdings of the store's own files.

use std::{os::unix::ffi::OsStrExt, path::PathBuf};

use rusqlite::{OptionalExtension, Transaction};

use crate::{
    disk::files::Stamp,
    format::{blockset::BlockSet, geometry::Geometry, tree::Root},
};

use super::{
    Holding, Provenance, State, StateError, holdings,
    id::ObjectId,
    objects::{self, Description},
};

/// The record of an own object.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "fields are named after what they are")]
pub struct Own {
    pub path: PathBuf,
    pub stamp: Stamp,
    pub root: Root,
    pub geometry: Geometry,
    pub provenance: Provenance,
    /// Its last use, in Unix seconds.
    pub at: u64,
}

impl Own {
    /// A recorded own object.
    pub fn of(holding: &Holding) -> Own {
        Own {
            path: holding.path.clone(),
            stamp: holding.stamp,
            root: holding.root,
            geometry: holding.geometry,
            provenance: holding.provenance.clone(),
            at: holding.used,
        }
    }
}

impl State {
    /// Claims blocks in addition to the claimed ones. Does nothing if the object is recorded with another length.
    pub fn add_own(&mut self, own: &Own, blocks: &BlockSet) -> Result<(), StateError> {
        self.change(|transaction| put(transaction, own, blocks, true))
    }

    /// Claims exactly these blocks; with none, forgets the holding.
    pub fn set_own(&mut self, own: &Own, blocks: &BlockSet) -> Result<(), StateError> {
        self.change(|transaction| put(transaction, own, blocks, false))
    }

    /// The own objects, the least recently used first.
    pub fn own_objects(&self) -> Result<Vec<Holding>, StateError> {
        self.some_holdings("WHERE own ORDER BY used, holdings.id", &[])
    }

    /// The bytes that all own objects hold.
    pub fn own_bytes(&self) -> Result<u64, StateError> {
        let query = "SELECT coalesce(sum(bytes), 0) FROM holdings WHERE own = 1";
        self.look(|connection| {
            connection
                .query_row(query, [], |row| row.get::<_, i64>(0))
                .map(i64::cast_unsigned)
        })
    }

    /// Whether any own object is recorded.
    pub fn has_own(&self) -> Result<bool, StateError> {
        let query = "SELECT EXISTS (SELECT 1 FROM holdings WHERE own = 1)";
        self.look(|connection| connection.query_row(query, [], |row| row.get(0)))
    }
}

/// The row of an own object: its id, its object, its geometry, and its blocks.
type Noted = (i64, ObjectId, Option<Geometry>, Option<Vec<u8>>);

fn put(
    transaction: &Transaction,
    own: &Own,
    blocks: &BlockSet,
    in_addition: bool,
) -> rusqlite::Result<()> {
    let path = own.path.as_os_str().as_bytes();
    let query = "SELECT holdings.id, object, objects.length, block_size, blocks
        FROM holdings JOIN objects ON objects.id = object WHERE path = ?1";
    let noted: Option<Noted> = transaction
        .prepare_cached(query)?
        .query_row([path], |row| {
            let geometry = objects::geometry(row.get(2)?, row.get(3)?);
            Ok((row.get(0)?, row.get(1)?, geometry, row.get(4)?))
        })
        .optional()?;
    let mut blocks = blocks.clone();
    if let Some((_, _, Some(geometry), Some(bytes))) = &noted
        && in_addition
        && *geometry == own.geometry
        && let Some(before) = BlockSet::from_bytes(geometry.blocks(), bytes)
    {
        blocks.insert_all(&before);
    }
    if blocks.is_empty() {
        return match noted {
            Some((id, object, ..)) => {
                let delete = "DELETE FROM holdings WHERE id = ?1";
                transaction.prepare_cached(delete)?.execute([id])?;
                objects::drop_unheld(transaction, object)
            }
            None => Ok(()),
        };
    }
    let described = Description {
        root: own.root,
        geometry: own.geometry,
        tree: None,
    };
    let Some(object) = objects::describe(transaction, described)? else {
        return Ok(());
    };
    let noted = holdings::Noted {
        path: &own.path,
        own: true,
        stamp: own.stamp,
        provenance: &own.provenance,
        bytes: blocks.bytes(&own.geometry),
        at: own.at,
        blocks: Some(blocks.to_bytes()),
    };
    holdings::put(transaction, object, &noted)
}
