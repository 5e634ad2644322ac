//! The connections of a server: how many there are at a time, which one makes room for another, and how all of them end.

mod exchange;
mod listen;
mod one;
mod slots;
mod stream;

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
};

use crate::disk::machine;

use super::{
    access::AccessLog,
    metrics::{End, Metrics},
    tls::Tls,
};

pub use exchange::Reason;
pub use listen::listen;
use slots::{Slot, Slots};
pub use stream::Connection;

/// The limits on connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time. A new one takes the place of one without a request, or waits.
    pub connections: usize,
    /// How long a TLS handshake, and the header section of a request, may take.
    pub headers: Duration,
    /// A connection on which no byte moves for so long is closed: it is idle, or its client does not read.
    pub silence: Duration,
    /// The same while another connection waits for its place.
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

/// What the connections of a server have besides the application.
#[derive(Clone, Default)]
pub struct Options {
    /// See there.
    pub limits: Limits,
    /// `None`: plain HTTP/1.1.
    pub tls: Option<Arc<Tls>>,
    /// Takes a line for each response.
    pub log: Option<Arc<dyn AccessLog>>,
    /// Counts what happens.
    pub metrics: Arc<Metrics>,
    /// Whether requests have bodies that are read: then more of them is on its way at a time.
    pub takes_bodies: bool,
    /// Whether `/metrics` and `/healthz` are served where the application has nothing.
    pub status_paths: bool,
}

impl From<Limits> for Options {
    fn from(limits: Limits) -> Options {
        Options {
            limits,
            ..Options::default()
        }
    }
}

/// Descriptors that are not for connections: standard streams, the listener, the folder, the log, the runtime's own.
const DESCRIPTORS_KEPT: u64 = 32;
/// A connection has its socket, the file that it sends, and its share of the files of further HTTP/2 streams.
const DESCRIPTORS_PER_CONNECTION: u64 = 3;
const CONNECTIONS_MAX: u64 = 4096;
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
    options: impl Into<Options>,
    shutdown: impl Future<Output = ()>,
) {
    let options = Arc::new(options.into());
    let (stop, stopped) = watch::channel(false);
    let slots = Slots::new(options.limits.connections);
    let shared = Shared {
        streams: Arc::new(Semaphore::new(options.limits.connections)),
        app,
        options,
        slots,
        stopped,
    };
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            (connection, slot) = next(&listener, &shared) => {
                connections.spawn(one::serve(connection, slot, shared.clone()));
            }
        }
        // Drops the results of connections that ended.
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let _ = stop.send(true);
    let ended = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(shared.options.limits.shutdown, ended).await;
    // What has not ended then is cut off.
    connections.shutdown().await;
}

/// The next connection for which there is a place.
async fn next(listener: &TcpListener, shared: &Shared) -> (TcpStream, Slot) {
    loop {
        let Ok((connection, client)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let metrics = &shared.options.metrics;
        metrics.accepted();
        match shared.slots.admit(client.ip()).await {
            Some(slot) => return (connection, slot),
            None => metrics.closed(End::Share),
        }
    }
}

/// What all connections share.
#[derive(Clone)]
struct Shared {
    app: Router,
    options: Arc<Options>,
    slots: Arc<Slots>,
    /// For HTTP/2 streams beside the first one of their connection, so that open files and memory stay bounded.
    streams: Arc<Semaphore>,
    stopped: watch::Receiver<bool>,
}

#[cfg(test)]
mod tests {
    use axum::{Extension, routing::get};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn wait() {
        tokio::time::sleep(Duration::from_millis(2500)).await;
    }

    /// The server's own waiting is no silence of its client.
    #[tokio::test]
    async fn a_late_response_is_no_silence() {
        let late = |Extension(connection): Extension<Connection>| async move {
            connection.during(wait()).await;
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
