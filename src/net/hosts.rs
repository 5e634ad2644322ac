//! The state of hosts: how many connections they accept, until when they refuse requests, and which of them were unreachable.
//!
//! Every request of a client begins here, so that none is sent before the time of a `Retry-After`. With a [`HostMemory`],
//! reputations outlive the run, and other processes share them.

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::{Mutex, MutexGuard};

use crate::policy::{
    refusals::{REMEMBERED_MAX_MS, SERVES_MS},
    reputation::Reputation,
    schedule::CONNECTIONS_FIRST,
};

/// Requests that are sent together begin within this time, on a busy machine too: when they are refused, that is one refusal.
const TOGETHER_MS: u64 = 100;

/// Other processes' refusals are seen after this time at the latest.
const LOADED_EVERY: Duration = Duration::from_secs(1);

/// A change of the reputation of a host.
pub type HostChange = Box<dyn FnOnce(Reputation) -> Reputation + Send>;
/// Called with the reputation after a change.
pub type HostChanged = Box<dyn FnOnce(Reputation) + Send>;

/// Keeps reputations between runs and shares them among processes.
pub trait HostMemory: Send + Sync {
    /// All reputations; times are Unix milliseconds. Blocks for as long as the disk does.
    fn load(&self) -> Vec<(String, Reputation)>;
    /// Changes the reputation of a host, then calls `done`, unless the change could not be stored. Returns at once: the work runs
    /// where it may block, and the end of a run waits for it.
    fn change(&self, host: &str, change: HostChange, done: HostChanged);
}

/// The state of hosts. Clones share it.
#[derive(Clone, Default)]
pub struct Hosts {
    known: Arc<Mutex<HashMap<String, Known>>>,
    memory: Option<Arc<dyn HostMemory>>,
    /// When the memory was loaded last.
    loaded: Arc<Mutex<Option<Instant>>>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    reputation: Reputation,
    /// The number of running requests.
    running: u32,
    /// How many of them have a usable response.
    served: u32,
    /// When the last of those ended; Unix milliseconds.
    served_ms: u64,
    /// The last request to the host stalled or could not connect.
    needs_probe: bool,
    /// Held by the request that probes.
    probe_lock: Arc<tokio::sync::Mutex<()>>,
}

impl fmt::Debug for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hosts").field(&*self.known()).finish()
    }
}

/// A request; it counts as running until this is dropped.
#[derive(Debug)]
pub struct InFlight {
    hosts: Hosts,
    host: String,
    /// When it began; Unix milliseconds.
    began_ms: u64,
    /// It has a usable response.
    served: bool,
}

impl InFlight {
    /// The host stalled or was unreachable: the next request probes it first.
    pub(super) fn mark_unreachable(&self) {
        self.set_needs_probe(true);
    }

    /// The host responded, or accepted a connection.
    pub(super) fn mark_reachable(&self) {
        self.set_needs_probe(false);
    }

    /// Whether the host serves other requests.
    pub(super) fn host_serves(&self) -> bool {
        let now = Hosts::now_ms();
        let known = self.hosts.known();
        known.get(&self.host).is_some_and(|known| {
            known.served > u32::from(self.served) || now.saturating_sub(known.served_ms) < SERVES_MS
        })
    }

    /// The host refused the request because it limits them (429 or 503).
    pub(super) fn refused(&self, retry_after_ms: Option<u64>) {
        let now = Hosts::now_ms();
        let sent = self.began_ms.saturating_sub(TOGETHER_MS);
        let running = {
            let mut all = self.hosts.known();
            let known = all.entry(self.host.clone()).or_default();
            // Others of the same moment may not have begun yet.
            let running = known.running.max(CONNECTIONS_FIRST);
            known
                .reputation
                .too_many(now, sent, running, retry_after_ms);
            running
        };
        let retry_after_ms = retry_after_ms.map(|ms| ms.min(REMEMBERED_MAX_MS));
        self.hosts.remember(&self.host, move |before| {
            let mut after = before.repaired(now);
            after.too_many(now, sent, running, retry_after_ms);
            after
        });
    }

