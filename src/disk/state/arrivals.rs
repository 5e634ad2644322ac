//! Which object came from a URL as which version, so that the same version is not fetched again.
//!
//! The query belongs to the URL, for it may name the object. It may also be a secret, so that only a hash
//! of the URL is kept, keyed with [`State::salt`].

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::format::{tree::Root, trust::Trust};

use super::{State, StateError};

/// Beyond this many, the oldest ones are removed.
pub(super) const ARRIVALS_MAX: u32 = 100_000;

/// An object that arrived from a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields are named after what they are")]
pub struct Arrived {
    pub root: Root,
    /// The keyed hash of the whole URL, with its query.
    pub url_hash: [u8; 32],
    pub etag: Option<String>,
    pub last_modified: Option<String>,
    /// What it was proven against, if that needs nothing from the user but the URL.
    pub trust: Option<Trust>,
    /// Unix seconds.
    pub at: u64,
}

impl State {
    /// The key for hashes of secrets: random, and made with the database.
    pub fn salt(&self) -> Result<[u8; 32], StateError> {
        if let Some(salt) = self.salt.get() {
            return Ok(*salt);
        }
        let read = |connection: &Connection| {
            connection.query_row("SELECT salt FROM salt", [], |row| row.get(0))
        };
        let salt = self.look(read)?;
        Ok(*self.salt.get_or_init(|| salt))
    }

    /// Remembers that an object arrived from a URL; replaces the record of the same object there.
    pub fn remember_arrival(&mut self, arrived: &Arrived) -> Result<(), StateError> {
        self.change(|transaction| {
            insert(transaction, arrived)?;
            trim(transaction, ARRIVALS_MAX)
        })
    }

    /// What last arrived from this URL, whatever its version.
    pub fn last_arrival(&self, url_hash: &[u8; 32]) -> Result<Option<Arrived>, StateError> {
        let query = "SELECT root, etag, last_modified, at, trust FROM arrivals WHERE url_hash = ?1
            ORDER BY at DESC LIMIT 1";
        self.look(|connection| {
            let mut query = connection.prepare_cached(query)?;
            let row = query.query_row([url_hash], |row| {
                let trust: Option<String> = row.get(4)?;
                Ok(Arrived {
                    root: Root(row.get(0)?),
                    url_hash: *url_hash,
                    etag: row.get(1)?,
                    last_modified: row.get(2)?,
                    trust: trust.and_then(|name| name.parse().ok()),
                    at: row.get::<_, i64>(3)?.cast_unsigned(),
                })
            });
            row.optional()
        })
    }

    /// The object that last arrived from this URL as this version.
    pub fn arrived(
        &self,
        url_hash: &[u8; 32],
        etag: Option<&str>,
        last_modified: Option<&str>,
    ) -> Result<Option<Root>, StateError> {
        let query =
            "SELECT root FROM arrivals WHERE url_hash = ?1 AND etag IS ?2 AND last_modified IS ?3
            ORDER BY at DESC LIMIT 1";
        self.look(|connection| {
            let row = connection.query_row(query, params![url_hash, etag, last_modified], |row| {
                row.get::<_, [u8; 32]>(0).map(Root)
            });
            row.optional()
        })
    }
}

/// Adds an arrival; replaces the record of the same object there.
pub(super) fn insert(transaction: &Transaction, arrived: &Arrived) -> rusqlite::Result<()> {
    let insert = "INSERT OR REPLACE INTO arrivals (root, url_hash, etag, last_modified, at, trust)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let row = params![
        arrived.root.0,
        arrived.url_hash,
        arrived.etag,
        arrived.last_modified,
        arrived.at.cast_signed(),
        arrived.trust.map(Trust::name)
    ];
    transaction.prepare_cached(insert)?.execute(row).map(drop)
}

/// Removes the oldest ones.
pub(super) fn trim(transaction: &Transaction, most: u32) -> rusqlite::Result<()> {
    let oldest = "DELETE FROM arrivals WHERE rowid IN
        (SELECT rowid FROM arrivals ORDER BY at DESC LIMIT -1 OFFSET ?1)";
    transaction
        .prepare_cached(oldest)?
        .execute([most])
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_by_version_and_the_oldest_go() {
        let folder = tempfile::tempdir().unwrap();
        let mut state = State::open(folder.path()).unwrap();
        let arrived = |root: u8, etag: Option<&str>, at| Arrived {
            root: Root([root; 32]),
            url_hash: [7; 32],
            etag: etag.map(str::to_owned),
            last_modified: None,
            trust: None,
            at,
        };
        for arrival in [arrived(1, Some("\"x\""), 1), arrived(2, None, 2)] {
            state.remember_arrival(&arrival).unwrap();
        }
        let found = |state: &State, etag| state.arrived(&[7; 32], etag, None).unwrap();
        let salt = state.salt().unwrap();
        assert!(salt != [0; 32] && State::open(folder.path()).unwrap().salt().unwrap() == salt);
        assert_eq!(found(&state, Some("\"x\"")), Some(Root([1; 32])));
        assert_eq!(found(&state, None), Some(Root([2; 32])));
        assert_eq!(found(&state, Some("\"y\"")), None);
        assert_eq!(state.arrived(&[8; 32], None, None).unwrap(), None);
        // Again, with another validator: one row an object and URL.
        let again = arrived(1, Some("\"y\""), 3);
        state.remember_arrival(&again).unwrap();
        assert_eq!(found(&state, Some("\"x\"")), None);
        let third = arrived(3, Some("\"z\""), 4);
        let done = state.change(|transaction| {
            insert(transaction, &third)?;
            trim(transaction, 2)
        });
        done.unwrap();
        assert_eq!(found(&state, None), None, "the oldest one went");
        assert_eq!(found(&state, Some("\"y\"")), Some(Root([1; 32])));
    }
}
