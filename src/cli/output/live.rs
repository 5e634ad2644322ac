//! What is known of the work under way, and what a bar shows of it at some time.

use std::time::{Duration, Instant};

use crate::{
    cli::units,
    disk::regions,
    engine::events::{Planned, Progress, PushPlanned, Retry},
    format::{characters::printable, trust::Trust},
};

use super::{
    bar::{Bar, State},
    words::WAIT_TOLD_MS,
};
/// Nothing came for so long: the transfer stalls.
const STALL_TIME: Duration = Duration::from_secs(3);
/// Reading that takes no longer needs no bar.
const SHORT_TIME: Duration = Duration::from_millis(500);

/// A time, and the bytes of local files that this process had read then.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub time: Instant,
    pub bytes_read: u64,
}

impl Now {
    pub fn here() -> Now {
        Now {
            time: Instant::now(),
            bytes_read: regions::bytes_read(),
        }
    }
}

/// What is known of the work under way.
pub struct Live {
    bar: Bar,
    work: Work,
    began: Instant,
    /// The last time that bytes came, and how many there were.
    moved: Instant,
    seen: (u64, u64),
    /// Since the last bytes a request failed: when the next one follows, or until when one is sent again and again.
    waits: Option<State>,
    /// Bytes of local files that this process had read before, and when it was last looked at.
    read_before: u64,
    read_last: u64,
    /// The length of a file that is being recorded.
    recorded: Option<u64>,
}

/// What kind of work it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Nothing came yet.
    Connects,
    Searches,
    /// Bytes come, or go.
    Transfers,
    /// Of many files, some may wait while others go on.
    TransfersMany,
    Reads,
}

impl Live {
    fn new(name: &str, work: Work, now: Now) -> Live {
        Live {
            bar: Bar {
                name: printable(name),
                ..Bar::default()
            },
            work,
            began: now.time,
            moved: now.time,
            seen: (0, 0),
            waits: None,
            read_before: now.bytes_read,
            read_last: now.bytes_read,
            recorded: None,
        }
    }

    /// A file of which nothing is known yet.
    pub fn connecting(name: &str, host: &str, now: Now) -> Live {
        let mut live = Live::new(name, Work::Connects, now);
        live.bar.state = State::Connecting {
            host: printable(host),
        };
        live
    }

    /// A transfer without a plan.
    pub fn transferring(name: &str, now: Now) -> Live {
        Live::new(name, Work::Transfers, now)
    }

    /// Local files are read, with so many bytes; 0: unknown.
    pub fn reading(name: &str, bytes: u64, now: Now) -> Live {
        let mut live = Live::new(name, Work::Reads, now);
        live.bar.bytes_total = bytes;
        live
    }

    pub fn fetching(plan: &Planned, before: Option<&Live>, now: Now) -> Live {
        let name = plan.path.file_name().unwrap_or(plan.path.as_os_str());
        let mut live = Live::new(&name.to_string_lossy(), Work::Transfers, now);
        let bar = &mut live.bar;
        bar.bytes_total = plan.bytes_total;
        bar.counts.local = plan.bytes_held + plan.bytes_local;
        bar.counts.resumed = plan.bytes_held;
        bar.bytes_done = bar.counts.local;
        bar.is_not_verified = plan.block_size.is_none() && plan.trust == Trust::default();
        bar.counts.retried = before.map_or(0, |before| before.bar.counts.retried);
        live
    }

    pub fn pushing(plan: &PushPlanned, now: Now) -> Live {
        let name = plan.path.file_name().unwrap_or(plan.path.as_os_str());
        let mut live = Live::new(&name.to_string_lossy(), Work::Transfers, now);
        live.bar.bytes_total = plan.bytes_total.unwrap_or(0);
        live.bar.bytes_done = plan.bytes_held;
        live
    }

    /// Local files are searched before the transfer.
    pub fn search(&mut self) {
        if self.work == Work::Connects {
            (self.work, self.bar.state) = (Work::Searches, State::Searching);
        }
    }

