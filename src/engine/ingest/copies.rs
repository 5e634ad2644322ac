//! Parts of which an earlier object of the same owner has bytes.

use std::collections::HashSet;

use crate::{
    engine::storage::{
        Adds, Base, Destination, OfferedPart,
        copies::{self, PartCopies},
    },
    format::tree::Root,
    policy::upload::{Refusal, Session, State},
};

use super::{Ingest, IngestError};

/// What a client says of an earlier object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copies {
    /// Of that object.
    pub root: Root,
    /// Its bytes in the parts with these indices.
    pub parts: PartCopies,
}

impl Copies {
    /// Whether each is of whole blocks of its part.
    pub(super) fn check(
        &self,
        session: &Session,
        parts: &[OfferedPart],
    ) -> Result<(), IngestError> {
        let plan = &session.declared.plan;
        for part in parts {
            let copies = self.parts.get(&part.index).map_or(&[][..], Vec::as_slice);
            if !copies::are_allowed(copies, plan, part) {
                let (index, length) = (part.index, part.length);
                return Err(Refusal::BadPart { index, length }.into());
            }
        }
        Ok(())
    }
}

impl Ingest {
    /// The object of which bytes are copied into a session: what its owner published last under the name that the session may replace.
    /// Whether it still is there only the storage finds out.
    pub(super) async fn base_of(&self, session: &Session) -> Result<Option<Base>, IngestError> {
        if !session.declared.replace || session.state != State::Open {
            return Ok(None);
        }
        let last = self.store.last_published(&session.declared.name).await?;
        let own = last.filter(|last| last.owner == session.owner);
        Ok(own.map(|last| Base {
            name: session.declared.name.clone(),
            root: last.published.root,
            length: last.published.length,
            session: Some(last.session),
        }))
    }

    /// Where parts go, after what the base has of those without any finished content was copied.
    pub(super) async fn destinations(
        &self,
        session: &Session,
        parts: &[OfferedPart],
        copies: Option<(&Copies, &HashSet<u32>)>,
    ) -> Result<Vec<Destination>, IngestError> {
        let base = match copies {
            Some(_) => self.base_of(session).await?,
            None => None,
        };
        let (Some((copies, new)), Some(base)) = (copies, base) else {
            return Ok(self.storage.destinations(session, parts).await?);
        };
        if base.root != copies.root {
            return Ok(self.storage.destinations(session, parts).await?);
        }
        let mut known = copies.parts.clone();
        known.retain(|index, ranges| !ranges.is_empty() && new.contains(index));
        for part in parts.iter().filter(|part| known.contains_key(&part.index)) {
            let counting = self.count_arriving(session, part.index, part.length, Adds::Part);
            counting.await?;
        }
        let storage = &*self.storage;
        let all = copies::destinations(storage, session, parts, (&base, &known));
        Ok(all.await?)
    }
}
