//! How long a search may take: a fetch with it must not take much longer than one of everything.

use std::time::{Duration, Instant};

/// The assumed rate of a host until this run has measured it, 1 Gbit/s.
const BYTES_PER_S: u64 = 125_000_000;
/// Fewer bytes tell nothing of a rate: their round trips take longer than they do.
const MEASURED_BYTES_MIN: u64 = 256 << 10;
/// A search in vain may take as long as fetching one part in this many of the object.
const IN_VAIN: u64 = 20;
/// A search that is shorter is not worth ending. What is not optimised takes many times as long.
const LEAST: Duration = match cfg!(debug_assertions) {
    true => Duration::from_secs(10),
    false => Duration::from_millis(500),
};

/// The time of one search, without that of requests.
pub struct SearchTime {
    /// The bytes that could be found.
    bytes: u64,
    found: u64,
    /// The rate at which the other bytes will arrive.
    rate: u64,
    limit_rate: u64,
    /// What was measured: bytes that arrived, and how long that took.
    arrived: u64,
    arrived_in: Duration,
    spent: Duration,
    since: Option<Instant>,
}

impl SearchTime {
    /// `limit_rate`: bytes a second that the user allows.
    pub fn new(bytes: u64, limit_rate: Option<u64>) -> SearchTime {
        let limit_rate = limit_rate.unwrap_or(u64::MAX).max(1);
        SearchTime {
            bytes,
            found: 0,
            rate: BYTES_PER_S.min(limit_rate),
            limit_rate,
            arrived: 0,
            arrived_in: Duration::ZERO,
            spent: Duration::ZERO,
            since: None,
        }
    }

    /// Notes bytes that the host has sent in this time.
    pub fn note_arrived(&mut self, bytes: u64, time: Duration) {
        self.arrived += bytes;
        self.arrived_in += time;
        if self.arrived >= MEASURED_BYTES_MIN {
            let rate = self.arrived as f64 / self.arrived_in.as_secs_f64().max(1e-6);
            self.rate = (rate as u64).clamp(1, self.limit_rate);
        }
    }

    /// Notes bytes that need not be fetched.
    pub fn note_found(&mut self, bytes: u64) {
        self.found += bytes;
    }

    /// Searches begin and end; between them time does not count.
    pub fn begin(&mut self) {
        self.since = Some(Instant::now());
    }

    pub fn end(&mut self) {
        self.spent += self
            .since
            .take()
            .map_or(Duration::ZERO, |since| since.elapsed());
    }

    /// Whether there is time left.
    pub fn is_left(&self) -> bool {
        let running = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        self.spent + running < self.allowed()
    }

    fn allowed(&self) -> Duration {
        let worth = self.bytes / IN_VAIN + self.found;
        Duration::from_secs_f64(worth as f64 / self.rate as f64).max(LEAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_may_take_as_long_as_what_it_saves() {
        let seconds = |time: &SearchTime| time.allowed().as_secs();
        // 2 TB at 1 Gbit/s are 16,000 s.
        let mut time = SearchTime::new(2_000_000_000_000, None);
        assert_eq!(seconds(&time), 800);
        time.note_found(250_000_000_000);
        assert_eq!(seconds(&time), 2_800);
        // Too little to be a measurement; then 25 MB/s.
        time.note_arrived(1000, Duration::from_secs(1));
        assert_eq!(seconds(&time), 2_800);
        time.note_arrived(49_999_000, Duration::from_secs(1));
        assert_eq!(seconds(&time), 14_000);
        let limited = SearchTime::new(2_000_000_000_000, Some(1_000_000));
        assert_eq!(seconds(&limited), 100_000);
        assert_eq!(SearchTime::new(0, None).allowed(), LEAST);
    }

    #[test]
    fn only_searching_takes_time() {
        let mut time = SearchTime::new(0, None);
        assert!(time.is_left());
        time.begin();
        time.end();
        assert!(time.since.is_none() && time.is_left());
        time.spent = LEAST;
        assert!(!time.is_left());
    }
}
