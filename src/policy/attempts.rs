//! Whether and when a failed request outside of a transfer is repeated, within the limits of tries and patience.

use super::{
    recovery::{self, Before, Class, Failure, Phase, Remedy},
    schedule::{Limits, Millis},
};

/// The failures of one request so far. Times are milliseconds since it was first sent.
#[derive(Clone, Debug)]
pub struct Attempts {
    limits: Limits,
    /// The start of the patience limit: when the last bytes arrived.
    patient_since: Millis,
    tries: u32,
    bad_responses: u32,
    random: u64,
}

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Repeat the request after this time.
    Wait {
        /// Milliseconds.
        ms: u64,
    },
    /// Give up: repeating does not help, or no try is left.
    Stop {
        /// The failures that count as tries, at least 1.
        tries: u32,
    },
    /// Give up: the wait would exceed the patience limit.
    Patience,
    /// Give up: the host's cooldown lasts this long, which exceeds the patience limit.
    MustWait {
        /// Milliseconds.
        ms: u64,
    },
}

impl Attempts {
    /// No failures yet.
    pub fn new(limits: &Limits) -> Attempts {
        Attempts {
            limits: *limits,
            patient_since: 0,
            tries: 0,
            bad_responses: 0,
            random: limits.seed,
        }
    }

    /// Restarts the patience limit: bytes arrived. Earlier failures of the request still count as tries.
    pub fn progress(&mut self, now: Millis) {
        self.patient_since = now;
    }

    /// Records a failure and decides what follows.
    pub fn after(&mut self, failure: Failure, now: Millis) -> Next {
        self.tries += u32::from(failure.counts_as_try());
        self.bad_responses += u32::from(failure.class() == Class::Elsewhere);
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let before = Before {
            tries: self.tries,
            tries_max: self.limits.tries,
            bad_responses: self.bad_responses,
        };
        let remedy = recovery::remedy(failure, Phase::Single, before);
        let backoff_ms = recovery::backoff_ms(self.tries.max(1), self.random >> 16);
        let ms = match (remedy, failure) {
            (Remedy::Again { least_ms }, _) => backoff_ms.max(least_ms),
            (Remedy::Probe, _) => recovery::PROBE_EVERY_MS,
            (Remedy::Rest, Failure::TooMany { retry_after_ms, .. }) => {
                recovery::cooldown_ms(1, retry_after_ms)
            }
            (Remedy::Rest, Failure::Resting { rest_ms }) => rest_ms,
            // Every other remedy but stopping needs a transfer.
            _ => {
                return Next::Stop {
                    tries: self.tries.max(1),
                };
            }
        };
        let waited_ms = now.saturating_sub(self.patient_since);
        match waited_ms.saturating_add(ms) > self.limits.patience_ms {
            false => Next::Wait { ms },
            true if remedy == Remedy::Rest => Next::MustWait { ms },
            true => Next::Patience,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        connections: 1,
        tries: 3,
        patience_ms: 10_000,
        seed: 1,
    };
    const TOO_MANY: fn(u64) -> Failure = |ms| Failure::TooMany {
        status: 429,
        retry_after_ms: Some(ms),
    };

    #[test]
    fn tries_end() {
        let mut attempts = Attempts::new(&LIMITS);
        for _ in 0..2 {
            assert!(matches!(
                attempts.after(Failure::Broken, 0),
                Next::Wait { .. }
            ));
        }
        // Arriving bytes renew patience, not the tries.
        attempts.progress(5_000);
        assert_eq!(
            attempts.after(Failure::Broken, 5_000),
            Next::Stop { tries: 3 }
        );
        let refused = Failure::Refused { status: 404 };
        assert_eq!(
            Attempts::new(&LIMITS).after(refused, 0),
            Next::Stop { tries: 1 }
        );
    }

    #[test]
    fn patience_ends() {
        let mut attempts = Attempts::new(&LIMITS);
        let probe = Next::Wait {
            ms: recovery::PROBE_EVERY_MS,
        };
        for (now, next) in [(0, probe), (9_000, probe), (9_001, Next::Patience)] {
            assert_eq!(attempts.after(Failure::Unreachable, now), next, "{now}");
        }
        attempts.progress(9_001);
        assert_eq!(attempts.after(Failure::Unreachable, 18_001), probe);
        assert_eq!(attempts.after(Failure::Unreachable, 18_002), Next::Patience);
    }

    #[test]
    fn a_host_that_must_be_waited_for_is_named() {
        let mut attempts = Attempts::new(&LIMITS);
        for (ms, next) in [
            (10_000, Next::Wait { ms: 10_000 }),
            (10_001, Next::MustWait { ms: 10_001 }),
        ] {
            assert_eq!(attempts.after(TOO_MANY(ms), 0), next);
            let resting = Failure::Resting { rest_ms: ms };
            assert_eq!(attempts.after(resting, 0), next);
        }
    }
}
