//! Which upload a push goes on with.

use rusqlite::{OptionalExtension, params};

use crate::format::upload::SessionId;

use super::{State, StateError};

/// Beyond this many, the oldest ones are removed.
const PUSHES_MAX: u32 = 10_000;

impl State {
    /// The session of this push. `key`: a keyed hash of server, name and source.
    pub fn push_session(&self, key: &[u8; 32]) -> Result<Option<SessionId>, StateError> {
        let query = "SELECT session FROM pushes WHERE key = ?1";
        let row = self.look(|connection| {
            let row = connection.query_row(query, [key], |row| row.get::<_, [u8; 16]>(0));
            row.optional()
        })?;
        Ok(row.and_then(SessionId::from_bytes))
    }

    /// Remembers the session of this push; replaces an earlier one. `at`: Unix seconds.
    pub fn remember_push(
        &mut self,
        key: &[u8; 32],
        session: SessionId,
        at: u64,
    ) -> Result<(), StateError> {
        self.change(|transaction| {
            let insert = "INSERT OR REPLACE INTO pushes (key, session, at) VALUES (?1, ?2, ?3)";
            transaction.execute(insert, params![key, session.bytes(), at.cast_signed()])?;
            let oldest = "DELETE FROM pushes WHERE key IN
                (SELECT key FROM pushes ORDER BY at DESC LIMIT -1 OFFSET ?1)";
            transaction.execute(oldest, [PUSHES_MAX]).map(drop)
        })
    }

    /// Forgets the session of this push.
    pub fn forget_push(&mut self, key: &[u8; 32]) -> Result<(), StateError> {
        self.change(|transaction| {
            let delete = "DELETE FROM pushes WHERE key = ?1";
            transaction.execute(delete, [key]).map(drop)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_has_one_session() {
        let folder = tempfile::tempdir().unwrap();
        let mut state = State::open(folder.path()).unwrap();
        let id = |byte| SessionId::from_random([byte; 16]);
        assert_eq!(state.push_session(&[1; 32]).unwrap(), None);
        state.remember_push(&[1; 32], id(1), 5).unwrap();
        state.remember_push(&[2; 32], id(2), 6).unwrap();
        state.remember_push(&[1; 32], id(3), 7).unwrap();
        let state_again = State::open(folder.path()).unwrap();
        assert_eq!(state_again.push_session(&[1; 32]).unwrap(), Some(id(3)));
        state.forget_push(&[1; 32]).unwrap();
        assert_eq!(state.push_session(&[1; 32]).unwrap(), None);
        assert_eq!(state.push_session(&[2; 32]).unwrap(), Some(id(2)));
    }
}
