//! Reading an object while it is uploaded (upload.md, "A growing object").

use std::{io, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Redirect, Response},
};
use futures_util::{StreamExt, stream};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    engine::ingest::{Growing, IngestError},
    format::{
        geometry::{BlockRange, ByteRange},
        ingest,
        upload::SessionId,
    },
    policy::upload::{Owner, State},
    serve::{
        media_types,
        range::{self, Wanted},
    },
};

use super::{Uploads, documents, problem::Problem, requests};

/// How long a request waits for more bytes.
const WAIT: Duration = Duration::from_secs(5);
/// How often the session is looked at meanwhile: a server beside this one may have changed it.
const EVERY: Duration = Duration::from_millis(250);
/// Bytes that are read at a time.
const CHUNK: u64 = 1 << 20;
/// The most leaves in one response: 4 MiB.
const LEAVES_MAX: u64 = 128 * 1024;
/// The bytes of a leaf.
const LEAF: u64 = 32;

/// What is known of the object; with `beyond` in the query, as soon as there are more bytes than that.
pub async fn status(
    uploads: &Uploads,
    request: &Parts,
    owner: &Owner,
    id: SessionId,
) -> Result<Response, Problem> {
    let query = request.uri.query().unwrap_or_default();
    let beyond = match documents::in_query(query, "beyond") {
        Some(text) => Some(text.parse::<u64>().map_err(|_| {
            let what = "beyond is a number of bytes";
            Problem::bad_request(what)
        })?),
        None => None,
    };
    let until = Instant::now() + WAIT;
    let mut growing = uploads.ingest.growing(owner, id).await?;
    while growing.is_live()
        && beyond.is_some_and(|beyond| growing.length <= beyond)
        && Instant::now() < until
    {
        sleep(EVERY).await;
        let version = growing.session.version;
        if uploads.ingest.has_changed(owner, id, version).await? {
            growing = uploads.ingest.growing(owner, id).await?;
        }
    }
    let session = &growing.session;
    let full = documents::status(session, None, 0);
    let document = json!({
        "id": full["id"],
        "name": full["name"],
        "state": full["state"],
        "block_size": full["block_size"],
        "proven": growing.length,
        "object": documents::growing_path(session),
        "leaves": format!("{}/{id}/leaves", ingest::PATH),
        "length": full["length"],
        "root": full["root"],
        "url": full["url"],
    });
    Ok(requests::json(StatusCode::OK, &document))
}

/// The leaves of blocks that are proven.
pub async fn leaves(
    uploads: &Uploads,
    request: &Parts,
    owner: &Owner,
    id: SessionId,
) -> Result<Response, Problem> {
    let growing = uploads.ingest.growing(owner, id).await?;
    let block_size = growing.session.declared.plan.block_size();
    let blocks = match growing.length {
        0 => 0,
        length => block_size.blocks_for(length),
    };
    let (mut bytes, is_part) = wanted(request, blocks * LEAF)?;
    bytes.end = bytes.end.min(bytes.start + LEAVES_MAX * LEAF);
    let (first, end) = (bytes.start / LEAF, bytes.end.div_ceil(LEAF));
    let range = BlockRange::new(first as u32, end as u32);
    let leaves = uploads.ingest.growing_leaves(&growing, range).await?;
    let all = leaves.concat();
    let from = (bytes.start - first * LEAF) as usize;
    let some = all.get(from..from + bytes.length() as usize);
    let some = some.map(<[u8]>::to_vec).ok_or_else(Problem::busy)?;
    let media_type = HeaderValue::from_static("application/octet-stream");
    let body = match request.method == Method::HEAD {
        true => Body::empty(),
        false => some.into(),
    };
    Ok(part(bytes, is_part, media_type, body))
}

/// Bytes that are proven. Once it is published, the object is elsewhere.
pub async fn object(
    uploads: &Arc<Uploads>,
    request: &Parts,
    owner: &Owner,
    id: SessionId,
    name: &str,
) -> Result<Response, Problem> {
    let growing = uploads.ingest.growing(owner, id).await?;
    if name != documents::last_segment(&growing.session) {
        return Err(IngestError::NoSession.into());
    }
    if let State::Done(_) = growing.session.state {
        let status = documents::status(&growing.session, None, 0);
        let url = status["url"].as_str().unwrap_or_default();
        return Ok(Redirect::temporary(url).into_response());
    }
    let (bytes, is_part) = wanted(request, growing.length)?;
    let media_type = media_types::of(name);
    let first = ByteRange::new(bytes.start, bytes.end.min(bytes.start + CHUNK));
    // The first bytes show whether it can be read at all.
    let first = uploads.ingest.growing_bytes(&growing, first).await?;
    let body = match request.method == Method::HEAD {
        true => Body::empty(),
        false => body(uploads.clone(), growing, bytes, first),
    };
    Ok(part(bytes, is_part, media_type, body))
}

fn body(uploads: Arc<Uploads>, growing: Growing, bytes: ByteRange, first: Bytes) -> Body {
    let at = bytes.start + first.len() as u64;
    let rest = stream::unfold(
        (uploads, growing, at),
        move |(uploads, growing, at)| async move {
            if at >= bytes.end {
                return None;
            }
            let range = ByteRange::new(at, bytes.end.min(at + CHUNK));
            let read = uploads.ingest.growing_bytes(&growing, range).await;
            // A connection that breaks tells the client to begin again.
            let read = read.map_err(io::Error::other);
            Some((read, (uploads, growing, range.end)))
        },
    );
    let first = stream::once(async move { Ok::<Bytes, io::Error>(first) });
    Body::from_stream(first.chain(rest))
}

/// The bytes that a request wants of so many, and whether it has a range.
fn wanted(request: &Parts, length: u64) -> Result<(ByteRange, bool), Problem> {
    let range = request.headers.get(header::RANGE);
    match range::wanted(range.and_then(|range| range.to_str().ok()), length) {
        Wanted::Part(bytes) => Ok((bytes, true)),
        Wanted::Parts(parts) => Ok((parts[0], true)),
        Wanted::Whole => Ok((ByteRange::new(0, length), false)),
        Wanted::Unsatisfiable => {
            let what = format!("there are {length} bytes now");
            let status = StatusCode::RANGE_NOT_SATISFIABLE;
            Err(Problem::new(status, "bad_range", what))
        }
    }
}

fn part(bytes: ByteRange, is_part: bool, media_type: HeaderValue, body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, media_type);
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_LENGTH, bytes.length().into());
    if is_part {
        let range = format!("bytes {}-{}/*", bytes.start, bytes.end.saturating_sub(1));
        let range = HeaderValue::try_from(range).expect("digits are a field value");
        headers.insert(header::CONTENT_RANGE, range);
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    response
}
