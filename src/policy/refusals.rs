//! How long a request waits after a host refused it because the host limits requests (429, 503).
//!
//! While the host serves other requests, a refused one is sent again after 1, 2, 4 ... s. A host that serves nothing is left
//! alone for 5, 10, 20, 40, 60 s. A `Retry-After` is the least wait, as it is written.

use super::recovery::COOLDOWN_MAX_MS;

/// The first backoff of a refused request; each further one is twice as long.
const BACKOFF_FIRST_MS: u64 = 1_000;
/// No backoff is longer.
const BACKOFF_MAX_MS: u64 = 30_000;
/// The first pause of a host that serves nothing; each further one is twice as long.
const PAUSE_FIRST_MS: u64 = 5_000;
/// No pause is longer, but for the jitter.
const PAUSE_MAX_MS: u64 = 60_000;
/// A host serves requests while it sends a response, and this long after one.
pub const SERVES_MS: u64 = PAUSE_FIRST_MS;
/// A `Retry-After` beyond a day is taken for a day: no mistake of a server locks a host out for longer.
pub const RETRY_AFTER_MAX_MS: u64 = 24 * 60 * 60_000;
/// Other runs remember no more of a `Retry-After` than this, the longest cooldown: it may be of one URL alone.
pub const REMEMBERED_MAX_MS: u64 = COOLDOWN_MAX_MS;

/// The refusals in a row of one request, or of one source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    backoffs: u32,
    pauses: u32,
}

/// What is known of a refusal.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    /// The host serves other requests.
    pub serves: bool,
    /// Its `Retry-After`.
    pub retry_after_ms: Option<u64>,
}

impl Refusals {
    /// Counts a refusal.
    pub fn count(&mut self, refusal: Refusal) {
        match refusal.is_pause() {
            true => self.pauses += 1,
            false => self.backoffs += 1,
        }
    }

    /// The wait after a refusal, which was counted unless others of the same moment were. `random`: any number, for jitter:
    /// clients that were refused together do not return together.
    pub fn wait_ms(self, refusal: Refusal, random: u64) -> u64 {
        if refusal.is_pause() {
            let pause = doubled(PAUSE_FIRST_MS, self.pauses).min(PAUSE_MAX_MS);
            return pause + random % (pause / 10 + 1);
        }
        let most = doubled(BACKOFF_FIRST_MS, self.backoffs).min(BACKOFF_MAX_MS);
        let backoff = most / 2 + random % (most / 2 + 1);
        let retry_after_ms = refusal.retry_after_ms.unwrap_or(0);
        retry_after_ms.min(RETRY_AFTER_MAX_MS).max(backoff)
    }
}

impl Refusal {
    /// The host serves nothing, and does not say when it will.
    fn is_pause(self) -> bool {
        !self.serves && self.retry_after_ms.is_none()
    }
}

/// The n-th wait of a sequence that doubles.
fn doubled(first: u64, nth: u32) -> u64 {
    first << nth.saturating_sub(1).min(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_their_limits() {
        let serves = |serves| Refusal {
            serves,
            retry_after_ms: None,
        };
        for (refusal, expected) in [
            (serves(true), [1, 2, 4, 8, 16, 30, 30]),
            (serves(false), [5, 10, 20, 40, 60, 60, 60]),
        ] {
            let mut refusals = Refusals::default();
            for seconds in expected {
                refusals.count(refusal);
                for random in [0, 1, 12_345, u64::MAX] {
                    let wait = refusals.wait_ms(refusal, random);
                    let ms = seconds * 1000;
                    let range = match refusal.serves {
                        true => ms / 2..=ms,
                        false => ms..=ms + ms / 10,
                    };
                    assert!(range.contains(&wait), "{wait} after {refusals:?}");
                }
            }
        }
        let mut refusals = Refusals::default();
        for _ in 0..100 {
            refusals.count(serves(true));
        }
        assert!(refusals.wait_ms(serves(true), u64::MAX) <= BACKOFF_MAX_MS);
    }

    #[test]
    fn a_retry_after_holds_as_it_is_written() {
        for (retry_after_ms, wait) in [
            (0, 500),
            (400, 500),
            (3_600_000, 3_600_000),
            (u64::MAX, RETRY_AFTER_MAX_MS),
        ] {
            for serves in [true, false] {
                let refusal = Refusal {
                    serves,
                    retry_after_ms: Some(retry_after_ms),
                };
                let mut refusals = Refusals::default();
                refusals.count(refusal);
                assert_eq!(refusals.wait_ms(refusal, 0), wait);
            }
        }
    }
}
