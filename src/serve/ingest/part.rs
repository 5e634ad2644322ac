//! The request that sends the bytes of a part.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    http::{StatusCode, header, request::Parts},
    response::Response,
};
use futures_util::StreamExt;
use tokio::time::{Instant, timeout};

use crate::{
    engine::{
        ingest::IngestError,
        storage::{PartWriter, StorageError},
    },
    format::upload::SessionId,
    serve::connections::Connection,
};

use super::{
    Uploads,
    counts::PartEnd,
    problem::Problem,
    signed::{Allowed, Denied},
};

/// A part of which no byte comes for so long ends; below the limit of the connection, so that its blocks are kept in order.
const SILENCE: Duration = Duration::from_secs(30);
/// A part that is slower than this ends too, whatever comes of it: 16 KiB in each minute.
const SLOW_TIME: Duration = Duration::from_secs(60);
const SLOW_BYTES: u64 = 16 << 10;
/// How often a session is noted as used while a part arrives.
const TOUCH_TIME: Duration = Duration::from_secs(60);

/// Why not all of a part was stored.
enum Failed {
    Ingest(IngestError),
    /// The client does not say how much comes.
    NoLength,
    /// More came than was said.
    TooLong,
    /// Less came than was said.
    TooShort,
    /// Nothing came, or too little, for too long.
    Stalled,
}

impl From<IngestError> for Failed {
    fn from(cause: IngestError) -> Failed {
        Failed::Ingest(cause)
    }
}

impl From<StorageError> for Failed {
    fn from(cause: StorageError) -> Failed {
        Failed::Ingest(cause.into())
    }
}

/// Takes a part through a signed URL.
pub async fn receive(
    uploads: &Uploads,
    request: &Parts,
    body: Body,
    id: SessionId,
    index: u32,
) -> Result<Response, Problem> {
    let now_s = uploads.ingest.now().unix_s;
    let allowed = uploads.signer.check(request, index, now_s);
    let allowed = allowed.map_err(|denied| {
        let (code, what) = match denied {
            Denied::Signature => ("bad_signature", "this URL was not made by this server"),
            Denied::Expired => (
                "expired_url",
                "the time of this URL is over; request another one",
            ),
        };
        Problem::new(StatusCode::FORBIDDEN, code, what)
    })?;
    let Ok(_turn) = uploads.parts.try_acquire() else {
        return Err(Problem::busy());
    };
    let began = Instant::now();
    let mut arrived = 0;
    let connection = request.extensions.get::<Connection>();
    let received = uploads
        .take(request, body, id, &allowed, connection, &mut arrived)
        .await;
    let end = match &received {
        Ok(()) => PartEnd::Stored,
        Err(Failed::Ingest(IngestError::Storage(StorageError::PartDiffers { .. }))) => {
            PartEnd::Mismatch
        }
        Err(_) => PartEnd::Error,
    };
    uploads.counts.note_part(end, arrived, began.elapsed());
    match received {
        Ok(()) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            Ok(response)
        }
        Err(failed) => Err(problem(failed, &allowed)),
    }
}

fn problem(failed: Failed, allowed: &Allowed) -> Problem {
    let expected = allowed.part.length.saturating_sub(allowed.from);
    let (status, code, what) = match failed {
        Failed::Ingest(cause) => return cause.into(),
        Failed::NoLength => (
            StatusCode::LENGTH_REQUIRED,
            "bad_request",
            "the field Content-Length is missing",
        ),
        Failed::TooLong => (
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            "the body has more bytes",
        ),
        Failed::TooShort => (
            StatusCode::BAD_REQUEST,
            "bad_request",
            "the body has fewer bytes",
        ),
        Failed::Stalled => (
            StatusCode::REQUEST_TIMEOUT,
            "bad_request",
            "the body took too long",
        ),
    };
    let what = format!("{what}: this URL is for {expected} bytes; blocks that came whole are kept");
    Problem::new(status, code, what)
}

impl Uploads {
    async fn take(
        &self,
        request: &Parts,
        body: Body,
        id: SessionId,
        allowed: &Allowed,
        connection: Option<&Connection>,
        arrived: &mut u64,
    ) -> Result<(), Failed> {
        let Allowed { part, from } = allowed;
        let expected = part.length.checked_sub(*from).ok_or(Failed::TooLong)?;
        match declared_length(request) {
            None => return Err(Failed::NoLength),
            Some(length) if length > expected => return Err(Failed::TooLong),
            Some(length) if length < expected => return Err(Failed::TooShort),
            Some(_) => (),
        }
        let mut writer = self.ingest.receive(id, part, *from).await?;
        let came = self
            .copy(body, id, &mut writer, expected, connection, arrived)
            .await;
        match came {
            Ok(()) => Ok(waiting(connection, writer.finish()).await?),
            Err(failed) => {
                if matches!(failed, Failed::TooShort | Failed::Stalled) {
                    // It writes what came, and proves nothing.
                    let _ = waiting(connection, writer.finish()).await;
                }
                Err(failed)
            }
        }
    }

    /// Hands the bytes of a body to a writer.
    async fn copy(
        &self,
        body: Body,
        id: SessionId,
        writer: &mut Box<dyn PartWriter>,
        expected: u64,
        connection: Option<&Connection>,
        arrived: &mut u64,
    ) -> Result<(), Failed> {
        let mut chunks = body.into_data_stream();
        let mut touched = Instant::now();
        let (mut since, mut arrived_since) = (Instant::now(), 0);
        while let Some(chunk) = timeout(SILENCE, chunks.next())
            .await
            .map_err(|_| Failed::Stalled)?
        {
            // The connection broke.
            let chunk: Bytes = chunk.map_err(|_| Failed::TooShort)?;
            if let Some(connection) = connection {
                connection.note();
            }
            *arrived += chunk.len() as u64;
            arrived_since += chunk.len() as u64;
            if *arrived > expected {
                return Err(Failed::TooLong);
            }
            waiting(connection, writer.write(chunk)).await?;
            if since.elapsed() >= SLOW_TIME {
                if arrived_since < SLOW_BYTES {
                    return Err(Failed::Stalled);
                }
                (since, arrived_since) = (Instant::now(), 0);
            }
            if touched.elapsed() >= TOUCH_TIME {
                self.ingest.touch(id).await?;
                touched = Instant::now();
            }
        }
        match *arrived == expected {
            true => Ok(()),
            false => Err(Failed::TooShort),
        }
    }
}

/// The time of our own work is no silence of the client.
async fn waiting<T>(connection: Option<&Connection>, work: impl Future<Output = T>) -> T {
    match connection {
        Some(connection) => connection.during(work).await,
        None => work.await,
    }
}

/// What the client says of the length of the body.
fn declared_length(request: &Parts) -> Option<u64> {
    let length = request.headers.get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}
