//! How many connections a fetch may use: a ceiling that several fetches share, and the reputation of the host.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

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

/// A ceiling on open connections. Fetches that hold clones share it: each gets at least one, a small object takes one, and the
/// others divide what is left evenly.
#[derive(Clone, Debug)]
pub struct Connections {
    most: u32,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// One for each fetch or request that may run.
    running: Arc<Semaphore>,
    demand: Mutex<Demand>,
    /// How many permits the semaphore had from the first.
    permits: AtomicU32,
}

#[derive(Debug, Default)]
struct Demand {
    /// Fetches that run, or will.
    fetches: u32,
    /// Those of them that take one connection and no more.
    single: u32,
    at_hosts: HashMap<String, AtHost>,
}

/// What runs at a host.
#[derive(Debug, Default)]
struct AtHost {
    running: u32,
    /// Woken one by one.
    waiting: Arc<Notify>,
}

/// A fetch or a request that runs, until this is dropped.
pub struct Admitted {
    place: Place,
    _running: OwnedSemaphorePermit,
}

/// One of those that run at a host.
struct Place {
    connections: Connections,
    client: Client,
    location: Location,
}

/// A fetch that takes one connection and no more, until this is dropped.
#[derive(Debug)]
pub struct Single(Connections);

impl Connections {
    /// This many connections, at least one, for one fetch.
    pub fn at_most(most: u32) -> Connections {
        let most = most.max(1);
        let first = most.min(CONNECTIONS_FIRST);
        Connections {
            most,
            shared: Arc::new(Shared {
                running: Arc::new(Semaphore::new(first as usize)),
                permits: AtomicU32::new(first),
                demand: Mutex::new(Demand {
                    fetches: 1,
                    ..Demand::default()
                }),
            }),
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
        self.shared.demand.lock().fetches = fetches.max(1);
    }

    /// The connections that one fetch may use now, if it is not a single one. Every fetch gets at least one, to make progress.
    pub fn per_fetch(&self) -> u32 {
        let demand = self.shared.demand.lock();
        // A fetch that is not single is among those that are not.
        let single = demand.single.min(demand.fetches - 1);
        (self.most.saturating_sub(single) / (demand.fetches - single)).max(1)
    }

    /// The caller takes one connection and no more: the other fetches may use the rest of its share.
    #[must_use]
    pub fn single(&self) -> Single {
        self.shared.demand.lock().single += 1;
        Single(self.clone())
    }

    /// Waits until a fetch or a request may run: no more run than there are connections, and at a host that limited requests no
    /// more than it accepts. A run begins with [`CONNECTIONS_FIRST`] at most; each one that ends adds another.
    pub async fn admit(&self, client: &Client, location: &Location) -> Admitted {
        loop {
            let waiting = {
                let most = self.accepted(client, location);
                let mut demand = self.shared.demand.lock();
                let at_host = demand.at_hosts.entry(location.host()).or_default();
                if at_host.running < most {
                    at_host.running += 1;
                    break;
                }
                at_host.waiting.clone()
            };
            // A notification that came before this is not lost.
            waiting.notified().await;
        }
        let place = Place {
            connections: self.clone(),
            client: client.clone(),
            location: location.clone(),
        };
        let running = self.shared.running.clone().acquire_owned().await;
        Admitted {
            place,
            _running: running.expect("it is never closed"),
        }
    }

    /// How many fetches or requests the host accepts at a time.
    fn accepted(&self, client: &Client, location: &Location) -> u32 {
        let learned = client.reputation(location).connections;
        learned.unwrap_or(self.most).clamp(1, self.most)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let accepted = self.connections.accepted(&self.client, &self.location);
        let mut demand = self.connections.shared.demand.lock();
        if let Some(at_host) = demand.at_hosts.get_mut(&self.location.host()) {
            at_host.running -= 1;
            // The host may accept more than before.
            for _ in at_host.running..accepted {
                at_host.waiting.notify_one();
            }
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let Connections { most, shared } = &self.place.connections;
        let more = |permits| (permits < *most).then_some(permits + 1);
        let added = shared
            .permits
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        if added.is_ok() {
            shared.running.add_permits(1);
        }
    }
}

impl Drop for Single {
    fn drop(&mut self) {
        self.0.shared.demand.lock().single -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::{
        net::{
            hosts::{HostChange, HostChanged, HostMemory, Hosts},
            options::ClientOptions,
        },
        policy::reputation::Reputation,
    };

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

    /// A large file among small ones fetched over one connection, although the small ones left most of theirs.
    #[test]
    fn what_single_fetches_leave_is_for_the_others() {
        let connections = Connections::at_most(16);
        connections.share_among(4);
        let single: Vec<Single> = (0..3).map(|_| connections.single()).collect();
        assert_eq!(connections.per_fetch(), 13);
        let more = connections.single();
        assert_eq!(connections.per_fetch(), 13, "the caller is not single");
        drop((single, more));
        assert_eq!(connections.per_fetch(), 4);
        connections.share_among(100);
        let _single: Vec<Single> = (0..20).map(|_| connections.single()).collect();
        assert_eq!(connections.per_fetch(), 1);
    }

    /// A host that accepts two connections.
    struct Limited;

    impl HostMemory for Limited {
        fn load(&self) -> Vec<(String, Reputation)> {
            let limited = Reputation {
                connections: Some(2),
                since_ms: Hosts::now_ms(),
                slowed: 1,
                until_ms: 0,
            };
            vec![("limited.example".to_owned(), limited)]
        }

        fn change(&self, _: &str, _: HostChange, _: HostChanged) {}
    }

    /// Each of many fetches at once learned for itself that a host limits requests.
    #[tokio::test(start_paused = true)]
    async fn a_host_that_limits_requests_limits_all_fetches_together() {
        let hosts = Hosts::remembered(Arc::new(Limited));
        hosts.refresh();
        let client = Client::new(ClientOptions {
            hosts,
            ..ClientOptions::default()
        });
        let limited = Location::parse("http://limited.example/x").unwrap();
        let free = Location::parse("http://free.example/x").unwrap();
        let connections = Connections::at_most(5);
        let admitted = async |location: &Location| {
            let admit = connections.admit(&client, location);
            timeout(Duration::from_millis(10), admit).await.ok()
        };
        let first = admitted(&limited).await.unwrap();
        let _second = admitted(&limited).await.unwrap();
        assert!(admitted(&limited).await.is_none(), "the host accepts two");
        let mut others = Vec::new();
        for _ in 0..3 {
            others.push(admitted(&free).await.unwrap());
        }
        assert!(admitted(&free).await.is_none(), "five in all");
        others.pop();
        // Those that wait run when others end, whichever host these are at.
        let waiting = async {
            let admit = connections.admit(&client, &limited);
            timeout(Duration::from_secs(1), admit).await.is_ok()
        };
        let ending = async {
            tokio::task::yield_now().await;
            drop(first);
        };
        assert!(tokio::join!(waiting, ending).0);
    }
}
