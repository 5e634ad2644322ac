//! Holdings: local files that are known to hold blocks of objects.

use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use rusqlite::{OptionalExtension, Row, Transaction, params};

use crate::{
    disk::files::Stamp,
    format::{blockset::BlockSet, geometry::Geometry, manifest::Tree, tree::Root},
};

use super::{
    State, StateError,
    arrivals::{self, Arrived},
    fronts,
    id::ObjectId,
    objects::{self, Description},
};

/// Where an object came from. `None`: unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// Scheme, host and port.
    pub origin: Option<String>,
    /// Without secrets.
    pub url: Option<String>,
    /// The key that signed its manifest.
    pub key_id: Option<String>,
    /// Its name at that place.
    pub name: Option<String>,
}

/// A file of the user that is all of an object.
#[derive(Clone, Debug)]
pub struct Adopted {
    /// Absolute, without links.
    pub path: PathBuf,
    /// The version that is all of the object.
    pub stamp: Stamp,
    /// Where it came from.
    pub provenance: Provenance,
    /// Unix seconds.
    pub at: u64,
}

/// What is recorded of a file beside its version.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The tree of the object.
    pub tree: &'a Tree,
    /// The front of its manifest, if it came with one.
    pub front: Option<&'a [u8]>,
    /// From which URL as which version, if it was fetched.
    pub arrived: Option<&'a Arrived>,
}

/// A file that holds blocks of an object, according to the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    pub(super) id: i64,
    pub(super) object: ObjectId,
    /// Absolute, without links.
    pub path: PathBuf,
    /// The store created the file, and may punch holes into it; otherwise it is a file of the user.
    pub own: bool,
    /// The object.
    pub root: Root,
    /// Of the object.
    pub geometry: Geometry,
    /// Whether the index knows the anchors of the object.
    pub has_anchors: bool,
    /// `None`: all.
    pub blocks: Option<BlockSet>,
    /// The version that holds them.
    pub stamp: Stamp,
    /// Where the object came from.
    pub provenance: Provenance,
    /// Of the object that it holds.
    pub bytes: u64,
    /// Unix seconds.
    pub used: u64,
}

/// What [`from_row`] reads, of `holdings` and `objects`. The length of a blob is read without the blob; whether it is NULL is not.
pub(super) const COLUMNS: &str = "holdings.id, object, path, own, root, objects.length, block_size,
    coalesce(length(anchors), 0) > 0, device, inode, holdings.length, changed_s, changed_ns, origin, url, key_id, name, bytes, used, blocks
    FROM holdings JOIN objects ON objects.id = object";

/// `None`: the row is not a valid holding.
pub(super) fn from_row(row: &Row) -> rusqlite::Result<Option<Holding>> {
    let unsigned = |index| row.get::<_, i64>(index).map(i64::cast_unsigned);
    let Some(geometry) = objects::geometry(row.get(5)?, row.get(6)?) else {
        return Ok(None);
    };
    let blocks: Option<Vec<u8>> = row.get(19)?;
    let blocks = match blocks {
        None => None,
        Some(bytes) => match BlockSet::from_bytes(geometry.blocks(), &bytes) {
            None => return Ok(None),
            some => some,
        },
    };
    Ok(Some(Holding {
        id: row.get(0)?,
        object: row.get(1)?,
        path: PathBuf::from(OsString::from_vec(row.get(2)?)),
        own: row.get(3)?,
        root: Root(row.get(4)?),
        geometry,
        has_anchors: row.get(7)?,
        blocks,
        stamp: Stamp {
            device: unsigned(8)?,
            inode: unsigned(9)?,
            length: unsigned(10)?,
            changed: (row.get(11)?, unsigned(12)?),
        },
        provenance: Provenance {
            origin: row.get(13)?,
            url: row.get(14)?,
            key_id: row.get(15)?,
            name: row.get(16)?,
        },
        bytes: unsigned(17)?,
        used: unsigned(18)?,
    }))
}

impl State {
    /// Records that a file of the user is all of the object of this tree. Replaces the record of that path, and keeps where the
    /// same object came from.
    pub fn adopt(&mut self, adopted: &Adopted, tree: &Tree) -> Result<(), StateError> {
        self.change(|transaction| {
            adopt(transaction, adopted, tree)?;
            objects::trim(transaction)
        })
    }

    /// [`State::adopt`], [`State::keep_front`] and [`State::remember_arrival`] of many files, in one transaction.
    pub fn adopt_all<'a>(
        &mut self,
        files: impl IntoIterator<Item = (Adopted, Arrival<'a>)>,
    ) -> Result<(), StateError> {
        self.change(|transaction| {
            for (adopted, arrival) in files {
                adopt(transaction, &adopted, arrival.tree)?;
                if let Some(front) = arrival.front {
                    fronts::keep(transaction, &adopted.path, arrival.tree.root(), front)?;
                }
                if let Some(arrived) = arrival.arrived {
                    arrivals::insert(transaction, arrived)?;
                }
            }
            arrivals::trim(transaction, arrivals::ARRIVALS_MAX)?;
            objects::trim(transaction)
        })
    }

    /// All holdings, the most recently used first.
    pub fn holdings(&self) -> Result<Vec<Holding>, StateError> {
        self.some_holdings("ORDER BY used DESC, holdings.id DESC", &[])
    }

    /// The record of a path.
    pub fn holding_at(&self, path: &Path) -> Result<Option<Holding>, StateError> {
        let path = path.as_os_str().as_bytes();
        let found = self.some_holdings("WHERE path = ?1", &[&path])?;
        Ok(found.into_iter().next())
    }

