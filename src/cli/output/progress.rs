//! Which work the bar shows: that of the last event.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::engine::events::{Event, Progress, PushProgress};

use super::{
    live::{Live, Now},
    screen::Screen,
    total::Total,
};

/// The bar, and the work that it shows.
pub struct Bars {
    screen: Screen,
    /// The file that it is about; `None`: the whole command.
    of: Option<String>,
}

impl Bars {
    pub fn new() -> Bars {
        Bars {
            screen: Screen::new(),
            of: None,
        }
    }

    /// Shows what happened. `of`: the file.
    pub fn note(&mut self, of: Option<&str>, event: &Event) {
        let now = Now::here();
        match event {
            Event::Planned(plan) => self.change(of, |live| {
                *live = Some(Live::fetching(plan, live.as_ref(), now));
            }),
            Event::PushPlanned(plan) => {
                self.change(of, |live| *live = Some(Live::pushing(plan, now)));
            }
            Event::Progress(progress) => self.update(of, progress, now),
            Event::PushProgress(progress) => {
                self.update(of, &as_progress(progress), now);
                self.change(of, |live| {
                    if let Some(live) = live {
                        live.record(progress.bytes_recorded);
                    }
                });
            }
            Event::Retry(retry) => self.change(of, |live| {
                // A file that waits for its first response has a bar from now on.
                if live.is_none() && retry.idle {
                    *live = of.map(|path| Live::transferring(path, now));
                }
                if let Some(live) = live {
                    live.retry(retry, unix_ms());
                }
            }),
            Event::Searching { .. } => self.change(of, |live| {
                if let Some(live) = live {
                    live.search();
                }
            }),
            Event::Published(_) | Event::Pushed(_) => self.finish(of),
            _ => (),
        }
    }

    /// Work without a plan has its bar from the first progress on.
    fn update(&mut self, of: Option<&str>, progress: &Progress, now: Now) {
        self.change(of, |live| {
            live.get_or_insert_with(|| Live::transferring(of.unwrap_or_default(), now))
                .update(progress, now);
        });
    }

    /// A file of which nothing is known yet.
    pub fn connect(&mut self, path: &str, host: &str) {
        let new = Live::connecting(path, host, Now::here());
        self.change(Some(path), |live| *live = Some(new));
    }

    /// Local files with so many bytes are read; 0: unknown.
    pub fn read(&mut self, what: &str, bytes: u64) {
        let new = Live::reading(what, bytes, Now::here());
        self.change(Some(what), |live| *live = Some(new));
    }

    /// One bar for all files.
    pub fn show_total(&mut self, total: &Total, event: &Event) {
        let now = Now::here();
        let bar = total.bar(now.time);
        self.change(None, |live| {
            let live = live.get_or_insert_with(|| Live::transferring("", now));
            live.update_many(bar, now);
            if let Event::Retry(retry) = event {
                live.retry(retry, unix_ms());
            }
        });
    }

    pub fn finish(&mut self, of: Option<&str>) {
        if self.of.as_deref() == of {
            self.finish_all();
        }
    }

    pub fn finish_all(&mut self) {
        self.screen.change(|live| *live = None);
    }

    /// What draws the bar: text is printed above it.
    pub fn screen(&self) -> Screen {
        self.screen.clone()
    }

    /// Changes what is shown of a file; that of another one is gone.
    fn change(&mut self, of: Option<&str>, change: impl FnOnce(&mut Option<Live>)) {
        let is_same = self.of.as_deref() == of;
        self.of = of.map(str::to_owned);
        self.screen.change(|live| {
            if !is_same {
                *live = None;
            }
            change(live);
        });
    }
}

/// The progress of a push, as a bar shows it.
fn as_progress(progress: &PushProgress) -> Progress {
    Progress {
        bytes_done: progress.bytes_done,
        bytes_total: progress.bytes_total.unwrap_or(0),
        rate_bps: progress.rate_bps,
        ..Progress::default()
    }
}

fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_millis() as u64
}
