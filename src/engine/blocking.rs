//! The boundary between async code and files: the only place that names `spawn_blocking`.
//!
//! Work that waits for a disk, hashes, or opens `SQLite` runs here, so that the runtime's threads stay free for sockets. If the
//! work panics, the panic resumes in the task that awaits it. When the runtime shuts down, work that has not started never
//! returns; the runtime drops the awaiting future at the same time.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinError, JoinHandle, spawn_blocking},
    time::sleep,
};

use crate::disk::error::DiskError;

/// Which threads hash and write arriving bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// On the runtime's threads for blocking work. The right choice for a runtime that other tasks share.
    Blocking,
    /// On the runtime thread that received the bytes, which saves the hand-over (a tenth of the time on loopback). For a runtime
    /// with several threads that runs nothing else.
    Runtime,
}

/// Runs work on a thread that may block.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    joined(spawn_blocking(work)).await
}

/// [`run`] for work on files.
pub async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DiskError> + Send + 'static,
) -> Result<T, DiskError> {
    run(work).await
}

/// Starts work on a thread that may block. Only the shutdown of the runtime waits for its end.
pub fn detach(work: impl FnOnce() + Send + 'static) {
    spawn_blocking(work);
}

/// [`detach`] after a wait; if the runtime shuts down before, the work is dropped.
pub fn detach_after(wait: Duration, work: impl FnOnce() + Send + 'static) {
    tokio::spawn(async move {
        sleep(wait).await;
        detach(work);
    });
}

/// The result of a task. If the task panicked, the panic resumes here.
pub async fn joined<T>(work: impl Future<Output = Result<T, JoinError>>) -> T {
    match work.await.map_err(JoinError::try_into_panic) {
        Ok(outcome) => outcome,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // The task was cancelled before it started: the runtime shuts down, and drops this future too.
        Err(Err(_)) => std::future::pending().await,
    }
}

/// A group of blocking work, whose end can be awaited even after the tasks that started the work are gone.
#[derive(Clone, Debug)]
pub struct Group {
    /// Cloned into each piece of work; the channel closes when the last clone is dropped.
    alive: mpsc::Sender<Infallible>,
}

/// The end of all work of a [`Group`].
#[derive(Debug)]
pub struct Idle(mpsc::Receiver<Infallible>);

impl Group {
    /// An empty group and a handle that waits for the end of its work.
    pub fn new() -> (Group, Idle) {
        let (alive, ended) = mpsc::channel(1);
        (Group { alive }, Idle(ended))
    }

    /// Starts work. With [`Threads::Runtime`] the work has ended when this returns.
    pub fn start<T: Send + 'static>(
        &self,
        on: Threads,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Work<T> {
        match on {
            Threads::Runtime => Work::Done(work()),
            Threads::Blocking => {
                let alive = self.alive.clone();
                Work::Running(spawn_blocking(move || {
                    // Everything that the work holds is dropped before the group counts the work as ended.
                    let outcome = work();
                    drop(alive);
                    outcome
                }))
            }
        }
    }
}

impl Idle {
    /// Returns when all clones of the group are dropped and all its work has ended.
    pub async fn wait(mut self) {
        // Nothing is ever sent: this returns when the channel closes.
        if let Some(never) = self.0.recv().await {
            match never {}
        }
    }
}

/// Work that was started.
#[derive(Debug)]
pub enum Work<T> {
    /// It ran to its end on the thread that started it.
    Done(T),
    /// It runs, or is queued to run, on a thread for blocking work.
    Running(JoinHandle<T>),
}

impl<T> Work<T> {
    /// Whether [`Work::finish`] returns at once.
    pub fn is_finished(&self) -> bool {
        match self {
            Work::Done(_) => true,
            Work::Running(handle) => handle.is_finished(),
        }
    }

