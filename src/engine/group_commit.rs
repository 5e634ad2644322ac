//! Group commit: small objects of one run that are complete at the same time are made durable and named together.

use std::sync::Arc;

use crate::disk::{
    destination::Locked,
    durable::Syncs,
    error::DiskError,
    files::Entry,
    group_commit::{self, Outcome, Whole},
};

use super::blocking::{BatchLimits, Batches};

const LIMITS: BatchLimits = BatchLimits {
    items: 256,
    // Another one would only wait for the same disk.
    threads: 1,
};

/// Publishes small objects. Clones share it.
#[derive(Clone, Default)]
pub struct GroupCommit {
    batches: Batches<Whole, Outcome>,
    syncs: Arc<Syncs>,
}

impl GroupCommit {
    /// Publishes an object, with those that come while others are published. `Err`: this file system needs a part.
    pub async fn publish(&self, whole: Whole) -> Result<Result<Entry, Locked>, DiskError> {
        let syncs = self.syncs.clone();
        let publish = move |objects| group_commit::publish(objects, &syncs);
        match self.batches.run(whole, LIMITS, publish).await {
            Outcome::Published(entry) => Ok(Ok(entry)),
            Outcome::NeedsPart(locked) => Ok(Err(locked)),
            Outcome::Failed(cause) => Err(cause),
        }
    }
}
