//! Reading an object while it is uploaded (upload.md, "A growing object"): the finished parts from its start without a gap. None of it is
//! a use of the session.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    engine::storage::{GrowingStorage, StorageError},
    format::{
        geometry::{BlockRange, ByteRange},
        notice::{Notice, NoticeEvent},
        tree::Cv,
        upload::SessionId,
    },
    policy::upload::{self, FinishedPart, Owner, Session, State, notices::KeptNotices},
};

use super::{Ingest, IngestError};

/// An object that grows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Growing {
    /// Its session.
    pub session: Session,
    parts: Vec<FinishedPart>,
    /// Bytes from its start that are proven, and can be read.
    pub length: u64,
}

impl Growing {
    /// Whether it goes on from here, or is published soon.
    pub fn is_live(&self) -> bool {
        self.session.state.is_live()
    }

    /// The leaves of these bytes can be read: fails if the object is published, or never will be.
    fn check(&self) -> Result<(), IngestError> {
        match self.session.takes_parts() {
            // All of it is there, until the object has its name.
            Ok(()) | Err(upload::Refusal::Finalizing) => Ok(()),
            Err(refusal) => Err(refusal.into()),
        }
    }
}

impl Ingest {
    /// An object that grows, as it is now.
    pub async fn growing(&self, owner: &Owner, id: SessionId) -> Result<Growing, IngestError> {
        let session = self.session_of(owner, id).await?;
        if !session.declared.growing {
            return Err(IngestError::NotGrowing);
        }
        self.growing_storage()?;
        let parts = match session.state {
            State::Open | State::Finalizing { .. } => self.store.parts(id).await?,
            _ => Vec::new(),
        };
        Ok(Growing {
            length: session
                .declared
                .plan
                .length_without_gap(parts.iter().map(|part| (part.index, part.length))),
            session,
            parts,
        })
    }

    /// Whether a session changed since this version. Others do not exist.
    pub async fn has_changed(
        &self,
        owner: &Owner,
        id: SessionId,
        version: u64,
    ) -> Result<bool, IngestError> {
        Ok(self.session_of(owner, id).await?.version != version)
    }

    /// What the operator is told of a part that is finished now: that more of an object can be read.
    pub(super) async fn parts_proven(
        &self,
        session: &Session,
        part: &FinishedPart,
        unix_s: u64,
    ) -> Result<Option<Notice>, IngestError> {
        let is_told = self.kept_notices == KeptNotices::All && session.declared.growing;
        if !is_told || self.storage.growing().is_none() {
            return Ok(None);
        }
        let plan = session.declared.plan;
        let parts = self.store.parts(session.id).await?.into_iter();
        let mut parts: BTreeMap<u32, u64> = parts.map(|part| (part.index, part.length)).collect();
        let proven = |parts: &BTreeMap<u32, u64>| {
            plan.length_without_gap(parts.iter().map(|(index, length)| (*index, *length)))
        };
        let before = proven(&parts);
        parts.insert(part.index, part.length);
        let proven = proven(&parts);
        let is_new = |index: &&u32| {
            let of = plan.part(**index);
            of.is_some_and(|bytes| bytes.end > before && bytes.start < proven)
        };
        let mut new = parts.keys().filter(is_new).copied();
        let Some(first_part) = new.next().filter(|_| proven > before) else {
            return Ok(None);
        };
        let event = NoticeEvent::PartsProven {
            proven,
            first_part,
            last_part: new.next_back().unwrap_or(first_part),
        };
        Ok(Some(Notice { unix_s, event }))
    }

    fn growing_storage(&self) -> Result<&dyn GrowingStorage, IngestError> {
        self.storage.growing().ok_or(IngestError::NotReadable)
    }

    /// The leaves of these blocks, all of which are proven.
    pub async fn growing_leaves(
        &self,
        growing: &Growing,
        blocks: BlockRange,
    ) -> Result<Vec<Cv>, IngestError> {
        growing.check()?;
        let storage = self.growing_storage()?;
        let plan = growing.session.declared.plan;
        let block_size = plan.block_size().bytes();
        let mut leaves = Vec::with_capacity(blocks.count() as usize);
        for part in &growing.parts {
            let Some(planned) = plan.part(part.index) else {
                continue;
            };
            let first = planned.start / block_size;
            let end = first + part.length.div_ceil(block_size);
            let from = u64::from(blocks.start).max(first);
            let to = u64::from(blocks.end).min(end);
            if from >= to {
                continue;
            }
            let of_part = storage.leaves(&growing.session, part).await?;
            let some = of_part.get((from - first) as usize..(to - first) as usize);
            let index = part.index;
            leaves.extend_from_slice(some.ok_or(StorageError::PartNotStored { index })?);
        }
        Ok(leaves)
    }

    /// These bytes, all of which are proven. The reader proves them again: a part may get another content meanwhile.
    pub async fn growing_bytes(
        &self,
        growing: &Growing,
        bytes: ByteRange,
    ) -> Result<Bytes, IngestError> {
        growing.check()?;
        let storage = self.growing_storage()?;
        Ok(storage.read(&growing.session, bytes).await?)
    }
}
