//! One connection from its first byte to its last: TLS, HTTP/1.1 or HTTP/2, and the reason why it ends.

use std::{
    future::Future,
    pin::{Pin, pin},
    time::Duration,
};

use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::server::TlsStream;

use super::{
    Shared,
    exchange::{Version, exchanges, note_refused},
    slots::Slot,
    stream::Watched,
};
use crate::serve::metrics::End;

/// Unsent bytes of a response in memory, above which no more are read from its file.
const UNSENT_BYTES: usize = 64 * 1024;
/// Of a request that is not read.
const UNREAD_BYTES: u32 = 64 * 1024;
/// The same where bodies are read: 40 ms away these are 13 MB/s for each of them, and 100 MB/s for all of a connection.
const TAKEN_BYTES: u32 = 512 * 1024;
const TAKEN_BYTES_OF_CONNECTION: u32 = 4 * 1024 * 1024;
/// The header section of an HTTP/2 request. The buffer bounds that of HTTP/1.1.
const HEADER_BYTES: u32 = 16 * 1024;
/// HTTP/2 streams at a time, each with a file and [`UNSENT_BYTES`] at most.
const STREAMS: u32 = 64;
/// HTTP/2 streams that the client reset before they were looked at, and those that we reset for errors: more end the connection.
const RESETS_PENDING: usize = 20;
const RESETS_OF_OURS: usize = 128;
/// How often a connection is checked for silence.
const CHECK_TIME: Duration = Duration::from_secs(1);
/// How long the rest of a request is read after the refusal: else the client might not see it.
const REFUSAL_TIME: Duration = Duration::from_secs(1);
/// The first byte of a TLS handshake.
const HANDSHAKE: u8 = 22;
const NOT_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 65\r\nConnection: close\r\n\r\n\
    This port serves https, not http: begin the URL with https://...\n";

pub async fn serve(socket: TcpStream, slot: Slot, shared: Shared) {
    // Small responses must not wait for each other in Nagle's algorithm.
    let _ = socket.set_nodelay(true);
    let metrics = shared.options.metrics.clone();
    metrics.opened();
    let watched = Watched::new(socket, slot.connection.activity.clone());
    let end = match shared.options.tls {
        None => http1(watched, &slot, &shared).await,
        Some(_) => tls(watched, &slot, &shared).await,
    };
    metrics.left();
    metrics.closed(end);
}

async fn tls(socket: Watched, slot: &Slot, shared: &Shared) -> End {
    let handshake = pin!(handshake(socket, shared));
    let limited = pin!(timeout(shared.options.limits.headers, handshake));
    let stream = match unless_ended(limited, |_| false, slot, shared).await {
        Ok(Ok(Some(stream))) => stream,
        Ok(Ok(None) | Err(_)) => return End::Handshake,
        Err(end) => return end,
    };
    match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => http2(stream, slot, shared).await,
        _ => http1(stream, slot, shared).await,
    }
}

/// `None`: the client does not speak TLS as we do.
async fn handshake(mut socket: Watched, shared: &Shared) -> Option<TlsStream<Watched>> {
    let tls = shared.options.tls.as_ref()?;
    if socket.first_byte().await? != HANDSHAKE {
        let refused = async {
            socket.write_all(NOT_TLS).await.ok()?;
            socket.shutdown().await.ok()?;
            let mut rest = (&mut socket).take(UNREAD_BYTES.into());
            let _ = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
            Some(())
        };
        let _ = timeout(REFUSAL_TIME, refused).await;
        return None;
    }
    tls.acceptor().await.accept(socket).await.ok()
}

async fn http1(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    slot: &Slot,
    shared: &Shared,
) -> End {
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.options.limits.headers)
        .max_buf_size(UNSENT_BYTES)
        .serve_connection(
            TokioIo::new(stream),
            exchanges(Version::One, &slot.connection, shared),
        );
    let stop = |serving: Pin<&mut _>| {
        http1::Connection::graceful_shutdown(serving);
        true
    };
    let ended = unless_ended(pin!(serving), stop, slot, shared).await;
    if let Ok(Err(cause)) = &ended {
        note_refused(cause, &slot.connection, shared);
    }
    ended.map_or_else(|end| end, reason)
}

async fn http2(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    slot: &Slot,
    shared: &Shared,
) -> End {
    slot.connection.activity.count_bodies_only();
    let (of_stream, of_connection) = match shared.options.takes_bodies {
        true => (TAKEN_BYTES, TAKEN_BYTES_OF_CONNECTION),
        false => (UNREAD_BYTES, UNREAD_BYTES),
    };
    let serving = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADER_BYTES)
        .max_send_buf_size(UNSENT_BYTES)
        .max_pending_accept_reset_streams(RESETS_PENDING)
        .max_local_error_reset_streams(RESETS_OF_OURS)
        .initial_stream_window_size(of_stream)
        .initial_connection_window_size(of_connection)
        .serve_connection(
            TokioIo::new(stream),
            exchanges(Version::Two, &slot.connection, shared),
        );
    let stop = |serving: Pin<&mut _>| {
        http2::Connection::graceful_shutdown(serving);
        true
    };
    let ended = unless_ended(pin!(serving), stop, slot, shared).await;
    ended.map_or_else(|end| end, reason)
}

fn reason(served: hyper::Result<()>) -> End {
    match served {
        Ok(()) => End::Done,
        Err(cause) if cause.is_timeout() => End::Headers,
        Err(cause) if cause.is_parse() || cause.is_parse_too_large() => End::Invalid,
        Err(_) => End::Broken,
    }
}

/// Runs a part of a connection's work, until the connection is silent for too long or must make room. `stop`: when the
/// server stops, tells the work, and returns whether it then ends by itself.
async fn unless_ended<F: Future>(
    mut work: Pin<&mut F>,
    stop: impl Fn(Pin<&mut F>) -> bool,
    slot: &Slot,
    shared: &Shared,
) -> Result<F::Output, End> {
    let limits = &shared.options.limits;
    let mut stopped = shared.stopped.clone();
    let mut checks = tokio::time::interval(CHECK_TIME);
    loop {
        tokio::select! {
            outcome = work.as_mut() => return Ok(outcome),
            Ok(()) = stopped.changed() => match stop(work.as_mut()) {
                true => break,
                false => return Err(End::Done),
            },
            () = slot.connection.evicted() => return Err(End::Full),
            _ = checks.tick() => {
                let allowed = match shared.slots.is_full() {
                    true => limits.silence_if_full,
                    false => limits.silence,
                };
                if slot.connection.activity.silence() > allowed {
                    return Err(End::Silence);
                }
            }
        }
    }
    // The caller limits the time.
    Ok(work.await)
}
