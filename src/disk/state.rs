//! What is remembered between runs, in one `SQLite` database that all processes of a user share. The only file with SQL.
//!
//! It is a cache and a memory, never needed to be right: without it a fetch works, only rollbacks of signed manifests go
//! unnoticed.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension, params};

use crate::core::{reputation::Reputation, tree::Root};

use super::files;

/// What leads from each version of the schema to the next one. A database with a higher number was made by a later program.
const STEPS: [&str; 3] = [
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
];
const VERSION: u32 = STEPS.len() as u32;
/// Kept manifests together; beyond that the oldest ones go. One of them is 32 bytes a block: this is room for 8 TiB.
const MANIFESTS_BYTES_MAX: i64 = 256 << 20;
/// Another process may hold the database for so long.
const BUSY: Duration = Duration::from_secs(10);

/// Why the state cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum StateError {
    #[error("the state in {} cannot be used: {source}", .path.display())]
    Database {
        path: PathBuf,
        source: rusqlite::Error,
    },
    #[error("the state folder {} cannot be made: {source}", .path.display())]
    Folder {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the state in {} was made by another version of sapwood (schema {found})", .path.display())]
    Version { path: PathBuf, found: u32 },
}

/// The open database.
#[derive(Debug)]
pub struct State {
    connection: Connection,
    path: PathBuf,
}

/// Where state lies unless the user says otherwise: `$XDG_STATE_HOME/sapwood`, else `~/.local/state/sapwood`.
pub fn default_folder() -> Option<PathBuf> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path: &PathBuf| path.is_absolute())
    };
    let base =
        absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(base.join("sapwood"))
}

impl State {
    /// Opens the database in this folder, making both if they are not there.
    pub fn open(folder: &Path) -> Result<State, StateError> {
        files::create_private_folder(folder).map_err(|source| StateError::Folder {
            path: folder.to_owned(),
            source,
        })?;
        let path = folder.join("state.sqlite");
        let wrap = |source| StateError::Database {
            path: path.clone(),
            source,
        };
        let mut connection = Connection::open(&path).map_err(wrap)?;
        connection.busy_timeout(BUSY).map_err(wrap)?;
        connection
            .pragma_update(None, "journal_mode", "WAL")
            .map_err(wrap)?;
        connection
            .pragma_update(None, "synchronous", "NORMAL")
            .map_err(wrap)?;
        let version = prepare(&mut connection).map_err(wrap)?;
        match version {
            VERSION => Ok(State { connection, path }),
            found => Err(StateError::Version { path, found }),
        }
    }

    fn wrap(&self, source: rusqlite::Error) -> StateError {
        StateError::Database {
            path: self.path.clone(),
            source,
        }
    }

    /// The highest sequence that was ever believed for this name under this key.
    pub fn sequence(&self, key_id: &str, name: &str) -> Result<Option<u64>, StateError> {
        let query = "SELECT sequence FROM sequences WHERE key_id = ?1 AND name = ?2";
        let row = self
            .connection
            .query_row(query, params![key_id, name], |row| row.get::<_, i64>(0));
        // SQLite knows signed numbers only; the bits are kept.
        row.optional()
            .map(|found| found.map(|sequence| sequence.cast_unsigned()))
            .map_err(|cause| self.wrap(cause))
    }

    /// Remembers a sequence that was believed. A smaller one than before changes nothing.
    pub fn remember_sequence(
        &self,
        key_id: &str,
        name: &str,
        sequence: u64,
    ) -> Result<(), StateError> {
        if self
            .sequence(key_id, name)?
            .is_some_and(|seen| seen >= sequence)
        {
            return Ok(());
        }
        let insert = "INSERT INTO sequences (key_id, name, sequence) VALUES (?1, ?2, ?3)
            ON CONFLICT (key_id, name) DO UPDATE SET sequence = excluded.sequence";
        let done = self
            .connection
            .execute(insert, params![key_id, name, sequence.cast_signed()]);
        done.map(drop).map_err(|cause| self.wrap(cause))
    }

