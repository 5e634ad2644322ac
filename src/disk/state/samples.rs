//! The index over the contents of all objects: a few small tags of each.

use std::collections::HashMap;

use rusqlite::{Connection, Transaction, params};

use crate::{
    format::anchors::{BlockAnchor, Tag},
    policy::samples,
};

use super::{State, StateError, id::ObjectId};

/// A tag that this many objects have distinguishes little: only the newest of them are considered.
const OBJECTS_OF_TAG_MAX: u32 = 64;
/// Tags of one object that are looked up, evenly over all of it: enough for 64 GiB at one per node.
const LOOK_UPS_MAX: usize = 4096;

impl State {
    /// The number of tags in the index.
    pub fn samples(&self) -> Result<u64, StateError> {
        self.look(|connection| {
            let query = "SELECT count(*) FROM samples";
            let count = connection.query_row(query, [], |row| row.get::<_, i64>(0));
            count.map(i64::cast_unsigned)
        })
    }
}

/// Adds an object that is not in the index yet. Sorted, so that neighbours come one after the other.
pub(super) fn insert(
    transaction: &Transaction,
    object: ObjectId,
    anchors: &[BlockAnchor],
) -> rusqlite::Result<()> {
    let insert = "INSERT OR IGNORE INTO samples (tag, object) VALUES (?1, ?2)";
    let mut insert = transaction.prepare_cached(insert)?;
    for tag in samples::sampled(anchors) {
        insert.execute(params![tag.value().cast_signed(), object])?;
    }
    Ok(())
}

/// Removes an object. Its tags follow from its anchors, so that the index needs no second order.
pub(super) fn remove(
    transaction: &Transaction,
    object: ObjectId,
    anchors: &[BlockAnchor],
) -> rusqlite::Result<()> {
    let delete = "DELETE FROM samples WHERE tag = ?1 AND object = ?2";
    let mut delete = transaction.prepare_cached(delete)?;
    for tag in samples::sampled(anchors) {
        delete.execute(params![tag.value().cast_signed(), object])?;
    }
    Ok(())
}

/// How many of these tags each object has.
pub(super) fn hits(
    connection: &Connection,
    tags: &[Tag],
) -> rusqlite::Result<HashMap<ObjectId, u32>> {
    let query = "SELECT object FROM samples WHERE tag = ?1 ORDER BY object DESC LIMIT ?2";
    let mut query = connection.prepare_cached(query)?;
    let mut hits = HashMap::new();
    for tag in tags
        .iter()
        .step_by(tags.len().div_ceil(LOOK_UPS_MAX).max(1))
    {
        let mut rows = query.query(params![tag.value().cast_signed(), OBJECTS_OF_TAG_MAX])?;
        while let Some(row) = rows.next()? {
            *hits.entry(row.get(0)?).or_default() += 1;
        }
    }
    Ok(hits)
}
