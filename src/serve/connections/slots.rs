//! The places for connections. When all are taken, a new connection takes that of the one that has been without a request for
//! longest, of the client that has most of them. A connection with a response under way keeps its place.

use std::{
    cmp::Reverse,
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::stream::Activity;

/// One client has at most three of four places, so that it cannot keep all others out.
const SHARE: (usize, usize) = (3, 4);
/// How often a waiting connection looks for one whose place it can take.
const LOOK_TIME: Duration = Duration::from_millis(100);

/// The places, and who has them.
pub struct Slots {
    began: Instant,
    share: usize,
    free: Arc<Semaphore>,
    taken: Mutex<Taken>,
    is_full: AtomicBool,
}

#[derive(Default)]
struct Taken {
    connections: HashMap<u64, Arc<Open>>,
    of_client: HashMap<IpAddr, Arc<AtomicUsize>>,
    next: u64,
}

/// What is known of an open connection.
pub struct Open {
    pub client: IpAddr,
    pub activity: Arc<Activity>,
    /// See [`group_of`].
    group: IpAddr,
    /// Connections of its group. A flood looks at all of them for each new connection.
    of_group: Arc<AtomicUsize>,
    evicted: Notify,
}

impl Open {
    /// Waits until the connection must make room.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

/// The place of a connection, free again when this is dropped.
pub struct Slot {
    slots: Arc<Slots>,
    number: u64,
    pub connection: Arc<Open>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.taken.lock().remove(self.number);
    }
}

impl Slots {
    /// So many places, at least one.
    pub fn new(limit: usize) -> Arc<Slots> {
        let limit = limit.max(1);
        Arc::new(Slots {
            began: Instant::now(),
            share: (limit * SHARE.0 / SHARE.1).max(1),
            free: Arc::new(Semaphore::new(limit)),
            taken: Mutex::default(),
            is_full: AtomicBool::new(false),
        })
    }

    /// Whether a connection waits for a place.
    pub fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    /// Waits for a place; `None`: the client has its share, and all of its connections are in use.
    pub async fn admit(self: &Arc<Slots>, client: IpAddr) -> Option<Slot> {
        let group = group_of(client);
        let is_above_share = {
            let mut taken = self.taken.lock();
            let has = taken.of_client.get(&group);
            let has = has.map_or(0, |count| count.load(Ordering::Relaxed));
            has >= self.share && !taken.evict(|connection| connection.group == group)
        };
        if is_above_share {
            return None;
        }
        let permit = loop {
            if let Ok(permit) = self.free.clone().try_acquire_owned() {
                break permit;
            }
            self.taken.lock().evict(|_| true);
            self.is_full.store(true, Ordering::Relaxed);
            let freed = self.free.clone().acquire_owned();
            if let Ok(Ok(permit)) = timeout(LOOK_TIME, freed).await {
                break permit;
            }
        };
        self.is_full.store(false, Ordering::Relaxed);
        let (number, connection) = self.taken.lock().insert(client, self.began);
        Some(Slot {
            number,
            slots: self.clone(),
            connection,
            _permit: permit,
        })
    }
}

impl Taken {
    fn insert(&mut self, client: IpAddr, began: Instant) -> (u64, Arc<Open>) {
        let group = group_of(client);
        let of_group = self.of_client.entry(group).or_default().clone();
        of_group.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Open {
            client,
            activity: Arc::new(Activity::new(began)),
            group,
            of_group,
            evicted: Notify::new(),
        });
        self.next += 1;
        self.connections.insert(self.next, connection.clone());
        (self.next, connection)
    }

    fn remove(&mut self, number: u64) {
        let Some(connection) = self.connections.remove(&number) else {
            return;
        };
        if connection.of_group.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.of_client.remove(&connection.group);
        }
    }

    /// Ends one of these connections that has no request; `false`: all of them have one.
    fn evict(&mut self, may: impl Fn(&Open) -> bool) -> bool {
        let idle = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.activity.is_idle() && may(connection));
        let first = idle.min_by_key(|(number, connection)| {
            let count = connection.of_group.load(Ordering::Relaxed);
            (Reverse(count), connection.activity.last_ms(), **number)
        });
        let Some((number, connection)) = first else {
            return false;
        };
        connection.evicted.notify_one();
        let number = *number;
        self.remove(number);
        true
    }
}

/// The addresses that count as one client: a single one of IPv4, and the 2^64 of IPv6 that every customer has.
fn group_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        IpAddr::V4(address) => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn admitted(slots: &Arc<Slots>, client: &str) -> Option<Slot> {
        let admitted = slots.admit(client.parse().unwrap());
        timeout(Duration::from_secs(10), admitted).await.ok()?
    }

    async fn is_evicted(slot: &Slot) -> bool {
        let evicted = slot.connection.evicted();
        timeout(Duration::from_millis(1), evicted).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn one_client_cannot_take_all_places() {
        let slots = Slots::new(4);
        let mut of_one = Vec::new();
        for _ in 0..3 {
            let slot = admitted(&slots, "10.0.0.1").await.unwrap();
            slot.connection.activity.begin_response();
            of_one.push(slot);
        }
        assert!(admitted(&slots, "10.0.0.1").await.is_none());
        assert!(admitted(&slots, "10.0.0.2").await.is_some());
        // A connection without a request makes room for another one of the same client.
        of_one[1].connection.activity.end_response();
        assert!(admitted(&slots, "10.0.0.1").await.is_some());
        assert!(!is_evicted(&of_one[0]).await);
        assert!(is_evicted(&of_one[1]).await);
    }

    #[tokio::test(start_paused = true)]
    async fn the_client_with_most_connections_makes_room() {
        let slots = Slots::new(4);
        let first = admitted(&slots, "2001:db8::1").await.unwrap();
        let flood = [
            admitted(&slots, "2001:db8:1::1").await.unwrap(),
            admitted(&slots, "2001:db8:1::2").await.unwrap(),
            admitted(&slots, "2001:db8:1::3").await.unwrap(),
        ];
        flood[0].connection.activity.begin_response();
        let slots_of_new = slots.clone();
        let new = tokio::spawn(async move { admitted(&slots_of_new, "10.0.0.1").await.is_some() });
        assert!(is_evicted(&flood[1]).await);
        assert!(!is_evicted(&flood[0]).await, "it sends");
        assert!(!is_evicted(&first).await, "its client has no other");
        drop(flood);
        assert!(new.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_waits_while_all_others_send() {
        let slots = Slots::new(1);
        let sending = admitted(&slots, "10.0.0.1").await.unwrap();
        sending.connection.activity.begin_response();
        assert!(admitted(&slots, "10.0.0.2").await.is_none());
        assert!(slots.is_full());
        drop(sending);
        assert!(admitted(&slots, "10.0.0.2").await.is_some());
        assert!(!slots.is_full());
    }
}
