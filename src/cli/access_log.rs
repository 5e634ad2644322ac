//! The access log of a server: a JSON object a line, written by a thread of its own.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    disk::{error::DiskError, files},
    serve::access::{Access, AccessLog},
};

/// Lines that wait for the writer: a tenth of a second of what a fast server sends. More are lost.
const LINES_WAITING: usize = 4096;
/// Lines are written together, up to so many bytes.
const BATCH_BYTES: usize = 64 * 1024;
/// How long the end of the program waits for the last lines.
const END_TIME: Duration = Duration::from_secs(2);

/// Tells the operator what is wrong with the log.
pub type Warn = Box<dyn Fn(String) + Send>;

/// The log of a running server.
pub struct Log {
    lines: SyncSender<Message>,
    shared: Arc<Shared>,
    ended: Receiver<()>,
}

enum Message {
    Line(Box<Access>),
    /// Look at the wishes.
    Wake,
}

#[derive(Default)]
struct Shared {
    is_reopened: AtomicBool,
    is_over: AtomicBool,
    lost: AtomicU64,
}

struct Lines {
    waiting: SyncSender<Message>,
    shared: Arc<Shared>,
}

impl AccessLog for Lines {
    fn write(&self, access: Access) -> bool {
        let is_taken = self
            .waiting
            .try_send(Message::Line(Box::new(access)))
            .is_ok();
        if !is_taken {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
        is_taken
    }
}

impl Log {
    /// Opens a file, or takes standard error for `-`, and starts the writer.
    pub fn start(target: &Path, warn: Warn) -> Result<Log, DiskError> {
        let target = match target == Path::new("-") {
            true => Target::Stderr,
            false => Target::File(target.to_owned(), files::open_for_appending(target)?),
        };
        let (lines, waiting) = sync_channel(LINES_WAITING);
        let (over, ended) = sync_channel(1);
        let shared = Arc::<Shared>::default();
        let writer = Writer {
            target,
            shared: shared.clone(),
            warn,
            batch: Vec::new(),
            is_torn: false,
            has_failed: false,
            has_told_lost: false,
        };
        let write = move || {
            writer.run(&waiting);
            let _ = over.send(());
        };
        if let Err(cause) = thread::Builder::new()
            .name("access-log".into())
            .spawn(write)
        {
            tracing::warn!("the access log has no thread: {cause}");
        }
        Ok(Log {
            lines,
            shared,
            ended,
        })
    }

    /// Where the server puts its lines.
    pub fn lines(&self) -> Arc<dyn AccessLog> {
        Arc::new(Lines {
            waiting: self.lines.clone(),
            shared: self.shared.clone(),
        })
    }

    /// Opens the file anew: it was moved away.
    pub fn reopen(&self) {
        self.shared.is_reopened.store(true, Ordering::Release);
        let _ = self.lines.try_send(Message::Wake);
    }

    /// Waits until the lines are written, for a short time.
    pub fn end(self) {
        self.shared.is_over.store(true, Ordering::Release);
        let _ = self.lines.try_send(Message::Wake);
        let _ = self.ended.recv_timeout(END_TIME);
    }
}

enum Target {
    Stderr,
    File(PathBuf, File),
}

impl Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Target::Stderr => io::stderr().write_all(bytes),
            Target::File(_, file) => file.write_all(bytes),
        }
    }

    fn name(&self) -> String {
        match self {
            Target::Stderr => "standard error".to_owned(),
            Target::File(path, _) => path.display().to_string(),
        }
    }
}

struct Writer {
    target: Target,
    shared: Arc<Shared>,
    warn: Warn,
    batch: Vec<u8>,
    /// A line was perhaps written in part.
    is_torn: bool,
    has_failed: bool,
    has_told_lost: bool,
}

impl Writer {
    fn run(mut self, lines: &Receiver<Message>) {
        loop {
            // The senders live as long as connections do, so the end is also told apart.
            let message = match lines.recv_timeout(Duration::from_secs(1)) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if self.shared.is_reopened.swap(false, Ordering::AcqRel) {
                self.reopen();
            }
            let more = std::iter::from_fn(|| lines.try_recv().ok());
            for message in message.into_iter().chain(more) {
                if let Message::Line(access) = message {
                    self.append(&access);
                }
                if self.batch.len() >= BATCH_BYTES {
                    self.write();
                }
            }
            self.write();
            self.tell_lost();
            if self.shared.is_over.load(Ordering::Acquire) {
                return;
            }
        }
    }

    fn append(&mut self, access: &Access) {
        // Writing to memory does not fail.
        let _ = serde_json::to_writer(&mut self.batch, &Line::new(access));
        self.batch.push(b'\n');
    }

    fn write(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        if self.is_torn {
            self.batch.insert(0, b'\n');
        }
        let written = self.target.write(&self.batch);
        self.is_torn = written.is_err();
        self.batch.clear();
        match written {
            Ok(()) => self.has_failed = false,
            Err(cause) if !self.has_failed => {
                self.has_failed = true;
                let name = self.target.name();
                (self.warn)(format!(
                    "failed to write the access log to {name}: {cause}; the server goes on, and lines are lost until it can be written"
                ));
            }
            Err(_) => (),
        }
    }

    fn tell_lost(&mut self) {
        let lost = self.shared.lost.load(Ordering::Relaxed);
        if lost > 0 && !self.has_told_lost {
            self.has_told_lost = true;
            (self.warn)(format!(
                "the access log is too slow: {lost} lines were lost so far; /metrics counts them"
            ));
        }
    }

    fn reopen(&mut self) {
        let Target::File(path, file) = &mut self.target else {
            return;
        };
        match files::open_for_appending(path) {
            Ok(new) => *file = new,
            Err(cause) => (self.warn)(format!("{cause}; the access log stays in the old file")),
        }
        self.is_torn = false;
    }
}

/// As it is written.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    client: String,
    method: &'a str,
    path: &'a str,
    /// `null`: the client left before there was a response.
    status: Option<u16>,
    bytes: u64,
    duration_ms: f64,
    range: Option<&'a str>,
    version: String,
    complete: bool,
}

impl Line<'_> {
    fn new(access: &Access) -> Line<'_> {
        Line {
            time: rfc3339(access.time),
            client: access.client.to_string(),
            method: &access.method,
            path: &access.path,
            status: Some(access.status).filter(|status| *status > 0),
            bytes: access.bytes,
            duration_ms: access.duration.as_micros() as f64 / 1000.0,
            range: access.range.as_deref(),
            version: format!("{:?}", access.version),
            complete: access.is_complete,
        }
    }
}

/// With milliseconds.
fn rfc3339(time: SystemTime) -> String {
    let time = Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{time:.3}")
}
