//! What parts and sessions have in bytes: kept with each change, so that the sum of an owner is one look at an index.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::{
    format::upload::SessionId,
    policy::upload::{Owner, PartsChange},
};

/// What an owner has that is not finished: sessions and bytes.
pub fn usage(connection: &Connection, owner: &Owner) -> rusqlite::Result<(u64, u64)> {
    // A sum of lengths that SQLite cannot hold is more than any quota.
    let query = "SELECT count(*), total(coalesce(length, parts_bytes) + staged_bytes) FROM sessions
        WHERE owner = ?1 AND is_live";
    let mut query = connection.prepare_cached(query)?;
    query.query_row([&owner.0], |row| {
        Ok((
            row.get::<_, i64>(0)?.cast_unsigned(),
            row.get::<_, f64>(1)? as u64,
        ))
    })
}

/// The bytes of a part that are counted: of its first content, and of another one beside it.
pub fn staged_of(
    transaction: &Transaction,
    id: SessionId,
    index: u32,
) -> rusqlite::Result<(i64, i64)> {
    let query = "SELECT kept, beside FROM staged WHERE session = ?1 AND part = ?2";
    let mut query = transaction.prepare_cached(query)?;
    let both = query.query_row(params![id.bytes(), index], |row| {
        Ok((row.get(0)?, row.get(1)?))
    });
    Ok(both.optional()?.unwrap_or((0, 0)))
}

/// `more`: than was counted before.
pub fn set_staged(
    transaction: &Transaction,
    id: SessionId,
    index: u32,
    (kept, beside): (i64, i64),
    more: i64,
) -> rusqlite::Result<()> {
    let set = "INSERT OR REPLACE INTO staged (session, part, kept, beside) VALUES (?1, ?2, ?3, ?4)";
    let mut set = transaction.prepare_cached(set)?;
    set.execute(params![id.bytes(), index, kept, beside])?;
    let add = "UPDATE sessions SET staged_bytes = staged_bytes + ?2 WHERE id = ?1";
    let mut add = transaction.prepare_cached(add)?;
    add.execute(params![id.bytes(), more])?;
    Ok(())
}

/// A part is finished: its bytes count as those of the part. `is_replaced`: the content that lay beside took the place of another one.
fn count_finished(
    transaction: &Transaction,
    id: SessionId,
    index: u32,
    is_replaced: bool,
) -> rusqlite::Result<()> {
    let (kept, beside) = staged_of(transaction, id, index)?;
    let left = match is_replaced {
        true => 0,
        false => beside,
    };
    match left - beside - kept {
        0 => Ok(()),
        more => set_staged(transaction, id, index, (0, left), more),
    }
}

/// Changes the parts of a session.
pub fn change_parts(
    transaction: &Transaction,
    id: SessionId,
    change: &PartsChange,
) -> rusqlite::Result<()> {
    let remove = "DELETE FROM parts WHERE session = ?1 AND part = ?2 RETURNING length";
    let remove = |index: u32| -> rusqlite::Result<Option<i64>> {
        let mut remove = transaction.prepare_cached(remove)?;
        let length = remove.query_row(params![id.bytes(), index], |row| row.get(0));
        length.optional()
    };
    let more = match change {
        PartsChange::None => return Ok(()),
        PartsChange::Put(part) => {
            let before = remove(part.index)?;
            count_finished(transaction, id, part.index, before.is_some())?;
            let insert = "INSERT INTO parts (session, part, length, sha256, etag)
                VALUES (?1, ?2, ?3, ?4, ?5)";
            let length = part.length.cast_signed();
            transaction.prepare_cached(insert)?.execute(params![
                id.bytes(),
                part.index,
                length,
                part.sha256.0,
                part.etag
            ])?;
            length - before.unwrap_or(0)
        }
        PartsChange::Remove(indices) => {
            let mut less = 0;
            for index in indices {
                less += remove(*index)?.unwrap_or(0);
            }
            -less
        }
    };
    let add = "UPDATE sessions SET parts_bytes = parts_bytes + ?2 WHERE id = ?1";
    let mut add = transaction.prepare_cached(add)?;
    add.execute(params![id.bytes(), more])?;
    Ok(())
}
