//! The state of hosts: cooldowns, connection limits, and which of them were unreachable.
//!
//! Every request of a client begins here, so that none is sent during a cooldown. With a [`HostMemory`], reputations outlive the
//! run, and other processes share them.

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use parking_lot::{Mutex, MutexGuard};

use crate::policy::reputation::Reputation;

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
}

#[derive(Clone, Debug, Default)]
struct Known {
    reputation: Reputation,
    /// The number of running requests.
    running: u32,
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

    /// Loads the reputations that this or other processes stored. Blocks for as long as the memory does.
    pub fn refresh(&self) {
        let Some(memory) = &self.memory else { return };
        let (all, now) = (memory.load(), Hosts::now_ms());
        let mut known = self.known();
        for (host, remembered) in all {
            known.entry(host).or_default().reputation = remembered.repaired(now);
        }
    }

    /// Begins a request to this host; during a cooldown, fails with the remaining milliseconds.
    pub(super) fn begin(&self, host: String) -> Result<InFlight, u64> {
        let mut all = self.known();
        let known = all.entry(host.clone()).or_default();
        match known.reputation.rest_ms(Hosts::now_ms()) {
            0 => {
                known.running += 1;
                drop(all);
                let hosts = self.clone();
                Ok(InFlight { hosts, host })
            }
            rest_ms => Err(rest_ms),
        }
    }

    /// The host limits requests (429 or 503). Returns the cooldown that follows, in milliseconds.
    pub(super) fn too_many(&self, host: &str, retry_after_ms: Option<u64>) -> u64 {
        let now = Hosts::now_ms();
        // The time of the response is random enough to spread clients that were limited together.
        let random = u64::from(std::process::id()) ^ now;
        let (running, rest_ms) = {
            let mut all = self.known();
            let known = all.entry(host.to_owned()).or_default();
            let running = known.running;
            known
                .reputation
                .too_many(now, running, retry_after_ms, random);
            (running, known.reputation.rest_ms(now))
        };
        self.remember(host, move |before| {
            let mut after = before.repaired(now);
            after.too_many(now, running, retry_after_ms, random);
            after
        });
        rest_ms
    }

    /// The host sent a usable response. Only a change is stored.
    pub(super) fn served(&self, host: &str) {
        let now = Hosts::now_ms();
        let changed = {
            let mut all = self.known();
            let Some(known) = all.get_mut(host) else {
                return;
            };
            let before = known.reputation;
            known.reputation.served(now);
            before != known.reputation
        };
        if changed {
            self.remember(host, move |before| {
                let mut after = before.repaired(now);
                after.served(now);
                after
            });
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
