//! Many objects, some at a time. A job with a transient failure goes to the end of the queue and is tried again in a later
//! round.

use std::{
    hash::{BuildHasher, RandomState},
    ops::Range,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until};

use crate::{disk::error::DiskError, policy::recovery::backoff_bound_ms};

use super::{connections::Connections, error::Error};

/// How a queue runs its jobs.
#[derive(Clone, Debug)]
pub struct Queue {
    /// Attempts of one job.
    pub rounds: u32,
    /// A job fails if its host requires a longer wait than this.
    pub patience: Duration,
    /// The most jobs at a time. If they are more than the connections, each must wait for one: [`Connections::admit`].
    pub at_once: usize,
    /// The connections that the jobs of this queue share.
    pub connections: Connections,
}

/// The outcome of an attempt.
#[derive(Debug)]
pub enum JobEvent<T> {
    /// The job ended with this result.
    Ended(Result<T, Error>),
    /// The attempt of this round (counted from one) failed; the next one begins after the wait.
    Again {
        /// Why it failed.
        error: Error,
        /// The round that failed.
        round: u32,
        /// The least time until the next attempt.
        wait: Duration,
    },
}

/// A job that waits for its next attempt.
struct QueueEntry {
    job: usize,
    /// Counted from one.
    round: u32,
    not_before: Instant,
}

impl Queue {
    /// Runs all jobs to their ends. Calls `each` with the index of the job and the outcome of every attempt.
    ///
    /// Dropping the future stops all attempts; a job whose end was not reported to `each` has not ended.
    pub async fn run<J, T>(
        &self,
        jobs: &[J],
        attempt: impl AsyncFn(&J) -> Result<T, Error>,
        each: impl FnMut(usize, JobEvent<T>),
    ) {
        let attempt = |job: usize| attempt(&jobs[job]);
        self.run_numbered(jobs.len(), attempt, each).await;
    }

    /// The same for jobs that are known by their numbers. This future is `Send` if those of the attempts are.
    pub async fn run_numbered<T, A: Future<Output = Result<T, Error>>>(
        &self,
        jobs: usize,
        attempt: impl Fn(usize) -> A,
        mut each: impl FnMut(usize, JobEvent<T>),
    ) {
        let at_once = self.at_once.max(1);
        let shares_max = at_once.min(self.connections.most() as usize);
        let mut first_round = 0..jobs;
        let mut waiting: Vec<QueueEntry> = Vec::new();
        let mut running = FuturesUnordered::new();
        while !(first_round.is_empty() && waiting.is_empty() && running.is_empty()) {
            let now = Instant::now();
            // Jobs that wait for another round still need a share, so the number of shares never grows.
            let left = first_round.len() + waiting.len() + running.len();
            self.connections.share_among(left.min(shares_max));
            while running.len() < at_once
                && let Some(entry) = next_entry(&mut first_round, &mut waiting, now)
            {
                let outcome = attempt(entry.job);
                running.push(async move { (entry, outcome.await) });
            }
            let has_room = running.len() < at_once;
            let next = waiting.iter().map(|entry| entry.not_before).min();
            tokio::select! {
                Some((entry, outcome)) = running.next() => {
                    let (job, round) = (entry.job, entry.round);
                    match outcome {
                        Err(error) if let Some(wait) = self.wait_after(&error, round) => {
                            each(job, JobEvent::Again { error, round, wait });
                            let not_before = Instant::now() + wait;
                            waiting.push(QueueEntry { job, round: round + 1, not_before });
                        }
                        outcome => each(job, JobEvent::Ended(outcome)),
                    }
                }
                () = sleep_until(next.unwrap_or(now)), if next.is_some() && has_room => (),
            }
        }
    }

    /// How long to wait before the next attempt; `None`: the job ends.
    fn wait_after(&self, error: &Error, round: u32) -> Option<Duration> {
        // Another run may hold the lock of a part for hours.
        let is_busy = matches!(error, Error::Disk(DiskError::Busy { .. }));
        if is_busy || !error.is_transient() || round >= self.rounds {
            return None;
        }
        let required = match error {
            Error::MustWait { wait_s, .. } => Duration::from_secs(*wait_s),
            _ => Duration::ZERO,
        };
        (required <= self.patience).then(|| required.max(backoff(round)))
    }
}

/// The entry to run now: those that were never run come first.
fn next_entry(
    first_round: &mut Range<usize>,
    waiting: &mut Vec<QueueEntry>,
    now: Instant,
) -> Option<QueueEntry> {
    if let Some(job) = first_round.next() {
        return Some(QueueEntry {
            job,
            round: 1,
            not_before: now,
        });
    }
    let next = waiting.iter().position(|entry| entry.not_before <= now)?;
    Some(waiting.remove(next))
}