    pub fn update(&mut self, progress: &Progress, now: Now) {
        if self.work == Work::Reads {
            return;
        }
        self.work = Work::Transfers;
        let bar = &mut self.bar;
        if let Some((done, total)) = progress.files {
            bar.name = format!("{done} of {total} files");
            bar.name_short = Some(format!("{done}/{total}"));
        }
        (bar.bytes_done, bar.bytes_total) = (progress.bytes_done, progress.bytes_total);
        bar.counts.fetched = progress.bytes_fetched;
        bar.counts.verified = progress.bytes_proven;
        bar.rate_bps = progress.rate_bps;
        self.note_moved(now);
    }

    /// All files of a run. `bar` has neither state nor retries.
    pub fn update_many(&mut self, bar: Bar, now: Now) {
        self.work = Work::TransfersMany;
        let retried = self.bar.counts.retried;
        self.bar = bar;
        self.bar.counts.retried = retried;
        self.note_moved(now);
    }

    fn note_moved(&mut self, now: Now) {
        let seen = (self.bar.bytes_done, self.bar.counts.fetched);
        if seen != self.seen {
            (self.seen, self.moved, self.waits) = (seen, now.time, None);
        }
    }

    /// A file that is recorded has so many bytes.
    pub fn record(&mut self, bytes: Option<u64>) {
        self.recorded = bytes;
    }

    pub fn retry(&mut self, retry: &Retry, now_ms: u64) {
        self.bar.counts.retried += 1;
        if retry.idle {
            let time = |ms: u64| units::time_of_day(ms / 1000);
            self.waits = Some(match retry.wait_ms >= WAIT_TOLD_MS {
                true => State::Waiting {
                    until: time(now_ms + retry.wait_ms),
                },
                false => State::Trying {
                    until: time(retry.until_ms),
                },
            });
        }
    }

