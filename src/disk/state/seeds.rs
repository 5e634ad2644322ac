//! Which holdings may have bytes of a wanted object.

use std::{cmp::Reverse, collections::BTreeMap};

use rusqlite::{Connection, params};

use crate::{
    format::{anchors::Tag, tree::Root},
    policy::{samples as sampling, samples::Merit},
};

use super::{Holding, State, StateError, holdings, samples};

/// Objects with the most hits that are considered.
const OBJECTS_MAX: usize = 64;

/// The wanted object, as far as it is known before the search.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The object.
    pub root: Root,
    /// Where it comes from, without secrets.
    pub url: Option<String>,
    /// The tags to look up; empty: its manifest has no hints.
    pub tags: Vec<Tag>,
}

/// Which holdings may be used at all. If the author of a manifest sees the requests too, the blocks that are not requested reveal
/// which blocks are here: so files from other origins are not searched.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    /// Holdings from this origin: scheme, host and port.
    pub origin: Option<String>,
    /// Holdings signed by this key.
    pub key_id: Option<String>,
    /// Holdings of the wanted object itself, from any origin.
    pub same_object: bool,
    /// All holdings.
    pub all: bool,
}

/// A holding that may have bytes of the wanted object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Not opened yet: its file may be missing or changed.
    pub holding: Holding,
    /// Why it may have them.
    pub merit: Merit,
}

impl Allowed {
    fn allows(&self, holding: &Holding, wanted: &Wanted) -> bool {
        let same =
            |mine: &Option<String>, theirs: &Option<String>| mine.is_some() && mine == theirs;
        self.all
            || (self.same_object && holding.root == wanted.root)
            || same(&self.origin, &holding.provenance.origin)
            || same(&self.key_id, &holding.provenance.key_id)
    }
}

impl State {
    /// The best holdings for a wanted object, best first, at most `most`.
    pub fn candidates(
        &self,
        allowed: &Allowed,
        wanted: &Wanted,
        most: usize,
    ) -> Result<Vec<Candidate>, StateError> {
        self.look(|connection| {
            let hits = samples::hits(connection, &wanted.tags)?;
            let merit = |holding: &Holding| Merit {
                same_object: holding.root == wanted.root,
                same_url: wanted.url.is_some() && holding.provenance.url == wanted.url,
                hits: hits.get(&holding.object).copied().unwrap_or(0),
                whole: holding.blocks.is_none(),
                used: holding.used,
            };
            let mut by_hits: Vec<(u32, i64)> =
                hits.iter().map(|(object, hits)| (*hits, *object)).collect();
            by_hits.sort_unstable_by_key(|one| Reverse(*one));
            by_hits.truncate(OBJECTS_MAX);
            let mut found = Found::default();
            let most_rows = (most as u64).cast_signed();
            found.add(connection, "root = ?1", wanted.root.0, most_rows)?;
            found.add(connection, "url = ?1", &wanted.url, most_rows)?;
            for (_, object) in by_hits {
                found.add(connection, "object = ?1", object, most_rows)?;
            }
            found.add(connection, "origin = ?1", &allowed.origin, most_rows)?;
            found.add(connection, "key_id = ?1", &allowed.key_id, most_rows)?;
            if allowed.all {
                found.add(connection, "?1", true, most_rows)?;
            }
            let candidates: Vec<Candidate> = found
                .0
                .into_values()
                .filter(|holding| allowed.allows(holding, wanted))
                .map(|holding| Candidate {
                    merit: merit(&holding),
                    holding,
                })
                .filter(|one| {
                    let looked_up = !wanted.tags.is_empty();
                    !one.merit.is_none(one.holding.has_anchors, looked_up)
                })
                .collect();
            Ok(sampling::best(candidates, most, |one| one.merit))
        })
    }

    /// Whether there is any holding from this origin.
    pub fn knows_origin(&self, origin: &str) -> Result<bool, StateError> {
        let query = "SELECT EXISTS (SELECT 1 FROM holdings WHERE origin = ?1)";
        self.look(|connection| {
            let mut query = connection.prepare_cached(query)?;
            query.query_row([origin], |row| row.get(0))
        })
    }
}

/// Holdings by their rows: several reasons may find the same one.
#[derive(Default)]
struct Found(BTreeMap<i64, Holding>);

impl Found {
    /// Adds the most recently used ones of a kind.
    fn add(
        &mut self,
        connection: &Connection,
        condition: &str,
        value: impl rusqlite::ToSql,
        most: i64,
    ) -> rusqlite::Result<()> {
        let columns = holdings::COLUMNS;
        let query = format!("SELECT {columns} WHERE {condition} ORDER BY used DESC LIMIT ?2");
        let mut query = connection.prepare_cached(&query)?;
        let mut rows = query.query(params![value, most])?;
        while let Some(row) = rows.next()? {
            if let Some(holding) = holdings::from_row(row)? {
                self.0.insert(holding.id, holding);
            }
        }
        Ok(())
    }
}
