//! The reputation of a host, from its refusals (429, 503): how many connections it accepts, for how long that number is not
//! raised, and when its `Retry-After` ends.
//!
//! Pure: times are milliseconds since any fixed moment, the same one for all calls. The scheduler uses it within a run; between
//! runs, and for all processes of a user, it is kept in the state.

use super::{
    recovery::{cooldown_ms, fewer_connections},
    refusals::RETRY_AFTER_MAX_MS,
};

/// A host without a refusal is assumed to accept this many connections.
const CONNECTIONS_UNKNOWN: u32 = 8;

/// See the module. The default is a host without a refusal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reputation {
    /// How many connections it accepts; `None`: it never limited them.
    pub connections: Option<u32>,
    /// How many reductions there were; each time the number is raised this falls by one.
    pub slowed: u32,
    /// When this changed last. The cooldown begins here.
    pub since_ms: u64,
    /// It gets no new request before this time: its `Retry-After`.
    pub until_ms: u64,
}

impl Reputation {
    /// Notes that the host refused a request, sent at `sent`, while it had `running` requests. A request that was sent before the
    /// last reduction says nothing about the reduced number.
    pub fn too_many(&mut self, now: u64, sent: u64, running: u32, retry_after_ms: Option<u64>) {
        if self.connections.is_none() || sent > self.since_ms {
            self.slowed += 1;
            let accepted = match self.connections {
                Some(connections) => connections,
                None => running.clamp(1, CONNECTIONS_UNKNOWN.max(running)),
            };
            self.connections = Some(fewer_connections(accepted));
            self.since_ms = now;
        }
        let retry_after_ms = retry_after_ms.unwrap_or(0).min(RETRY_AFTER_MAX_MS);
        if retry_after_ms > 0 {
            self.until_ms = self.until_ms.max(now + retry_after_ms);
        }
    }

    /// Notes a span that the host served: after the cooldown it raises the number of connections.
    pub fn served(&mut self, now: u64) {
        let Some(connections) = self.connections else {
            return;
        };
        if now < self.cooldown_ends_ms().max(self.until_ms) {
            return;
        }
        self.since_ms = now;
        self.slowed = self.slowed.saturating_sub(1);
        self.connections = Some(connections * 2).filter(|more| *more < CONNECTIONS_UNKNOWN);
        if self.connections.is_none() {
            *self = Reputation::default();
        }
    }

    /// The end of its cooldown: before it the number of connections is not raised.
    pub fn cooldown_ends_ms(&self) -> u64 {
        self.since_ms.saturating_add(cooldown_ms(self.slowed))
    }

    /// How long a new request still waits for the end of the `Retry-After`.
    pub fn wait_ms(&self, now: u64) -> u64 {
        self.until_ms.saturating_sub(now).min(RETRY_AFTER_MAX_MS)
    }

    /// The same after the clock may have been set back: a time in the future was written by another clock, and no host is locked
    /// out for longer than a `Retry-After` can last.
    #[must_use]
    pub fn repaired(mut self, now: u64) -> Reputation {
        if self.since_ms > now {
            let wait = self.until_ms.saturating_sub(self.since_ms);
            (self.since_ms, self.until_ms) = (now, now + wait);
        }
        self.until_ms = self.until_ms.min(now + RETRY_AFTER_MAX_MS);
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

    /// Merges two records of one host: the newer one, with the later end of a `Retry-After`.
    #[must_use]
    pub fn joined(self, other: Reputation) -> Reputation {
        // Times from before the common start are all equal: then the record with a refusal counts.
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
    fn each_refusal_of_the_reduced_number_reduces_it_again() {
        let mut host = Reputation::default();
        let mut now = 5 * MINUTE;
        for (running, connections, minutes) in [
            (8, 4, 1),
            (4, 2, 2),
            (2, 1, 3),
            (1, 1, 4),
            (1, 1, 5),
            (1, 1, 5),
        ] {
            host.too_many(now, now - 1, running, None);
            let cooldown = host.cooldown_ends_ms() - now;
            assert_eq!(
                (host.connections, cooldown),
                (Some(connections), minutes * MINUTE)
            );
            assert_eq!(host.wait_ms(now), 0, "nothing stops");
            // Those that were under way then.
            let before = host;
            host.too_many(now + 10, now, running, None);
            assert_eq!(host, before);
            now += 1000;
        }
    }

    #[test]
    fn a_retry_after_holds_for_new_requests_as_it_is_written() {
        for (retry_after_ms, wait) in [
            (0, 0),
            (5_000, 5_000),
            (3_600_000, 3_600_000),
            (u64::MAX, RETRY_AFTER_MAX_MS),
        ] {
            let mut host = Reputation::default();
            host.too_many(1000, 900, 8, Some(retry_after_ms));
            assert_eq!(host.wait_ms(1000), wait);
            // A shorter one does not end it.
            host.too_many(1001, 1000, 8, Some(1));
            assert!(host.wait_ms(1000) >= wait);
        }
    }

    #[test]
    fn a_busier_start_steps_down_from_there() {
        for (running, connections) in [(16, 8), (8, 4), (3, 2), (1, 1)] {
            let mut host = Reputation::default();
            host.too_many(0, 0, running, None);
            assert_eq!(host.connections, Some(connections), "it had {running}");
        }
    }

    #[test]
    fn the_number_is_raised_after_its_cooldown() {
        let mut host = Reputation::default();
        for now in [1, 2, 3] {
            host.too_many(now, now, 8, None);
        }
        assert_eq!((host.connections, host.slowed), (Some(1), 3));
        let mut now = host.since_ms;
        for (connections, minutes) in [(Some(2), 3), (Some(4), 2), (None, 1)] {
            now += minutes * MINUTE;
            host.served(now - 1);
            assert_ne!(host.connections, connections);
            host.served(now);
            assert_eq!(host.connections, connections);
        }
        assert_eq!(host, Reputation::default());
        host.served(now);
        assert_eq!(host, Reputation::default());
        // A Retry-After that is longer is not forgotten.
        host.too_many(0, 0, 8, Some(60 * MINUTE));
        host.served(10 * MINUTE);
        assert_eq!(host.wait_ms(10 * MINUTE), 50 * MINUTE);
    }

    #[test]
    fn a_clock_that_jumps_locks_nobody_out() {
        let mut host = Reputation::default();
        host.too_many(1_000_000_000, 0, 8, Some(200_000));
        // Back by a week or to the beginning, or forward.
        for now in [0, 1, 300_000_000, 999_999_999] {
            let repaired = host.repaired(now);
            assert_eq!(repaired.wait_ms(now), 200_000);
            assert_eq!(repaired.wait_ms(now + 200_000), 0);
            assert_eq!(repaired.repaired(now), repaired);
        }
        assert_eq!(host.repaired(2_000_000_000).wait_ms(2_000_000_000), 0);
        let wild = Reputation {
            until_ms: u64::MAX,
            ..host
        };
        assert_eq!(wild.repaired(5).wait_ms(5), RETRY_AFTER_MAX_MS);
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
