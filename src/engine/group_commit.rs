//! Group commit: small objects of one run that are complete at the same time are made durable and named together.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::disk::{
    destination::Locked,
    error::DiskError,
    files::Entry,
    group_commit::{self, Outcome, Whole},
};

use super::blocking;

/// More would only keep the first of them waiting.
const AT_ONCE_MAX: usize = 256;

/// Publishes small objects. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct GroupCommit(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    objects: Vec<(Whole, oneshot::Sender<Outcome>)>,
    /// A thread publishes what waits.
    is_running: bool,
}

impl GroupCommit {
    /// Publishes an object, with those that come while others are published. `Err`: this file system needs a part.
    pub async fn publish(&self, whole: Whole) -> Result<Result<Entry, Locked>, DiskError> {
        let (sender, outcome) = oneshot::channel();
        let is_running = {
            let mut waiting = self.0.lock();
            waiting.objects.push((whole, sender));
            std::mem::replace(&mut waiting.is_running, true)
        };
        if !is_running {
            let waiting = self.0.clone();
            blocking::detach(move || publish_all(&waiting));
        }
        match outcome.await {
            Ok(Outcome::Published(entry)) => Ok(Ok(entry)),
            Ok(Outcome::NeedsPart(locked)) => Ok(Err(locked)),
            Ok(Outcome::Failed(cause)) => Err(cause),
            // The runtime shuts down, and drops this future too.
            Err(_) => std::future::pending().await,
        }
    }
}

fn publish_all(waiting: &Mutex<Waiting>) {
    loop {
        let now: Vec<_> = {
            let mut waiting = waiting.lock();
            if waiting.objects.is_empty() {
                waiting.is_running = false;
                return;
            }
            let count = waiting.objects.len().min(AT_ONCE_MAX);
            waiting.objects.drain(..count).collect()
        };
        let (objects, senders): (Vec<_>, Vec<_>) = now.into_iter().unzip();
        for (outcome, sender) in group_commit::publish(objects).into_iter().zip(senders) {
            // A fetch that was dropped needs no answer.
            let _ = sender.send(outcome);
        }
    }
}
