//! The reputation of a host, from its 429 responses: how many connections it accepts, and when its cooldown ends.
//!
//! Pure: times are milliseconds since any fixed moment, the same one for all calls. The scheduler uses it within a run; between
//! runs, and for all processes of a user, it is kept in the state.

use super::recovery::{COOLDOWN_MAX_MS, backoff_ms, cooldown_ms, fewer_connections};

/// A host without a 429 is assumed to accept this many connections.
const CONNECTIONS_UNKNOWN: u32 = 8;
/// After this long without a 429, a success doubles the connections that the host accepts.
pub const RESTORE_AFTER_MS: u64 = 10 * 60_000;

/// See the module. The default is a host without a 429.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reputation {
    /// How many connections it accepts; `None`: it never limited them.
    pub connections: Option<u32>,
    /// How many 429 it sent; successes reduce this again.
    pub slowed: u32,
    /// When this changed last.
    pub since_ms: u64,
    /// The end of its cooldown.
    pub until_ms: u64,
}

impl Reputation {
    /// Notes a 429 of the host. During a cooldown it concerns requests that were under way, and changes nothing but the end of
    /// the cooldown. `running`: how many connections it had. `random`: any number.
    pub fn too_many(&mut self, now: u64, running: u32, retry_after_ms: Option<u64>, random: u64) {
        if now >= self.until_ms {
            self.slowed += 1;
            let accepted = running.clamp(
                1,
                self.connections.unwrap_or(CONNECTIONS_UNKNOWN.max(running)),
            );
            self.connections = Some(fewer_connections(accepted));
        }
        // A host whose Retry-After is always 0 still gets a growing pause.
        let backoff = backoff_ms(self.slowed.max(1), random);
        let rest = cooldown_ms(self.slowed, retry_after_ms).max(backoff);
        self.since_ms = now;
        self.until_ms = self.until_ms.max(now + rest.min(COOLDOWN_MAX_MS));
    }

    /// Notes a span that the host served.
    pub fn served(&mut self, now: u64) {
        let Some(connections) = self.connections else {
            return;
        };
        if now.saturating_sub(self.since_ms) < RESTORE_AFTER_MS {
            return;
        }
        self.since_ms = now;
        self.slowed = self.slowed.saturating_sub(1);
        self.connections = Some(connections * 2).filter(|more| *more < CONNECTIONS_UNKNOWN);
        if self.connections.is_none() {
            *self = Reputation::default();
        }
    }

    /// How long its cooldown still lasts.
    pub fn rest_ms(&self, now: u64) -> u64 {
        self.until_ms.saturating_sub(now).min(COOLDOWN_MAX_MS)
    }

    /// The same after the clock may have been set back: a time in the future was written by another clock, and no host is locked
    /// out for longer than a cooldown can last.
    #[must_use]
    pub fn repaired(mut self, now: u64) -> Reputation {
        if self.since_ms > now {
            let rest = self.until_ms.saturating_sub(self.since_ms);
            (self.since_ms, self.until_ms) = (now, now + rest);
        }
        self.until_ms = self.until_ms.min(now + COOLDOWN_MAX_MS);
        self
    }

    /// The same with times that count from a moment this much later.
    #[must_use]
    pub fn counted_from(mut self, moment: u64) -> Reputation {
        self.since_ms = self.since_ms.saturating_sub(moment);
        self.until_ms = self.until_ms.saturating_sub(moment);
        self
    }

    /// The reverse of [`Reputation::counted_from`].
    #[must_use]
    pub fn counted_to(mut self, moment: u64) -> Reputation {
        self.since_ms += moment;
        self.until_ms += moment;
        self
    }

