//! The tables, and the migrations from each version of them to the next.

use rusqlite::{Connection, TransactionBehavior};

/// The migrations, from each version of the schema to the next. A database with a higher version was made by a later program.
///
/// Long blobs are the last columns of their tables, so that the others are read without them. Sizes are in bytes, and times are
/// Unix seconds unless their names say otherwise.
pub const STEPS: [&str; 8] = [
    "CREATE TABLE sequences (
        key_id TEXT NOT NULL,
        name TEXT NOT NULL,
        sequence INTEGER NOT NULL,
        PRIMARY KEY (key_id, name)
    ) WITHOUT ROWID;",
    "CREATE TABLE manifests (
        root BLOB NOT NULL,
        url TEXT NOT NULL,
        etag TEXT,
        last_modified TEXT,
        manifest BLOB NOT NULL,
        kept INTEGER NOT NULL,
        UNIQUE (root, url)
    );
    CREATE INDEX manifests_by_url ON manifests (url);
    CREATE INDEX manifests_by_age ON manifests (kept);",
    "CREATE TABLE hosts (
        host TEXT PRIMARY KEY,
        connections INTEGER,
        slowed INTEGER NOT NULL,
        since_ms INTEGER NOT NULL,
        until_ms INTEGER NOT NULL
    ) WITHOUT ROWID;",
    // What arrived without a manifest becomes one kind of holding among others. The paths of
    // files that arrived before were not noted, so their leaves lead nowhere; which version came from where is still of use.
    "CREATE TABLE objects (
        id INTEGER PRIMARY KEY,
        root BLOB NOT NULL,
        length INTEGER NOT NULL,
        block_size INTEGER NOT NULL,
        size INTEGER NOT NULL,
        leaves BLOB,
        anchors BLOB,
        UNIQUE (root, block_size)
    );
    CREATE INDEX objects_by_size ON objects (size);
    CREATE TABLE holdings (
        id INTEGER PRIMARY KEY,
        path BLOB NOT NULL UNIQUE,
        object INTEGER NOT NULL REFERENCES objects (id),
        own INTEGER NOT NULL,
        device INTEGER NOT NULL,
        inode INTEGER NOT NULL,
        length INTEGER NOT NULL,
        changed_s INTEGER NOT NULL,
        changed_ns INTEGER NOT NULL,
        origin TEXT,
        url TEXT,
        key_id TEXT,
        name TEXT,
        bytes INTEGER NOT NULL,
        used INTEGER NOT NULL,
        blocks BLOB
    );
    CREATE INDEX holdings_by_object ON holdings (object);
    CREATE INDEX holdings_by_inode ON holdings (inode);
    CREATE INDEX holdings_by_url ON holdings (url, used);
    CREATE INDEX holdings_by_origin ON holdings (origin, used);
    CREATE INDEX holdings_by_key ON holdings (key_id, used);
    CREATE INDEX holdings_by_use ON holdings (used);
    CREATE INDEX holdings_by_age ON holdings (own, used, bytes);
    CREATE TABLE samples (
        tag INTEGER NOT NULL,
        object INTEGER NOT NULL,
        PRIMARY KEY (tag, object)
    ) WITHOUT ROWID;
    CREATE TABLE arrivals (
        root BLOB NOT NULL,
        url TEXT NOT NULL,
        etag TEXT,
        last_modified TEXT,
        at INTEGER NOT NULL,
        UNIQUE (url, root)
    );
    CREATE INDEX arrivals_by_age ON arrivals (at);
    INSERT INTO arrivals (root, url, etag, last_modified, at)
        SELECT root, url, etag, last_modified, kept FROM manifests;
    DROP TABLE manifests;",
    // The URLs were kept without their queries, which may name other objects: what arrived before is forgotten.
    "DROP TABLE arrivals;
    CREATE TABLE arrivals (
        root BLOB NOT NULL,
        url_hash BLOB NOT NULL,
        etag TEXT,
        last_modified TEXT,
        at INTEGER NOT NULL,
        UNIQUE (url_hash, root)
    );
    CREATE INDEX arrivals_by_age ON arrivals (at);
    CREATE TABLE salt (salt BLOB NOT NULL);
    INSERT INTO salt VALUES (randomblob(32));",
    // NULL: not known.
    "ALTER TABLE arrivals ADD COLUMN trust TEXT;",
    "CREATE TABLE pushes (
        key BLOB PRIMARY KEY,
        session BLOB NOT NULL,
        at INTEGER NOT NULL
    ) WITHOUT ROWID;",
    // Statement and signature of the manifest that the file came with, without the zeros at their end.
    "ALTER TABLE holdings ADD COLUMN front BLOB;",
];
pub const VERSION: u32 = STEPS.len() as u32;

