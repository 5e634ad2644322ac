//! How far many files are, in one line.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use crate::{cli::units::human_bytes, engine::events::Event};

use super::{
    bar::{Bar, Counts},
    words::human_seconds,
};

/// The rate is that of the last seconds.
const RATE_SECONDS: usize = 10;

/// All files of a run together.
pub struct Total {
    files: u64,
    published: u64,
    failed: u64,
    /// Of the files that are under way.
    running: HashMap<String, Bytes>,
    /// Of all files so far.
    sum: Bytes,
    /// Files whose length is known.
    planned: u64,
    /// They are sent, not fetched.
    is_push: bool,
    began: Instant,
    /// The bytes that had arrived, second by second.
    marks: VecDeque<(Instant, u64)>,
}

#[derive(Clone, Copy, Default)]
struct Bytes {
    done: u64,
    total: u64,
    /// Arrived, or sent.
    fetched: u64,
    local: u64,
    resumed: u64,
    verified: u64,
}

impl Total {
    pub fn new(files: usize, now: Instant) -> Total {
        Total {
            files: files as u64,
            published: 0,
            failed: 0,
            running: HashMap::new(),
            sum: Bytes::default(),
            planned: 0,
            is_push: false,
            began: now,
            marks: VecDeque::from([(now, 0)]),
        }
    }

    /// Takes note of what happened to a file.
    pub fn note(&mut self, path: Option<&str>, event: &Event, now: Instant) {
        let Some(path) = path else { return };
        let known = self.running.get(path).copied();
        let before = known.unwrap_or_default();
        let mut bytes = before;
        match event {
            Event::Planned(plan) => {
                bytes.total = plan.bytes_total;
                bytes.done = plan.bytes_held + plan.bytes_local;
                (bytes.local, bytes.resumed) = (bytes.done, plan.bytes_held);
            }
            Event::Progress(progress) => {
                (bytes.done, bytes.total) = (progress.bytes_done, progress.bytes_total);
                bytes.fetched = progress.bytes_fetched;
                bytes.verified = progress.bytes_proven;
            }
            Event::Published(published) => {
                (bytes.done, bytes.total) = (published.bytes_total, published.bytes_total);
                bytes.fetched = published.bytes_fetched;
                bytes.local = published.bytes_reused + published.bytes_resumed;
                bytes.resumed = published.bytes_resumed;
                self.published += 1;
            }
            Event::PushPlanned(plan) => {
                self.is_push = true;
                bytes.total = plan.bytes_total.unwrap_or(0);
                bytes.done = plan.bytes_held;
            }
            Event::PushProgress(progress) => {
                bytes.done = progress.bytes_done;
                bytes.total = progress.bytes_total.unwrap_or(0);
                bytes.fetched = progress.bytes_sent;
            }
            Event::Pushed(pushed) => {
                (bytes.done, bytes.total) = (pushed.bytes_total, pushed.bytes_total);
                bytes.fetched = pushed.bytes_sent;
                self.published += 1;
            }
            _ => return,
        }
        self.planned += u64::from(known.is_none());
        let sum = |all: u64, before: u64, now: u64| (all + now).saturating_sub(before);
        self.sum = Bytes {
            done: sum(self.sum.done, before.done, bytes.done),
            total: sum(self.sum.total, before.total, bytes.total),
            fetched: sum(self.sum.fetched, before.fetched, bytes.fetched),
            local: sum(self.sum.local, before.local, bytes.local),
            resumed: sum(self.sum.resumed, before.resumed, bytes.resumed),
            verified: sum(self.sum.verified, before.verified, bytes.verified),
        };
        match event {
            Event::Published(_) | Event::Pushed(_) => drop(self.running.remove(path)),
            _ => drop(self.running.insert(path.to_owned(), bytes)),
        }
        self.mark(now);
    }

    /// A file failed for good.
    pub fn note_failed(&mut self) {
        self.failed += 1;
    }