    /// Merges two records of one host: the newer one, with the later end of the cooldown.
    #[must_use]
    pub fn joined(self, other: Reputation) -> Reputation {
        // Times from before the common start are all equal: then the record with a 429 counts.
        let age = |one: &Reputation| (one.since_ms, one.connections.is_some());
        let newer = if age(&other) > age(&self) {
            other
        } else {
            self
        };
        Reputation {
            until_ms: self.until_ms.max(other.until_ms),
            ..newer
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;

    #[test]
    fn steps_down_once_a_cooldown() {
        let mut host = Reputation::default();
        let mut now = 5 * MINUTE;
        for (running, bears, minutes) in [
            (8, 4, 1),
            (4, 2, 2),
            (2, 1, 3),
            (1, 1, 4),
            (1, 1, 5),
            (1, 1, 5),
        ] {
            host.too_many(now, running, None, 0);
            assert_eq!(
                (host.connections, host.rest_ms(now)),
                (Some(bears), minutes * MINUTE)
            );
            // Of those that were under way.
            let before = host;
            host.too_many(now + 10, running, None, 0);
            assert_eq!(
                (host.connections, host.slowed),
                (before.connections, before.slowed)
            );
            now = host.until_ms;
        }
    }

    #[test]
    fn what_it_asks_for_is_kept_within_a_cap() {
        for (retry_after_ms, rest) in [
            (0, 0),
            (5_000, 5_000),
            (300_000, 300_000),
            (u64::MAX, 300_000),
        ] {
            let mut host = Reputation::default();
            host.too_many(1000, 8, Some(retry_after_ms), 0);
            assert_eq!(host.rest_ms(1000), rest);
        }
        let mut host = Reputation::default();
        host.too_many(0, 8, Some(0), 499);
        assert_eq!(host.rest_ms(0), 499, "not at once");
    }

    #[test]
    fn a_busier_start_steps_down_from_there() {
        let mut host = Reputation::default();
        host.too_many(0, 16, None, 0);
        assert_eq!(host.connections, Some(8));
        let mut host = Reputation::default();
        host.too_many(0, 3, None, 0);
        assert_eq!(
            host.connections,
            Some(2),
            "it had three, so it does not bear three"
        );
    }

    #[test]
    fn successes_restore_slowly() {
        let mut host = Reputation::default();
        for _ in 0..3 {
            host.too_many(host.until_ms, 8, None, 0);
        }
        assert_eq!(host.connections, Some(1));
        let mut now = host.since_ms;
        for bears in [Some(2), Some(4), None] {
            host.served(now + RESTORE_AFTER_MS - 1);
            assert_ne!(host.connections, bears);
            now += RESTORE_AFTER_MS;
            host.served(now);
            assert_eq!(host.connections, bears);
        }
        assert_eq!(host, Reputation::default());
        host.served(now);
        assert_eq!(host, Reputation::default());
    }

    #[test]
    fn a_clock_that_jumps_locks_nobody_out() {
        let mut host = Reputation::default();
        host.too_many(1_000_000_000, 8, Some(200_000), 0);
        // Back by a week or to the beginning, or forward.
        for now in [0, 1, 300_000_000, 999_999_999] {
            let repaired = host.repaired(now);
            assert_eq!(repaired.rest_ms(now), 200_000);
            assert_eq!(repaired.rest_ms(now + 200_000), 0);
            assert_eq!(repaired.repaired(now), repaired);
        }
        assert_eq!(host.repaired(2_000_000_000).rest_ms(2_000_000_000), 0);
        let wild = Reputation {
            until_ms: u64::MAX,
            ..host
        };
        assert_eq!(wild.repaired(5).rest_ms(5), COOLDOWN_MAX_MS);
    }

    #[test]
    fn the_more_careful_of_two() {
        let older = Reputation {
            connections: Some(4),
            slowed: 1,
            since_ms: 10,
            until_ms: 100,
        };
        let newer = Reputation {
            connections: Some(2),
            slowed: 2,
            since_ms: 20,
            until_ms: 50,
        };
        for joined in [older.joined(newer), newer.joined(older)] {
            assert_eq!((joined.connections, joined.until_ms), (Some(2), 100));
        }
        assert_eq!(older.counted_from(5).counted_to(5), older);
        // From before a run began.
        let before = older.counted_from(1000);
        for joined in [
            Reputation::default().joined(before),
            before.joined(Reputation::default()),
        ] {
            assert_eq!(joined.connections, Some(4));
        }
    }
}
