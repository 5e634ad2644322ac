//! The socket of a connection, and when a byte moved on it last.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Notify,
};

/// How often work that a response waits for ends the silence.
const NOTE_TIME: Duration = Duration::from_secs(1);

/// What a connection does, and since when it does nothing.
pub struct Activity {
    /// The same moment for all connections of a server.
    epoch: Instant,
    last_ms: AtomicU64,
    responses: AtomicU32,
    /// Bytes wait until the client reads.
    is_blocked: AtomicBool,
    /// HTTP/2: bytes that move may be empty gestures, so only those of bodies count.
    bodies_only: AtomicBool,
    /// How often all that was written had left.
    flushes: AtomicU64,
    flushed: Notify,
}

/// The connection of a request, among the request's extensions.
#[derive(Clone)]
pub struct Connection(pub(super) Arc<Activity>);

impl Connection {
    /// Waits for the work, without counting the time as silence: the response is late, not its client.
    pub async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = tokio::time::sleep(NOTE_TIME) => self.0.note(),
            }
        }
    }

    /// Bytes of a request's body came.
    pub fn note(&self) {
        self.0.note();
    }

    /// Waits until all that a response has written so far has left this process. A body that fails closes the connection, and what has
    /// not left then is lost.
    pub async fn flushed(&self) {
        let activity = &self.0;
        let before = activity.flushes.load(Ordering::Acquire);
        loop {
            let mut next = pin!(activity.flushed.notified());
            next.as_mut().enable();
            if activity.flushes.load(Ordering::Acquire) != before {
                return;
            }
            next.await;
        }
    }
}

impl Activity {
    pub fn new(epoch: Instant) -> Activity {
        Activity {
            epoch,
            last_ms: AtomicU64::new(elapsed_ms(epoch)),
            responses: AtomicU32::new(0),
            is_blocked: AtomicBool::new(false),
            bodies_only: AtomicBool::new(false),
            flushes: AtomicU64::new(0),
            flushed: Notify::new(),
        }
    }

    /// Something happened that ends the silence.
    pub fn note(&self) {
        self.last_ms
            .store(elapsed_ms(self.epoch), Ordering::Relaxed);
    }

    /// From now on, bytes that the socket moves do not end the silence.
    pub fn count_bodies_only(&self) {
        self.bodies_only.store(true, Ordering::Relaxed);
    }

    /// Returns whether it is the only response on this connection.
    pub fn begin_response(&self) -> bool {
        self.note();
        self.responses.fetch_add(1, Ordering::Relaxed) == 0
    }

    pub fn end_response(&self) {
        self.note();
        self.responses.fetch_sub(1, Ordering::Relaxed);
    }

    /// No request is under way, and everything was sent.
    pub fn is_idle(&self) -> bool {
        self.responses.load(Ordering::Relaxed) == 0 && !self.is_blocked.load(Ordering::Relaxed)
    }

    /// When the silence began, in milliseconds since the epoch.
    pub fn last_ms(&self) -> u64 {
        self.last_ms.load(Ordering::Relaxed)
    }

    pub fn silence(&self) -> Duration {
        let last = Duration::from_millis(self.last_ms());
        self.epoch.elapsed().saturating_sub(last)
    }

    /// Bytes moved. A connection without a request is idle even if its client sends some.
    fn moved(&self) {
        if !self.is_idle() && !self.bodies_only.load(Ordering::Relaxed) {
            self.note();
        }
    }

    fn set_blocked(&self, is_blocked: bool) {
        self.is_blocked.store(is_blocked, Ordering::Relaxed);
    }
}

fn elapsed_ms(since: Instant) -> u64 {
    since.elapsed().as_millis() as u64
}

/// A socket that notes when bytes move.
pub struct Watched {
    socket: TcpStream,
    activity: Arc<Activity>,
}

impl Watched {
    pub fn new(socket: TcpStream, activity: Arc<Activity>) -> Watched {
        Watched { socket, activity }
    }

    /// Waits for the first byte and leaves it there; `None`: the client sends nothing.
    pub async fn first_byte(&self) -> Option<u8> {
        let mut byte = [0];
        matches!(self.socket.peek(&mut byte).await, Ok(1)).then_some(byte[0])
    }

    fn written(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.activity.moved();
        }
        self.activity.set_blocked(written.is_pending());
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
        let read = Pin::new(&mut self.socket).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.activity.moved();
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
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, slices);
        self.written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    /// Called when nothing is left to be written.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(context);
        if flushed.is_ready() {
            self.activity.flushes.fetch_add(1, Ordering::Release);
            self.activity.flushed.notify_waiters();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
