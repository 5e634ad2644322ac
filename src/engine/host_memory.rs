//! What hosts have earned, in the store that all processes of a user share.

use std::sync::Arc;

use crate::{
    net::hosts::{HostMemory, Hosts},
    policy::reputation::Reputation,
};

use super::context::StoreHandle;

/// Hosts as this store knows them.
pub fn remembered(store: StoreHandle) -> Hosts {
    Hosts::remembered(Arc::new(InStore(store)))
}

/// Without a store that can be used, nothing is remembered.
struct InStore(StoreHandle);

impl HostMemory for InStore {
    fn all(&self) -> Vec<(String, Reputation)> {
        self.0
            .with_now(|store| Ok(store.state().hosts()?))
            .unwrap_or_default()
    }

    fn change(
        &self,
        host: &str,
        change: &mut dyn FnMut(Reputation) -> Reputation,
    ) -> Option<Reputation> {
        self.0
            .with_now(|store| Ok(store.state().change_host(host, change)?))
    }
}