    fn mark(&mut self, now: Instant) {
        let last = self.marks.back().map_or(self.began, |(at, _)| *at);
        if now.duration_since(last) >= Duration::from_secs(1) {
            self.marks.push_back((now, self.sum.fetched));
        }
        if self.marks.len() > RATE_SECONDS {
            self.marks.pop_front();
        }
    }

    /// Bytes a second, over the last seconds.
    fn rate(&self, now: Instant) -> u64 {
        let Some((since, bytes)) = self.marks.front() else {
            return 0;
        };
        let ms = now.duration_since(*since).as_millis() as u64;
        self.sum.fetched.saturating_sub(*bytes) * 1000 / ms.max(1000)
    }

    /// The bytes of all files, as far as they are known; of the others, as many as on average.
    fn bytes_total(&self) -> u64 {
        match self.planned {
            0 => 0,
            planned if planned >= self.files => self.sum.total,
            planned => (u128::from(self.sum.total) * u128::from(self.files) / u128::from(planned))
                .try_into()
                .unwrap_or(u64::MAX),
        }
    }

    /// How far it is.
    pub fn bar(&self, now: Instant) -> Bar {
        let (published, files, failed) = (self.published, self.files, self.failed);
        let failed = match failed {
            0 => String::new(),
            failed => format!(", {failed} failed"),
        };
        Bar {
            name: format!("{published} of {files} files done{failed}"),
            name_short: Some(format!("{published}/{files} done{failed}")),
            bytes_done: self.sum.done,
            bytes_total: self.bytes_total(),
            is_about: self.planned < self.files,
            rate_bps: self.rate(now),
            counts: Counts {
                local: self.sum.local,
                resumed: self.sum.resumed,
                // That of a push is what is done.
                fetched: if self.is_push { 0 } else { self.sum.fetched },
                verified: self.sum.verified,
                retried: 0,
            },
            ..Bar::default()
        }
    }

    /// What came of it.
    pub fn end(&self, now: Instant) -> String {
        let failed = match self.failed {
            0 => String::new(),
            failed => format!(", {failed} failed"),
        };
        let took = now.duration_since(self.began).as_millis() as u64;
        let (published, bytes) = (self.published, human_bytes(self.sum.fetched));
        let moved = if self.is_push { "sent" } else { "fetched" };
        format!(
            "{published} done{failed}; {moved} {bytes} in {}",
            human_seconds(took)
        )
    }
}

#[cfg(test)]
mod tests {
    use crate::engine::events::Progress;

    use super::*;

    fn progress(bytes_done: u64, bytes_total: u64, bytes_fetched: u64) -> Event {
        Event::Progress(Progress {
            bytes_done,
            bytes_total,
            bytes_fetched,
            ..Progress::default()
        })
    }

    #[test]
    fn many_files_are_one_line() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let shown = |total: &Total, seconds| total.bar(at(seconds)).sentence();
        let mut total = Total::new(4, began);
        assert_eq!(shown(&total, 0), "0 of 4 files done");
        total.note(Some("a"), &progress(0, 10_000_000, 0), at(0));
        total.note(
            Some("a"),
            &progress(4_000_000, 10_000_000, 4_000_000),
            at(2),
        );
        total.note(Some("b"), &progress(2_000_000, 30_000_000, 0), at(2));
        let bar = total.bar(at(2));
        assert_eq!((bar.bytes_done, bar.bytes_total), (6_000_000, 80_000_000));
        assert_eq!(
            shown(&total, 2),
            "0 of 4 files done  7% of about 80 MB  2.0 MB/s  0:37 left  fetched 4.0 MB"
        );
        total.note_failed();
        total.note_failed();
        assert!(shown(&total, 2).starts_with("0 of 4 files done, 2 failed  "));
        assert_eq!(
            total.bar(at(2)).line(39),
            "0/4 done, 2 failed  7%  2.0 MB/s"
        );
        assert!(
            total
                .end(at(3))
                .starts_with("0 done, 2 failed; fetched 4.0 MB in 3.0 s")
        );
    }
}
