//! The statements that change sessions: each change is one statement or one transaction, on top of the version before.

use std::sync::LazyLock;

use deadpool_postgres::Client;
use tokio_postgres::types::ToSql;

use crate::{
    format::upload::SessionId,
    policy::upload::{
        Change, FinishedPart, Owner, PartsChange, Session, StagedBytes, State,
        rows::{COLUMNS, Value, session_of, values_of},
    },
};

use super::{
    super::session_store::{Inserted, OwnerLimits, Usage},
    PostgresError,
};

/// Of an owner: who counts what it has and adds to it holds this lock.
const LOCK_OWNER: &str = "SELECT pg_advisory_xact_lock(hashtextextended('sapwood/' || $1, 0))";
/// What an owner has. A sum that is no number of 64 bits is more than any quota.
const USAGE: &str = "SELECT count(*), least(coalesce(sum(coalesce(length, parts_bytes) + staged_bytes), 0), 9223372036854775807)::bigint
    FROM sapwood_sessions WHERE owner = $1 AND is_live";

fn as_value(value: &Value) -> &(dyn ToSql + Sync) {
    value
}

/// `$FIRST`, `$FIRST+1` and so on.
fn places(first: usize, count: usize) -> Vec<String> {
    (first..first + count)
        .map(|place| format!("${place}"))
        .collect()
}

/// `COLUMN = $PLACE` of all columns, with `$1` for the ID and `$2` for the version.
fn assignments() -> String {
    let places = places(1, COLUMNS.len());
    let pairs = COLUMNS.iter().zip(places).skip(1);
    let pairs = pairs.map(|(column, place)| format!("{column} = {place}"));
    pairs.collect::<Vec<_>>().join(", ")
}

async fn usage_in(
    client: &deadpool_postgres::Transaction<'_>,
    owner: &Owner,
) -> Result<Usage, PostgresError> {
    let statement = client.prepare_cached(USAGE).await?;
    let row = client.query_one(&statement, &[&owner.0]).await?;
    usage_of(&row)
}

fn usage_of(row: &tokio_postgres::Row) -> Result<Usage, PostgresError> {
    let (sessions, bytes): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    Ok(Usage {
        sessions: sessions.cast_unsigned(),
        bytes: bytes.cast_unsigned(),
    })
}

/// What an owner has.
pub async fn usage(client: &Client, owner: &Owner) -> Result<Usage, PostgresError> {
    let statement = client.prepare_cached(USAGE).await?;
    usage_of(&client.query_one(&statement, &[&owner.0]).await?)
}

/// Stores a new session.
pub async fn insert(
    client: &mut Client,
    session: &Session,
    limits: OwnerLimits,
) -> Result<Inserted, PostgresError> {
    let transaction = client.transaction().await?;
    let lock = transaction.prepare_cached(LOCK_OWNER).await?;
    transaction.execute(&lock, &[&session.owner.0]).await?;
    let load = transaction.prepare_cached(super::LOAD).await?;
    let id = session.id.bytes().to_vec();
    if let Some(row) = transaction.query_opt(&load, &[&id]).await? {
        return Ok(Inserted::Exists(Box::new(session_of(&row)?)));
    }
    let usage = usage_in(&transaction, &session.owner).await?;
    let length = session.declared.plan.length().unwrap_or_default();
    if usage.sessions >= limits.sessions {
        return Ok(Inserted::TooMany(usage));
    }
    if usage.bytes.saturating_add(length) > limits.bytes {
        return Ok(Inserted::OverQuota(usage));
    }
    // Somebody else may have used the same ID in this moment: of another owner, which holds another lock.
    let insert = format!(
        "INSERT INTO sapwood_sessions ({}) VALUES ({}) ON CONFLICT DO NOTHING",
        COLUMNS.join(", "),
        places(1, COLUMNS.len()).join(", ")
    );
    let insert = transaction.prepare_cached(&insert).await?;
    let values = values_of(session);
    let is_new = transaction
        .execute(&insert, &values.each_ref().map(as_value))
        .await?
        == 1;
    if !is_new {
        let row = transaction.query_one(&load, &[&id]).await?;
        return Ok(Inserted::Exists(Box::new(session_of(&row)?)));
    }
    transaction.commit().await?;
    Ok(Inserted::New)
}

