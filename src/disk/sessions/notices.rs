//! The queue of notices.

use rusqlite::{OptionalExtension, Row, Transaction, params};

use crate::{
    format::{notice::Notice, upload::SessionId},
    policy::upload::rows::{NotAValue, id_of},
};

/// A notice that was claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedNotice {
    /// Its place in the queue.
    pub id: u64,
    /// Of which session.
    pub session: SessionId,
    /// What is to be told.
    pub notice: Notice,
    /// How often it was claimed, this time included.
    pub claims: u32,
}

/// Appends notices, due at once.
pub fn add<'a>(
    transaction: &Transaction,
    id: SessionId,
    notices: impl Iterator<Item = &'a Notice>,
) -> rusqlite::Result<()> {
    let add = "INSERT INTO notices (session, notice, due_s, claims) VALUES (?1, ?2, 0, 0)";
    for notice in notices {
        let mut add = transaction.prepare_cached(add)?;
        add.execute(params![id.bytes(), notice.text()])?;
    }
    Ok(())
}

pub fn claim(
    transaction: &Transaction,
    now_s: u64,
    until_s: u64,
) -> rusqlite::Result<Result<ClaimedNotice, Option<u64>>> {
    let claim = "UPDATE notices SET due_s = ?2, claims = claims + 1
        WHERE id = (SELECT id FROM notices WHERE due_s <= ?1 ORDER BY id LIMIT 1) RETURNING *";
    let times = params![now_s.cast_signed(), until_s.cast_signed()];
    let claimed = transaction.prepare_cached(claim)?.query_row(times, claimed);
    if let Some(claimed) = claimed.optional()? {
        return Ok(Ok(claimed));
    }
    let next = "SELECT min(due_s) FROM notices";
    let next: Option<i64> = transaction
        .prepare_cached(next)?
        .query_row([], |row| row.get(0))?;
    Ok(Err(next.map(i64::cast_unsigned)))
}

pub fn postpone(
    transaction: &Transaction,
    id: u64,
    claims: u32,
    due_s: u64,
) -> rusqlite::Result<bool> {
    let postpone = "UPDATE notices SET due_s = ?3 WHERE id = ?1 AND claims = ?2";
    let mut postpone = transaction.prepare_cached(postpone)?;
    let changed = postpone.execute(params![id.cast_signed(), claims, due_s.cast_signed()])?;
    Ok(changed == 1)
}

pub fn remove(transaction: &Transaction, id: u64, claims: u32) -> rusqlite::Result<bool> {
    let remove = "DELETE FROM notices WHERE id = ?1 AND claims = ?2";
    let mut remove = transaction.prepare_cached(remove)?;
    Ok(remove.execute(params![id.cast_signed(), claims])? == 1)
}

fn claimed(row: &Row) -> rusqlite::Result<ClaimedNotice> {
    let text: String = row.get("notice")?;
    let notice = Notice::parse(&text);
    Ok(ClaimedNotice {
        id: row.get::<_, i64>("id")?.cast_unsigned(),
        session: id_of(row, "session")?,
        notice: notice.ok_or(NotAValue("no notice"))?,
        claims: row.get("claims")?,
    })
}
