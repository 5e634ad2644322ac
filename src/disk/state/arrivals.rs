//! Which object came from a URL as which version, so that the same version is not fetched again.

use rusqlite::{OptionalExtension, Transaction, params};

use crate::format::tree::Root;

use super::{State, StateError};

/// Beyond this many, the oldest ones are removed.
const ARRIVALS_MAX: u32 = 100_000;

/// An object that arrived from a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
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

impl State {
    /// Remembers that an object arrived from a URL; replaces the record of the same object there.
    pub fn remember_arrival(&mut self, arrived: &Arrived) -> Result<(), StateError> {
        self.change(|transaction| remember(transaction, arrived, ARRIVALS_MAX))
    }

    /// The object that last arrived from this URL as this version.
    pub fn arrived(
        &self,
        url: &str,
        etag: Option<&str>,
        last_modified: Option<&str>,
    ) -> Result<Option<Root>, StateError> {
        let query =
            "SELECT root FROM arrivals WHERE url = ?1 AND etag IS ?2 AND last_modified IS ?3
            ORDER BY at DESC LIMIT 1";
        self.look(|connection| {
            let row = connection.query_row(query, params![url, etag, last_modified], |row| {
                row.get::<_, [u8; 32]>(0).map(Root)
            });
            row.optional()
        })
    }
}

fn remember(transaction: &Transaction, arrived: &Arrived, most: u32) -> rusqlite::Result<()> {
    transaction.execute(
        "INSERT OR REPLACE INTO arrivals (root, url, etag, last_modified, at)
        VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            arrived.root.0,
            arrived.url,
            arrived.etag,
            arrived.last_modified,
            arrived.at.cast_signed()
        ],
    )?;
    let oldest = "DELETE FROM arrivals WHERE rowid IN
        (SELECT rowid FROM arrivals ORDER BY at DESC LIMIT -1 OFFSET ?1)";
    transaction.execute(oldest, [most]).map(drop)
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
            url: "http://a/b".to_owned(),
            etag: etag.map(str::to_owned),
            last_modified: None,
            at,
        };
        for arrival in [arrived(1, Some("\"x\""), 1), arrived(2, None, 2)] {
            state.remember_arrival(&arrival).unwrap();
        }
        let found = |state: &State, etag| state.arrived("http://a/b", etag, None).unwrap();
        assert_eq!(found(&state, Some("\"x\"")), Some(Root([1; 32])));
        assert_eq!(found(&state, None), Some(Root([2; 32])));
        assert_eq!(found(&state, Some("\"y\"")), None);
        assert_eq!(state.arrived("http://a/c", None, None).unwrap(), None);
        // Again, with another validator: one row an object and URL.
        let again = arrived(1, Some("\"y\""), 3);
        state.remember_arrival(&again).unwrap();
        assert_eq!(found(&state, Some("\"x\"")), None);
        let third = arrived(3, Some("\"z\""), 4);
        let done = state.change(|transaction| remember(transaction, &third, 2));
        done.unwrap();
        assert_eq!(found(&state, None), None, "the oldest one went");
        assert_eq!(found(&state, Some("\"y\"")), Some(Root([1; 32])));
    }
}
