//! What the objects of a run showed so far, for those that are still to come.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;

use crate::net::location::Location;

/// After so many objects of a folder without the digest file of their own, none is requested for the others there.
const SIDECARS_MISSED_MAX: u32 = 16;

/// Guesses that only save requests. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Observed(Arc<Facts>);

#[derive(Debug, Default)]
struct Facts {
    last_is_small: AtomicBool,
    /// By folder: how many objects had no digest file; `None`: one had.
    sidecars_missed: Mutex<HashMap<String, Option<u32>>>,
}

impl Observed {
    /// Notes whether an object came whole with its first response.
    pub fn note_small(&self, is_small: bool) {
        self.0.last_is_small.store(is_small, Ordering::Relaxed);
    }

    /// Whether the next object is probably small: the last one was.
    pub fn expects_small(&self) -> bool {
        self.0.last_is_small.load(Ordering::Relaxed)
    }

    /// Notes whether there is a digest file beside this object.
    pub fn note_sidecar(&self, of: &Location, found: bool) {
        let mut missed = self.0.sidecars_missed.lock();
        let missed = missed.entry(of.folder()).or_insert(Some(0));
        *missed = match found {
            true => None,
            false => missed.map(|count| count + 1),
        };
    }

    /// Whether there is probably no digest file beside this object.
    pub fn expects_no_sidecar(&self, of: &Location) -> bool {
        let missed = self.0.sidecars_missed.lock();
        let missed = missed.get(&of.folder()).copied().flatten();
        missed.is_some_and(|count| count >= SIDECARS_MISSED_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_files_are_expected_where_one_was() {
        let place = |path: &str| Location::parse(&format!("http://h{path}")).unwrap();
        let observed = Observed::default();
        for number in 0..SIDECARS_MISSED_MAX {
            assert!(!observed.expects_no_sidecar(&place("/a/x")), "{number}");
            observed.note_sidecar(&place(&format!("/a/{number}?q")), false);
        }
        assert!(observed.expects_no_sidecar(&place("/a/other")));
        assert!(!observed.expects_no_sidecar(&place("/b/x")));
        assert!(!observed.expects_no_sidecar(&place("/a/b/x")));
        observed.note_sidecar(&place("/a/y"), true);
        assert!(!observed.expects_no_sidecar(&place("/a/x")));
        for number in 0..2 * SIDECARS_MISSED_MAX {
            observed.note_sidecar(&place(&format!("/a/{number}")), false);
        }
        assert!(!observed.expects_no_sidecar(&place("/a/x")), "one had it");
    }
}
