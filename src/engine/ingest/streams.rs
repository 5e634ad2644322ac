//! Clients that say nothing of the bytes that they send (upload-clients.md): the server computes the SHA-256 of each part.

use crate::{
    engine::storage::{Adds, PartAppender, UnknownPart},
    format::upload::SessionId,
    policy::upload::{FinishedPart, Owner, Session, State},
};

use super::{Ingest, IngestError, sessions::Status};

/// How far a stream of bytes has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The session.
    pub session: Session,
    /// The part that is next, zero-based.
    pub index: u32,
    /// Where it begins in the object.
    pub start: u64,
    /// The bytes of it that are durable.
    pub held: u64,
}

impl Position {
    /// Where the client goes on.
    pub fn offset(&self) -> u64 {
        self.start + self.held
    }
}

impl Ingest {
    /// Where the stream of a session goes on: after the finished parts and what is durable of the next one.
    pub async fn position(&self, owner: &Owner, id: SessionId) -> Result<Position, IngestError> {
        let Status { session, parts, .. } = self.status(owner, id).await?;
        let plan = session.declared.plan;
        if let State::Done(published) = session.state {
            return Ok(Position {
                session,
                index: 0,
                start: published.length,
                held: 0,
            });
        }
        let is_whole = |part: &FinishedPart, index| {
            let planned = plan.part(index);
            part.index == index && planned.is_some_and(|planned| planned.length() == part.length)
        };
        let whole = (0..).zip(&parts);
        let index = whole
            .take_while(|(index, part)| is_whole(part, *index))
            .count() as u32;
        let start = plan.part(index).map(|part| part.start);
        // All parts of an object whose length is known.
        let Some(start) = start else {
            let start = plan.length().unwrap_or_default();
            return Ok(Position {
                session,
                index,
                start,
                held: 0,
            });
        };
        // The last part of an object whose length was not known.
        let short = parts.iter().find(|part| part.index == index);
        let held = match short {
            Some(short) => short.length,
            None if session.takes_parts().is_ok() => {
                let session = self.ready(session.clone()).await?;
                self.storage.begun_bytes(&session, index).await?
            }
            None => 0,
        };
        Ok(Position {
            session,
            index,
            start,
            held,
        })
    }

    /// Takes the bytes of a part. While they arrive, call [`Ingest::touch`] every minute.
    pub async fn append(
        &self,
        id: SessionId,
        part: UnknownPart,
    ) -> Result<Box<dyn PartAppender>, IngestError> {
        let session = self.store.load(id).await?.ok_or(IngestError::NoSession)?;
        session.takes_part(part.index, part.longest)?;
        let session = self.ready(session).await?;
        // It may have ended since it was read.
        let session = self.touched(session).await?;
        session.takes_parts()?;
        Ok(self.storage.append(&session, part).await?)
    }

    /// Counts that a part gets so many bytes, before they are taken.
    pub async fn count(
        &self,
        id: SessionId,
        index: u32,
        length: u64,
        adds: Adds,
    ) -> Result<(), IngestError> {
        let session = self.store.load(id).await?.ok_or(IngestError::NoSession)?;
        session.takes_parts()?;
        self.count_arriving(&session, index, length, adds).await
    }
}
