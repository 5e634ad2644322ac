//! What is remembered between runs, in one `SQLite` database that all processes of a user share. The only folder with SQL.
//!
//! It is a cache and a memory, never needed to be right: without it a fetch works, only rollbacks of signed manifests go
//! unnoticed and what is in other files is not found.

mod arrivals;
mod cached;
mod holdings;
mod hosts;
mod id;
mod objects;
mod samples;
mod schema;
mod seeds;
mod sequences;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use super::files;

pub use arrivals::Arrived;
pub use cached::Own;
pub use holdings::{Adopted, Holding, Provenance};
pub use seeds::{Allowed, Candidate, Wanted};

/// Another process may hold the database for so long.
const BUSY: Duration = Duration::from_secs(10);

/// Why the state cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum StateError {
    #[error("the state in {} cannot be used: {source}{}", .path.display(), what_next(source))]
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

/// What helps when the database itself is broken.
fn what_next(cause: &rusqlite::Error) -> &'static str {
    match cause.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            "; remove it: a new one is made, and only the sequence numbers of signed manifests are forgotten"
        }
        _ => "",
    }
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
        let version = schema::prepare(&mut connection).map_err(wrap)?;
        match version {
            schema::VERSION => Ok(State { connection, path }),
            found => Err(StateError::Version { path, found }),
        }
    }

    /// What the database takes on the disk, without its log.
    pub fn bytes(&self) -> Result<u64, StateError> {
        let query = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
        self.look(|connection| {
            connection
                .query_row(query, [], |row| row.get::<_, i64>(0))
                .map(i64::cast_unsigned)
        })
    }

    /// Gives the disk back what was forgotten, where that is a good part of the database. Another process may be in the way; the
    /// next time will do as well.
    pub fn compact(&self) {
        let of_pages = |name| {
            self.connection
                .pragma_query_value(None, name, |row| row.get::<_, i64>(0))
        };
        if let (Ok(free), Ok(all)) = (of_pages("freelist_count"), of_pages("page_count"))
            && free * 4 > all
            && let Err(error) = self.connection.execute_batch("VACUUM")
        {
            tracing::debug!("not compacted: {error}");
        }
    }

    fn wrap(&self, source: rusqlite::Error) -> StateError {
        StateError::Database {
            path: self.path.clone(),
            source,
        }
    }

    /// Looks something up.
    fn look<T>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StateError> {
        work(&self.connection).map_err(|cause| self.wrap(cause))
    }

    /// Changes something in one step that no other process can come between.
    fn change<T>(
        &mut self,
        work: impl FnOnce(&Transaction) -> rusqlite::Result<T>,
    ) -> Result<T, StateError> {
        let changed = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .and_then(|transaction| {
                let done = work(&transaction)?;
                transaction.commit()?;
                Ok(done)
            });
        changed.map_err(|cause| self.wrap(cause))
    }
}
