//! Reading the bodies of requests, in bounded memory and time.

use std::time::Duration;

use axum::{
    body::{Body, BodyDataStream},
    http::{StatusCode, header, request::Parts},
};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use tokio::{sync::Semaphore, time::timeout};

use super::problem::Problem;

/// Of a document: the leaves of 100 parts of 8 MiB take 0.8 MiB, and those of the largest part that is offered with
/// leaves 1 MiB.
pub const BYTES_MAX: usize = 4 << 20;
/// How long a document may take to arrive, and to get its turn.
const TIME: Duration = Duration::from_secs(30);

/// How long the rest of a body that is refused is read.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// Reads a document.
pub async fn document<T: DeserializeOwned>(
    request: &Parts,
    body: Body,
    turns: &Semaphore,
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
    let read = async {
        let _turn = turns.acquire().await;
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.next().await {
            bytes.extend_from_slice(&chunk.ok()?);
            if bytes.len() > BYTES_MAX {
                return None;
            }
        }
        Some(bytes)
    };
    let bytes = match timeout(TIME, read).await {
        Ok(Some(bytes)) => bytes,
        Ok(None) => {
            drain(chunks).await;
            let what = format!("the body has more than {BYTES_MAX} bytes, or did not come whole");
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            return Err(Problem::new(status, "body_too_large", what));
        }
        Err(_) => {
            let (status, what) = (StatusCode::REQUEST_TIMEOUT, "the body took too long");
            return Err(Problem::new(status, "bad_request", what));
        }
    };
    serde_json::from_slice(&bytes).map_err(|cause| Problem::bad_request(cause.to_string()))
}

/// Reads what still comes of a body that is refused, for a short time: if the connection was closed before, the system of the client
/// might discard the response.
pub async fn drain(mut chunks: BodyDataStream) {
    let read = async { while let Some(Ok(_)) = chunks.next().await {} };
    let _ = timeout(DRAIN_TIME, read).await;
}
