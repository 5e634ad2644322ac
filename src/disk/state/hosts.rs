//! The reputations of hosts that limited requests.

use rusqlite::{OptionalExtension, Transaction, params};

use crate::policy::reputation::Reputation;

use super::{State, StateError};

impl State {
    /// The reputations of all hosts that ever limited requests, by name. Times are Unix milliseconds.
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

    /// Changes the reputation of a host atomically among processes, and returns it.
    pub fn change_host(
        &mut self,
        host: &str,
        change: impl FnOnce(Reputation) -> Reputation,
    ) -> Result<Reputation, StateError> {
        self.change(|transaction| change_host(transaction, host, change))
    }

    /// Forgets one host, or all of them, and returns how many were known.
    pub fn forget_hosts(&self, host: Option<&str>) -> Result<usize, StateError> {
        let delete = "DELETE FROM hosts WHERE ?1 IS NULL OR host = ?1";
        self.connection
            .execute(delete, params![host])
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
    transaction: &Transaction,
    host: &str,
    change: impl FnOnce(Reputation) -> Reputation,
) -> rusqlite::Result<Reputation> {
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
    Ok(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_shared_and_can_be_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let mut state = State::open(folder.path()).unwrap();
        let mut other = State::open(folder.path()).unwrap();
        assert_eq!(state.hosts().unwrap(), []);
        let slow = |mut host: Reputation| {
            let now = host.since_ms + 1;
            host.too_many(now, now, 8, None);
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
}
