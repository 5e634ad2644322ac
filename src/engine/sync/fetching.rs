//! Fetching the files of a plan: as many at a time as there are connections, each placed soon after it came.

use std::{collections::HashMap, sync::Arc};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{
    sync::{
        Notify, OwnedSemaphorePermit, Semaphore,
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    },
    time::{Duration, MissedTickBehavior, interval},
};

use crate::{
    disk::files::Entry,
    engine::{
        blocking::{Group, Task},
        error::Error,
        events::Event,
        queue::{JobEvent, Queue},
    },
    policy::sync::{Action, Step},
};

use super::{
    Stop,
    counts::Running,
    fetch::{Fetched, Fetches, Job},
    place::{Ready, Source, place_all},
    results::Results,
    run::Run,
};

/// Files that were fetched and wait to be placed have a descriptor each.
const WAITING_MAX: usize = 512;
/// How often progress is looked at.
const TICK: Duration = Duration::from_millis(250);
/// Bytes of a file are reported so often.
const SECOND: Duration = Duration::from_secs(1);

impl Run<'_> {
    /// Fetches files, and places them as they come. Returns how many bytes arrived. `copies`: files of the same content as one of
    /// these.
    pub fn fetch<'s>(
        &'s mut self,
        steps: Vec<Step>,
        copies: &[Step],
        stop: Stop<'s>,
    ) -> BoxFuture<'s, u64> {
        let jobs = self.jobs(steps, copies);
        Box::pin(self.fetch_all(jobs, stop))
    }

    async fn fetch_all(&mut self, jobs: Jobs, stop: Stop<'_>) -> u64 {
        if jobs.all.is_empty() {
            return 0;
        }
        let queue = Queue {
            rounds: self.options.rounds,
            patience: self.options.patience,
            at_once: self.context.connections.most() as usize,
            connections: self.context.connections.clone(),
        };
        let waiting = Arc::new(Semaphore::new(WAITING_MAX));
        let (is_over, replica) = (Notify::new(), self.replica.clone());
        let (sender, receiver) = unbounded_channel();
        let index = self.results.index.clone();
        let results = Mutex::new(&mut self.results);
        let (troubles, mut of_fetches) = unbounded_channel();
        let fetches = Arc::new(Fetches {
            context: self.context.clone(),
            url: self.url.clone(),
            replica: self.replica.clone(),
            index: index.clone(),
            max_size: self.options.max_size,
            troubles,
            running: Running::default(),
        });
        let (group, idle) = Group::new();
        let attempt = |job: usize| {
            let job = jobs.all[job].clone();
            // Each is a task, so that all threads of the runtime take part.
            Task::start(&group, fetched(fetches.clone(), job, waiting.clone())).finish()
        };
        let mut ends = Ends {
            jobs: &jobs,
            entries: &self.entries,
            results: &results,
            blocked: &mut self.blocked,
            ready: sender,
            is_over: &is_over,
            patience: queue.patience,
        };
        // With the queue, the sender is dropped, and placing ends.
        let each = move |job: usize, event| ends.take(job, event);
        let fetching = async {
            tokio::select! {
                () = queue.run_numbered(jobs.all.len(), attempt, each) => false,
                () = is_over.notified() => true,
                () = stop => true,
            }
        };
        let placing = place_all(&replica, receiver, |placed| {
            let mut results = results.lock();
            for placed in placed {
                results.placed(placed);
            }
        });
        let is_stopped = tokio::select! {
            (is_stopped, ()) = async { tokio::join!(fetching, placing) } => is_stopped,
            () = report(&results, &fetches.running, &mut of_fetches) => true,
        };
        drop(group);
        idle.wait().await;
        while let Ok(event) = of_fetches.try_recv() {
            results.lock().events.event(event);
        }
        let bytes_fetched = fetches.running.bytes().1;
        self.is_stopped |= is_stopped;
        bytes_fetched
    }

    /// A job for each file, with the copies of a small one.
    fn jobs(&self, steps: Vec<Step>, copies: &[Step]) -> Jobs {
        let index = &self.results.index;
        let is_small = |step: &&Step| index.entries()[step.entry].is_small();
        let mut also: HashMap<usize, Vec<usize>> = HashMap::new();
        let copies: Vec<Step> = copies.iter().filter(is_small).cloned().collect();
        for copy in &copies {
            if let Action::FetchOnce { with } = copy.action {
                also.entry(with).or_default().push(copy.entry);
            }
        }
        let here = &self.results.here;
        let mut all: Vec<Job> = steps
            .iter()
            .map(|step| Job {
                entry: step.entry,
                also: also.remove(&step.entry).unwrap_or_default(),
                replaces: step.here.map(|file| here[file].length),
            })
            .collect();
        all.sort_by_key(|job| job.entry);
        let steps = steps.into_iter().chain(copies);
        Jobs {
            all,
            steps: steps.map(|step| (step.entry, step)).collect(),
        }
    }
}

