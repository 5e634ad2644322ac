//! Parallel work on all cores.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use parking_lot::Mutex;

/// Runs numbered work on all cores and returns the results in order; `None` as soon as one of them is `None`.
pub fn in_parallel<T: Send>(count: u64, work: impl Fn(u64) -> Option<T> + Sync) -> Option<Vec<T>> {
    let (next, stopped) = (AtomicU64::new(0), AtomicU64::new(0));
    let done: Mutex<Vec<(u64, T)>> = Mutex::new(Vec::with_capacity(count as usize));
    let worker = || {
        let mut mine = Vec::new();
        while stopped.load(Ordering::Relaxed) == 0 {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                break;
            }
            match work(number) {
                Some(outcome) => mine.push((number, outcome)),
                None => stopped.store(1, Ordering::Relaxed),
            }
        }
        done.lock().append(&mut mine);
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 1..workers.min(count as usize) {
            scope.spawn(worker);
        }
        worker();
    });
    let mut done = done.into_inner();
    done.sort_unstable_by_key(|(number, _)| *number);
    (stopped.into_inner() == 0).then(|| done.into_iter().map(|(_, outcome)| outcome).collect())
}
