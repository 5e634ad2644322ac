//! A limit on the rate of arriving bytes, shared by all connections of a run.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// Unused allowance is kept for this long, so that a short pause does not slow the average.
const BURST: Duration = Duration::from_millis(200);

/// Gives out time slots: a caller waits until its bytes would have arrived at the allowed rate.
#[derive(Debug, Default)]
pub struct RateLimit {
    bytes_per_second: Option<u64>,
    next: Mutex<Option<Instant>>,
}

impl RateLimit {
    /// `None`: no limit.
    pub fn new(bytes_per_second: Option<u64>) -> RateLimit {
        RateLimit {
            bytes_per_second: bytes_per_second.map(|rate| rate.max(1)),
            next: Mutex::new(None),
        }
    }

    /// Whether the limit holds bytes back now: those that arrived have used up what was allowed until about now.
    pub fn holds_back(&self) -> bool {
        let next = *self.next.lock();
        self.bytes_per_second.is_some()
            && next.is_some_and(|next| next + BURST / 4 > Instant::now())
    }

    /// Counts arrived bytes, and waits until more are allowed.
    pub async fn take(&self, bytes: usize) {
        let Some(rate) = self.bytes_per_second else {
            return;
        };
        let until = {
            let mut next = self.next.lock();
            let now = Instant::now();
            let start = next.map_or(now, |next| next.max(now.checked_sub(BURST).unwrap_or(now)));
            let until = start + Duration::from_secs_f64(bytes as f64 / rate as f64);
            *next = Some(until);
            until
        };
        sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_callers_together_keep_to_the_rate() {
        let limit = RateLimit::new(Some(1000));
        let start = Instant::now();
        for _ in 0..10 {
            tokio::join!(limit.take(100), limit.take(400));
        }
        let took = start.elapsed().as_secs_f64();
        assert!((4.7..=5.3).contains(&took), "{took}");
        let none = RateLimit::new(None);
        none.take(usize::MAX).await;
        assert!(limit.holds_back() && !none.holds_back());
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_arrive_more_slowly_are_not_held_back() {
        let limit = RateLimit::new(Some(1000));
        assert!(!limit.holds_back());
        for _ in 0..20 {
            limit.take(10).await;
            // Half of the rate.
            sleep_until(Instant::now() + Duration::from_millis(20)).await;
        }
        assert!(!limit.holds_back());
        limit.take(300).await;
        assert!(limit.holds_back());
    }
}
