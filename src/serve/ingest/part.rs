//! The request that sends the bytes of a part.

use axum::{
    body::Body,
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use tokio::time::Instant;

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
    arrivals::{Arrivals, Source, declared_length, waiting},
    counts::PartEnd,
    cut::{self, Cut},
    problem::Problem,
    signed::{Allowed, Denied, Rest},
};

/// Takes a part through a signed URL.
pub async fn receive(
    uploads: &Uploads,
    request: &Parts,
    body: Body,
    id: SessionId,
    index: u32,
) -> Result<Response, Problem> {
    let source = Source::Raw(body.into_data_stream());
    let mut arrivals = Arrivals::new(uploads, id, source, request);
    let received = uploads.receive(request, &mut arrivals, id, index).await;
    if received.is_err() {
        arrivals.drain(request).await;
    }
    received
}

impl Uploads {
    async fn receive(
        &self,
        request: &Parts,
        arrivals: &mut Arrivals<'_>,
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
        let received = self.take(request, arrivals, id, &allowed).await;
        let end = match &received {
            Ok(()) => PartEnd::Stored,
            Err(Cut::Ingest(IngestError::Storage(StorageError::PartDiffers { .. }))) => {
                PartEnd::Mismatch
            }
            Err(_) => PartEnd::Error,
        };
        self.counts
            .note_part(end, arrivals.arrived, began.elapsed());
        received.map_err(|cut| problem(cut, &allowed))?;
        Ok(StatusCode::NO_CONTENT.into_response())
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

fn problem(cut: Cut, allowed: &Allowed) -> Problem {
    let what = match &cut {
        Cut::NoLength => "the field Content-Length is missing",
        Cut::TooLong => "the body has more bytes",
        Cut::TooShort => "the body has fewer bytes",
        Cut::Stalled => "the body took too long",
        _ => return cut::problem(cut),
    };
    let expected = allowed.rest.length(&allowed.part).unwrap_or_default();
    let what = format!("{what}: this URL is for {expected} bytes; blocks that came whole are kept");
    cut::problem(cut).with_detail(what)
}

impl Uploads {
    async fn take(
        &self,
        request: &Parts,
        arrivals: &mut Arrivals<'_>,
        id: SessionId,
        allowed: &Allowed,
    ) -> Result<(), Cut> {
        let connection = request.extensions.get::<Connection>();
        let Allowed { part, rest } = allowed;
        let expected = rest.length(part).ok_or(Cut::TooLong)?;
        match declared_length(request) {
            None => return Err(Cut::NoLength),
            Some(length) if length > expected => return Err(Cut::TooLong),
            Some(length) if length < expected => return Err(Cut::TooShort),
            Some(_) => (),
        }
        let mut writer = match rest {
            Rest::From(from) => self.ingest.receive(id, part, *from).await?,
            Rest::Ranges(send) => self.ingest.receive_ranges(id, part, send).await?,
        };
        let came = copy(arrivals, &mut writer, expected, connection).await;
        match came {
            Ok(()) => Ok(waiting(connection, writer.finish()).await?),
            Err(cut) => {
                if matches!(cut, Cut::TooShort | Cut::Stalled) {
                    // It writes what came, and proves nothing.
                    let _ = waiting(connection, writer.finish()).await;
                }
                Err(cut)
            }
        }
    }
}

/// Hands the bytes of a body to a writer.
async fn copy(
    arrivals: &mut Arrivals<'_>,
    writer: &mut Box<dyn PartWriter>,
    expected: u64,
    connection: Option<&Connection>,
) -> Result<(), Cut> {
    while let Some(chunk) = arrivals.next().await? {
        if arrivals.arrived > expected {
            return Err(Cut::TooLong);
        }
        waiting(connection, writer.write(chunk)).await?;
    }
    match arrivals.arrived == expected {
        true => Ok(()),
        false => Err(Cut::TooShort),
    }
}
