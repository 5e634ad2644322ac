//! The reputations of hosts, in the store that all processes of a user share.

use std::sync::Arc;

use crate::{
    net::hosts::{HostChange, HostChanged, HostMemory, Hosts},
    policy::reputation::Reputation,
};

use super::{blocking, context::StoreHandle};

/// The hosts that this store remembers.
pub fn remembered(store: StoreHandle) -> Hosts {
    Hosts::remembered(Arc::new(InStore(store)))
}

/// Without a usable store nothing is remembered.
struct InStore(StoreHandle);

impl HostMemory for InStore {
    fn load(&self) -> Vec<(String, Reputation)> {
        self.0
            .with_blocking(|store| Ok(store.state().hosts()?))
            .unwrap_or_default()
    }

    fn change(&self, host: &str, change: HostChange, done: HostChanged) {
        let (store, host) = (self.0.clone(), host.to_owned());
        // The end of a run waits for this: the runtime waits for its blocking threads.
        blocking::detach(move || {
            let changed =
                store.with_blocking(|store| Ok(store.state().change_host(&host, change)?));
            if let Some(after) = changed {
                done(after);
            }
        });
    }
}
