//! Placing what is staged, in batches: the file system is synced once for many files.

use std::sync::Arc;

use tokio::{
    sync::{OwnedSemaphorePermit, mpsc::UnboundedReceiver},
    time::{Duration, Instant, timeout_at},
};

use crate::{
    disk::{
        error::DiskError,
        files::Entry,
        replica::{Placement, Replica, Staged},
    },
    engine::blocking,
    policy::sync::Step,
};

use super::{counts::Counts, index::OpenIndex};

/// A batch is placed when it has so many files,
pub const FILES_MAX: usize = 256;
/// or so many bytes,
const BYTES_MAX: u64 = 16 << 20;
/// or when its first file has waited so long.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// A file that can be placed.
pub struct Ready {
    /// Its entry in the index.
    pub entry: usize,
    pub length: u64,
    pub placement: Placement,
    pub source: Source,
    /// As long as this lives it counts among the files that wait to be placed.
    pub waits: Option<OwnedSemaphorePermit>,
}

impl Ready {
    /// A staged file of a step. `here`: the files that were here.
    pub fn new(
        index: &OpenIndex,
        here: &[Entry],
        step: &Step,
        (staged, source): (Staged, Source),
    ) -> Ready {
        let listed = &index.entries()[step.entry];
        Ready {
            entry: step.entry,
            length: listed.length,
            placement: Placement {
                staged,
                path: listed.path.clone(),
                replaces: step.here.map(|file| here[file].stamp()),
            },
            source,
            waits: None,
        }
    }
}

/// Where the content of a file came from.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// A local file, whose name goes, or gets another file.
    Moved(usize),
    /// A local file, or a file that was fetched for another path.
    Copied,
    Fetched(Counts),
}

/// A file that was placed, or not.
pub struct Placed {
    /// Its entry in the index.
    pub entry: usize,
    pub source: Source,
    pub outcome: Result<Entry, DiskError>,
}

/// Places files in batches as they come, until no more do; `report` gets each batch.
pub async fn place_all(
    replica: &Arc<Replica>,
    mut ready: UnboundedReceiver<Ready>,
    mut report: impl FnMut(Vec<Placed>) + Send,
) {
    while let Some(first) = ready.recv().await {
        let until = Instant::now() + WAIT_MAX;
        let (mut bytes, mut batch) = (first.length, vec![first]);
        while batch.len() < FILES_MAX
            && bytes < BYTES_MAX
            && let Ok(Some(next)) = timeout_at(until, ready.recv()).await
        {
            bytes += next.length;
            batch.push(next);
        }
        report(place(replica, batch).await);
    }
}

/// Places these files, in their order.
pub async fn place(replica: &Arc<Replica>, files: Vec<Ready>) -> Vec<Placed> {
    let replica = replica.clone();
    blocking::run(move || {
        let (mut batch, mut all) = (Vec::new(), Vec::new());
        for ready in files {
            all.push((ready.entry, ready.source, ready.waits));
            batch.push(ready.placement);
        }
        let outcomes = replica.place(batch);
        let placed = all.into_iter().zip(outcomes);
        let placed = placed.map(|((entry, source, _), outcome)| Placed {
            entry,
            source,
            outcome,
        });
        placed.collect()
    })
    .await
}