    /// What is shown now; `None`: nothing.
    pub fn at(&mut self, now: Now) -> Option<Bar> {
        let mut bar = self.bar.clone();
        let Now { time, bytes_read } = now;
        if bytes_read != self.read_last {
            // Blocks are copied, or those of an earlier run are judged.
            (self.read_last, self.moved) = (bytes_read, time);
        }
        let read = bytes_read.saturating_sub(self.read_before);
        let took = time.saturating_duration_since(self.began);
        let still = time.saturating_duration_since(self.moved);
        let reads = |bar: &mut Bar| {
            bar.bytes_done = read;
            if bar.bytes_total > 0 {
                bar.bytes_done = read.min(bar.bytes_total);
            }
            bar.rate_bps = (read as f64 / took.as_secs_f64().max(0.001)) as u64;
        };
        match self.work {
            Work::Reads if took < SHORT_TIME => return None,
            Work::Reads => reads(&mut bar),
            Work::Connects | Work::Searches => {
                if let Some(waits) = &self.waits {
                    bar.state = waits.clone();
                } else if read > 0 {
                    // Of the bytes to be read nothing is known: a search reads some of them often, and others never.
                    bar.state = State::Searching;
                    reads(&mut bar);
                }
            }
            Work::Transfers | Work::TransfersMany => {
                let is_done = bar.bytes_total > 0 && bar.bytes_done >= bar.bytes_total;
                let is_still = still >= STALL_TIME;
                let may_wait = self.work == Work::Transfers || is_still;
                bar.state = match &self.waits {
                    Some(waits) if may_wait => waits.clone(),
                    // A recorder may pause.
                    _ if self.recorded.is_some() => State::Recording {
                        behind: self.recorded.unwrap_or(0).saturating_sub(bar.bytes_done),
                    },
                    _ if is_done && self.work == Work::Transfers => State::Finishing,
                    _ if is_still => State::Stalled {
                        seconds: still.as_secs(),
                    },
                    _ => State::Moving,
                };
            }
        }
        Some(bar)
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::recovery::Class;

    use super::*;

    const MB: u64 = 1_000_000;

    struct Clock {
        began: Instant,
        bytes_read: u64,
    }

    impl Clock {
        fn new() -> Clock {
            Clock {
                began: Instant::now(),
                bytes_read: 7 * MB,
            }
        }

        fn at(&self, ms: u64) -> Now {
            Now {
                time: self.began + Duration::from_millis(ms),
                bytes_read: self.bytes_read,
            }
        }
    }

    fn progress(mb: u64) -> Progress {
        Progress {
            bytes_done: mb * MB,
            bytes_total: 100 * MB,
            bytes_fetched: mb * MB,
            rate_bps: 10 * MB,
            ..Progress::default()
        }
    }

    fn retry(wait_ms: u64, idle: bool) -> Retry {
        Retry {
            source: "http://h/x".to_owned(),
            class: Class::Again,
            attempt: 1,
            wait_ms,
            idle,
            reason: "http://h/x: status 503".to_owned(),
            is_first: false,
            until_ms: 0,
        }
    }

    fn state(live: &mut Live, now: Now) -> State {
        live.at(now).expect("a bar").state
    }

    #[test]
    fn a_transfer_stalls_waits_and_goes_on() {
        let mut clock = Clock::new();
        let mut live = Live::transferring("x", clock.at(0));
        live.update(&progress(1), clock.at(1000));
        assert_eq!(state(&mut live, clock.at(3900)), State::Moving);
        // The same count again is no byte.
        live.update(&progress(1), clock.at(3900));
        assert_eq!(
            state(&mut live, clock.at(4000)),
            State::Stalled { seconds: 3 }
        );
        // Others go on.
        live.retry(&retry(5_000, false), 0);
        assert_eq!(
            state(&mut live, clock.at(6000)),
            State::Stalled { seconds: 5 }
        );
        live.retry(&retry(5_000, true), 0);
        let waits = state(&mut live, clock.at(6000));
        assert!(matches!(waits, State::Waiting { .. }), "{waits:?}");
        live.retry(&retry(1_000, true), 0);
        let waits = state(&mut live, clock.at(6000));
        assert!(matches!(waits, State::Trying { .. }), "{waits:?}");
        live.update(&progress(2), clock.at(7000));
        let bar = live.at(clock.at(7000)).unwrap();
        assert_eq!((bar.state, bar.counts.retried), (State::Moving, 3));
        // Bytes that are read here are no stall.
        clock.bytes_read += 1;
        assert_eq!(state(&mut live, clock.at(20_000)), State::Moving);
        live.update(&progress(100), clock.at(21_000));
        assert_eq!(state(&mut live, clock.at(29_000)), State::Finishing);
    }

    #[test]
    fn reading_has_a_bar_after_half_a_second() {
        let mut clock = Clock::new();
        let mut live = Live::reading("x", 100 * MB, clock.at(0));
        clock.bytes_read += 40 * MB;
        assert!(live.at(clock.at(499)).is_none());
        assert_eq!(
            live.at(clock.at(2000)).unwrap().sentence(),
            "x  40% of 100 MB  20 MB/s  0:03 left"
        );
        clock.bytes_read += 400 * MB;
        assert!(live.at(clock.at(2000)).unwrap().line(39).contains("100%"));
    }

    #[test]
    fn a_search_shows_what_it_has_read() {
        let mut clock = Clock::new();
        let mut live = Live::connecting("x", "h:80", clock.at(0));
        let shown = |live: &mut Live, now| live.at(now).unwrap().sentence();
        assert_eq!(shown(&mut live, clock.at(0)), "x  connecting to h:80");
        live.search();
        assert_eq!(shown(&mut live, clock.at(0)), "x  searching local files");
        clock.bytes_read += 40 * MB;
        assert_eq!(
            shown(&mut live, clock.at(1000)),
            "x  searching local files, 40 MB read"
        );
    }

    #[test]
    fn of_many_files_some_may_wait_while_others_go_on() {
        let clock = Clock::new();
        let many = |done| Bar {
            bytes_done: done,
            bytes_total: 100,
            ..Bar::default()
        };
        let mut live = Live::transferring("", clock.at(0));
        live.update_many(many(1), clock.at(0));
        live.retry(&retry(5_000, true), 0);
        assert_eq!(state(&mut live, clock.at(1000)), State::Moving);
        let waits = state(&mut live, clock.at(3000));
        assert!(matches!(waits, State::Waiting { .. }), "{waits:?}");
    }
}
