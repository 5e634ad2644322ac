//! What is known of the hosts that are asked: who wants fewer requests, and until when nobody is to ask.
//!
//! Every request of a client passes here, whatever it is for, so nothing is asked inside a cooldown. What is learnt is handed
//! to a memory that outlives the run and that other processes share, if there is one.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::policy::reputation::Reputation;

/// Keeps reputations between runs and shares them among processes. Its calls may block for as long as a disk does.
pub trait HostMemory: Send + Sync {
    /// Everything that is known; times are Unix milliseconds.
    fn all(&self) -> Vec<(String, Reputation)>;
    /// Changes what is known of a host and returns it.
    fn change(
        &self,
        host: &str,
        change: &mut dyn FnMut(Reputation) -> Reputation,
    ) -> Option<Reputation>;
}

/// See the module. Clones share what they know.
#[derive(Clone, Default)]
pub struct Hosts {
    known: Arc<Mutex<HashMap<String, Known>>>,
    memory: Option<Arc<dyn HostMemory>>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    reputation: Reputation,
    /// Requests that are under way.
    running: u32,
    /// It was silent or out of reach the last time.
    in_doubt: bool,
    /// Held by who knocks.
    door: Arc<tokio::sync::Mutex<()>>,
}

impl fmt::Debug for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hosts").field(&*self.known()).finish()
    }
}

/// A request that is under way.
#[derive(Debug)]
pub struct Asking {
    hosts: Hosts,
    host: String,
}

impl Asking {
    /// Nothing came, or nobody was there: before it is asked again somebody knocks.
    pub(super) fn was_in_vain(&self) {
        if let Some(known) = self.hosts.known().get_mut(&self.host) {
            known.in_doubt = true;
        }
    }

    /// Whether that is so, of whomever.
    pub(super) fn is_in_doubt(&self) -> bool {
        let known = self.hosts.known();
        known.get(&self.host).is_some_and(|known| known.in_doubt)
    }

    /// Held by who knocks at this host.
    pub(super) fn door(&self) -> Arc<tokio::sync::Mutex<()>> {
        let known = self.hosts.known();
        known
            .get(&self.host)
            .map(|known| known.door.clone())
            .unwrap_or_default()
    }

    /// Somebody is there.
    pub(super) fn was_heard(&self) {
        if let Some(known) = self.hosts.known().get_mut(&self.host) {
            known.in_doubt = false;
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if let Some(known) = self.hosts.known().get_mut(&self.host) {
            known.running = known.running.saturating_sub(1);
        }
    }
}

impl Hosts {
    /// With a memory; [`Hosts::refresh`] reads it.
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
        self.known
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// What a host has earned; times are Unix milliseconds.
    pub fn reputation(&self, host: &str) -> Reputation {
        self.known()
            .get(host)
            .map(|known| known.reputation)
            .unwrap_or_default()
    }

    /// Reads what this or other processes wrote. Blocks as long as the memory does.
    pub fn refresh(&self) {
        let Some(memory) = &self.memory else { return };
        let (all, now) = (memory.all(), Hosts::now_ms());
        let mut known = self.known();
        for (host, remembered) in all {
            known.entry(host).or_default().reputation = remembered.repaired(now);
        }
    }

    /// A request to this host begins, if it may be asked now; else how long it is still to be left alone.
    pub(super) fn ask(&self, host: String) -> Result<Asking, u64> {
        let mut all = self.known();
        let known = all.entry(host.clone()).or_default();
        match known.reputation.rest_ms(Hosts::now_ms()) {
            0 => {
                known.running += 1;
                drop(all);
                let hosts = self.clone();
                Ok(Asking { hosts, host })
            }
            rest_ms => Err(rest_ms),
        }
    }

    /// The host answered that it wants fewer requests. Returns how long it is left alone now.
    pub(super) fn too_many(&self, host: &str, retry_after_ms: Option<u64>) -> u64 {
        let now = Hosts::now_ms();
        // The time of the complaint is random enough to spread those who complain together.
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

    /// The host served something well. Only what changes is written.
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

    /// Writes where it may block. A run that ends waits for it.
    fn remember(
        &self,
        host: &str,
        mut change: impl FnMut(Reputation) -> Reputation + Send + 'static,
    ) {
        let Some(memory) = self.memory.clone() else {
            return;
        };
        let (hosts, host) = (self.clone(), host.to_owned());
        tokio::task::spawn_blocking(move || {
            if let Some(after) = memory.change(&host, &mut change) {
                let mut all = hosts.known();
                let known = all.entry(host).or_default();
                known.reputation = known.reputation.joined(after);
            }
        });
    }
}
