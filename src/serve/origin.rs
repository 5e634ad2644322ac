//! A plain web server for a folder: serves the files below it to GET and HEAD.

use std::{
    fs::File,
    future::Future,
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use percent_encoding::percent_decode_str;
use tokio::net::TcpListener;

use crate::{
    disk::files::{Entry, EntryKind, Folder, Stamp},
    engine::blocking,
    format::geometry::ByteRange,
};

use super::{
    connections::{self, Options},
    representation::{Metadata, Representation, respond},
};

/// Bytes that are read from a file at a time.
const READ_BYTES: u64 = 128 * 1024;

/// Serves the files below a folder until `shutdown` is done. Links that lead out of it are not followed.
pub async fn run(
    listener: TcpListener,
    folder: Folder,
    options: Options,
    shutdown: impl Future<Output = ()>,
) {
    let app = Router::new()
        .fallback(serve_file)
        .with_state(Arc::new(folder));
    connections::serve(listener, app, options, shutdown).await;
}

async fn serve_file(State(folder): State<Arc<Folder>>, request: Request) -> Response {
    let (request, _) = request.into_parts();
    if !matches!(request.method, Method::GET | Method::HEAD) {
        let allowed = [(header::ALLOW, "GET, HEAD")];
        return (StatusCode::METHOD_NOT_ALLOWED, allowed).into_response();
    }
    let path = request.uri.path().trim_start_matches('/');
    let Ok(path) = percent_decode_str(path).decode_utf8().map(String::from) else {
        return status_response(StatusCode::BAD_REQUEST);
    };
    match blocking::run(move || folder.open_beneath(path.as_ref())).await {
        Ok(Some((file, entry))) if entry.kind == EntryKind::Regular => {
            respond(&request, ServedFile::new(file, &entry))
        }
        Ok(_) => status_response(StatusCode::NOT_FOUND),
        Err(_) => status_response(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

fn status_response(status: StatusCode) -> Response {
    let mut response = Response::new(Body::from(format!("{status}\n")));
    *response.status_mut() = status;
    response
}

/// An open file, with the metadata that it had when it was opened.
struct ServedFile {
    file: Arc<File>,
    /// The version that the header section describes.
    stamp: Stamp,
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
            stamp: entry.stamp(),
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
        let (file, stamp) = (self.file.clone(), self.stamp);
        stream::try_unfold(bytes.start, move |start| {
            let file = file.clone();
            async move {
                if start == bytes.end {
                    return Ok(None);
                }
                let end = bytes.end.min(start + READ_BYTES);
                let read = move || read(&file, stamp, ByteRange::new(start, end));
                Ok(Some((blocking::run(read).await?, end)))
            }
        })
        .boxed()
    }
}

/// Bytes of this version of the file. A file that was changed is an error: the rest would be of another version than what was sent.
fn read(file: &File, stamp: Stamp, bytes: ByteRange) -> io::Result<Bytes> {
    let mut buffer = vec![0; bytes.length() as usize];
    file.read_exact_at(&mut buffer, bytes.start)?;
    match Entry::of(file, Path::new("")) {
        Ok(now) if now.stamp() == stamp => Ok(buffer.into()),
        _ => Err(io::Error::other("the file changed while it was sent")),
    }
}
