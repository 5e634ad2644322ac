//! Whether and when a failed request outside of a transfer is repeated, within the limits of tries and patience.

use super::{
    recovery::{self, Before, Class, Failure, Phase, Remedy},
    refusals::{Refusal, Refusals},
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
    refusals: Refusals,
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
    /// Give up: the host limits requests, and the wait for it would exceed the patience limit.
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
            refusals: Refusals::default(),
            random: limits.seed,
        }
    }

    /// Restarts the patience limit: bytes arrived. Earlier failures of the request still count as tries.
    pub fn progress(&mut self, now: Millis) {
        self.patient_since = now;
        self.refusals = Refusals::default();
    }

    /// The failures so far that count as tries.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// When the request is given up, unless bytes arrive.
    pub fn patience_ends(&self) -> Millis {
        self.patient_since.saturating_add(self.limits.patience_ms)
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
        let random = self.random >> 16;
        let backoff_ms = recovery::backoff_ms(self.tries.max(1), random);
        let ms = match (remedy, failure) {
            (Remedy::Again { least_ms }, _) => backoff_ms.max(least_ms),
            (Remedy::Probe, _) => recovery::PROBE_EVERY_MS,
            (
                Remedy::Later,
                Failure::TooMany {
                    retry_after_ms,
                    serves,
                    ..
                },
            ) => {
                let refusal = Refusal {
                    serves,
                    retry_after_ms,
                };
                self.refusals.count(refusal);
                self.refusals.wait_ms(refusal, random)
            }
            (Remedy::Later, Failure::RetryAfter { wait_ms }) => wait_ms,
            // Every other remedy but stopping needs a transfer.
            _ => {
                return Next::Stop {
                    tries: self.tries.max(1),
                };
            }
        };
        let left_ms = self.patience_ends().saturating_sub(now);
        let least_ms = match remedy {
            Remedy::Again { least_ms } => least_ms,
            _ => 0,
        };
        match ms > left_ms {
            false => Next::Wait { ms },
            true if remedy == Remedy::Later => Next::MustWait { ms },
            // The last try is at the very end.
            true if left_ms > least_ms => Next::Wait { ms: left_ms },
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
        serves: false,
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
        let last = Next::Wait { ms: 999 };
        for (now, next) in [
            (0, probe),
            (9_000, probe),
            (9_001, last),
            (10_000, Next::Patience),
        ] {
            assert_eq!(attempts.after(Failure::Unreachable, now), next, "{now}");
        }
        attempts.progress(9_001);
        assert_eq!(attempts.after(Failure::Unreachable, 18_001), probe);
        assert_eq!(attempts.after(Failure::Unreachable, 18_002), last);
        assert_eq!(attempts.after(Failure::Unreachable, 19_001), Next::Patience);
        // Not before the time that the server named.
        attempts.progress(20_000);
        let busy = Failure::Server {
            status: 503,
            retry_after_ms: Some(2_000),
        };
        assert_eq!(attempts.after(busy, 28_001), Next::Patience);
    }

    #[test]
    fn a_host_that_must_be_waited_for_is_named() {
        let mut attempts = Attempts::new(&LIMITS);
        for (ms, next) in [
            (10_000, Next::Wait { ms: 10_000 }),
            (10_001, Next::MustWait { ms: 10_001 }),
        ] {
            assert_eq!(attempts.after(TOO_MANY(ms), 0), next);
            let unsent = Failure::RetryAfter { wait_ms: ms };
            assert_eq!(attempts.after(unsent, 0), next);
        }
    }

    #[test]
    fn a_429_without_a_time_is_repeated_soon() {
        for (serves, seconds) in [(true, [1, 2, 4]), (false, [5, 10, 20])] {
            let limits = Limits {
                patience_ms: 300_000,
                ..LIMITS
            };
            let mut attempts = Attempts::new(&limits);
            for seconds in seconds {
                let refused = Failure::TooMany {
                    status: 429,
                    retry_after_ms: None,
                    serves,
                };
                let Next::Wait { ms } = attempts.after(refused, 0) else {
                    panic!("it gives up");
                };
                assert!((seconds * 500..=seconds * 1100).contains(&ms), "{ms} ms");
            }
        }
    }
}