/// A random wait of at least half of the bound: an immediate retry would most likely fail too.
fn backoff(round: u32) -> Duration {
    let bound = backoff_bound_ms(round + 1);
    // The keys of a hasher are random.
    let random = RandomState::new().hash_one(round);
    Duration::from_millis(bound / 2 + random % (bound / 2 + 1))
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, path::PathBuf};

    use super::*;

    fn queue(rounds: u32, at_once: usize, connections: u32) -> Queue {
        Queue {
            rounds,
            patience: Duration::from_secs(60),
            at_once,
            connections: Connections::at_most(connections),
        }
    }

    fn is_transient() -> Error {
        Error::Patience {
            patience_s: 1,
            last: None,
        }
    }

    fn wait_of(wait_s: u64) -> Error {
        let place = "host".to_owned();
        Error::MustWait { place, wait_s }
    }

    fn busy() -> Error {
        let path = PathBuf::from("x.part");
        Error::Disk(DiskError::Busy { path })
    }

    fn failed() -> Error {
        let place = "x".to_owned();
        Error::TooManyBlocks { place }
    }

    /// Runs one job with these outcomes, the last one repeated. Returns its rounds and whether it succeeded.
    async fn rounds(queue: &Queue, outcome: impl Fn(u32) -> Result<(), Error>) -> (u32, bool) {
        let tried = RefCell::new(0);
        let attempt = async |(): &()| {
            *tried.borrow_mut() += 1;
            outcome(*tried.borrow())
        };
        let mut ends = Vec::new();
        let each = |job, event| match event {
            JobEvent::Ended(outcome) => ends.push((job, outcome.is_ok())),
            JobEvent::Again { round, .. } => assert_eq!(round, *tried.borrow()),
        };
        queue.run(&[()], attempt, each).await;
        assert_eq!(ends.len(), 1, "one end");
        (tried.into_inner(), ends[0].1)
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_is_tried_again_and_nothing_else() {
        let three = &queue(3, 1, 1);
        let ok_in = |round| {
            move |now| match now < round {
                true => Err(is_transient()),
                false => Ok(()),
            }
        };
        assert_eq!(rounds(three, ok_in(1)).await, (1, true));
        assert_eq!(rounds(three, ok_in(3)).await, (3, true));
        assert_eq!(rounds(three, ok_in(4)).await, (3, false));
        assert_eq!(rounds(&queue(1, 1, 1), ok_in(2)).await, (1, false));
        assert_eq!(rounds(three, |_| Err(failed())).await, (1, false));
        assert_eq!(rounds(three, |_| Err(busy())).await, (1, false));
        assert_eq!(rounds(three, |_| Err(wait_of(60))).await, (3, false));
        assert_eq!(rounds(three, |_| Err(wait_of(61))).await, (1, false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_is_given_the_time_that_it_asks_for() {
        let began = Instant::now();
        let mut waits = Vec::new();
        let attempt = async |(): &()| Err::<(), _>(wait_of(30));
        let each = |_, event| match event {
            JobEvent::Again { wait, .. } => waits.push(wait),
            JobEvent::Ended(_) => (),
        };
        queue(3, 1, 1).run(&[()], attempt, each).await;
        assert_eq!(waits, [Duration::from_secs(30); 2]);
        let took = began.elapsed();
        assert!(took >= Duration::from_secs(60), "{took:?}");
    }

    /// Found: the bound was taken from the random number, and a job was tried again after 8 ms.
    #[tokio::test(start_paused = true)]
    async fn waits_grow_from_round_to_round() {
        for _ in 0..100 {
            let mut waits = Vec::new();
            let attempt = async |(): &()| Err::<(), _>(is_transient());
            let each = |_, event| match event {
                JobEvent::Again { wait, .. } => waits.push(wait.as_millis()),
                JobEvent::Ended(_) => (),
            };
            queue(5, 1, 1).run(&[()], attempt, each).await;
            for (wait, bound) in waits.iter().zip([1000, 2000, 4000, 8000]) {
                assert!((bound / 2..=bound).contains(wait), "{waits:?}");
            }
            assert_eq!(waits.len(), 4);
        }
    }

    /// A job that waits for its next round delays no other job.
    #[tokio::test(start_paused = true)]
    async fn a_failed_job_goes_to_the_end() {
        let order = RefCell::new(Vec::new());
        let attempt = async |job: &u32| {
            let is_first = !order.borrow().contains(job);
            order.borrow_mut().push(*job);
            match *job == 0 && is_first {
                true => Err(is_transient()),
                false => Ok(()),
            }
        };
        queue(2, 1, 1).run(&[0, 1, 2], attempt, |_, _| ()).await;
        assert_eq!(order.into_inner(), [0, 1, 2, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn jobs_at_once_share_the_connections() {
        for (at_once, connections, most) in [(4, 16, 4), (2, 2, 2), (0, 16, 1), (9, 16, 5)] {
            let queue = queue(1, at_once, connections);
            // Running now, and the most at a time; connections of each job when it began.
            let seen = RefCell::new((0, 0, Vec::new()));
            let attempt = async |_: &u32| {
                {
                    let (running, most, shares) = &mut *seen.borrow_mut();
                    *running += 1;
                    *most = (*most).max(*running);
                    shares.push(queue.connections.per_fetch());
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
                seen.borrow_mut().0 -= 1;
                Ok(())
            };
            queue.run(&[1, 2, 3, 4, 5], attempt, |_, _| ()).await;
            let (_, seen_most, shares) = seen.into_inner();
            assert_eq!(seen_most, most, "{at_once} jobs, {connections} connections");
            assert_eq!(shares[0], connections / most);
            assert!(shares.is_sorted(), "shares shrink: {shares:?}");
        }
    }

    /// Reported ends stay reported; the other jobs have no end.
    #[tokio::test(start_paused = true)]
    async fn dropping_it_stops_all() {
        let mut ended = Vec::new();
        let attempt = async |job: &u64| {
            tokio::time::sleep(Duration::from_secs(*job)).await;
            Ok(())
        };
        let queue = queue(1, 4, 4);
        let run = queue.run(&[1, 100, 2], attempt, |job, _| ended.push(job));
        assert!(
            tokio::time::timeout(Duration::from_secs(10), run)
                .await
                .is_err()
        );
        assert_eq!(ended, [0, 2]);
    }

    #[tokio::test]
    async fn no_jobs_are_no_work() {
        let attempt = async |(): &()| Ok(());
        queue(1, 4, 4)
            .run(&[], attempt, |_, _| panic!("an event"))
            .await;
    }
}
