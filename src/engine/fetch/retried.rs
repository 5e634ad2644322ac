//! Requests that are repeated one by one; those of a transfer are the scheduler's.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::{
    core::{
        recovery::{self, Class, Failure},
        schedule::Limits,
    },
    net::error::NetError,
};

use super::super::error::Error;

/// Repeats a request by the recovery policy, within tries and patience.
pub async fn retried<T>(
    limits: &Limits,
    mut request: impl AsyncFnMut() -> Result<T, NetError>,
) -> Result<T, Error> {
    let began = Instant::now();
    let mut tries = 0;
    let mut random = limits.seed;
    loop {
        let error = match request().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        tries += u32::from(error.failure.counts_as_try());
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let wait_ms = match (error.failure.class(), error.failure) {
            (Class::Again, Failure::Unreachable) => recovery::PROBE_EVERY_MS,
            (Class::Again, _) => recovery::backoff_ms(tries.max(1), random >> 16),
            (Class::Slower, Failure::TooMany { retry_after_ms, .. }) => {
                recovery::cooldown_ms(1, retry_after_ms)
            }
            (Class::Slower, Failure::Resting { rest_ms }) => rest_ms,
            (Class::Elsewhere, _) => recovery::backoff_ms(tries, random >> 16),
            _ => return Err(error.into()),
        };
        let spent_ms = began.elapsed().as_millis() as u64;
        if error.failure.class() == Class::Slower && spent_ms + wait_ms > limits.patience_ms {
            return Err(Error::MustWait {
                place: error.location.to_string(),
                wait_s: wait_ms.div_ceil(1000),
            });
        }
        if tries >= limits.tries {
            return Err(Error::Net {
                cause: error,
                tries,
            });
        }
        if spent_ms + wait_ms > limits.patience_ms {
            return Err(Error::Patience {
                patience_s: limits.patience_ms / 1000,
                last: Some(Box::new(error)),
            });
        }
        sleep(Duration::from_millis(wait_ms)).await;
    }
}