    /// The host sent a usable response. Only a change is stored.
    pub(super) fn served(&mut self) {
        let now = Hosts::now_ms();
        let changed = {
            let mut all = self.hosts.known();
            let known = all.entry(self.host.clone()).or_default();
            known.served += u32::from(!self.served);
            let before = known.reputation;
            known.reputation.served(now);
            before != known.reputation
        };
        self.served = true;
        if changed {
            self.hosts.remember(&self.host, move |before| {
                let mut after = before.repaired(now);
                after.served(now);
                after
            });
        }
    }

    fn set_needs_probe(&self, needs_probe: bool) {
        if let Some(known) = self.hosts.known().get_mut(&self.host) {
            known.needs_probe = needs_probe;
        }
    }

    /// Whether the last request to the host, of any kind, found it unreachable.
    pub(super) fn needs_probe(&self) -> bool {
        let known = self.hosts.known();
        known.get(&self.host).is_some_and(|known| known.needs_probe)
    }

    /// To be held while the host is probed.
    pub(super) fn probe_lock(&self) -> Arc<tokio::sync::Mutex<()>> {
        let known = self.hosts.known();
        known
            .get(&self.host)
            .map(|known| known.probe_lock.clone())
            .unwrap_or_default()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(known) = self.hosts.known().get_mut(&self.host) {
            known.running = known.running.saturating_sub(1);
            if self.served {
                known.served = known.served.saturating_sub(1);
                known.served_ms = Hosts::now_ms();
            }
        }
    }
}

impl Hosts {
    /// With a memory; [`Hosts::refresh`] loads it.
    pub fn remembered(memory: Arc<dyn HostMemory>) -> Hosts {
        Hosts {
            memory: Some(memory),
            ..Hosts::default()
        }
    }

    /// Unix milliseconds, as reputations have them.
    pub fn now_ms() -> u64 {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock()
    }

    /// The reputation of a host; times are Unix milliseconds.
    pub fn reputation(&self, host: &str) -> Reputation {
        self.known()
            .get(host)
            .map(|known| known.reputation)
            .unwrap_or_default()
    }

    /// Loads the reputations that this or other processes stored, at most once a second. Blocks for as long as the memory does.
    pub fn refresh(&self) {
        let Some(memory) = &self.memory else { return };
        let mut loaded = self.loaded.lock();
        if loaded.is_some_and(|loaded| loaded.elapsed() < LOADED_EVERY) {
            return;
        }
        *loaded = Some(Instant::now());
        let (all, now) = (memory.load(), Hosts::now_ms());
        let mut known = self.known();
        for (host, remembered) in all {
            // What is not stored yet stays.
            let known = known.entry(host).or_default();
            known.reputation = known.reputation.joined(remembered.repaired(now));
        }
    }

    /// Begins a request to this host; before the time of a `Retry-After`, fails with the remaining milliseconds.
    pub(super) fn begin(&self, host: String) -> Result<InFlight, u64> {
        let mut all = self.known();
        let known = all.entry(host.clone()).or_default();
        let now = Hosts::now_ms();
        match known.reputation.wait_ms(now) {
            0 => {
                known.running += 1;
                drop(all);
                let hosts = self.clone();
                Ok(InFlight {
                    hosts,
                    host,
                    began_ms: now,
                    served: false,
                })
            }
            wait_ms => Err(wait_ms),
        }
    }

    /// Stores a change in the memory, and takes over what other processes learned.
    fn remember(&self, host: &str, change: impl FnOnce(Reputation) -> Reputation + Send + 'static) {
        let Some(memory) = &self.memory else { return };
        let (hosts, name) = (self.clone(), host.to_owned());
        let done = move |after: Reputation| {
            let mut all = hosts.known();
            let known = all.entry(name).or_default();
            known.reputation = known.reputation.joined(after);
        };
        memory.change(host, Box::new(change), Box::new(done));
    }
}
