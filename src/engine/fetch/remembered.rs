//! What the store remembers of a target and its URL.

use std::{io::Read, path::Path};

use crate::{
    disk::{
        files::{self, Entry, EntryKind},
        state::{Arrived, Holding, State, StateError},
        store::{Store, StoreError},
    },
    engine::remote::preflight,
    format::{
        tree::{PartHasher, Root},
        trust::Trust,
        validators::Validators,
    },
    net::location::Location,
};

/// A small file that is what last arrived from the URL, as far as its stamp shows.
pub struct Known {
    pub arrived: Arrived,
    /// What it was proven against.
    pub trust: Trust,
    pub length: u64,
}

impl Known {
    /// Whether the file at this path has the bytes: a stamp is no proof.
    pub fn is_at(&self, path: &Path) -> bool {
        root_of(path, self.length) == Some(self.arrived.root)
    }

    pub fn validators(&self) -> Validators {
        Validators {
            etag: self.arrived.etag.clone(),
            last_modified: self.arrived.last_modified.clone(),
        }
    }
}

/// What the state remembers of a target and its URL.
pub enum Remembered {
    /// The file that is there.
    Known(Known),
    /// Nothing is there, but other files may have bytes of the object.
    Elsewhere {
        is_of_known_origin: bool,
        /// Of the object that came from the URL last.
        holdings: Vec<Holding>,
    },
    Nothing,
}

/// Looks for the file under the final name. `path`: as the state knows it.
pub fn find(
    state: &State,
    path: Option<&Path>,
    entry: Entry,
    url_hash: &[u8; 32],
) -> Result<Option<Known>, StateError> {
    let is_small = entry.kind == EntryKind::Regular && entry.length <= preflight::FIRST_BYTES;
    let Some(path) = path.filter(|_| is_small) else {
        return Ok(None);
    };
    let Some(arrived) = state.last_arrival(url_hash)? else {
        return Ok(None);
    };
    let holding = state.holding_at(path)?;
    let is_it = holding.is_some_and(|holding| {
        holding.root == arrived.root && holding.stamp == entry.stamp() && !holding.own
    });
    Ok(arrived.trust.filter(|_| is_it).map(|trust| Known {
        arrived,
        trust,
        length: entry.length,
    }))
}

/// Looks for other files that may have bytes of an object that is not at its target.
pub fn elsewhere(
    state: &State,
    url: &Location,
    url_hash: &[u8; 32],
) -> Result<Remembered, StateError> {
    let holdings = match state.last_arrival(url_hash)? {
        Some(arrived) => state.holdings_of(arrived.root)?,
        None => Vec::new(),
    };
    Ok(Remembered::Elsewhere {
        is_of_known_origin: state.knows_origin(&url.origin())?,
        holdings,
    })
}

/// Whether one of these holdings is still what it was.
pub fn is_one_there(store: &mut Store, holdings: &[Holding]) -> Result<bool, StateError> {
    for holding in holdings {
        if store.open_holding(holding)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The root of a file of this length, which is small.
fn root_of(path: &Path, length: u64) -> Option<Root> {
    // With room to see the end: otherwise it is read in many small pieces.
    let mut bytes = Vec::with_capacity(length as usize + 64);
    let file = files::open_for_reading(path).ok()?;
    file.take(length + 1).read_to_end(&mut bytes).ok()?;
    let mut hasher = PartHasher::new(0);
    hasher.update(&bytes);
    (bytes.len() as u64 == length).then(|| hasher.root())
}

/// The whole URL as the store keeps it: its query may name the object, and may be a secret.
pub fn url_hash(store: &mut Store, url: &Location) -> Result<[u8; 32], StoreError> {
    let salt = store.state().salt()?;
    Ok(*blake3::keyed_hash(&salt, url.url().as_str().as_bytes()).as_bytes())
}
