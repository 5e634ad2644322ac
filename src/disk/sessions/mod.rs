//! The sessions of uploads, in one `SQLite` database. Unlike the state of the program it is no cache: what a client was told is
//! in it, so each change is on the disk when it returns.

mod counts;
mod notices;
mod rows;
mod schema;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{
    Connection, OptionalExtension, Transaction, TransactionBehavior, params, params_from_iter,
};

use crate::{
    format::{library::LibraryPath, upload::SessionId},
    policy::upload::{
        Change, FinishedPart, LastPublished, Owner, Session, StagedBytes, State,
        notices::KeptNotices,
        rows::{COLUMNS, last_published_of, session_of, values_of},
    },
};

use super::{files, machine};
use counts::{change_parts, set_staged, staged_of, usage};
pub use notices::ClaimedNotice;
use rows::part_of;

/// How long to wait for another process that holds the database.
const BUSY: Duration = Duration::from_secs(10);
/// Only the change that makes a session done: later ones of it do not take the name from a newer object.
const NOTE_PUBLISHED: &str = "INSERT OR REPLACE INTO published (name, owner, session, root, length)
    SELECT name, owner, id, ?3, ?4 FROM sessions WHERE id = ?1 AND version = ?2 AND state <> 'done'";

/// Why the sessions cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum SessionsError {
    #[error("the sessions in {} cannot be used: {source}", .path.display())]
    Database {
        path: PathBuf,
        source: rusqlite::Error,
    },
    #[error("the folder of the sessions {} cannot be made: {source}", .path.display())]
    Folder {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the sessions in {} were made by another version of sapwood (schema {found})", .path.display())]
    Version { path: PathBuf, found: u32 },
}

impl SessionsError {
    /// Another process holds the database.
    pub fn is_busy(&self) -> bool {
        use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked};
        matches!(self.code(), Some(DatabaseBusy | DatabaseLocked))
    }

    /// The disk is full, read-only, or fails.
    pub fn is_of_disk(&self) -> bool {
        use rusqlite::ErrorCode::{CannotOpen, DiskFull, ReadOnly, SystemIoFailure};
        matches!(self, SessionsError::Folder { .. })
            || matches!(
                self.code(),
                Some(DiskFull | ReadOnly | SystemIoFailure | CannotOpen)
            )
    }

    fn code(&self) -> Option<rusqlite::ErrorCode> {
        match self {
            SessionsError::Database { source, .. } => source.sqlite_error_code(),
            SessionsError::Folder { .. } | SessionsError::Version { .. } => None,
        }
    }
}

/// What came of a new session. Two numbers are what the owner has: sessions and bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It is new.
    New,
    /// There is one with this ID.
    Exists(Box<Session>),
    /// The owner has as many as allowed.
    TooMany((u64, u64)),
    /// The owner would have more bytes than allowed.
    OverQuota((u64, u64)),
}

/// The open database.
#[derive(Debug)]
pub struct Sessions {
    connection: Connection,
    path: PathBuf,
    /// See [`Sessions::keep_notices`].
    kept_notices: KeptNotices,
}

impl Sessions {
    /// Opens the database, creating it and its folder if they are missing.
    pub fn open(path: &Path) -> Result<Sessions, SessionsError> {
        let folder = path.parent().unwrap_or(path);
        files::create_private_folder(folder).map_err(|source| SessionsError::Folder {
            path: folder.to_owned(),
            source,
        })?;
        files::make_private(path);
        let wrap = |source| SessionsError::Database {
            path: path.to_owned(),
            source,
        };
        let mut connection = Connection::open(path).map_err(wrap)?;
        connection.busy_timeout(BUSY).map_err(wrap)?;
        // See disk::state: a log needs memory that a full disk can turn into SIGBUS.
        let journal = match machine::mapped_stores_need_room(folder) {
            true => "TRUNCATE",
            false => "WAL",
        };
        for (name, value) in [("journal_mode", journal), ("synchronous", "FULL")] {
            connection.pragma_update(None, name, value).map_err(wrap)?;
        }
        match prepare(&mut connection).map_err(wrap)? {
            schema::VERSION => Ok(Sessions {
                connection,
                path: path.to_owned(),
                kept_notices: KeptNotices::None,
            }),
            found => Err(SessionsError::Version {
                path: path.to_owned(),
                found,
            }),
        }
    }

