//! The time of sessions. The wall clock is only for people: it jumps. What expires is judged by *served seconds*, which pass while
//! a server runs.

use std::time::{Duration, Instant, SystemTime};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::session_store::{SessionStore, StoreError};

/// Where the time comes from.
pub trait Clock: Send + Sync {
    /// Seconds since 1970-01-01 UTC; may jump.
    fn unix_s(&self) -> u64;
    /// Seconds since some moment; never jumps.
    fn monotonic_s(&self) -> u64;
    /// Returns after so many seconds.
    fn sleep(&self, seconds: u64) -> BoxFuture<'_, ()>;
}

/// The clocks of the machine.
#[derive(Debug)]
pub struct SystemClock(Instant);

impl SystemClock {
    /// The clocks of the machine.
    pub fn new() -> SystemClock {
        SystemClock(Instant::now())
    }
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn unix_s(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |since| since.as_secs())
    }

    fn monotonic_s(&self) -> u64 {
        self.0.elapsed().as_secs()
    }

    fn sleep(&self, seconds: u64) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep(Duration::from_secs(seconds)))
    }
}

/// Counts served seconds. The store keeps the highest value that any server reached; each server adds to it only what it measured
/// itself, so that it is never faster than the time, however many servers there are.
#[derive(Debug)]
pub(super) struct ServedClock {
    base: Mutex<Base>,
}

/// Served seconds at a moment of the monotonic clock.
#[derive(Clone, Copy, Debug)]
struct Base {
    served_s: u64,
    monotonic_s: u64,
}

impl ServedClock {
    pub(super) fn new(served_s: u64, monotonic_s: u64) -> ServedClock {
        ServedClock {
            base: Mutex::new(Base {
                served_s,
                monotonic_s,
            }),
        }
    }

    /// Served seconds at a moment of the monotonic clock.
    pub(super) fn at(&self, monotonic_s: u64) -> u64 {
        let base = *self.base.lock();
        base.served_s + monotonic_s.saturating_sub(base.monotonic_s)
    }

    /// Tells the store, and learns what other servers told it.
    pub(super) async fn sync(
        &self,
        store: &dyn SessionStore,
        clock: &dyn Clock,
    ) -> Result<(), StoreError> {
        let stored = store.served_s(self.at(clock.monotonic_s())).await?;
        // After the call: what it took is in the stored value already, if another server counted it.
        let monotonic_s = clock.monotonic_s();
        if stored > self.at(monotonic_s) {
            *self.base.lock() = Base {
                served_s: stored,
                monotonic_s,
            };
        }
        Ok(())
    }
}