    /// Waits for the result.
    pub async fn finish(self) -> T {
        match self {
            Work::Done(outcome) => outcome,
            Work::Running(handle) => joined(handle).await,
        }
    }
}

/// A task of the runtime, which ends when this is dropped.
#[derive(Debug)]
pub struct Task<T>(JoinHandle<T>);

impl<T: Send + 'static> Task<T> {
    /// Starts a task. Until it has ended, or was dropped, it is work of the group.
    pub fn start(group: &Group, work: impl Future<Output = T> + Send + 'static) -> Task<T> {
        let group = group.clone();
        Task(tokio::spawn(async move {
            let outcome = work.await;
            drop(group);
            outcome
        }))
    }

    /// Waits for the result.
    pub async fn finish(mut self) -> T {
        joined(&mut self.0).await
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Work of many tasks that few threads do, each for many tasks together: the way to a thread and back takes longer than such work.
/// Clones share it.
pub struct Batches<I, O>(Arc<Mutex<Waiting<I, O>>>);

struct Waiting<I, O> {
    items: VecDeque<(I, oneshot::Sender<O>)>,
    /// Threads that take what waits.
    threads: usize,
    /// The work of a thread panicked.
    has_panicked: bool,
}

/// The limits of [`Batches`].
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Items that one thread takes at a time: more would only keep the first of them waiting.
    pub items: usize,
    /// Another thread is started if so many are not enough.
    pub threads: usize,
}

impl<I, O> Clone for Batches<I, O> {
    fn clone(&self) -> Batches<I, O> {
        Batches(self.0.clone())
    }
}

impl<I, O> Default for Batches<I, O> {
    fn default() -> Batches<I, O> {
        Batches(Arc::new(Mutex::new(Waiting {
            items: VecDeque::new(),
            threads: 0,
            has_panicked: false,
        })))
    }
}

impl<I: Send + 'static, O: Send + 'static> Batches<I, O> {
    /// Does the work for this item, with those that come while it is done for others. `work` has one outcome for each item, in the
    /// same order, and must be the same for all.
    pub async fn run(
        &self,
        item: I,
        limits: BatchLimits,
        work: impl Fn(Vec<I>) -> Vec<O> + Send + 'static,
    ) -> O {
        let (sender, outcome) = oneshot::channel();
        let needs_thread = {
            let mut waiting = self.0.lock();
            waiting.items.push_back((item, sender));
            let is_idle = waiting.threads == 0;
            let is_full = waiting.items.len() > limits.items && waiting.threads < limits.threads;
            waiting.threads += usize::from(is_idle || is_full);
            is_idle || is_full
        };
        if needs_thread {
            let waiting = self.0.clone();
            detach(move || work_off(&waiting, limits.items, &work));
        }
        match outcome.await {
            Ok(outcome) => outcome,
            Err(gone) => {
                let has_panicked = self.0.lock().has_panicked;
                assert!(!has_panicked, "work for many tasks panicked: {gone}");
                // The runtime shuts down, and drops this future too.
                std::future::pending().await
            }
        }
    }
}

/// Notes that a thread ends by a panic, while its tasks still wait. What waits then ends with them.
struct NotedPanic<'a, I, O>(&'a Mutex<Waiting<I, O>>);

impl<I, O> Drop for NotedPanic<'_, I, O> {
    fn drop(&mut self) {
        let mut waiting = self.0.lock();
        waiting.has_panicked = true;
        waiting.threads -= 1;
        waiting.items.clear();
    }
}

fn work_off<I, O>(
    waiting: &Mutex<Waiting<I, O>>,
    items_max: usize,
    work: &impl Fn(Vec<I>) -> Vec<O>,
) {
    loop {
        let now: Vec<_> = {
            let mut waiting = waiting.lock();
            if waiting.items.is_empty() {
                waiting.threads -= 1;
                return;
            }
            let count = waiting.items.len().min(items_max);
            waiting.items.drain(..count).collect()
        };
        let (items, senders): (Vec<_>, Vec<_>) = now.into_iter().unzip();
        // Dropped before the senders, whose tasks look at it.
        let panics = NotedPanic(waiting);
        let outcomes = work(items);
        std::mem::forget(panics);
        for (outcome, sender) in outcomes.into_iter().zip(senders) {
            // A task that was dropped needs no answer.
            let _ = sender.send(outcome);
        }
    }
}

