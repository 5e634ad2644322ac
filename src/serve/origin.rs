//! A folder as a plain web server: GET and HEAD with ranges, strong entity tags and conditions.

use std::{
    future::Future,
    io::{self, SeekFrom},
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, response},
    response::Response,
    serve::ListenerExt,
};
use percent_encoding::percent_decode_str;
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
    net::TcpListener,
};
use tokio_util::io::ReaderStream;

use crate::{
    disk::files::{Entry, EntryKind, Folder},
    engine::blocking,
    format::geometry::ByteRange,
};

use super::{
    multipart::Parts,
    range::{Wanted, wanted},
};

/// Bytes that are read from a file at a time.
const READ_BYTES: usize = 256 * 1024;
/// How long open answers may go on after the stop.
const SHUTDOWN_TIME: Duration = Duration::from_secs(2);

/// Serves the files below a folder until `shutdown` is done. Links that lead out of it are not followed.
pub async fn run(
    listener: TcpListener,
    folder: Folder,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let app = Router::new().fallback(answer).with_state(Arc::new(folder));
    let (stopped, stop) = tokio::sync::oneshot::channel();
    let graceful = async move {
        shutdown.await;
        let _ = stopped.send(());
    };
    // Small answers to small requests must not wait for each other.
    let listener = listener.tap_io(|connection| {
        let _ = connection.set_nodelay(true);
    });
    let server = axum::serve(listener, app).with_graceful_shutdown(graceful);
    tokio::select! {
        outcome = server => outcome,
        () = async { let _ = stop.await; tokio::time::sleep(SHUTDOWN_TIME).await } => Ok(()),
    }
}

async fn answer(State(folder): State<Arc<Folder>>, request: Request) -> Response {
    let plain = |status: StatusCode| {
        response(status)
            .body(Body::from(format!("{status}\n")))
            .unwrap_or_default()
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let builder = response(StatusCode::METHOD_NOT_ALLOWED).header(header::ALLOW, "GET, HEAD");
        return builder.body(Body::empty()).unwrap_or_default();
    }
    let Ok(path) = percent_decode_str(request.uri().path().trim_start_matches('/'))
        .decode_utf8()
        .map(String::from)
    else {
        return plain(StatusCode::BAD_REQUEST);
    };
    let opened = blocking::run(move || folder.open_beneath(path.as_ref())).await;
    let (file, entry) = match opened {
        Ok(Some((file, entry))) if entry.kind == EntryKind::Regular => (file, entry),
        Ok(_) => return plain(StatusCode::NOT_FOUND),
        Err(_) => return plain(StatusCode::INTERNAL_SERVER_ERROR),
    };
    file_answer(
        File::from_std(file),
        entry,
        request.method(),
        request.headers(),
    )
    .await
    .unwrap_or_else(|_| plain(StatusCode::INTERNAL_SERVER_ERROR))
}

fn response(status: StatusCode) -> response::Builder {
    Response::builder().status(status)
}

async fn file_answer(
    mut file: File,
    entry: Entry,
    method: &Method,
    headers: &HeaderMap,
) -> io::Result<Response> {
    let etag = etag(&entry);
    let modified = httpdate::fmt_http_date(
        SystemTime::UNIX_EPOCH + Duration::from_secs(entry.changed.0.max(0) as u64),
    );
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let base = |status| {
        response(status)
            .header(header::ETAG, &etag)
            .header(header::LAST_MODIFIED, &modified)
            .header(header::ACCEPT_RANGES, "bytes")
    };
    let empty = |status| base(status).body(Body::empty()).map_err(io::Error::other);
    if text(header::IF_MATCH).is_some_and(|tags| !matches_tag(tags, &etag)) {
        return empty(StatusCode::PRECONDITION_FAILED);
    }
    if text(header::IF_NONE_MATCH).is_some_and(|tags| matches_tag(tags, &etag)) {
        return empty(StatusCode::NOT_MODIFIED);
    }
    // Only a strong tag, or the very date, lets a range of another version be told apart.
    let same =
        text(header::IF_RANGE).is_none_or(|validator| validator == etag || validator == modified);
    let range = if same {
        wanted(text(header::RANGE), entry.length)
    } else {
        Wanted::Whole
    };
    let (status, bytes) = match range {
        Wanted::Whole => (StatusCode::OK, ByteRange::new(0, entry.length)),
        Wanted::Part(bytes) => (StatusCode::PARTIAL_CONTENT, bytes),
        Wanted::Parts(parts) => {
            let parts = Parts::new(parts, entry.length);
            let builder = base(StatusCode::PARTIAL_CONTENT)
                .header(header::CONTENT_TYPE, parts.content_type())
                .header(header::CONTENT_LENGTH, parts.length());
            let body = match *method == Method::HEAD {
                true => Body::empty(),
                false => parts.body(file),
            };
            return builder.body(body).map_err(io::Error::other);
        }
        Wanted::Unsatisfiable => {
            let builder = base(StatusCode::RANGE_NOT_SATISFIABLE);
            let builder =
                builder.header(header::CONTENT_RANGE, format!("bytes */{}", entry.length));
            return builder.body(Body::empty()).map_err(io::Error::other);
        }
    };
    let mut builder = base(status)
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONTENT_LENGTH, bytes.length());
    if status == StatusCode::PARTIAL_CONTENT {
        builder = builder.header(
            header::CONTENT_RANGE,
            format!("bytes {bytes}/{}", entry.length),
        );
    }
    let body = match *method == Method::HEAD {
        true => Body::empty(),
        false => {
            file.seek(SeekFrom::Start(bytes.start)).await?;
            Body::from_stream(ReaderStream::with_capacity(
                file.take(bytes.length()),
                READ_BYTES,
            ))
        }
    };
    builder.body(body).map_err(io::Error::other)
}

/// Changes whenever the file does.
fn etag(entry: &Entry) -> String {
    let (seconds, nanoseconds) = entry.changed;
    format!(
        "\"{:x}-{:x}-{seconds:x}.{nanoseconds:x}\"",
        entry.inode, entry.length
    )
}

/// Whether a list of tags has this one, or `*`.
fn matches_tag(tags: &str, etag: &str) -> bool {
    tags.split(',')
        .map(str::trim)
        .any(|tag| tag == "*" || tag == etag)
}