    /// A holding of this file, recorded under any name.
    pub fn holding_with(&self, stamp: &Stamp) -> Result<Option<Holding>, StateError> {
        let inode = stamp.inode.cast_signed();
        let found =
            self.some_holdings("WHERE inode = ?1 ORDER BY length(anchors) DESC", &[&inode])?;
        Ok(found
            .into_iter()
            .find(|one| !one.own && one.stamp == *stamp))
    }

    /// All holdings of an object.
    pub fn holdings_of(&self, root: Root) -> Result<Vec<Holding>, StateError> {
        self.some_holdings("WHERE root = ?1", &[&root.0])
    }

    pub(super) fn some_holdings(
        &self,
        condition: &str,
        values: &[&dyn rusqlite::ToSql],
    ) -> Result<Vec<Holding>, StateError> {
        self.look(|connection| {
            let mut query = connection.prepare_cached(&format!("SELECT {COLUMNS} {condition}"))?;
            let mut rows = query.query(values)?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.extend(from_row(row)?);
            }
            Ok(found)
        })
    }

    /// Forgets a holding, unless it was recorded again meanwhile. Returns whether it existed.
    pub fn forget(&mut self, holding: &Holding) -> Result<bool, StateError> {
        self.change(|transaction| {
            let delete = "DELETE FROM holdings WHERE id = ?1 AND object = ?2 AND inode = ?3
                AND changed_s = ?4 AND changed_ns = ?5";
            let Stamp { inode, changed, .. } = holding.stamp;
            let gone = transaction.prepare_cached(delete)?.execute(params![
                holding.id,
                holding.object,
                inode.cast_signed(),
                changed.0,
                changed.1.cast_signed()
            ])?;
            objects::drop_unheld(transaction, holding.object)?;
            Ok(gone > 0)
        })
    }

    /// Records a use of a holding.
    pub fn note_used(&mut self, holding: &Holding, at: u64) -> Result<(), StateError> {
        let update = "UPDATE holdings SET used = max(used, ?2) WHERE id = ?1 AND object = ?3";
        self.change(|transaction| {
            let row = params![holding.id, at.cast_signed(), holding.object];
            transaction.prepare_cached(update)?.execute(row).map(drop)
        })
    }
}

fn adopt(transaction: &Transaction, adopted: &Adopted, tree: &Tree) -> rusqlite::Result<()> {
    let described = Description {
        root: tree.root(),
        geometry: *tree.geometry(),
        tree: Some(tree),
    };
    // Anchors of this file are worth more than another block size.
    let object = match known_better(transaction, adopted, tree)? {
        Some(object) => Some(object),
        None => objects::describe(transaction, described)?,
    };
    let Some(object) = object else { return Ok(()) };
    let noted = Noted {
        path: &adopted.path,
        own: false,
        stamp: adopted.stamp,
        provenance: &adopted.provenance,
        bytes: described.geometry.length(),
        at: adopted.at,
        blocks: None,
    };
    put(transaction, object, &noted)
}

fn known_better(
    transaction: &Transaction,
    adopted: &Adopted,
    tree: &Tree,
) -> rusqlite::Result<Option<ObjectId>> {
    if !tree.anchors().is_empty() {
        return Ok(None);
    }
    let query = "SELECT object FROM holdings JOIN objects ON objects.id = object
        WHERE path = ?1 AND root = ?2 AND length(anchors) > 0";
    let path = adopted.path.as_os_str().as_bytes();
    transaction
        .prepare_cached(query)?
        .query_row(params![path, tree.root().0], |row| row.get(0))
        .optional()
}

/// The record of a file.
pub(super) struct Noted<'a> {
    pub path: &'a Path,
    pub own: bool,
    pub stamp: Stamp,
    pub provenance: &'a Provenance,
    /// Of the object that it holds.
    pub bytes: u64,
    pub at: u64,
    /// `None`: all.
    pub blocks: Option<Vec<u8>>,
}

/// Records a file, replacing the record of its path. Keeps where the same object came from.
pub(super) fn put(
    transaction: &Transaction,
    object: ObjectId,
    noted: &Noted,
) -> rusqlite::Result<()> {
    let path = noted.path.as_os_str().as_bytes();
    let before: Option<ObjectId> = transaction
        .prepare_cached("SELECT object FROM holdings WHERE path = ?1")?
        .query_row([path], |row| row.get(0))
        .optional()?;
    let insert = "INSERT INTO holdings (path, object, own, device, inode, length, changed_s, changed_ns,
            origin, url, key_id, name, bytes, used, blocks)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
        ON CONFLICT (path) DO UPDATE SET object = excluded.object, own = excluded.own, device = excluded.device,
            inode = excluded.inode, length = excluded.length, changed_s = excluded.changed_s,
            changed_ns = excluded.changed_ns, bytes = excluded.bytes, used = max(used, excluded.used),
            blocks = excluded.blocks,
            front = iif(object = excluded.object, front, NULL),
            origin = coalesce(excluded.origin, iif(object = excluded.object, origin, NULL)),
            url = coalesce(excluded.url, iif(object = excluded.object, url, NULL)),
            key_id = coalesce(excluded.key_id, iif(object = excluded.object, key_id, NULL)),
            name = coalesce(excluded.name, iif(object = excluded.object, name, NULL))";
    let (stamp, from) = (noted.stamp, noted.provenance);
    transaction.prepare_cached(insert)?.execute(params![
        path,
        object,
        noted.own,
        stamp.device.cast_signed(),
        stamp.inode.cast_signed(),
        stamp.length.cast_signed(),
        stamp.changed.0,
        stamp.changed.1.cast_signed(),
        from.origin,
        from.url,
        from.key_id,
        from.name,
        noted.bytes.cast_signed(),
        noted.at.cast_signed(),
        noted.blocks
    ])?;
    match before.filter(|before| *before != object) {
        Some(before) => objects::drop_unheld(transaction, before),
        None => Ok(()),
    }
}
