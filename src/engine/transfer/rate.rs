//! The rate of a transfer.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// The rate over the last few seconds.
pub struct Rate {
    marks: VecDeque<(Instant, u64)>,
    bytes: u64,
}

impl Rate {
    const SECONDS: u64 = 5;

    pub fn new() -> Rate {
        Rate {
            marks: VecDeque::new(),
            bytes: 0,
        }
    }

    pub fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// All bytes so far.
    pub fn set(&mut self, bytes: u64) {
        self.bytes = bytes;
    }

    /// To be called about once a second.
    pub fn bytes_per_second(&mut self) -> u64 {
        let now = Instant::now();
        self.marks.push_back((now, self.bytes));
        while self.marks.len() > 2 && self.marks[1].0 + Duration::from_secs(Rate::SECONDS) <= now {
            self.marks.pop_front();
        }
        let (then, bytes) = self.marks[0];
        let seconds = now.duration_since(then).as_secs_f64();
        if seconds < 0.001 {
            0
        } else {
            ((self.bytes - bytes) as f64 / seconds) as u64
        }
    }
}
