//! The request that sends the bytes of a part.

use std::time::Duration;

use axum::{
    body::{Body, BodyDataStream, Bytes},
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
    Uploads, bodies,
    counts::PartEnd,
    problem::Problem,
    signed::{Allowed, Denied, Rest},
};

/// How slow a client may send a part.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// A part of which no byte comes for so long ends.
    pub silence: Duration,
    /// A part ends too if it has not this many bytes in each of these times.
    pub least_bytes: u64,
    /// See there.
    pub least_time: Duration,
}

impl Default for Pace {
    /// The silence is shorter than that of a connection, so that what came is kept in order.
    fn default() -> Pace {
        Pace {
            silence: Duration::from_secs(30),
            least_bytes: 16 << 10,
            least_time: Duration::from_secs(60),
        }
    }
}

/// How often a session is noted as used while a part arrives.
pub const TOUCH_TIME: Duration = Duration::from_secs(60);

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
    let mut chunks = body.into_data_stream();
    let received = uploads.receive_all(request, &mut chunks, id, index).await;
    // A client that waits for permission (RFC 9110, 10.1.1) has sent nothing.
    if received.is_err() && !request.headers.contains_key(header::EXPECT) {
        bodies::drain(chunks).await;
    }
    received
}

impl Uploads {
    async fn receive_all(
        &self,
        request: &Parts,
        chunks: &mut BodyDataStream,
        id: SessionId,
        index: u32,
    ) -> Result<Response, Problem> {
        let now_s = self.ingest.now().unix_s;
        let allowed = self.signer.check(request, index, now_s);
        let allowed = allowed.map_err(denied)?;
        let owner = self.ingest.owner_of(id).await?;
        let turn = self.intake.parts.try_take(&owner);
        let _turn = turn.ok_or_else(Problem::busy)?;
        let began = Instant::now();
        let mut arrived = 0;
        let received = self.take(request, chunks, id, &allowed, &mut arrived).await;
        let end = match &received {
            Ok(()) => PartEnd::Stored,
            Err(Failed::Ingest(IngestError::Storage(StorageError::PartDiffers { .. }))) => {
                PartEnd::Mismatch
            }
            Err(_) => PartEnd::Error,
        };
        self.counts.note_part(end, arrived, began.elapsed());
        match received {
            Ok(()) => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::NO_CONTENT;
                Ok(response)
            }
            Err(failed) => Err(problem(failed, &allowed)),
        }
    }
}

/// Why a URL that was signed is refused.
pub fn denied(denied: Denied) -> Problem {
    let (code, what) = match denied {
        Denied::Signature => ("bad_signature", "this URL was not made by this server"),
        Denied::Expired => (
            "expired_url",
            "the time of this URL is over; request another one",
        ),
    };
    Problem::new(StatusCode::FORBIDDEN, code, what)
}

fn problem(failed: Failed, allowed: &Allowed) -> Problem {
    let expected = allowed.rest.length(&allowed.part).unwrap_or_default();
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
        chunks: &mut BodyDataStream,
        id: SessionId,
        allowed: &Allowed,
        arrived: &mut u64,
    ) -> Result<(), Failed> {
        let connection = request.extensions.get::<Connection>();
        let Allowed { part, rest } = allowed;
        let expected = rest.length(part).ok_or(Failed::TooLong)?;
        match declared_length(request) {
            None => return Err(Failed::NoLength),
            Some(length) if length > expected => return Err(Failed::TooLong),
            Some(length) if length < expected => return Err(Failed::TooShort),
            Some(_) => (),
        }
        let mut writer = match rest {
            Rest::From(from) => self.ingest.receive(id, part, *from).await?,
            Rest::Ranges(send) => self.ingest.receive_ranges(id, part, send).await?,
        };
        let came = self
            .copy(chunks, id, &mut writer, expected, connection, arrived)
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
        chunks: &mut BodyDataStream,
        id: SessionId,
        writer: &mut Box<dyn PartWriter>,
        expected: u64,
        connection: Option<&Connection>,
        arrived: &mut u64,
    ) -> Result<(), Failed> {
        let mut touched = Instant::now();
        let (mut since, mut arrived_since) = (Instant::now(), 0);
        let pace = self.intake.pace;
        loop {
            let next = timeout(pace.silence, chunks.next()).await;
            let Some(chunk) = next.map_err(|_| Failed::Stalled)? else {
                break;
            };
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
            if since.elapsed() >= pace.least_time {
                if arrived_since < pace.least_bytes {
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
pub async fn waiting<T>(connection: Option<&Connection>, work: impl Future<Output = T>) -> T {
    match connection {
        Some(connection) => connection.during(work).await,
        None => work.await,
    }
}

/// What the client says of the length of the body.
pub fn declared_length(request: &Parts) -> Option<u64> {
    let length = request.headers.get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}
