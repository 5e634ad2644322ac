//! What is remembered between runs, in one `SQLite` database that all processes of a user share. The only folder with SQL.
//!
//! It is a cache, which a fetch does not need: without it only rollbacks of signed manifests go unnoticed, and blocks in other
//! files are not found.

mod arrivals;
mod cached;
mod fronts;
mod holdings;
mod hosts;
mod id;
mod objects;
mod pushes;
mod samples;
mod schema;
mod seeds;
mod sequences;

use std::{
    cell::OnceCell,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior, config::DbConfig};

use super::{files, machine};

pub use arrivals::Arrived;
pub use cached::Own;
pub use holdings::{Adopted, Arrival, Holding, Provenance};
pub use seeds::{Allowed, Candidate, Wanted};

/// How long to wait for another process that holds the database.
const BUSY: Duration = Duration::from_secs(10);
/// Time between two tries where `SQLite` itself does not wait.
const BUSY_AGAIN: Duration = Duration::from_millis(20);

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

impl StateError {
    fn is_busy(&self) -> bool {
        let code = match self {
            StateError::Database { source, .. } => source.sqlite_error_code(),
            _ => None,
        };
        matches!(
            code,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
        )
    }
}

/// The advice for a broken database.
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
    /// See [`State::salt`].
    salt: OnceCell<[u8; 32]>,
}

/// The default folder: `$XDG_STATE_HOME/sapwood`, else `~/.local/state/sapwood`.
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

/// The journal of the database that is safe in this folder. A write-ahead log needs memory that processes share through a mapped
/// file. Where a store to it needs room, a full disk turns it into SIGBUS, which ends the process: there the journal is one for
/// rollback.
fn journal_of(folder: &Path) -> (&'static str, &'static str) {
    match machine::mapped_stores_need_room(folder) {
        true => ("TRUNCATE", "FULL"),
        false => ("WAL", "NORMAL"),
    }
}

impl State {
    /// Opens the database in this folder, creating both if they are missing.
    pub fn open(folder: &Path) -> Result<State, StateError> {
        files::create_private_folder(folder).map_err(|source| StateError::Folder {
            path: folder.to_owned(),
            source,
        })?;
        let path = folder.join("state.sqlite");
        files::make_private(&path);
        let began = Instant::now();
        loop {
            // Two processes that make the database at the same time: SQLite does not wait for the one that changes its mode.
            match State::open_once(&path) {
                Err(error) if error.is_busy() && began.elapsed() < BUSY => {
                    thread::sleep(BUSY_AGAIN);
                }
                opened => return opened,
            }
        }
    }

    fn open_once(path: &Path) -> Result<State, StateError> {
        let path = path.to_owned();
        let wrap = |source| StateError::Database {
            path: path.clone(),
            source,
        };
        let mut connection = Connection::open(&path).map_err(wrap)?;
        connection.busy_timeout(BUSY).map_err(wrap)?;
        let (journal, synchronous) = journal_of(path.parent().unwrap_or(&path));
        connection
            .pragma_update(None, "journal_mode", journal)
            .map_err(wrap)?;
        connection
            .pragma_update(None, "synchronous", synchronous)
            .map_err(wrap)?;
        // What a statement would undo is small, but for many statements it is written again and again.
        connection
            .pragma_update(None, "temp_store", "MEMORY")
            .map_err(wrap)?;
        // Otherwise a prepared statement is planned again for each new value that is bound to it.
        connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
            .map_err(wrap)?;
        let version = schema::prepare(&mut connection).map_err(wrap)?;
        match version {
            schema::VERSION => Ok(State {
                connection,
                path,
                salt: OnceCell::new(),
            }),
            found => Err(StateError::Version { path, found }),
        }
    }

    /// The size of the database on the disk, without its log.
    pub fn bytes(&self) -> Result<u64, StateError> {
        let query = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
        self.look(|connection| {
            connection
                .query_row(query, [], |row| row.get::<_, i64>(0))
                .map(i64::cast_unsigned)
        })
    }

    /// Frees the space of forgotten rows, if it is a large part of the database. If another process prevents it, the next time
    /// will do.
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

    /// Runs a query.
    fn look<T>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StateError> {
        work(&self.connection).map_err(|cause| self.wrap(cause))
    }

    /// Runs queries on one state of the database. Each by itself takes and returns the right to read it, which takes longer.
    pub fn together<T>(
        &self,
        work: impl FnOnce(&State) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        let begun = self.connection.unchecked_transaction();
        let reading = begun.map_err(|cause| self.wrap(cause))?;
        let done = work(self)?;
        reading.finish().map_err(|cause| self.wrap(cause))?;
        Ok(done)
    }

    /// Runs a change atomically among processes.
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
