//! Objects with holdings: their geometry, and the leaves and anchors of those whose tree is known. An object has a row for as
//! long as it has a holding.

use rusqlite::{OptionalExtension, Transaction, params};

use crate::format::{
    anchors::BlockAnchor,
    geometry::{BlockSize, Geometry},
    manifest::Tree,
    tree::{Cv, Root},
};

use super::{State, StateError, id::ObjectId, samples};

/// Leaves and anchors together take at most this many bytes: those of 1.7 TB in blocks of 64 KiB. Beyond that the least recently
/// used holdings are forgotten.
const DESCRIPTIONS_BYTES_MAX: u64 = 1 << 30;

/// The facts of an object: its whole tree, or only that it exists.
#[derive(Clone, Copy)]
pub(super) struct Description<'a> {
    pub root: Root,
    pub geometry: Geometry,
    pub tree: Option<&'a Tree>,
}

impl State {
    /// The tree of an object, if all of it is known. The database row is checked against the root.
    pub fn tree_of(&self, root: Root, geometry: Geometry) -> Result<Option<Tree>, StateError> {
        let query = "SELECT leaves, anchors FROM objects WHERE root = ?1 AND block_size = ?2";
        let size = geometry.block_size().bytes().cast_signed();
        let found = self.look(|connection| {
            connection
                .query_row(query, params![root.0, size], |row| {
                    let leaves: Option<Vec<u8>> = row.get(0)?;
                    let anchors: Option<Vec<u8>> = row.get(1)?;
                    Ok((leaves, anchors))
                })
                .optional()
        })?;
        let Some((Some(leaves), anchors)) = found else {
            return Ok(None);
        };
        Ok(tree(geometry, &leaves, anchors.as_deref()).filter(|tree| tree.root() == root))
    }

    /// The same in any block size.
    pub fn any_tree_of(&self, root: Root, length: u64) -> Result<Option<Tree>, StateError> {
        let query = "SELECT block_size FROM objects WHERE root = ?1 AND length = ?2
            AND leaves IS NOT NULL ORDER BY block_size LIMIT 1";
        let size: Option<i64> = self.look(|connection| {
            connection
                .query_row(query, params![root.0, length.cast_signed()], |row| {
                    row.get(0)
                })
                .optional()
        })?;
        let size = size.and_then(|size| BlockSize::new(size.cast_unsigned()));
        let geometry = size.and_then(|size| Geometry::new(length, size));
        geometry.map_or(Ok(None), |geometry| self.tree_of(root, geometry))
    }

    /// Stores anchors that were computed for an object, so that searches find it by them. The tree must have them.
    pub fn keep_anchors(&mut self, tree: &Tree) -> Result<(), StateError> {
        let (root, geometry) = (tree.root(), *tree.geometry());
        let described = Description {
            root,
            geometry,
            tree: Some(tree),
        };
        self.change(|transaction| {
            // For an object without a holding they are useless.
            match find(transaction, described)? {
                Some(_) => describe(transaction, described).map(drop),
                None => Ok(()),
            }
        })
    }
}

fn tree(geometry: Geometry, leaves: &[u8], anchors: Option<&[u8]>) -> Option<Tree> {
    let blocks = geometry.blocks() as usize;
    let (leaves, rest) = leaves.as_chunks::<32>();
    let leaves: Vec<Cv> = leaves.to_vec();
    let anchors: Option<Vec<BlockAnchor>> = anchors.map(|bytes| {
        let (values, _) = bytes.as_chunks::<8>();
        let anchor = |value: &[u8; 8]| BlockAnchor(u64::from_le_bytes(*value));
        values.iter().map(anchor).collect()
    });
    let fits = leaves.len() == blocks
        && rest.is_empty()
        && anchors.as_ref().is_none_or(|all| all.len() == blocks);
    fits.then(|| Tree::new(geometry, leaves, anchors))
}

fn find(
    transaction: &Transaction,
    described: Description,
) -> rusqlite::Result<Option<(ObjectId, u64, bool, bool)>> {
    let query = "SELECT id, length, coalesce(length(leaves), 0) > 0, coalesce(length(anchors), 0) > 0 FROM objects
        WHERE root = ?1 AND block_size = ?2";
    let size = described.geometry.block_size().bytes().cast_signed();
    transaction
        .prepare_cached(query)?
        .query_row(params![described.root.0, size], |row| {
            let length: i64 = row.get(1)?;
            Ok((
                row.get(0)?,
                length.cast_unsigned(),
                row.get(2)?,
                row.get(3)?,
            ))
        })
        .optional()
}

