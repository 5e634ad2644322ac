//! What hosts have earned, in the state that all processes of a user share.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use crate::{
    disk::state::{State, StateError},
    net::hosts::{HostChange, HostChanged, HostMemory, Hosts},
    policy::reputation::Reputation,
};

/// The state, shared with work on blocking threads.
struct Memory(Arc<InState>);

/// The database, opened when it is first needed. A state that cannot be used is as good as none.
struct InState {
    folder: PathBuf,
    state: Mutex<Option<State>>,
}

/// Hosts as the state in this folder knows them.
pub fn remembered(folder: PathBuf) -> Hosts {
    let state = Mutex::default();
    Hosts::remembered(Arc::new(Memory(Arc::new(InState { folder, state }))))
}

impl InState {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> Result<T, StateError>) -> Option<T> {
        let mut state = self
            .state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let open = match state.take() {
            Some(open) => Ok(open),
            None => State::open(&self.folder),
        };
        match open.and_then(|open| work(state.insert(open))) {
            Ok(done) => Some(done),
            Err(error) => {
                tracing::warn!("what hosts have earned is not remembered: {error}");
                None
            }
        }
    }
}

impl HostMemory for Memory {
    fn load(&self) -> Vec<(String, Reputation)> {
        self.0.with(|state| state.hosts()).unwrap_or_default()
    }

    fn change(&self, host: &str, change: HostChange, done: HostChanged) {
        let (state, host) = (self.0.clone(), host.to_owned());
        // A run that ends waits for it: the runtime waits for its blocking threads.
        tokio::task::spawn_blocking(move || {
            if let Some(after) = state.with(|state| state.change_host(&host, change)) {
                done(after);
            }
        });
    }
}