/// Stops work on files when the use case that started it is dropped: the work checks the flag.
#[derive(Debug, Default)]
pub struct StopWhenDropped(pub Arc<AtomicBool>);

impl Drop for StopWhenDropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A stop by a signal ended in a panic when a span was waiting for work that had not begun.
    #[tokio::test]
    async fn work_that_was_cancelled_before_it_began_is_no_panic() {
        let work = tokio::spawn(std::future::pending::<()>());
        work.abort();
        let waited = tokio::time::timeout(Duration::from_millis(50), joined(work));
        assert!(waited.await.is_err(), "it came back");
    }

    /// Each of many small files took a thread of its own.
    #[tokio::test]
    async fn work_of_many_tasks_is_done_together() {
        let batches = Batches::default();
        let limits = BatchLimits {
            items: 10,
            threads: 2,
        };
        let counts = Arc::new(Mutex::new(Vec::new()));
        let one = |item: usize| {
            let counts = counts.clone();
            let work = move |items: Vec<usize>| {
                counts.lock().push(items.len());
                std::thread::sleep(Duration::from_millis(20));
                items.into_iter().map(|item| item * 2).collect()
            };
            batches.run(item, limits, work)
        };
        let outcomes = futures_util::future::join_all((0..100).map(one)).await;
        assert_eq!(outcomes, (0..100).map(|item| item * 2).collect::<Vec<_>>());
        let counts = counts.lock();
        assert!(counts.len() <= 12, "{counts:?}");
        assert!(counts.iter().all(|count| *count <= 10), "{counts:?}");
    }

    /// They waited for ever.
    #[tokio::test]
    async fn a_panic_of_work_for_many_tasks_goes_on_in_them() {
        let batches = Batches::default();
        let limits = BatchLimits {
            items: 1,
            threads: 1,
        };
        let one = |item: u32| {
            let batches = batches.clone();
            tokio::spawn(async move {
                let work = |_: Vec<u32>| -> Vec<u32> { panic!("as it must") };
                batches.run(item, limits, work).await
            })
        };
        for task in [one(1), one(2)] {
            assert!(task.await.unwrap_err().is_panic());
        }
    }

    #[tokio::test]
    async fn a_task_ends_when_it_is_dropped_and_its_group_waits_for_that() {
        let (group, idle) = Group::new();
        let held = Arc::new(());
        let of_task = held.clone();
        let task = Task::start(&group, async move {
            std::future::pending::<()>().await;
            drop(of_task);
        });
        let other = Task::start(&group, async { 7 });
        assert_eq!(other.finish().await, 7);
        drop((task, group));
        idle.wait().await;
        assert_eq!(Arc::strong_count(&held), 1, "the task is still there");
    }

    #[tokio::test]
    async fn a_group_is_idle_when_its_work_has_ended() {
        let (group, idle) = Group::new();
        let done = Arc::new(AtomicBool::new(false));
        let work = group.start(Threads::Blocking, {
            let done = done.clone();
            move || {
                std::thread::sleep(Duration::from_millis(50));
                done.store(true, Ordering::Relaxed);
            }
        });
        // The task that started the work is gone.
        drop((work, group));
        idle.wait().await;
        assert!(done.load(Ordering::Relaxed));
        let (group, idle) = Group::new();
        assert!(group.start(Threads::Runtime, || 7).is_finished());
        assert_eq!(group.start(Threads::Blocking, || 7).finish().await, 7);
        drop(group);
        idle.wait().await;
    }
}