    /// What all hosts that ever complained have earned, by name. Times are Unix milliseconds.
    pub fn hosts(&self) -> Result<Vec<(String, Reputation)>, StateError> {
        let all = || {
            let query =
                "SELECT host, connections, slowed, since_ms, until_ms FROM hosts ORDER BY host";
            let mut query = self.connection.prepare_cached(query)?;
            let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, reputation(row)?));
            query
                .query_map([], row)?
                .collect::<rusqlite::Result<Vec<_>>>()
        };
        all().map_err(|cause| self.wrap(cause))
    }

    /// Changes what a host has earned, in one step that no other process can come between, and returns it.
    pub fn change_host(
        &mut self,
        host: &str,
        change: impl FnOnce(Reputation) -> Reputation,
    ) -> Result<Reputation, StateError> {
        let path = self.path.clone();
        let done = change_host(&mut self.connection, host, change);
        done.map_err(|source| StateError::Database { path, source })
    }

    /// Forgets one host, or all of them, and returns how many were known.
    pub fn forget_hosts(&self, host: Option<&str>) -> Result<usize, StateError> {
        let delete = "DELETE FROM hosts WHERE ?1 IS NULL OR host = ?1";
        self.connection
            .execute(delete, params![host])
            .map_err(|cause| self.wrap(cause))
    }

    /// Keeps the manifest of what came from a URL; the one that was kept for the same object there is replaced.
    pub fn keep_manifest(&mut self, arrived: &Arrived, manifest: &[u8]) -> Result<(), StateError> {
        let path = self.path.clone();
        let done = keep_manifest(&mut self.connection, arrived, manifest);
        done.map_err(|source| StateError::Database { path, source })
    }

    /// What came last from this URL as this version.
    pub fn arrived(
        &self,
        url: &str,
        etag: Option<&str>,
        last_modified: Option<&str>,
    ) -> Result<Option<Root>, StateError> {
        let query =
            "SELECT root FROM manifests WHERE url = ?1 AND etag IS ?2 AND last_modified IS ?3
            ORDER BY kept DESC LIMIT 1";
        let row = self
            .connection
            .query_row(query, params![url, etag, last_modified], |row| {
                row.get::<_, [u8; 32]>(0)
            });
        row.optional()
            .map(|found| found.map(Root))
            .map_err(|cause| self.wrap(cause))
    }
}

fn reputation(row: &rusqlite::Row<'_>) -> rusqlite::Result<Reputation> {
    Ok(Reputation {
        connections: row.get(1)?,
        slowed: row.get(2)?,
        since_ms: row.get::<_, i64>(3)?.max(0).cast_unsigned(),
        until_ms: row.get::<_, i64>(4)?.max(0).cast_unsigned(),
    })
}

fn change_host(
    connection: &mut Connection,
    host: &str,
    change: impl FnOnce(Reputation) -> Reputation,
) -> rusqlite::Result<Reputation> {
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let query = "SELECT host, connections, slowed, since_ms, until_ms FROM hosts WHERE host = ?1";
    let before = transaction
        .query_row(query, params![host], reputation)
        .optional()?;
    let after = change(before.unwrap_or_default());
    if after == Reputation::default() {
        transaction.execute("DELETE FROM hosts WHERE host = ?1", params![host])?;
    } else {
        transaction.execute(
            "INSERT OR REPLACE INTO hosts (host, connections, slowed, since_ms, until_ms)
            VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                host,
                after.connections,
                after.slowed,
                after.since_ms.cast_signed(),
                after.until_ms.cast_signed()
            ],
        )?;
    }
    transaction.commit()?;
    Ok(after)
}

/// An object that came from somewhere.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "fields are named after what they are")]
pub struct Arrived {
    pub root: Root,
    /// Without secrets.
    pub url: String,
    pub etag: Option<String>,
    pub last_modified: Option<String>,
    /// Unix seconds.
    pub at: u64,
}

fn keep_manifest(
    connection: &mut Connection,
    arrived: &Arrived,
    manifest: &[u8],
) -> rusqlite::Result<()> {
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    transaction.execute(
        "INSERT OR REPLACE INTO manifests (root, url, etag, last_modified, manifest, kept)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            arrived.root.0,
            arrived.url,
            arrived.etag,
            arrived.last_modified,
            manifest,
            arrived.at.cast_signed()
        ],
    )?;
    loop {
        let bytes: i64 = transaction.query_row(
            "SELECT coalesce(sum(length(manifest)), 0) FROM manifests",
            [],
            |row| row.get(0),
        )?;
        if bytes <= MANIFESTS_BYTES_MAX {
            break;
        }
        transaction.execute(
            "DELETE FROM manifests WHERE rowid = (SELECT rowid FROM manifests ORDER BY kept LIMIT 1)",
            [],
        )?;
    }
    transaction.commit()
}