/// Stores a change of a session alone.
static UPDATE: LazyLock<String> = LazyLock::new(|| {
    let before = COLUMNS.len() + 1;
    format!(
        "UPDATE sapwood_sessions SET {} WHERE id = $1 AND version = ${before}",
        assignments()
    )
});

/// Stores a change of a session, its parts and its notices.
static WRITE: LazyLock<String> = LazyLock::new(|| {
    let places = places(COLUMNS.len() + 1, 7);
    let types = [
        "bigint", "text[]", "bigint[]", "bigint", "bigint", "bytea", "text",
    ];
    let typed = |at: usize| format!("{}::{}", places[at], types[at]);
    let [version, notices, removed, index, length, sha256, etag] = std::array::from_fn(typed);
    // All of it is decided on one snapshot. What is counted besides has no version: if it changed since, the row is not the one that was
    // seen, nothing is stored, and the caller decides again.
    format!(
        "WITH seen AS MATERIALIZED (SELECT staged_bytes, state FROM sapwood_sessions WHERE id = $1),
        before AS MATERIALIZED (SELECT part, length FROM sapwood_parts
            WHERE session = $1 AND (part = {index} OR part = ANY({removed}))),
        counted AS MATERIALIZED (SELECT kept, CASE WHEN EXISTS (SELECT 1 FROM before) THEN 0 ELSE beside END AS left, beside
            FROM sapwood_staged WHERE session = $1 AND part = {index}),
        changed AS (
            UPDATE sapwood_sessions SET {},
                parts_bytes = parts_bytes + coalesce({length}, 0) - coalesce((SELECT sum(length) FROM before), 0)::bigint,
                staged_bytes = staged_bytes - coalesce((SELECT kept + beside - counted.left FROM counted), 0)
            WHERE id = $1 AND version = {version} AND staged_bytes = (SELECT staged_bytes FROM seen)
            RETURNING id, name, owner, state, goal_root, goal_length),
        published AS (INSERT INTO sapwood_published (name, owner, session, root, length)
            SELECT name, owner, id, goal_root, goal_length FROM changed, seen WHERE changed.state = 'done' AND seen.state <> 'done'
            ON CONFLICT (name) DO UPDATE SET
            owner = excluded.owner, session = excluded.session, root = excluded.root, length = excluded.length),
        noted AS (INSERT INTO sapwood_notices (session, notice)
            SELECT id, notice FROM changed, unnest({notices}) WITH ORDINALITY AS of (notice, place) ORDER BY place),
        removed AS (DELETE FROM sapwood_parts USING changed WHERE session = changed.id AND part = ANY({removed})),
        put AS (INSERT INTO sapwood_parts (session, part, length, sha256, etag)
            SELECT id, {index}, {length}, {sha256}, {etag} FROM changed WHERE {index} IS NOT NULL
            ON CONFLICT (session, part) DO UPDATE
            SET length = excluded.length, sha256 = excluded.sha256, etag = excluded.etag),
        less AS (UPDATE sapwood_staged SET kept = 0, beside = counted.left FROM changed, counted
            WHERE session = changed.id AND part = {index})
        SELECT count(*) FROM changed",
        assignments()
    )
});

