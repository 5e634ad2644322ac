//! A plain web server for a folder: serves the files below it to GET and HEAD.

use std::{
    fs::File,
    future::Future,
    io,
    os::unix::fs::FileExt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
    serve::ListenerExt,
};
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use percent_encoding::percent_decode_str;
use tokio::net::TcpListener;

use crate::{
    disk::files::{Entry, EntryKind, Folder},
    engine::blocking,
    format::geometry::ByteRange,
};

use super::representation::{Metadata, Representation, respond};

/// Bytes that are read from a file at a time.
const READ_BYTES: u64 = 256 * 1024;
/// How long open responses may continue after the stop.
const SHUTDOWN_TIME: Duration = Duration::from_secs(2);

/// Serves the files below a folder until `shutdown` is done. Links that lead out of it are not followed.
pub async fn run(
    listener: TcpListener,
    folder: Folder,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let app = Router::new()
        .fallback(serve_file)
        .with_state(Arc::new(folder));
    let (stopped, stop) = tokio::sync::oneshot::channel();
    let graceful = async move {
        shutdown.await;
        let _ = stopped.send(());
    };
    // Small responses must not wait for each other in Nagle's algorithm.
    let listener = listener.tap_io(|connection| {
        let _ = connection.set_nodelay(true);
    });
    let server = axum::serve(listener, app).with_graceful_shutdown(graceful);
    tokio::select! {
        outcome = server => outcome,
        () = async { let _ = stop.await; tokio::time::sleep(SHUTDOWN_TIME).await } => Ok(()),
    }
}

async fn serve_file(State(folder): State<Arc<Folder>>, request: Request) -> Response {
    let (request, _) = request.into_parts();
    if !matches!(request.method, Method::GET | Method::HEAD) {
        let allowed = [(header::ALLOW, "GET, HEAD")];
        return (StatusCode::METHOD_NOT_ALLOWED, allowed).into_response();
    }
    let path = request.uri.path().trim_start_matches('/');
    let Ok(path) = percent_decode_str(path).decode_utf8().map(String::from) else {
        return plain(StatusCode::BAD_REQUEST);
    };
    match blocking::run(move || folder.open_beneath(path.as_ref())).await {
        Ok(Some((file, entry))) if entry.kind == EntryKind::Regular => {
            respond(&request, ServedFile::new(file, &entry))
        }
        Ok(_) => plain(StatusCode::NOT_FOUND),
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

fn plain(status: StatusCode) -> Response {
    let mut response = Response::new(Body::from(format!("{status}\n")));
    *response.status_mut() = status;
    response
}

/// An open file, with the metadata that it had when it was opened.
struct ServedFile {
    file: Arc<File>,
    metadata: Metadata,
}

impl ServedFile {
    fn new(file: File, entry: &Entry) -> ServedFile {
        let (seconds, nanoseconds) = entry.changed;
        let changed = Duration::from_secs(seconds.max(0) as u64);
        // Changes whenever the file does.
        let etag = format!(
            "\"{:x}-{:x}-{seconds:x}.{nanoseconds:x}\"",
            entry.inode, entry.length
        );
        ServedFile {
            file: Arc::new(file),
            metadata: Metadata {
                length: entry.length,
                etag,
                last_modified: Some(SystemTime::UNIX_EPOCH + changed),
                media_type: HeaderValue::from_static("application/octet-stream"),
            },
        }
    }
}

impl Representation for ServedFile {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn body(&self, bytes: ByteRange) -> BoxStream<'static, io::Result<Bytes>> {
        let file = self.file.clone();
        stream::try_unfold(bytes.start, move |start| {
            let file = file.clone();
            async move {
                if start == bytes.end {
                    return Ok(None);
                }
                let end = bytes.end.min(start + READ_BYTES);
                let read = move || read(&file, ByteRange::new(start, end));
                Ok(Some((blocking::run(read).await?, end)))
            }
        })
        .boxed()
    }
}

/// A file that became shorter is an error, because the header section declared its length.
fn read(file: &File, bytes: ByteRange) -> io::Result<Bytes> {
    let mut buffer = vec![0; bytes.length() as usize];
    file.read_exact_at(&mut buffer, bytes.start)?;
    Ok(buffer.into())
}