/// The row of an object, with everything that is known of it now. A whole tree proves a length; if two lengths are claimed for
/// one object without a tree, the first is kept, and the other is `None`.
pub(super) fn describe(
    transaction: &Transaction,
    described: Description,
) -> rusqlite::Result<Option<ObjectId>> {
    let Description {
        root,
        geometry,
        tree,
    } = described;
    let leaves = tree.map(|tree| tree.leaves().as_flattened());
    let anchors: Option<Vec<u8>> = tree.filter(|tree| !tree.anchors().is_empty()).map(|tree| {
        tree.anchors()
            .iter()
            .flat_map(|anchor| anchor.0.to_le_bytes())
            .collect()
    });
    let size = leaves.map_or(0, <[u8]>::len) + anchors.as_ref().map_or(0, Vec::len);
    let size = (size as u64).cast_signed();
    let length = geometry.length().cast_signed();
    let (id, sampled) = match find(transaction, described)? {
        None => {
            let insert = "INSERT INTO objects (root, length, block_size, size, leaves, anchors)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
            let block_size = geometry.block_size().bytes().cast_signed();
            let row = params![root.0, length, block_size, size, leaves, anchors];
            transaction.prepare_cached(insert)?.execute(row)?;
            (transaction.last_insert_rowid(), false)
        }
        Some((_, other, ..)) if tree.is_none() && other != geometry.length() => return Ok(None),
        Some((id, _, has_leaves, has_anchors)) => {
            let more = (leaves.is_some() && !has_leaves) || (anchors.is_some() && !has_anchors);
            if more {
                let update = "UPDATE objects SET length = ?2, size = ?3, leaves = ?4, anchors = ?5
                    WHERE id = ?1";
                let row = params![id, length, size, leaves, anchors];
                transaction.prepare_cached(update)?.execute(row)?;
            }
            (id, has_anchors)
        }
    };
    if let Some(tree) = tree.filter(|tree| !sampled && !tree.anchors().is_empty()) {
        samples::insert(transaction, id, tree.anchors())?;
    }
    Ok(Some(id))
}

/// Removes an object that has no holding any more.
pub(super) fn drop_unheld(transaction: &Transaction, id: ObjectId) -> rusqlite::Result<()> {
    let query = "SELECT anchors FROM objects WHERE id = ?1
        AND NOT EXISTS (SELECT 1 FROM holdings WHERE object = ?1)";
    let unheld: Option<Option<Vec<u8>>> = transaction
        .prepare_cached(query)?
        .query_row([id], |row| row.get(0))
        .optional()?;
    let Some(anchors) = unheld else {
        return Ok(());
    };
    if let Some(anchors) = anchors {
        let (values, _) = anchors.as_chunks::<8>();
        let anchors: Vec<BlockAnchor> = values
            .iter()
            .map(|value| BlockAnchor(u64::from_le_bytes(*value)))
            .collect();
        samples::remove(transaction, id, &anchors)?;
    }
    transaction
        .prepare_cached("DELETE FROM objects WHERE id = ?1")?
        .execute([id])
        .map(drop)
}

/// Forgets the least recently used holdings while descriptions take too much space.
pub(super) fn trim(transaction: &Transaction) -> rusqlite::Result<()> {
    trim_to(transaction, DESCRIPTIONS_BYTES_MAX)
}

fn trim_to(transaction: &Transaction, most: u64) -> rusqlite::Result<()> {
    loop {
        let total: i64 = transaction
            .prepare_cached("SELECT coalesce(sum(size), 0) FROM objects")?
            .query_row([], |row| row.get(0))?;
        if total.cast_unsigned() <= most {
            return Ok(());
        }
        let query = "SELECT holdings.id, object FROM holdings JOIN objects ON objects.id = object
            WHERE NOT own AND size > 0 ORDER BY used LIMIT 1";
        let oldest: Option<(i64, ObjectId)> = transaction
            .prepare_cached(query)?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((holding, object)) = oldest else {
            return Ok(());
        };
        transaction
            .prepare_cached("DELETE FROM holdings WHERE id = ?1")?
            .execute([holding])?;
        drop_unheld(transaction, object)?;
    }
}

/// A geometry from a row; `None` if it is invalid.
pub(super) fn geometry(length: i64, block_size: i64) -> Option<Geometry> {
    Geometry::new(
        length.cast_unsigned(),
        BlockSize::new(block_size.cast_unsigned())?,
    )
}
