//! The order in which something is made of files: those that were requested first, the newest request first, then all others.

use std::{
    collections::{HashMap, VecDeque},
    path::PathBuf,
    time::{Duration, Instant},
};

use super::cache::Kind;

/// Requested files that wait. A request that finds no place is repeated by its client.
const URGENT_MAX: usize = 1024;
/// Other files that wait. The scan of the folder waits while there are more.
const BACKGROUND_MAX: usize = 1024;
/// A file whose manifest could not be made, or that changed while it was read, is left alone for this long, and twice as long each time.
const AGAIN: Duration = Duration::from_millis(500);
const AGAIN_MAX: Duration = Duration::from_secs(300);
/// Files that were left alone are remembered up to this number.
const LATER_MAX: usize = 100_000;

/// Something to make of a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Job {
    pub kind: Kind,
    pub path: PathBuf,
}

/// What became of a job.
pub enum Outcome {
    /// It is made, or need not be.
    Done,
    /// The file changed, or could not be read.
    Again,
}

/// The files that wait.
#[derive(Default)]
pub struct Queue {
    urgent: Vec<Job>,
    background: VecDeque<Job>,
    /// Whether each of them is urgent; one that became urgent is in both lists.
    waiting: HashMap<Job, bool>,
    /// `true`: changed meanwhile.
    running: HashMap<Job, bool>,
    /// When it is due, and how long it was left alone.
    later: HashMap<Job, (Instant, Duration)>,
}

impl Queue {
    /// How many jobs there are: those that wait, those that run, and those that were left alone.
    pub fn jobs(&self) -> usize {
        self.waiting.len() + self.running.len() + self.later.len()
    }

    /// Whether manifests wait to be made, or are being made.
    pub fn makes_manifests(&self) -> bool {
        let mut jobs = self.waiting.keys().chain(self.running.keys());
        jobs.any(|job| job.kind == Kind::Manifest)
    }

    /// Whether as many files wait as may.
    pub fn is_full(&self) -> bool {
        self.background.len() >= BACKGROUND_MAX
    }

    /// Adds a job. `true`: a worker has something to do.
    pub fn add(&mut self, job: Job, urgent: bool) -> bool {
        if let Some(changed) = self.running.get_mut(&job) {
            *changed |= !urgent;
            return false;
        }
        let is_left_alone = |(due, _): &(Instant, Duration)| *due > Instant::now();
        if self.later.get(&job).is_some_and(is_left_alone) {
            return false;
        }
        match self.waiting.get(&job) {
            Some(was_urgent) if *was_urgent || !urgent => return false,
            _ => (),
        }
        let (length, most) = match urgent {
            true => (self.urgent.len(), URGENT_MAX),
            false => (self.background.len(), 2 * BACKGROUND_MAX),
        };
        if length >= most {
            // The next request, or the next scan, comes back to it.
            return false;
        }
        self.waiting.insert(job.clone(), urgent);
        match urgent {
            true => self.urgent.push(job),
            false => self.background.push_back(job),
        }
        true
    }

    /// The next job. Background jobs are for one worker.
    pub fn next(&mut self, urgent_only: bool) -> Option<Job> {
        let now = Instant::now();
        if !urgent_only {
            let due: Vec<Job> = self
                .later
                .iter()
                .filter(|(_, (due, _))| *due <= now)
                .map(|(job, _)| job.clone())
                .collect();
            for job in due {
                self.add(job, false);
            }
        }
        loop {
            let (job, urgent) = match self.urgent.pop() {
                Some(job) => (job, true),
                None if urgent_only => return None,
                None => (self.background.pop_front()?, false),
            };
            // The same job may have been in the other list, and is done or running.
            if self.waiting.get(&job) == Some(&urgent) {
                self.waiting.remove(&job);
                self.running.insert(job.clone(), false);
                return Some(job);
            }
        }
    }

    /// Returns the job if its file changed meanwhile.
    pub fn finish(&mut self, job: Job, outcome: &Outcome) -> Option<Job> {
        let changed = self.running.remove(&job).unwrap_or_default();
        match outcome {
            Outcome::Done => {
                self.later.remove(&job);
                return changed.then_some(job);
            }
            Outcome::Again if self.later.len() < LATER_MAX => {
                let before = self.later.get(&job).map(|(_, before)| *before * 2);
                let wait = before.unwrap_or(AGAIN).min(AGAIN_MAX);
                self.later.insert(job, (Instant::now() + wait, wait));
            }
            Outcome::Again => (),
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(path: &str) -> Job {
        Job {
            kind: Kind::Manifest,
            path: path.into(),
        }
    }

    #[test]
    fn the_newest_request_is_first_and_each_job_is_done_once() {
        let mut queue = Queue::default();
        for background in ["a", "b", "c"] {
            assert!(queue.add(job(background), false));
        }
        for urgent in ["x", "c", "y"] {
            assert!(queue.add(job(urgent), true));
            assert!(!queue.add(job(urgent), true));
        }
        let order = ["y", "c", "x", "a", "b"];
        for path in order {
            assert_eq!(queue.next(false), Some(job(path)));
            assert!(!queue.add(job(path), true));
        }
        assert_eq!(queue.next(false), None);
        assert_eq!(queue.waiting.len(), 0);
    }

    #[test]
    fn a_worker_for_requests_leaves_the_rest() {
        let mut queue = Queue::default();
        queue.add(job("a"), false);
        assert_eq!(queue.next(true), None);
        queue.add(job("x"), true);
        assert_eq!(queue.next(true), Some(job("x")));
    }

    #[test]
    fn a_file_that_changed_while_it_was_read_comes_again_later() {
        let mut queue = Queue::default();
        queue.add(job("a"), true);
        let running = queue.next(false).unwrap();
        queue.finish(running, &Outcome::Again);
        assert!(!queue.add(job("a"), true));
        assert_eq!(queue.next(false), None);
        queue.later.get_mut(&job("a")).unwrap().0 = Instant::now();
        let running = queue.next(false).unwrap();
        // A change that is reported now is not lost.
        queue.add(job("a"), false);
        assert_eq!(queue.finish(running, &Outcome::Done), Some(job("a")));
        assert!(queue.later.is_empty());
    }

    #[test]
    fn queues_are_bounded() {
        let mut queue = Queue::default();
        for index in 0..10 * BACKGROUND_MAX {
            queue.add(job(&index.to_string()), index % 2 == 0);
        }
        assert!(queue.waiting.len() <= URGENT_MAX + 2 * BACKGROUND_MAX);
    }
}