/// A file that was fetched, and that waits to be placed as long as the permit lives.
type Waiting = (Fetched, Option<OwnedSemaphorePermit>);

/// Reports progress and troubles for ever.
async fn report(
    results: &Mutex<&mut Results<'_>>,
    running: &Running,
    troubles: &mut UnboundedReceiver<Event>,
) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => results.lock().report(running),
            Some(event) = troubles.recv() => results.lock().events.event(event),
        }
    }
}

/// Fetches a file when not too many wait to be placed. Boxed, so that the compiler sees that it is `Send`.
fn fetched(
    fetches: Arc<Fetches>,
    job: Job,
    waiting: Arc<Semaphore>,
) -> BoxFuture<'static, Result<Waiting, Error>> {
    Box::pin(async move {
        let waits = waiting.acquire_owned().await.ok();
        Ok((fetches.fetch(&job).await?, waits))
    })
}

/// What is to be fetched.
struct Jobs {
    all: Vec<Job>,
    /// By their entries.
    steps: HashMap<usize, Step>,
}

/// Takes files as their fetches end.
struct Ends<'a, 'r> {
    jobs: &'a Jobs,
    /// Of the files that were here.
    entries: &'a [Entry],
    results: &'a Mutex<&'a mut Results<'r>>,
    blocked: &'a mut Vec<Ready>,
    /// To be placed.
    ready: UnboundedSender<Ready>,
    /// The server is gone.
    is_over: &'a Notify,
    patience: Duration,
}

impl Ends<'_, '_> {
    fn take(&mut self, job: usize, event: JobEvent<Waiting>) {
        let job = &self.jobs.all[job];
        match event {
            JobEvent::Ended(Ok((fetched, waits))) => self.fetched(job, fetched, waits),
            JobEvent::Ended(Err(error)) => {
                self.note_server(&error);
                let (error, mut results) = (Arc::new(error), self.results.lock());
                for entry in [job.entry].iter().chain(&job.also) {
                    results.failed_like(*entry, error.clone());
                }
            }
            JobEvent::Again { error, wait, .. } => {
                self.note_server(&error);
                let message = format!("{error}; retrying in {} s", wait.as_secs().max(1));
                let mut results = self.results.lock();
                results.events.event(Event::Warning { message });
            }
        }
    }

    /// Ends all fetches if the server is gone, or makes all wait: the other files would wait as long for nothing.
    fn note_server(&self, error: &Error) {
        let is_over = match error {
            Error::MustWait { .. } => true,
            // It may be this file alone.
            Error::Patience { .. } => {
                self.results.lock().progress.silence() + SECOND >= self.patience
            }
            _ => false,
        };
        if is_over {
            self.is_over.notify_one();
        }
    }

    fn fetched(&mut self, job: &Job, fetched: Fetched, mut waits: Option<OwnedSemaphorePermit>) {
        for (entry, staged) in fetched.staged {
            let step = &self.jobs.steps[&entry];
            let source = match entry == job.entry {
                true => Source::Fetched(fetched.bytes),
                false => Source::Copied,
            };
            let index = self.results.lock().index.clone();
            if step.is_blocked {
                let staged = (staged.closed(), source);
                let ready = Ready::new(&index, self.entries, step, staged);
                self.blocked.push(ready);
                continue;
            }
            let mut ready = Ready::new(&index, self.entries, step, (staged, source));
            ready.waits = waits.take();
            // The receiver waits for the last sender.
            let _ = self.ready.send(ready);
        }
    }
}