    /// Binds the sessions to the storage that has what is staged for them; `false`: they are bound to another one.
    pub fn bind(&mut self, storage: &str) -> Result<bool, SessionsError> {
        self.change(|transaction| {
            let bound: Option<String> = transaction
                .query_row("SELECT id FROM storage", [], |row| row.get(0))
                .optional()?;
            if bound.is_none() {
                transaction.execute("INSERT INTO storage VALUES (?1)", [storage])?;
            }
            Ok(bound.is_none_or(|bound| bound == storage))
        })
    }

    /// Which notices are kept from now on. If there are none, those that were are forgotten.
    pub fn keep_notices(&mut self, kept: KeptNotices) -> Result<(), SessionsError> {
        self.kept_notices = kept;
        match kept {
            KeptNotices::Published | KeptNotices::All => Ok(()),
            KeptNotices::None => {
                self.change(|transaction| transaction.execute("DELETE FROM notices", []).map(drop))
            }
        }
    }

    fn wrap(&self, source: rusqlite::Error) -> SessionsError {
        SessionsError::Database {
            path: self.path.clone(),
            source,
        }
    }

    /// Runs a query.
    fn look<T>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, SessionsError> {
        work(&self.connection).map_err(|cause| self.wrap(cause))
    }

    /// Runs a change in one step.
    fn change<T>(
        &mut self,
        work: impl FnOnce(&Transaction) -> rusqlite::Result<T>,
    ) -> Result<T, SessionsError> {
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

    /// Stores a new session, unless its owner has too much: at most so many sessions and bytes that are not finished.
    pub fn insert(
        &mut self,
        session: &Session,
        most_sessions: u64,
        most_bytes: u64,
    ) -> Result<Inserted, SessionsError> {
        let columns = COLUMNS.join(", ");
        let values = vec!["?"; COLUMNS.len()].join(", ");
        let insert = format!("INSERT INTO sessions ({columns}, parts_bytes) VALUES ({values}, 0)");
        self.change(|transaction| {
            if let Some(found) = load(transaction, session.id)? {
                return Ok(Inserted::Exists(Box::new(found)));
            }
            let (sessions, bytes) = usage(transaction, &session.owner)?;
            let length = session.declared.plan.length().unwrap_or_default();
            if sessions >= most_sessions {
                return Ok(Inserted::TooMany((sessions, bytes)));
            }
            if bytes.saturating_add(length) > most_bytes {
                return Ok(Inserted::OverQuota((sessions, bytes)));
            }
            transaction.execute(&insert, params_from_iter(values_of(session)))?;
            Ok(Inserted::New)
        })
    }

    /// A session.
    pub fn load(&self, id: SessionId) -> Result<Option<Session>, SessionsError> {
        self.look(|connection| load(connection, id))
    }

    /// A finished part.
    pub fn part(&self, id: SessionId, index: u32) -> Result<Option<FinishedPart>, SessionsError> {
        let query = "SELECT * FROM parts WHERE session = ?1 AND part = ?2";
        self.look(|connection| {
            let mut query = connection.prepare_cached(query)?;
            let row = query.query_row(params![id.bytes(), index], part_of);
            row.optional()
        })
    }

    /// The finished parts of a session, by index.
    pub fn parts(&self, id: SessionId) -> Result<Vec<FinishedPart>, SessionsError> {
        let query = "SELECT * FROM parts WHERE session = ?1 ORDER BY part";
        self.look(|connection| {
            let mut query = connection.prepare_cached(query)?;
            let rows = query.query_map(params![id.bytes()], part_of)?;
            rows.collect()
        })
    }

    /// Stores a change if the session has the version before; `false`: it has not.
    pub fn write(&mut self, change: &Change) -> Result<bool, SessionsError> {
        let session = &change.session;
        let set: Vec<String> = COLUMNS
            .iter()
            .map(|column| format!("{column} = ?"))
            .collect();
        let update = format!(
            "UPDATE sessions SET {} WHERE id = ? AND version = ?",
            set.join(", ")
        );
        let before = [session.id.bytes().into(), (session.version - 1).into()];
        let values = values_of(session).into_iter().chain(before);
        let kept = self.kept_notices;
        let notices = change.notices.iter().filter(|notice| kept.has(notice));
        let done = match session.state {
            State::Done(published) => Some(published),
            _ => None,
        };
        self.change(|transaction| {
            if let Some(published) = done {
                let before = (session.version - 1).cast_signed();
                let (root, length) = (published.root.0, published.length.cast_signed());
                let mut note = transaction.prepare_cached(NOTE_PUBLISHED)?;
                note.execute(params![session.id.bytes(), before, root, length])?;
            }
            let mut update = transaction.prepare_cached(&update)?;
            let is_stored = update.execute(params_from_iter(values))? == 1;
            if is_stored {
                change_parts(transaction, session.id, &change.parts)?;
                notices::add(transaction, session.id, notices)?;
            }
            Ok(is_stored)
        })
    }

    /// What was last published under a name.
    pub fn last_published(
        &self,
        name: &LibraryPath,
    ) -> Result<Option<LastPublished>, SessionsError> {
        let query = "SELECT owner, session, root, length FROM published WHERE name = ?1";
        self.look(|connection| {
            let mut query = connection.prepare_cached(query)?;
            let row = query.query_row([name.as_str()], |row| last_published_of(row));
            row.optional()
        })
    }

    /// Sessions of an owner, newest first, behind a time and an ID.
    pub fn list(
        &self,
        owner: &Owner,
        name: Option<&LibraryPath>,
        after: Option<(u64, SessionId)>,
        limit: u32,
    ) -> Result<Vec<Session>, SessionsError> {
        let mut query = "SELECT * FROM sessions WHERE owner = ?1".to_owned();
        // Each of the two has an index.
        query += match name {
            Some(_) => " AND name = ?2",
            None => " AND ?2 IS NULL",
        };
        query += match after {
            Some(_) => " AND (created_s, id) < (?3, ?4)",
            None => " AND ?3 IS NULL AND ?4 IS NULL",
        };
        query += " ORDER BY created_s DESC, id DESC LIMIT ?5";
        let (created_s, id) = after
            .map(|(created_s, id)| (created_s.cast_signed(), id.bytes()))
            .unzip();
        let name = name.map(LibraryPath::as_str);
        self.look(|connection| {
            let mut query = connection.prepare_cached(&query)?;
            let rows = query.query_map(params![owner.0, name, created_s, id, limit], |row| {
                session_of(row)
            })?;
            rows.collect()
        })
    }

    /// Sessions of all owners by ID, behind this one.
    pub fn all(&self, after: Option<SessionId>, limit: u32) -> Result<Vec<Session>, SessionsError> {
        let query = "SELECT * FROM sessions WHERE id > ?1 ORDER BY id LIMIT ?2";
        let after = after.map_or_else(Vec::new, |after| after.bytes().to_vec());
        self.look(|connection| {
            let mut query = connection.prepare_cached(query)?;
            let rows = query.query_map(params![after, limit], |row| session_of(row))?;
            rows.collect()
        })
    }

    /// Counts bytes that come to lie in the storage, unless the owner of the session then has more than this: then it returns what the
    /// owner has. What was counted for the part before is not counted again.
    pub fn count_staged(
        &mut self,
        id: SessionId,
        staged: StagedBytes,
        most_bytes: u64,
    ) -> Result<Option<(u64, u64)>, SessionsError> {
        self.change(|transaction| {
            let Some(session) = load(transaction, id)? else {
                return Ok(None);
            };
            let (kept, beside) = staged_of(transaction, id, staged.index)?;
            let length = staged.length.cast_signed();
            let (kept_now, beside_now) = match staged.is_beside {
                true => (kept, beside.max(length)),
                false => (kept.max(length), beside),
            };
            let more = kept_now - kept + beside_now - beside;
            if more == 0 {
                return Ok(None);
            }
            let usage = usage(transaction, &session.owner)?;
            if usage.1.saturating_add(more.cast_unsigned()) > most_bytes {
                return Ok(Some(usage));
            }
            set_staged(transaction, id, staged.index, (kept_now, beside_now), more)?;
            Ok(None)
        })
    }

    /// What [`Sessions::count_staged`] counts for a session now.
    pub fn staged_bytes(&self, id: SessionId) -> Result<u64, SessionsError> {
        let query = "SELECT staged_bytes FROM sessions WHERE id = ?1";
        self.look(|connection| {
            let mut query = connection.prepare_cached(query)?;
            let bytes: Option<i64> = query.query_row([id.bytes()], |row| row.get(0)).optional()?;
            Ok(bytes.unwrap_or_default().cast_unsigned())
        })
    }

    /// Claims the first notice that is due. Without one it returns when the next is.
    pub fn claim_notice(
        &mut self,
        now_s: u64,
        until_s: u64,
    ) -> Result<Result<ClaimedNotice, Option<u64>>, SessionsError> {
        self.change(|transaction| notices::claim(transaction, now_s, until_s))
    }

    /// Has a notice be due at this time if it was claimed so often; `false`: it was not.
    pub fn postpone_notice(
        &mut self,
        id: u64,
        claims: u32,
        due_s: u64,
    ) -> Result<bool, SessionsError> {
        self.change(|transaction| notices::postpone(transaction, id, claims, due_s))
    }

    /// Removes a notice if it was claimed so often; `false`: it was not.
    pub fn remove_notice(&mut self, id: u64, claims: u32) -> Result<bool, SessionsError> {
        self.change(|transaction| notices::remove(transaction, id, claims))
    }

    /// Has all notices be due now.
    pub fn release_notices(&mut self) -> Result<(), SessionsError> {
        let release = "UPDATE notices SET due_s = 0 WHERE due_s > 0";
        self.change(|transaction| transaction.execute(release, []).map(drop))
    }

    /// What an owner has that is not finished: sessions and bytes.
    pub fn usage(&self, owner: &Owner) -> Result<(u64, u64), SessionsError> {
        self.look(|connection| usage(connection, owner))
    }

    /// Removes a session that has this version; `false`: it has another, is gone, or has notices.
    pub fn forget(&mut self, id: SessionId, version: u64) -> Result<bool, SessionsError> {
        let delete = "DELETE FROM sessions WHERE id = ?1 AND version = ?2
            AND NOT EXISTS (SELECT 1 FROM notices WHERE session = ?1)";
        self.change(|transaction| {
            let version = version.cast_signed();
            let is_gone = transaction.execute(delete, params![id.bytes(), version])? == 1;
            if is_gone {
                transaction.execute("DELETE FROM parts WHERE session = ?1", [id.bytes()])?;
                transaction.execute("DELETE FROM staged WHERE session = ?1", [id.bytes()])?;
            }
            Ok(is_gone)
        })
    }

    /// Raises the clock of served seconds to at least this, and returns it.
    pub fn served_s(&mut self, at_least: u64) -> Result<u64, SessionsError> {
        let raise = "UPDATE served SET seconds = max(seconds, ?1) RETURNING seconds";
        self.change(|transaction| {
            let at_least = at_least.cast_signed();
            let seconds: i64 = transaction.query_row(raise, [at_least], |row| row.get(0))?;
            Ok(seconds.cast_unsigned())
        })
    }
}

/// Makes the tables that are missing; returns the version of the schema.
fn prepare(connection: &mut Connection) -> rusqlite::Result<u32> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found = transaction.pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0))?;
    let Some(missing) = schema::STEPS.get(found as usize..) else {
        return Ok(found);
    };
    for step in missing {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", schema::VERSION)?;
    transaction.commit()?;
    Ok(schema::VERSION)
}

fn load(connection: &Connection, id: SessionId) -> rusqlite::Result<Option<Session>> {
    let mut query = connection.prepare_cached("SELECT * FROM sessions WHERE id = ?1")?;
    query
        .query_row([id.bytes()], |row| session_of(row))
        .optional()
}
