//! The tables of sessions in Postgres, and the migrations from each version of them to the next. All names begin with `sapwood_`.

use super::PostgresError;

/// Held while tables are made or changed: "sapwood" in ASCII.
const LOCK: i64 = 0x0073_6170_776f_6f64;
/// The migrations. A database with a higher version was made by a later program.
///
/// As in `disk/sessions/schema.rs`: numbers without a sign keep their bits, times are in seconds.
pub const STEPS: [&str; 2] = [
    "
    CREATE TABLE sapwood_sessions (
        id bytea PRIMARY KEY,
        version bigint NOT NULL,
        owner text NOT NULL,
        name text NOT NULL,
        length bigint,
        part_size bigint NOT NULL,
        block_size bigint NOT NULL,
        root bytea,
        sha256 bytea,
        may_replace boolean NOT NULL,
        growing boolean NOT NULL,
        protocol text NOT NULL,
        created_s bigint NOT NULL,
        last_alive_s bigint NOT NULL,
        alive_at_s bigint NOT NULL,
        is_warned boolean NOT NULL,
        staging text NOT NULL,
        handle text,
        problem_code text,
        problem_detail text,
        state text NOT NULL,
        is_live boolean NOT NULL,
        attempt bigint,
        lease_until_s bigint,
        goal_length bigint,
        goal_root bytea,
        goal_sha256 bytea,
        goal_replace boolean,
        parts_bytes bigint NOT NULL DEFAULT 0,
        staged_bytes bigint NOT NULL DEFAULT 0
    ) WITH (fillfactor = 70);
    CREATE INDEX sapwood_sessions_by_owner ON sapwood_sessions (owner, created_s, id);
    CREATE INDEX sapwood_sessions_by_name ON sapwood_sessions (owner, name, created_s, id);
    CREATE INDEX sapwood_live_sessions ON sapwood_sessions (owner) WHERE is_live;
    CREATE TABLE sapwood_parts (
        session bytea NOT NULL,
        part bigint NOT NULL,
        length bigint NOT NULL,
        sha256 bytea NOT NULL,
        etag text,
        PRIMARY KEY (session, part)
    );
    CREATE TABLE sapwood_staged (
        session bytea NOT NULL,
        part bigint NOT NULL,
        kept bigint NOT NULL,
        beside bigint NOT NULL,
        PRIMARY KEY (session, part)
    );
    CREATE TABLE sapwood_notices (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        session bytea NOT NULL,
        notice text NOT NULL,
        due_s bigint NOT NULL DEFAULT 0,
        claims bigint NOT NULL DEFAULT 0
    );
    CREATE INDEX sapwood_notices_of_sessions ON sapwood_notices (session);
    CREATE INDEX sapwood_notices_by_time ON sapwood_notices (due_s, id);
    CREATE TABLE sapwood_published (
        name text PRIMARY KEY,
        owner text NOT NULL,
        session bytea NOT NULL,
        root bytea NOT NULL,
        length bigint NOT NULL
    );
    CREATE TABLE sapwood_shared (
        is_only boolean PRIMARY KEY CHECK (is_only),
        schema_version bigint NOT NULL,
        served_s bigint NOT NULL,
        storage text
    );
    INSERT INTO sapwood_shared VALUES (true, 0, 0, NULL);
",
    "ALTER TABLE sapwood_shared ADD COLUMN url_key bytea",
];

/// Makes the tables that are missing. Several servers may start at once.
pub async fn prepare(client: &mut deadpool_postgres::Client) -> Result<(), PostgresError> {
    let transaction = client.transaction().await?;
    transaction
        .execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK])
        .await?;
    // A role that may not make tables can use those that are there.
    let is_there = "SELECT to_regclass('sapwood_shared') IS NOT NULL";
    let is_there: bool = transaction.query_one(is_there, &[]).await?.try_get(0)?;
    let found: i64 = match is_there {
        true => {
            let version = "SELECT schema_version FROM sapwood_shared";
            transaction.query_one(version, &[]).await?.try_get(0)?
        }
        false => 0,
    };
    let missing = usize::try_from(found).ok().and_then(|at| STEPS.get(at..));
    let missing = missing.ok_or(PostgresError::Version { found })?;
    if missing.is_empty() {
        return Ok(());
    }
    for step in missing {
        transaction.batch_execute(step).await?;
    }
    let version = STEPS.len().cast_signed() as i64;
    let note = "UPDATE sapwood_shared SET schema_version = $1";
    transaction.client().execute(note, &[&version]).await?;
    transaction.commit().await?;
    Ok(())
}
