//! How many connections a fetch may have: a ceiling that several fetches share, and what a host has earned.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use crate::{
    net::{client::Client, location::Location},
    policy::schedule::{CONNECTIONS_FIRST, Limits},
};

/// The ceiling on connections unless the caller says otherwise.
pub const CONNECTIONS_MAX: u32 = 16;

/// For requests that run beside a transfer, or before it: what is allowed, and what the host has earned.
pub fn of_single_requests(client: &Client, location: &Location, limits: &Limits) -> u32 {
    let earned = client.reputation(location).connections;
    let earned = earned.unwrap_or(CONNECTIONS_FIRST);
    limits.connections.min(earned).clamp(1, CONNECTIONS_FIRST)
}

/// How many connections may be open at a time. Fetches whose options hold clones of one of these share it evenly.
#[derive(Clone, Debug)]
pub struct Connections {
    most: u32,
    fetches: Arc<AtomicU32>,
}

impl Connections {
    /// So many at a time, at least one, for one fetch.
    pub fn at_most(most: u32) -> Connections {
        Connections {
            most: most.max(1),
            fetches: Arc::new(AtomicU32::new(1)),
        }
    }

    /// The ceiling.
    pub fn most(&self) -> u32 {
        self.most
    }

    /// From now on so many fetches run at a time, also as far as they run already. As long as it does not grow, and there are not
    /// more of them than connections, the ceiling holds at every moment.
    pub fn share_among(&self, fetches: usize) {
        let fetches = u32::try_from(fetches).unwrap_or(u32::MAX);
        self.fetches.store(fetches.max(1), Ordering::Relaxed);
    }

    /// How many one fetch may have now. Every fetch needs one to get on.
    pub fn per_fetch(&self) -> u32 {
        (self.most / self.fetches.load(Ordering::Relaxed)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fetches_share_what_is_allowed() {
        let connections = Connections::at_most(7);
        let clone = connections.clone();
        for (fetches, each) in [(0, 7), (1, 7), (3, 2), (7, 1), (20, 1), (1, 7)] {
            connections.share_among(fetches);
            assert_eq!(clone.per_fetch(), each, "{fetches}");
        }
        assert_eq!(Connections::at_most(0).per_fetch(), 1);
    }
}
