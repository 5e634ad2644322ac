//! The request that sends a part of which the client said nothing (upload-clients.md, section 2).

use std::sync::Arc;

use axum::{
    body::Body,
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use tokio::time::Instant;

use crate::{
    engine::ingest::IngestError, format::upload::SessionId, policy::upload::FinishedPart,
    serve::connections::Connection,
};

use super::{
    Uploads,
    arrivals::{Arrivals, Source, declared_length, waiting},
    cut::{self, Cut},
    problem::Problem,
};

impl Uploads {
    /// Takes a part through a URL that was signed for any content.
    pub(super) async fn take_any_part(
        self: &Arc<Self>,
        request: Parts,
        body: Body,
        (id, index): (SessionId, u32),
    ) -> Result<Response, Problem> {
        let connection = request.extensions.get::<Connection>().cloned();
        let uploads = self.clone();
        // It goes on if the client leaves: what is whole is kept.
        let taking = tokio::spawn(async move {
            let source = Source::Raw(body.into_data_stream());
            let mut arrivals = Arrivals::new(&uploads, id, source, &request);
            let began = Instant::now();
            let taken = uploads.take_one(&request, &mut arrivals, id, index).await;
            uploads.note_taken(taken.is_ok(), arrivals.arrived, began);
            if taken.is_err() {
                arrivals.drain(&request).await;
            }
            taken
        });
        let part = waiting(connection.as_ref(), taking).await;
        let part = part.unwrap_or_else(|_| Err(Problem::busy()))?;
        let etag = format!("\"{}\"", part.sha256);
        Ok((StatusCode::OK, [(header::ETAG, etag)]).into_response())
    }

    async fn take_one(
        &self,
        request: &Parts,
        arrivals: &mut Arrivals<'_>,
        id: SessionId,
        index: u32,
    ) -> Result<FinishedPart, Problem> {
        let owner = self.ingest.owner_of(id).await?;
        let turn = self.intake.parts.try_take(&owner);
        let _turn = turn.ok_or_else(Problem::busy)?;
        let length = declared_length(request).ok_or_else(|| cut::problem(Cut::NoLength))?;
        let status = self.ingest.status(&owner, id).await?;
        status.session.takes_parts().map_err(IngestError::from)?;
        let part_size = status.session.declared.plan.part_size();
        if length > part_size {
            return Err(wrong_size(index + 1, length, part_size));
        }
        // Only the last one may be shorter.
        let mut shorter = status.parts.iter().filter(|part| part.length < part_size);
        if let Some(short) = shorter.find(|part| part.index < index) {
            return Err(wrong_size(short.index + 1, short.length, part_size));
        }
        if length < part_size && status.parts.iter().any(|part| part.index > index) {
            return Err(wrong_size(index + 1, length, part_size));
        }
        let held = self.intake.streams.take((id, Some(index))).await;
        let mut held = held.map_err(cut::problem)?;
        let part = (id, index, length);
        let taken = self.take_part(&owner, &mut held, part, arrivals).await;
        taken.map_err(cut::problem)
    }
}

/// A part has not the size that all but the last must have.
pub fn wrong_size(number: u32, found: u64, part_size: u64) -> Problem {
    let what = format!(
        "part {number} has {found} bytes, and all parts but the last must have {part_size}: set getChunkSize to this size, \
         or meta.partSize to the other"
    );
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_part", what).with("part_size", part_size)
}
