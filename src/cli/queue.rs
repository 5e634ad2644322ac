//! Several fetches: a few at a time, each reported by itself. What fails and may pass goes to the end of the queue.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use parking_lot::{Mutex, MutexGuard};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::{
    disk::error::DiskError,
    engine::{
        context::Context,
        error::Error,
        events::{Event, Events, Published},
        fetch::{self, FetchOptions},
    },
    net::location::Location,
    policy::recovery::backoff_ms,
};

use super::{exit::Exit, output::Output, signals};

/// More at a time would only take connections from each other.
const FILES_AT_A_TIME: usize = 4;

/// One object and its target.
pub struct Job {
    pub url: Location,
    pub target: PathBuf,
    pub receipt: Option<PathBuf>,
}

impl Job {
    fn path(&self) -> String {
        self.target.display().to_string()
    }
}

/// A job that waits for its turn.
struct Turn {
    job: usize,
    /// From one on.
    round: u32,
    not_before: Instant,
}

/// A queue of jobs. Each of them may be tried in so many rounds.
pub struct Queue<'a> {
    jobs: &'a [Job],
    rounds: u32,
    context: &'a Context,
    output: Mutex<&'a mut Output>,
    /// How each job ended.
    exits: Vec<Option<Exit>>,
    /// What arrived, of all jobs and rounds.
    counters: Vec<Arc<AtomicU64>>,
}

/// The events of one file among those of others.
struct About<'q, 'o> {
    output: &'q Mutex<&'o mut Output>,
    path: String,
}

impl Events for About<'_, '_> {
    fn event(&mut self, event: Event) {
        let mut output = lock(self.output);
        output.about(Some(self.path.clone()));
        output.event(event);
        output.about(None);
    }
}

fn lock<'a, 'b>(output: &'a Mutex<&'b mut Output>) -> MutexGuard<'a, &'b mut Output> {
    output.lock()
}

impl<'a> Queue<'a> {
    pub fn new(
        jobs: &'a [Job],
        rounds: u32,
        context: &'a Context,
        output: &'a mut Output,
    ) -> Queue<'a> {
        output.is_about_several(jobs.len() > 1);
        Queue {
            jobs,
            rounds,
            context,
            output: Mutex::new(output),
            exits: vec![None; jobs.len()],
            counters: jobs.iter().map(|_| Arc::default()).collect(),
        }
    }

    /// Runs all of them, or until the user stops it, and returns how each one ended. `options` is asked once a try.
    pub async fn run(mut self, options: impl Fn(&Job) -> FetchOptions) -> Vec<Exit> {
        // Stopped or not: what has no end by now is told as unfinished.
        let _ = signals::unless_stopped(self.rounds(options)).await;
        let unfinished = self
            .jobs
            .iter()
            .zip(&self.exits)
            .filter(|(_, exit)| exit.is_none());
        let mut output = lock(&self.output);
        for (job, _) in unfinished {
            let message = "stopped; what is proven is kept. Run the same command again to go on";
            let (path, url) = (job.path(), job.url.to_string());
            output.fail(Some(&path), Some(&url), Exit::Again, message, json!({}));
        }
        for counter in &self.counters {
            output.count_fetched(counter.load(Ordering::Relaxed));
        }
        self.exits
            .iter()
            .map(|exit| exit.unwrap_or(Exit::Again))
            .collect()
    }

    /// Until every job has an end. One that went astray would end the program with a panic, since nothing would be left to wait for.
    async fn rounds(&mut self, options: impl Fn(&Job) -> FetchOptions) {
        let now = Instant::now();
        let at_a_time = FILES_AT_A_TIME.min(self.context.connections.most() as usize);
        let mut waiting: Vec<Turn> = (0..self.jobs.len())
            .map(|job| Turn {
                job,
                round: 1,
                not_before: now,
            })
            .collect();
        let mut running = FuturesUnordered::new();
        while self.exits.iter().any(Option::is_none) {
            let now = Instant::now();
            // Those that wait for another round still need theirs, so the number never grows.
            let left = waiting.len() + running.len();
            self.context.connections.share_among(left.min(at_a_time));
            while running.len() < at_a_time
                && let Some(next) = waiting.iter().position(|turn| turn.not_before <= now)
            {
                let turn = waiting.remove(next);
                let options = options(&self.jobs[turn.job]);
                let context = self.context.counting(self.counters[turn.job].clone());
                let mut events = About {
                    output: &self.output,
                    path: self.jobs[turn.job].path(),
                };
                running.push(async move {
                    let ended = fetch::fetch(&context, options, &mut events).await;
                    (turn, ended)
                });
            }
            let first = waiting.iter().map(|turn| turn.not_before).min();
            tokio::select! {
                Some((turn, ended)) = running.next() => {
                    let (exits, queue) = (&mut self.exits, (self.jobs, &self.output));
                    let patience = Duration::from_millis(self.context.limits.patience_ms);
                    match settle(queue, (self.rounds, patience), turn, ended) {
                        Settled::Ended(job, exit) => exits[job] = Some(exit),
                        Settled::Again(turn) => waiting.push(turn),
                    }
                }
                () = sleep_until(first.unwrap_or(now)), if first.is_some() && running.len() < at_a_time => (),
            }
        }
    }
}

enum Settled {
    Ended(usize, Exit),
    Again(Turn),
}

/// What follows from the end of one try.
fn settle(
    (jobs, output): (&[Job], &Mutex<&mut Output>),
    (rounds, patience): (u32, Duration),
    turn: Turn,
    ended: Result<Published, Error>,
) -> Settled {
    let job = &jobs[turn.job];
    let Err(error) = ended else {
        return Settled::Ended(turn.job, Exit::Ok);
    };
    let (path, url) = (job.path(), job.url.to_string());
    let mut output = lock(output);
    let asked = match &error {
        Error::MustWait { wait_s, .. } => Duration::from_secs(*wait_s),
        _ => Duration::ZERO,
    };
    // Another run has it: that one is not waited for.
    let busy = matches!(error, Error::Disk(DiskError::Busy { .. }));
    if busy || Exit::of(&error) != Exit::Again || turn.round >= rounds || asked > patience {
        let exit = output.error(Some(&path), Some(&url), &error);
        return Settled::Ended(turn.job, exit);
    }
    let random = u64::from(std::process::id()) ^ Instant::now().elapsed().as_nanos() as u64;
    // At least half of the bound: what just failed is not asked at once.
    let bound = backoff_ms(turn.round + 1, u64::MAX).max(1);
    let backoff = Duration::from_millis(bound / 2 + random % bound.div_ceil(2));
    let wait = asked.max(backoff);
    output.about(Some(path));
    output.queued_again(&url, &error, turn.round, wait);
    output.about(None);
    Settled::Again(Turn {
        job: turn.job,
        round: turn.round + 1,
        not_before: Instant::now() + wait,
    })
}
