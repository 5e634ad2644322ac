//! Placing what is staged, in batches: the file system is synced once for many files.

use std::sync::Arc;

use tokio::{
    sync::mpsc::UnboundedReceiver,
    time::{Duration, Instant, timeout_at},
};

use crate::{
    disk::{
        error::DiskError,
        files::Entry,
        replica::{Replica, Staged},
    },
    engine::blocking,
    format::library::LibraryPath,
};

use super::fetch::Counts;

/// A batch is placed when it has so many files,
const FILES_MAX: usize = 256;
/// or so many bytes,
const BYTES_MAX: u64 = 16 << 20;
/// or when its first file has waited so long.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// A file that can be placed.
pub struct Ready {
    /// The entry in the index.
    pub entry: usize,
    pub path: LibraryPath,
    pub length: u64,
    pub staged: Staged,
    pub bytes: Counts,
    /// The local file that it was, if it was moved or copied.
    pub from: Option<From>,
}

/// Where the content of a file was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The local file, which has no other name than this one from now on, if nothing replaces it.
    Moved(usize),
    Copied,
}

/// A file that was placed, or not.
pub struct Placed {
    pub entry: usize,
    pub bytes: Counts,
    pub from: Option<From>,
    pub outcome: Result<Entry, DiskError>,
}

/// Places files in batches as they come, until no more do. `report` gets them in their order.
pub async fn place_all(
    replica: &Arc<Replica>,
    mut ready: UnboundedReceiver<Ready>,
    mut report: impl AsyncPlaced,
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
        report.placed(place(replica, batch).await);
    }
}

/// Receives what was placed.
pub trait AsyncPlaced: Send {
    /// Called for each batch.
    fn placed(&mut self, files: Vec<Placed>);
}

impl<F: FnMut(Vec<Placed>) + Send> AsyncPlaced for F {
    fn placed(&mut self, files: Vec<Placed>) {
        self(files);
    }
}

/// Places these files, in their order.
pub async fn place(replica: &Arc<Replica>, files: Vec<Ready>) -> Vec<Placed> {
    let replica = replica.clone();
    blocking::run(move || {
        let (mut placed, mut batch) = (Vec::new(), Vec::new());
        for file in files {
            placed.push((file.entry, file.bytes, file.from));
            batch.push((file.staged, file.path));
        }
        let outcomes = replica.place(batch);
        let placed = placed.into_iter().zip(outcomes);
        let placed = placed.map(|((entry, bytes, from), outcome)| Placed {
            entry,
            bytes,
            from,
            outcome,
        });
        placed.collect()
    })
    .await
}
