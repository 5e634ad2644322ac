//! Reading the bodies of requests, in bounded memory and time.

use std::time::Duration;

use axum::{
    body::{Body, BodyDataStream},
    http::{StatusCode, header, request::Parts},
};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::policy::upload::Owner;

use super::{problem::Problem, turns::Turns};

/// Of a document: the leaves of 100 parts of 8 MiB take 0.8 MiB, and those of the largest part that is offered with
/// leaves 1 MiB.
pub const BYTES_MAX: usize = 4 << 20;
/// A document of at most so many bytes needs no turn: slow ones keep only long ones waiting.
const SHORT_BYTES_MAX: usize = 16 << 10;
/// How long a document may take to arrive, and before that to get its turn.
const TIME: Duration = Duration::from_secs(30);
/// How long a document may bring nothing.
const SILENCE: Duration = Duration::from_secs(5);

/// How long the rest of a body that is refused is read.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// Why a document was not read.
enum Unread {
    TooLong,
    /// The connection ended before the document did.
    CutOff,
    /// Nothing came, or not all of it, for too long.
    Slow,
    NoTurn,
}

/// Reads a document.
pub async fn document<T: DeserializeOwned>(
    request: &Parts,
    body: Body,
    turns: &Turns,
    owner: &Owner,
) -> Result<T, Problem> {
    let media_type = request.headers.get(header::CONTENT_TYPE);
    let is_json = media_type
        .and_then(|media_type| media_type.to_str().ok())
        .and_then(|media_type| media_type.split(';').next())
        .is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case("application/json"));
    if !is_json {
        // A web page can send other media types without the permission of this server.
        let (status, what) = (
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the body must be application/json",
        );
        return Err(Problem::new(status, "bad_request", what));
    }
    let mut chunks = body.into_data_stream();
    let bytes = match read(&mut chunks, turns, owner).await {
        Ok(bytes) => bytes,
        Err(Unread::TooLong) => {
            drain(chunks).await;
            let what = format!("the body has more than {BYTES_MAX} bytes");
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            return Err(Problem::new(status, "body_too_large", what));
        }
        Err(Unread::CutOff) => {
            return Err(Problem::bad_request("the body ended before its end"));
        }
        Err(Unread::Slow) => {
            let (status, what) = (StatusCode::REQUEST_TIMEOUT, "the body took too long");
            return Err(Problem::new(status, "bad_request", what));
        }
        Err(Unread::NoTurn) => return Err(Problem::busy()),
    };
    serde_json::from_slice(&bytes).map_err(|cause| Problem::bad_request(cause.to_string()))
}

async fn read(
    chunks: &mut BodyDataStream,
    turns: &Turns,
    owner: &Owner,
) -> Result<Vec<u8>, Unread> {
    let mut bytes = Vec::new();
    let is_whole = timeout(TIME, collect(chunks, &mut bytes, SHORT_BYTES_MAX)).await;
    if is_whole.map_err(|_| Unread::Slow)?? {
        return Ok(bytes);
    }
    let turn = timeout(TIME, turns.take(owner)).await;
    let _turn = turn.ok().flatten().ok_or(Unread::NoTurn)?;
    let is_whole = timeout(TIME, collect(chunks, &mut bytes, BYTES_MAX)).await;
    match is_whole.map_err(|_| Unread::Slow)?? {
        true => Ok(bytes),
        false => Err(Unread::TooLong),
    }
}

/// Collects the next bytes; `false`: there are more than so many.
async fn collect(
    chunks: &mut BodyDataStream,
    bytes: &mut Vec<u8>,
    most: usize,
) -> Result<bool, Unread> {
    loop {
        let next = timeout(SILENCE, chunks.next()).await;
        match next.map_err(|_| Unread::Slow)? {
            None => return Ok(bytes.len() <= most),
            Some(chunk) => bytes.extend_from_slice(&chunk.map_err(|_| Unread::CutOff)?),
        }
        if bytes.len() > most {
            return Ok(false);
        }
    }
}

/// Reads what still comes of a body that is refused, for a short time: if the connection was closed before, the system of the client
/// might discard the response.
pub async fn drain(mut chunks: BodyDataStream) {
    let read = async { while let Some(Ok(_)) = chunks.next().await {} };
    let _ = timeout(DRAIN_TIME, read).await;
}
