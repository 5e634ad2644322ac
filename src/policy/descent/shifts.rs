//! Which shifts held and which failed, so that those that only fail are dropped.

use std::collections::{HashMap, VecDeque};

use super::protocol::Shift;

/// A shift that failed this often and never held is dropped.
const FAILURES_MAX: u32 = 4;
/// A dropped shift is still tried every eighth time that a window matches: a whole level may have failed by chance.
const SECOND_CHANCE: u32 = 8;
/// After this many searches byte by byte in a row that found nothing, most are left out.
const VAIN_MAX: u32 = 32;
/// Shifts that held elsewhere and are tried everywhere.
const HELD_MAX: usize = 4;
/// Records that are kept; a hostile manifest can suggest a new shift for every node.
const RECORDS_MAX: usize = 1 << 16;

#[derive(Default)]
struct Record {
    held: u32,
    failed: u32,
    refused: u32,
}

#[derive(Default)]
pub struct Shifts {
    records: HashMap<Shift, Record>,
    /// The last that held, the latest first.
    held: VecDeque<Shift>,
    /// Searches between two shifts that found nothing since one did, and how many were left out since the last.
    vain_searches: u32,
    left_out: u32,
}

impl Shifts {
    /// Whether the shift is worth a hash, after all cheaper checks passed.
    pub fn worth_trying(&mut self, shift: Shift) -> bool {
        let Some(record) = self.records.get_mut(&shift) else {
            return true;
        };
        if record.held > 0 || record.failed < FAILURES_MAX {
            return true;
        }
        record.refused += 1;
        record.refused.is_multiple_of(SECOND_CHANCE)
    }

    pub fn note(&mut self, shift: Shift, held: bool) {
        if self.records.len() >= RECORDS_MAX {
            self.records.retain(|_, record| record.held > 0);
            if self.records.len() >= RECORDS_MAX {
                self.records.clear();
            }
        }
        let record = self.records.entry(shift).or_default();
        match held {
            true => record.held += 1,
            false => record.failed += 1,
        }
    }

    /// Makes a shift that held the first of those tried elsewhere.
    pub fn note_held(&mut self, shift: Shift) {
        if self.held.front() == Some(&shift) {
            return;
        }
        self.held.retain(|other| *other != shift);
        self.held.push_front(shift);
        self.held.truncate(HELD_MAX);
    }

    pub fn held(&self) -> impl Iterator<Item = Shift> + '_ {
        self.held.iter().copied()
    }

    /// At the next level a shift may hold that failed at this one: smaller nodes have fewer changes.
    pub fn forget_failures(&mut self) {
        self.records.clear();
    }

    /// Whether a search byte by byte is worth its time; after many in vain only now and then.
    pub fn worth_searching(&mut self) -> bool {
        if self.vain_searches < VAIN_MAX {
            return true;
        }
        self.left_out += 1;
        self.left_out.is_multiple_of(SECOND_CHANCE)
    }

    pub fn note_search(&mut self, found: bool) {
        self.vain_searches = if found { 0 } else { self.vain_searches + 1 };
    }
}
