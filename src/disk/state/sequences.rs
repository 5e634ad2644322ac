//! The highest sequences of signed manifests, so that an older one is noticed.

use rusqlite::{OptionalExtension, params};

use super::{State, StateError};

impl State {
    /// The highest sequence that was ever accepted for this name under this key.
    pub fn sequence(&self, key_id: &str, name: &str) -> Result<Option<u64>, StateError> {
        let query = "SELECT sequence FROM sequences WHERE key_id = ?1 AND name = ?2";
        let row = self
            .connection
            .query_row(query, params![key_id, name], |row| row.get::<_, i64>(0));
        // SQLite has only signed numbers; the bits are preserved.
        row.optional()
            .map(|found| found.map(|sequence| sequence.cast_unsigned()))
            .map_err(|cause| self.wrap(cause))
    }

    /// Remembers a sequence that was accepted. A smaller one than before changes nothing.
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
}
