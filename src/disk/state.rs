//! What is remembered between runs, in one `SQLite` database that all processes of a user share. The only file with SQL.
//!
//! It is a cache and a memory, never needed to be right: without it a fetch works, only rollbacks of signed manifests go
//! unnoticed.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension, params};

use super::files;

/// Another number: made by another version of this program.
const SCHEMA_VERSION: i64 = 1;
const SCHEMA: &str = "
    CREATE TABLE sequences (
        key_id TEXT NOT NULL,
        name TEXT NOT NULL,
        sequence INTEGER NOT NULL,
        PRIMARY KEY (key_id, name)
    ) WITHOUT ROWID;
";
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
    Version { path: PathBuf, found: i64 },
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
        match version == SCHEMA_VERSION {
            true => Ok(State { connection, path }),
            false => Err(StateError::Version {
                path,
                found: version,
            }),
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
}

/// Makes the tables in a new database; returns the version of the schema.
fn prepare(connection: &mut Connection) -> rusqlite::Result<i64> {
    // Taken at once, so that of two processes that start together only one makes the tables.
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version != 0 {
        return Ok(version);
    }
    transaction.execute_batch(SCHEMA)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()?;
    Ok(SCHEMA_VERSION)
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
