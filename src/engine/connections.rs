//! How many connections a fetch may use: a ceiling that several fetches share, and the reputation of the host.

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

/// For requests before or beside a transfer: the least of the ceiling, the limit in the host's reputation, and
/// [`CONNECTIONS_FIRST`].
pub fn for_single_requests(client: &Client, location: &Location, limits: &Limits) -> u32 {
    let learned = client.reputation(location).connections;
    let learned = learned.unwrap_or(CONNECTIONS_FIRST);
    limits.connections.min(learned).clamp(1, CONNECTIONS_FIRST)
}

/// A ceiling on open connections. Fetches that hold clones share it evenly.
#[derive(Clone, Debug)]
pub struct Connections {
    most: u32,
    fetches: Arc<AtomicU32>,
}

impl Connections {
    /// This many connections, at least one, for one fetch.
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

    /// Divides the ceiling among this many fetches from now on, including the running ones. The fetches together may exceed the
    /// ceiling for a while after this number grows, and always if it is larger than the ceiling.
    pub fn share_among(&self, fetches: usize) {
        let fetches = u32::try_from(fetches).unwrap_or(u32::MAX);
        self.fetches.store(fetches.max(1), Ordering::Relaxed);
    }

    /// The connections that one fetch may use now. Every fetch gets at least one, to make progress.
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
