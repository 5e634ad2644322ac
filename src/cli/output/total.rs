//! How far many files are, in one line.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use crate::{
    cli::units::{human_bytes, human_time},
    engine::events::Event,
};

use super::words::human_seconds;

/// Where no bar is drawn, a line is printed as often as this.
const LINE_EVERY: Duration = Duration::from_secs(60);
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
    began: Instant,
    last_line: Instant,
    /// The bytes that had arrived, second by second.
    marks: VecDeque<(Instant, u64)>,
}

#[derive(Clone, Copy, Default)]
struct Bytes {
    done: u64,
    total: u64,
    fetched: u64,
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
            began: now,
            last_line: now,
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
            }
            Event::Progress(progress) => {
                (bytes.done, bytes.total) = (progress.bytes_done, progress.bytes_total);
                bytes.fetched = progress.bytes_fetched;
            }
            Event::Published(published) => {
                (bytes.done, bytes.total) = (published.bytes_total, published.bytes_total);
                bytes.fetched = published.bytes_fetched;
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
        };
        match event {
            Event::Published(_) => drop(self.running.remove(path)),
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

    /// How far it is: bytes, bytes of all, and the words.
    pub fn shown(&self, now: Instant) -> (u64, u64, String) {
        let (done, total, rate) = (self.sum.done, self.bytes_total(), self.rate(now));
        let mut text = format!("{} of {} files done", self.published, self.files);
        if self.failed > 0 {
            text += &format!(", {} failed", self.failed);
        }
        if total > 0 {
            let about = if self.planned < self.files {
                "about "
            } else {
                ""
            };
            text += &format!("  {} of {about}{}", human_bytes(done), human_bytes(total));
        }
        if rate > 0 {
            let left = total.saturating_sub(done).div_ceil(rate);
            text += &format!("  {}/s  {} left", human_bytes(rate), human_time(left));
        }
        (done, total, text)
    }

    /// The same once a minute, where there is no bar.
    pub fn line(&mut self, now: Instant) -> Option<String> {
        if now.duration_since(self.last_line) < LINE_EVERY {
            return None;
        }
        self.last_line = now;
        Some(self.shown(now).2)
    }

    /// What came of it.
    pub fn end(&self, now: Instant) -> String {
        let failed = match self.failed {
            0 => String::new(),
            failed => format!(", {failed} failed"),
        };
        let took = now.duration_since(self.began).as_millis() as u64;
        let (published, bytes) = (self.published, human_bytes(self.sum.fetched));
        format!(
            "{published} done{failed}; fetched {bytes} in {}",
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
        let mut total = Total::new(4, began);
        assert_eq!(total.shown(began).2, "0 of 4 files done");
        total.note(Some("a"), &progress(0, 10_000_000, 0), at(0));
        total.note(
            Some("a"),
            &progress(4_000_000, 10_000_000, 4_000_000),
            at(2),
        );
        total.note(Some("b"), &progress(2_000_000, 30_000_000, 0), at(2));
        let (done, all, text) = total.shown(at(2));
        assert_eq!((done, all), (6_000_000, 80_000_000));
        assert_eq!(
            text,
            "0 of 4 files done  6.0 MB of about 80 MB  2.0 MB/s  0:37 left"
        );
        total.note_failed();
        total.note_failed();
        assert!(
            total
                .shown(at(2))
                .2
                .starts_with("0 of 4 files done, 2 failed  ")
        );
        assert!(
            total
                .end(at(3))
                .starts_with("0 done, 2 failed; fetched 4.0 MB in 3.0 s")
        );
        // Once a minute.
        assert_eq!(total.line(at(59)), None);
        assert!(
            total
                .line(at(60))
                .is_some_and(|line| line.contains("6.0 MB of about"))
        );
        assert_eq!(total.line(at(119)), None);
        assert!(total.line(at(120)).is_some());
    }
}
