//! How many bytes came, and from where.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

/// Where the bytes of a file came from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub fetched: u64,
    pub reused: u64,
    pub resumed: u64,
}

/// Bytes of files that are being fetched, and of those that were.
#[derive(Default)]
pub struct Running {
    /// Of each job that runs: bytes that are done, and bytes that arrived.
    jobs: Mutex<HashMap<usize, (u64, u64)>>,
    /// Of those that ended.
    fetched: AtomicU64,
}

impl Running {
    /// So many bytes of a file are done, and so many arrived.
    pub fn progressed(&self, job: usize, bytes: (u64, u64)) {
        self.jobs.lock().insert(job, bytes);
    }

    /// A file ended, for which so many bytes arrived.
    pub fn ended(&self, job: usize, fetched: u64) {
        self.jobs.lock().remove(&job);
        self.fetched.fetch_add(fetched, Ordering::Relaxed);
    }

    /// Bytes that are done of unfinished files, and bytes that arrived in all.
    pub fn bytes(&self) -> (u64, u64) {
        let jobs = self.jobs.lock();
        let of_ended = self.fetched.load(Ordering::Relaxed);
        let sum = |(done, fetched), job: &(u64, u64)| (done + job.0, fetched + job.1);
        jobs.values().fold((0, of_ended), sum)
    }
}
