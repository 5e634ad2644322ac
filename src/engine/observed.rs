//! What the objects of a run showed so far, for those that are still to come.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;

use crate::net::{location::Location, repr_digest::Sidecar};

/// After so many objects of a folder without the digest file of their own, none is requested for the others there.
const SIDECARS_MISSED_MAX: u32 = 16;

/// So many digest files of folders are kept: 4 MiB.
const LISTS_MAX: usize = 64;

/// Guesses that only save requests. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Observed(Arc<Facts>);

#[derive(Debug, Default)]
struct Facts {
    last_is_small: AtomicBool,
    /// By folder and kind: how many objects had no digest file; `None`: one had.
    sidecars_missed: Mutex<HashMap<(String, &'static str), Option<u32>>>,
    /// Digest files of whole folders, by their URLs.
    lists: Mutex<HashMap<String, Arc<str>>>,
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

    /// Notes whether there is such a digest file beside this object.
    pub fn note_sidecar(&self, of: &Location, kind: Sidecar, found: bool) {
        let mut missed = self.0.sidecars_missed.lock();
        let missed = missed.entry((of.folder(), kind.name())).or_insert(Some(0));
        *missed = match found {
            true => None,
            false => missed.map(|count| count + 1),
        };
    }

    /// Whether there is probably no such digest file beside this object.
    pub fn expects_no_sidecar(&self, of: &Location, kind: Sidecar) -> bool {
        let missed = self.0.sidecars_missed.lock();
        let missed = missed.get(&(of.folder(), kind.name())).copied().flatten();
        missed.is_some_and(|count| count >= SIDECARS_MISSED_MAX)
    }

    /// Keeps the digest file of a whole folder for its other objects.
    pub fn keep_list(&self, place: &Location, text: &str) {
        let mut lists = self.0.lists.lock();
        if lists.len() < LISTS_MAX {
            lists.insert(place.url().to_string(), text.into());
        }
    }

    /// The digest file at this place, if it was kept.
    pub fn list_at(&self, place: &Location) -> Option<Arc<str>> {
        self.0.lists.lock().get(place.url().as_str()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Sidecar = Sidecar::Sha256;

    #[test]
    fn digest_files_are_expected_where_one_was() {
        let place = |path: &str| Location::parse(&format!("http://h{path}")).unwrap();
        let observed = Observed::default();
        for number in 0..SIDECARS_MISSED_MAX {
            assert!(
                !observed.expects_no_sidecar(&place("/a/x"), KIND),
                "{number}"
            );
            observed.note_sidecar(&place(&format!("/a/{number}?q")), KIND, false);
        }
        assert!(observed.expects_no_sidecar(&place("/a/other"), KIND));
        assert!(!observed.expects_no_sidecar(&place("/a/other"), Sidecar::Md5));
        assert!(!observed.expects_no_sidecar(&place("/b/x"), KIND));
        assert!(!observed.expects_no_sidecar(&place("/a/b/x"), KIND));
        observed.note_sidecar(&place("/a/y"), KIND, true);
        assert!(!observed.expects_no_sidecar(&place("/a/x"), KIND));
        for number in 0..2 * SIDECARS_MISSED_MAX {
            observed.note_sidecar(&place(&format!("/a/{number}")), KIND, false);
        }
        assert!(
            !observed.expects_no_sidecar(&place("/a/x"), KIND),
            "one had it"
        );
    }
}
