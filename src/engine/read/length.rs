//! The proof of the length, which the last block gives if the manifest is not signed.

use std::sync::Arc;

use crate::engine::error::Error;

use super::plan::Sequence;

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
