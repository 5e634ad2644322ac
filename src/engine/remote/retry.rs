//! Requests that are repeated one by one; those of a transfer are the scheduler's.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::{
    engine::error::Error,
    net::error::NetError,
    policy::{
        recovery::{self, Before, Class, Failure, Phase, Remedy},
        schedule::Limits,
    },
};

/// Repeats a request by the recovery policy, within tries and patience.
pub async fn retried<T>(
    limits: &Limits,
    mut request: impl AsyncFnMut() -> Result<T, NetError>,
) -> Result<T, Error> {
    let mut failures = Failures::new(limits);
    loop {
        match request().await {
            Ok(value) => return Ok(value),
            Err(error) => failures.wait_after(error).await?,
        }
    }
}

/// What went wrong with one request so far.
pub struct Failures {
    limits: Limits,
    /// Since then it is waited in vain.
    since: Instant,
    tries: u32,
    bad_answers: u32,
    random: u64,
}

impl Failures {
    /// None yet.
    pub fn new(limits: &Limits) -> Failures {
        Failures {
            limits: *limits,
            since: Instant::now(),
            tries: 0,
            bad_answers: 0,
            random: limits.seed,
        }
    }

    /// Something came: patience begins anew. What broke in the same request still counts.
    pub fn something_came(&mut self) {
        self.since = Instant::now();
    }

    /// Waits until the request is to be made again, if it is.
    pub async fn wait_after(&mut self, error: NetError) -> Result<(), Error> {
        let failure = error.failure;
        self.tries += u32::from(failure.counts_as_try());
        self.bad_answers += u32::from(failure.class() == Class::Elsewhere);
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let before = Before {
            tries: self.tries,
            tries_max: self.limits.tries,
            bad_answers: self.bad_answers,
        };
        let remedy = recovery::remedy(failure, Phase::Single, before);
        let backoff_ms = recovery::backoff_ms(self.tries.max(1), self.random >> 16);
        let wait_ms = match (remedy, failure) {
            (Remedy::Again { least_ms }, _) => backoff_ms.max(least_ms),
            (Remedy::Probe, _) => recovery::PROBE_EVERY_MS,
            (Remedy::Rest, Failure::TooMany { retry_after_ms, .. }) => {
                recovery::cooldown_ms(1, retry_after_ms)
            }
            (Remedy::Rest, Failure::Resting { rest_ms }) => rest_ms,
            // Nothing else can be done about a request by itself.
            _ => {
                return Err(match Error::from(error) {
                    Error::Net { cause, .. } => Error::Net {
                        cause,
                        tries: self.tries.max(1),
                    },
                    other => other,
                });
            }
        };
        let spent_ms = self.since.elapsed().as_millis() as u64;
        if spent_ms + wait_ms > self.limits.patience_ms {
            return Err(match remedy {
                Remedy::Rest => Error::MustWait {
                    place: error.location.to_string(),
                    wait_s: wait_ms.div_ceil(1000),
                },
                _ => Error::Patience {
                    patience_s: self.limits.patience_ms / 1000,
                    last: Some(Box::new(error)),
                },
            });
        }
        sleep(Duration::from_millis(wait_ms)).await;
        Ok(())
    }
}