/// Makes the tables that are missing; returns the version of the schema.
fn prepare(connection: &mut Connection) -> rusqlite::Result<u32> {
    let version = |connection: &Connection| {
        connection.pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0))
    };
    let steps = |found: u32| STEPS.get(found as usize..);
    let found = version(connection)?;
    if steps(found).is_none_or(<[_]>::is_empty) {
        return Ok(found);
    }
    // Taken at once, so that of two processes that start together only one makes the tables.
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let found = version(&transaction)?;
    for step in steps(found).unwrap_or_default() {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()?;
    Ok(VERSION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_only_grow() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(&folder.path().join("a/b")).unwrap();
        assert_eq!(state.sequence("K", "n").unwrap(), None);
        for (remembered, seen) in [(5, 5), (3, 5), (u64::MAX, u64::MAX), (6, u64::MAX)] {
            state.remember_sequence("K", "n", remembered).unwrap();
            let again = State::open(&folder.path().join("a/b")).unwrap();
            assert_eq!(again.sequence("K", "n").unwrap(), Some(seen));
        }
        assert_eq!(state.sequence("K", "other").unwrap(), None);
    }

    #[test]
    fn kept_manifests_are_found_by_version_and_the_oldest_go() {
        let folder = tempfile::tempdir().unwrap();
        let mut state = State::open(folder.path()).unwrap();
        let arrived = |root: u8, etag: Option<&str>, at| Arrived {
            root: Root([root; 32]),
            url: "http://a/b".to_owned(),
            etag: etag.map(str::to_owned),
            last_modified: None,
            at,
        };
        state
            .keep_manifest(&arrived(1, Some("\"x\""), 1), b"m")
            .unwrap();
        state.keep_manifest(&arrived(2, None, 2), b"m").unwrap();
        let found = |state: &State, etag| state.arrived("http://a/b", etag, None).unwrap();
        assert_eq!(found(&state, Some("\"x\"")), Some(Root([1; 32])));
        assert_eq!(found(&state, None), Some(Root([2; 32])));
        assert_eq!(found(&state, Some("\"y\"")), None);
        assert_eq!(state.arrived("http://a/c", None, None).unwrap(), None);
        // Again, with another validator: one row an object and URL.
        state
            .keep_manifest(&arrived(1, Some("\"y\""), 3), b"m")
            .unwrap();
        assert_eq!(found(&state, Some("\"x\"")), None);
        let half = vec![0; MANIFESTS_BYTES_MAX as usize / 2];
        state
            .keep_manifest(&arrived(4, Some("\"4\""), 4), &half)
            .unwrap();
        state
            .keep_manifest(&arrived(5, Some("\"5\""), 5), &half)
            .unwrap();
        assert_eq!(found(&state, None), None, "the oldest one went");
        assert_eq!(found(&state, Some("\"5\"")), Some(Root([5; 32])));
    }

    #[test]
    fn hosts_are_shared_and_can_be_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let mut state = State::open(folder.path()).unwrap();
        let mut other = State::open(folder.path()).unwrap();
        assert_eq!(state.hosts().unwrap(), []);
        let slow = |mut host: Reputation| {
            host.too_many(host.until_ms, 8, None, 0);
            host
        };
        let once = state.change_host("a:1", slow).unwrap();
        let twice = other.change_host("a:1", slow).unwrap();
        assert_eq!((once.connections, twice.connections), (Some(4), Some(2)));
        other.change_host("b", slow).unwrap();
        let known = state.hosts().unwrap();
        assert_eq!(known.len(), 2);
        assert_eq!(known[0], ("a:1".to_owned(), twice));
        state.change_host("b", |_| Reputation::default()).unwrap();
        assert_eq!(other.hosts().unwrap().len(), 1);
        assert_eq!(other.forget_hosts(Some("c")).unwrap(), 0);
        assert_eq!(other.forget_hosts(Some("a:1")).unwrap(), 1);
        state.change_host("d", slow).unwrap();
        assert_eq!(other.forget_hosts(None).unwrap(), 1);
        assert_eq!(state.hosts().unwrap(), []);
    }

    #[test]
    fn an_older_schema_is_led_on() {
        let folder = tempfile::tempdir().unwrap();
        let old = Connection::open(folder.path().join("state.sqlite")).unwrap();
        old.execute_batch(STEPS[0]).unwrap();
        old.execute("INSERT INTO sequences VALUES ('K', 'n', 7)", [])
            .unwrap();
        old.pragma_update(None, "user_version", 1).unwrap();
        drop(old);
        let state = State::open(folder.path()).unwrap();
        assert_eq!(state.sequence("K", "n").unwrap(), Some(7));
        assert_eq!(state.arrived("u", None, None).unwrap(), None);
    }

    #[test]
    fn a_broken_database_is_an_error_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("state.sqlite"),
            b"not a database, and long enough to be read as one....",
        )
        .unwrap();
        assert!(matches!(
            State::open(folder.path()),
            Err(StateError::Database { .. })
        ));
        std::fs::remove_file(folder.path().join("state.sqlite")).unwrap();
        State::open(folder.path())
            .unwrap()
            .connection
            .pragma_update(None, "user_version", 99)
            .unwrap();
        assert!(matches!(
            State::open(folder.path()),
            Err(StateError::Version { found: 99, .. })
        ));
    }
}
