//! The proof of the length, which the last block gives if the manifest is not signed.

use std::{pin::pin, sync::Arc};

use crate::engine::error::Error;

use super::shared::{Sequence, Shared};

/// Whether the length is proven.
pub enum Length {
    Proven,
    /// Its last block is wanted.
    Wanted,
    /// The latest attempt failed.
    Failed(Sequence, Arc<Error>),
}

impl Length {
    pub fn is_proven(&self) -> bool {
        matches!(self, Length::Proven)
    }

    pub fn is_wanted(&self) -> bool {
        matches!(self, Length::Wanted)
    }

    pub fn prove(&mut self) {
        *self = Length::Proven;
    }

    /// An attempt failed.
    pub fn fail(&mut self, at: Sequence, error: &Arc<Error>) {
        if self.is_wanted() {
            *self = Length::Failed(at, error.clone());
        }
    }
}

impl Shared {
    pub fn length_is_proven(&self) -> bool {
        self.state.lock().length.is_proven()
    }

    /// An empty object was proven by its leaf alone.
    pub fn note_length_proven(&self) {
        self.state.lock().length.prove();
        self.length_changed.notify_waiters();
    }

    /// The length, as soon as it is proven. If an attempt fails from now on, its error.
    pub async fn proven_length(&self) -> Result<u64, Arc<Error>> {
        let since = self.state.lock().take_sequence();
        loop {
            let mut changed = pin!(self.length_changed.notified());
            changed.as_mut().enable();
            if let Some(length) = self.length_since(since) {
                return length;
            }
            changed.await;
        }
    }

    fn length_since(&self, since: Sequence) -> Option<Result<u64, Arc<Error>>> {
        let mut state = self.state.lock();
        match (&state.length, state.failures.replaced()) {
            (Length::Proven, _) => return Some(Ok(self.geometry().length())),
            (_, Some(error)) => return Some(Err(error)),
            (Length::Wanted, None) => return None,
            (Length::Failed(at, error), None) if *at > since => return Some(Err(error.clone())),
            (Length::Failed(..), None) => (),
        }
        state.length = Length::Wanted;
        let last = self.geometry().last();
        state.failures.try_again(last);
        state.failures.end_halt();
        state.is_due = true;
        self.changed.notify_one();
        None
    }
}