/// Stores a change; `false`: the session has another version. `notices`: as text.
pub async fn write(
    client: &Client,
    change: &Change,
    notices: Vec<String>,
) -> Result<bool, PostgresError> {
    let values = values_of(&change.session);
    let before = (change.session.version - 1).cast_signed();
    let mut values: Vec<&(dyn ToSql + Sync)> = values.iter().map(as_value).collect();
    values.push(&before);
    let is_done = matches!(change.session.state, State::Done(_));
    if change.parts == PartsChange::None && notices.is_empty() && !is_done {
        let update = client.prepare_cached(&UPDATE).await?;
        return Ok(client.execute(&update, &values).await? == 1);
    }
    let (put, removed): (Option<&FinishedPart>, &[u32]) = match &change.parts {
        PartsChange::None => (None, &[]),
        PartsChange::Put(part) => (Some(part), &[]),
        PartsChange::Remove(indices) => (None, indices),
    };
    let removed: Vec<i64> = removed.iter().map(|index| i64::from(*index)).collect();
    let index = put.map(|part| i64::from(part.index));
    let length = put.map(|part| part.length.cast_signed());
    let sha256 = put.map(|part| part.sha256.0.as_slice());
    let etag = put.and_then(|part| part.etag.as_deref());
    values.extend([
        &notices as &(dyn ToSql + Sync),
        &removed,
        &index,
        &length,
        &sha256,
        &etag,
    ]);
    let statement = client.prepare_cached(&WRITE).await?;
    let row = client.query_one(&statement, &values).await?;
    Ok(row.try_get::<_, i64>(0)? == 1)
}

/// Counts bytes that come to lie in the storage; `Some`: the owner may not have them.
pub async fn count_staged(
    client: &mut Client,
    id: SessionId,
    staged: StagedBytes,
    limits: OwnerLimits,
) -> Result<Option<Usage>, PostgresError> {
    let transaction = client.transaction().await?;
    // First the session, then its owner: everywhere in this order.
    let lock = "SELECT owner FROM sapwood_sessions WHERE id = $1 FOR UPDATE";
    let lock = transaction.prepare_cached(lock).await?;
    let (id, part) = (id.bytes().to_vec(), i64::from(staged.index));
    let Some(row) = transaction.query_opt(&lock, &[&id]).await? else {
        return Ok(None);
    };
    let owner = Owner(row.try_get(0)?);
    let lock = transaction.prepare_cached(LOCK_OWNER).await?;
    transaction.execute(&lock, &[&owner.0]).await?;
    let before = "SELECT kept, beside FROM sapwood_staged WHERE session = $1 AND part = $2";
    let before = transaction.prepare_cached(before).await?;
    let (kept, beside): (i64, i64) = match transaction.query_opt(&before, &[&id, &part]).await? {
        Some(row) => (row.try_get(0)?, row.try_get(1)?),
        None => (0, 0),
    };
    let length = staged.length.cast_signed();
    let (kept_now, beside_now) = match staged.is_beside {
        true => (kept, beside.max(length)),
        false => (kept.max(length), beside),
    };
    let more = kept_now - kept + beside_now - beside;
    if more == 0 {
        return Ok(None);
    }
    let usage = usage_in(&transaction, &owner).await?;
    if usage.bytes.saturating_add(more.cast_unsigned()) > limits.bytes {
        return Ok(Some(usage));
    }
    let set = "WITH of_session AS (UPDATE sapwood_sessions SET staged_bytes = staged_bytes + $5 WHERE id = $1)
        INSERT INTO sapwood_staged (session, part, kept, beside) VALUES ($1, $2, $3, $4)
        ON CONFLICT (session, part) DO UPDATE SET kept = excluded.kept, beside = excluded.beside";
    let set = transaction.prepare_cached(set).await?;
    transaction
        .execute(&set, &[&id, &part, &kept_now, &beside_now, &more])
        .await?;
    transaction.commit().await?;
    Ok(None)
}

/// Removes a session; `false`: it has another version, is gone, or has notices.
pub async fn forget(client: &Client, id: SessionId, version: u64) -> Result<bool, PostgresError> {
    let forget = "WITH gone AS (DELETE FROM sapwood_sessions WHERE id = $1 AND version = $2
            AND NOT EXISTS (SELECT 1 FROM sapwood_notices WHERE session = $1) RETURNING id),
        parts AS (DELETE FROM sapwood_parts USING gone WHERE session = gone.id),
        staged AS (DELETE FROM sapwood_staged USING gone WHERE session = gone.id)
        SELECT count(*) FROM gone";
    let forget = client.prepare_cached(forget).await?;
    let (id, version) = (id.bytes().to_vec(), version.cast_signed());
    let row = client.query_one(&forget, &[&id, &version]).await?;
    Ok(row.try_get::<_, i64>(0)? == 1)
}
