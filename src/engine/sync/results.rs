//! What became of the files of a sync, and what is told of it.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    disk::{files::Entry, replica::Replica},
    engine::{
        error::Error,
        events::{self, Event, Events, FileCounts, Progress},
    },
    format::library::LibraryPath,
    net::location::Location,
    policy::sync::{Conflict, Local},
};

use super::{
    content::{Content, Known},
    counts::{Counts, Running},
    index::OpenIndex,
    place::{Placed, Source},
};

/// Between two reports of progress.
const PROGRESS_TIME: Duration = Duration::from_secs(1);

/// What became of the files.
pub struct Results<'a> {
    pub events: &'a mut dyn Events,
    pub replica: Arc<Replica>,
    pub index: Arc<OpenIndex>,
    pub url: Location,
    /// The files that were here.
    pub here: Arc<[Local]>,
    pub known: Known,
    pub counts: FileCounts,
    /// Something was done to a file.
    pub has_changed: bool,
    /// How each entry ended that was not kept; an error: it failed for this reason.
    pub ended: HashMap<usize, Result<(), Arc<Error>>>,
    pub progress: Reports,
}

/// The reports of progress.
pub struct Reports {
    pub bytes_total: u64,
    pub files_total: u64,
    /// Of files that ended.
    pub bytes_done: u64,
    last: Instant,
    fetched_before: u64,
    /// Bytes that had arrived when more of them were last seen, and when that was.
    arrived: (u64, Instant),
}

impl Reports {
    pub fn new(files_total: u64, bytes_total: u64) -> Reports {
        Reports {
            bytes_total,
            files_total,
            bytes_done: 0,
            last: Instant::now(),
            fetched_before: 0,
            arrived: (0, Instant::now()),
        }
    }

    /// For how long nothing arrived.
    pub fn silence(&self) -> Duration {
        self.arrived.1.elapsed()
    }
}

impl Results<'_> {
    /// A file is as listed: nothing was done, or only its attributes were set.
    pub fn kept(&mut self, entry: usize) {
        self.counts.unchanged += 1;
        self.progress.bytes_done += self.index.entries()[entry].length;
    }

    /// The attributes of a file that was here were set.
    pub fn attributes_set(&mut self, entry: usize, file: usize, now: &Entry) {
        if let Some((version, _)) = &mut self.known.here[file] {
            *version = now.version();
        }
        self.has_changed = true;
        self.kept(entry);
    }

    /// A file was placed, or not.
    pub fn placed(&mut self, placed: Placed) {
        let entry = match placed.outcome {
            Ok(entry) => entry,
            Err(cause) => return self.failed(placed.entry, cause.into()),
        };
        let index = self.index.clone();
        let listed = &index.entries()[placed.entry];
        let content = Content {
            root: listed.root,
            pieces: index.pieces(placed.entry),
        };
        let known = (entry.version(), content);
        self.known.placed.insert(listed.path.clone(), known);
        self.has_changed = true;
        self.ended.insert(placed.entry, Ok(()));
        self.progress.bytes_done += listed.length;
        let path = self.replica.path_of(&listed.path);
        let bytes = match placed.source {
            Source::Fetched(bytes) => {
                self.counts.fetched += 1;
                bytes
            }
            Source::Moved(from) => {
                self.counts.moved += 1;
                let from = self.replica.path_of(&self.here[from].path);
                let path = path.clone();
                self.events.event(Event::Moved { from, path });
                reused(listed.length)
            }
            Source::Copied => {
                self.counts.copied += 1;
                reused(listed.length)
            }
        };
        self.events.event(Event::Placed(events::Placed {
            path,
            url: self.url.below(listed.path.as_str()).to_string(),
            root: listed.root,
            trust: self.index.trust,
            bytes_total: listed.length,
            bytes_fetched: bytes.fetched,
            bytes_reused: bytes.reused,
            bytes_resumed: bytes.resumed,
        }));
    }

    /// A file failed. The others go on.
    pub fn failed(&mut self, entry: usize, error: Error) {
        let path = &self.index.entries()[entry].path;
        let error = of_staged(&self.replica, path, error);
        self.failed_like(entry, Arc::new(error));
    }

    /// The same for the reason of another one.
    pub fn failed_like(&mut self, entry: usize, error: Arc<Error>) {
        let path = &self.index.entries()[entry].path;
        self.counts.failed += 1;
        self.ended.insert(entry, Err(error.clone()));
        self.events.event(Event::FileFailed {
            path: self.replica.path_of(path),
            url: Some(self.url.below(path.as_str()).to_string()),
            error,
        });
    }

    /// A local file could not be deleted.
    pub fn not_deleted(&mut self, path: PathBuf, error: Error) {
        self.counts.failed += 1;
        self.events.event(Event::FileFailed {
            path,
            url: None,
            error: Arc::new(error),
        });
    }

    /// Reports progress, at most once in a while.
    pub fn report(&mut self, running: &Running) {
        let (bytes_running, bytes_fetched) = running.bytes();
        let files_done = self.ended.len() as u64 + self.counts.unchanged;
        let reports = &mut self.progress;
        if bytes_fetched != reports.arrived.0 {
            reports.arrived = (bytes_fetched, Instant::now());
        }
        let since = reports.last.elapsed();
        if since < PROGRESS_TIME {
            return;
        }
        let new = bytes_fetched.saturating_sub(reports.fetched_before);
        (reports.last, reports.fetched_before) = (Instant::now(), bytes_fetched);
        self.events.event(Event::Progress(Progress {
            bytes_done: reports.bytes_done + bytes_running,
            bytes_total: reports.bytes_total,
            bytes_fetched,
            bytes_proven: 0,
            rate_bps: (new as f64 / since.as_secs_f64()) as u64,
            files: Some((files_done, reports.files_total)),
        }));
    }
}

fn reused(bytes: u64) -> Counts {
    Counts {
        reused: bytes,
        ..Counts::default()
    }
}

/// An error about a staged file, as one about the file of the library that it is to become.
pub fn of_staged(replica: &Replica, path: &LibraryPath, error: Error) -> Error {
    match error {
        Error::Disk(cause) => Error::Disk(replica.of_staged(cause, path)),
        other => other,
    }
}

/// The event of a file that cannot have its name.
pub fn no_place(path: PathBuf, cause: &Conflict) -> Event {
    let error = Error::NoPlace {
        path: path.clone(),
        cause: cause.clone(),
    };
    Event::FileFailed {
        path,
        url: None,
        error: Arc::new(error),
    }
}