/// Makes the tables that are missing; returns the version of the schema.
pub fn prepare(connection: &mut Connection) -> rusqlite::Result<u32> {
    let version = |connection: &Connection| {
        connection.pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0))
    };
    let steps = |found: u32| STEPS.get(found as usize..);
    let found = version(connection)?;
    if steps(found).is_none_or(<[_]>::is_empty) {
        return Ok(found);
    }
    // Taken at once, so that of two processes that start together only one makes the tables.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found = version(&transaction)?;
    let Some(missing) = steps(found) else {
        return Ok(found);
    };
    for step in missing {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()?;
    Ok(VERSION)
}

#[cfg(test)]
mod tests {
    use rusqlite::OptionalExtension;

    use super::*;
    use crate::disk::state::{State, StateError};

    #[test]
    fn older_schemas_are_led_on() {
        for version in 1..VERSION {
            let folder = tempfile::tempdir().unwrap();
            let old = Connection::open(folder.path().join("state.sqlite")).unwrap();
            for step in &STEPS[..version as usize] {
                old.execute_batch(step).unwrap();
            }
            old.execute("INSERT INTO sequences VALUES ('K', 'n', 7)", [])
                .unwrap();
            let insert = match version {
                2..4 => "INSERT INTO manifests VALUES (?1, 'http://a/b', '\"x\"', NULL, x'00', 5)",
                4..6 => "INSERT INTO arrivals VALUES (?1, 'http://a/b', '\"x\"', NULL, 5)",
                6.. => "INSERT INTO arrivals VALUES (?1, 'http://a/b', '\"x\"', NULL, 5, NULL)",
                _ => "SELECT 1 WHERE ?1 IS NULL",
            };
            old.query_row(insert, [[9u8; 32]], |_| Ok(()))
                .optional()
                .unwrap();
            old.pragma_update(None, "user_version", version).unwrap();
            drop(old);
            let state = State::open(folder.path()).unwrap();
            assert_eq!(state.sequence("K", "n").unwrap(), Some(7));
            let arrived = state.arrived(&[0; 32], Some("\"x\""), None).unwrap();
            assert_eq!(arrived, None, "its query was not kept");
            assert_eq!(state.holdings().unwrap(), []);
        }
    }

    /// All but the first of eight said that the database is locked.
    #[test]
    fn first_runs_wait_for_each_other() {
        for _ in 0..10 {
            let folder = tempfile::tempdir().unwrap();
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| drop(State::open(folder.path()).unwrap()));
                }
            });
        }
    }

    /// It was readable for all in a folder that the user had made.
    #[test]
    fn the_database_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        for round in 0..2 {
            let state = State::open(folder.path()).unwrap();
            // The log beside it too, where there is one.
            for file in std::fs::read_dir(folder.path()).unwrap() {
                let file = file.unwrap();
                let mode = file.metadata().unwrap().permissions().mode() & 0o777;
                assert_eq!(mode, 0o600, "{file:?}, round {round}");
            }
            drop(state);
            let open = std::fs::Permissions::from_mode(0o644);
            std::fs::set_permissions(folder.path().join("state.sqlite"), open).unwrap();
        }
    }

    #[test]
    fn a_broken_database_is_an_error_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.sqlite");
        let garbage = b"not a database, and long enough to be read as one....";
        std::fs::write(&path, garbage).unwrap();
        let opened = State::open(folder.path());
        assert!(matches!(opened, Err(StateError::Database { .. })));
        std::fs::remove_file(&path).unwrap();
        let state = State::open(folder.path()).unwrap();
        let later = state.connection.pragma_update(None, "user_version", 99);
        later.unwrap();
        let opened = State::open(folder.path());
        assert!(matches!(opened, Err(StateError::Version { found: 99, .. })));
    }
}
