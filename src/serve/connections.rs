//! The connections of a server: how many there are at a time, how long one may be silent, and how all of them end.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
};

use crate::disk::machine;

/// The limits on connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time. More wait in the listener's queue.
    pub connections: usize,
    /// How long the header section of a request may take.
    pub headers: Duration,
    /// A connection on which no byte moves for so long is closed: it is idle, or its client does not read.
    pub silence: Duration,
    /// The same while all connections are in use.
    pub silence_if_full: Duration,
    /// How long open responses may go on after the stop.
    pub shutdown: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: of_descriptors(),
            headers: Duration::from_secs(10),
            silence: Duration::from_secs(60),
            silence_if_full: Duration::from_secs(5),
            shutdown: Duration::from_secs(2),
        }
    }
}

/// Descriptors that are not for connections: standard streams, the listener, the folder, the runtime's own.
const DESCRIPTORS_KEPT: u64 = 32;
/// A connection has its socket and the file that it sends.
const DESCRIPTORS_PER_CONNECTION: u64 = 2;
const CONNECTIONS_MAX: u64 = 4096;
/// Unsent bytes of a response in memory, above which no more are read from its file.
const UNSENT_BYTES: usize = 64 * 1024;
/// How often a connection is checked for silence.
const CHECK_TIME: Duration = Duration::from_secs(1);
/// The pause after a connection could not be accepted, for example because the system has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

fn of_descriptors() -> usize {
    let connections =
        machine::descriptors_max().saturating_sub(DESCRIPTORS_KEPT) / DESCRIPTORS_PER_CONNECTION;
    connections.clamp(1, CONNECTIONS_MAX) as usize
}

/// Serves until `shutdown` is done, then lets open responses go on for a short time.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) {
    let (stop, stopped) = watch::channel(false);
    let shared = Shared {
        app,
        limits,
        is_full: Arc::default(),
        stopped,
    };
    let free = Arc::new(Semaphore::new(limits.connections.max(1)));
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            // Drops the results of connections that ended.
            Some(_) = connections.join_next() => (),
            (connection, permit) = next(&listener, &free, &shared.is_full) => {
                connections.spawn(one(connection, permit, shared.clone()));
            }
        }
    }
    drop(listener);
    let _ = stop.send(true);
    let ended = async { while connections.join_next().await.is_some() {} };
    // What has not ended then is cut off with the set.
    let _ = tokio::time::timeout(limits.shutdown, ended).await;
}

/// The next connection, as soon as one more is allowed.
async fn next(
    listener: &TcpListener,
    free: &Arc<Semaphore>,
    is_full: &AtomicBool,
) -> (TcpStream, OwnedSemaphorePermit) {
    is_full.store(free.available_permits() == 0, Ordering::Relaxed);
    let permit = free.clone().acquire_owned().await;
    let permit = permit.expect("the semaphore is never closed");
    is_full.store(false, Ordering::Relaxed);
    loop {
        match listener.accept().await {
            Ok((connection, _)) => return (connection, permit),
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// What all connections share.
#[derive(Clone)]
struct Shared {
    app: Router,
    limits: Limits,
    /// Every allowed connection is in use.
    is_full: Arc<AtomicBool>,
    stopped: watch::Receiver<bool>,
}

async fn one(connection: TcpStream, _permit: OwnedSemaphorePermit, mut shared: Shared) {
    // Small responses must not wait for each other in Nagle's algorithm.
    let _ = connection.set_nodelay(true);
    let moved = Arc::new(Moved::new());
    let watched = Watched {
        connection,
        moved: moved.clone(),
    };
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.limits.headers)
        .max_buf_size(UNSENT_BYTES)
        .serve_connection(
            TokioIo::new(watched),
            TowerToHyperService::new(shared.app.layer(Extension(Connection(moved.clone())))),
        );
    let mut serving = pin!(serving);
    let mut checks = tokio::time::interval(CHECK_TIME);
    loop {
        tokio::select! {
            _ = serving.as_mut() => return,
            Ok(()) = shared.stopped.changed() => serving.as_mut().graceful_shutdown(),
            _ = checks.tick() => {
                let allowed = match shared.is_full.load(Ordering::Relaxed) {
                    true => shared.limits.silence_if_full,
                    false => shared.limits.silence,
                };
                if moved.silence() > allowed {
                    return;
                }
            }
        }
    }
}

/// The connection of a request, among the request's extensions.
#[derive(Clone)]
pub struct Connection(Arc<Moved>);

impl Connection {
    /// Waits for the work, without counting the time as silence: the response is late, not its client.
    pub async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = tokio::time::sleep(CHECK_TIME) => self.0.note(),
            }
        }
    }

    /// Waits until all that a response has written so far has left this process. A body that fails closes the connection, and what has
    /// not left then is lost.
    pub async fn flushed(&self) {
        let before = self.0.flushes.load(Ordering::Acquire);
        loop {
            let mut next = pin!(self.0.flushed.notified());
            next.as_mut().enable();
            if self.0.flushes.load(Ordering::Acquire) != before {
                return;
            }
            next.await;
        }
    }
}

/// When a byte moved last, in either direction, and how often all that was written had left.
struct Moved {
    began: Instant,
    last_ms: AtomicU64,
    flushes: AtomicU64,
    flushed: Notify,
}

impl Moved {
    fn new() -> Moved {
        Moved {
            began: Instant::now(),
            last_ms: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
            flushed: Notify::new(),
        }
    }

    fn note(&self) {
        let now = self.began.elapsed().as_millis() as u64;
        self.last_ms.store(now, Ordering::Relaxed);
    }

    fn silence(&self) -> Duration {
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(last)
    }
}

/// A connection that notes when bytes move.
struct Watched {
    connection: TcpStream,
    moved: Arc<Moved>,
}

impl Watched {
    fn noted(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.moved.note();
        }
        written
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.connection).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.moved.note();
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.connection).poll_write(context, bytes);
        self.noted(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.connection).poll_write_vectored(context, slices);
        self.noted(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    /// Called when nothing is left to be written.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.connection).poll_flush(context);
        if flushed.is_ready() {
            self.moved.flushes.fetch_add(1, Ordering::Release);
            self.moved.flushed.notify_waiters();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// The server's own waiting is no silence of its client.
    #[tokio::test]
    async fn a_late_response_is_no_silence() {
        let wait = || tokio::time::sleep(Duration::from_millis(2500));
        let late = |Extension(connection): Extension<Connection>| async move {
            connection.during(wait()).await
        };
        let silent = || async move { wait().await };
        let app = Router::new()
            .route("/late", get(late))
            .route("/silent", get(silent));
        let limits = Limits {
            silence: Duration::from_millis(1200),
            ..Limits::default()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(serve(listener, app, limits, std::future::pending()));
        let response = async |path: &str| {
            let mut connection = TcpStream::connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            connection.write_all(request.as_bytes()).await.unwrap();
            let mut bytes = Vec::new();
            let _ = connection.read_to_end(&mut bytes).await;
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let (late, silent) = tokio::join!(response("/late"), response("/silent"));
        assert!(late.starts_with("HTTP/1.1 200"), "{late}");
        assert_eq!(silent, "");
        serving.abort();
    }
}
