//! Parts that the service makes itself, of one range of an object that is published.

use crate::{
    engine::storage::{Base, CopyRange, Destination, OfferedPart, StorageError},
    net::s3::uploads::StoredPart,
    policy::upload::Session,
};

use super::{Shared, calls::Answer, handle, number};

/// What a look at a base found.
#[derive(Clone, Debug)]
pub struct FoundBase {
    base: Base,
    /// `None`: something else has the name, or the service refused to copy of it.
    etag: Option<String>,
}

/// Whether the service has the part as it was offered.
fn is_of(stored: &StoredPart, part: &OfferedPart) -> bool {
    (stored.number, stored.size, stored.sha256)
        == (number(part.index), part.length, Some(part.sha256))
}

impl Shared {
    /// Copies a part that is one range of the base. The part counts once the service lists it with the SHA-256 that it computed.
    pub async fn copy(
        &self,
        session: &Session,
        part: &OfferedPart,
        base: &Base,
        copies: &[CopyRange],
    ) -> Result<Destination, StorageError> {
        let source = match copies {
            [copy] if part.length > 0 && copy.length == part.length => {
                copy.source(copy.bytes(), base.length)
            }
            _ => None,
        };
        if let Some(source) = source
            && let Some(etag) = self.etag_of(base).await?
        {
            let key = self.place.joined(&handle(session)?, &session.declared.name);
            let (id, stored) = self.upload(session, Some(part.index)).await?;
            if stored.iter().any(|stored| is_of(stored, part)) {
                return Ok(Destination::Stored { copied: 0 });
            }
            let (from, to) = (
                self.place.object(&base.name),
                (id.as_str(), number(part.index)),
            );
            let answer = self.calls.copy_part((&from, &etag), source, &key, to);
            if let Answer::Refused(refused) = answer.await? {
                tracing::info!("parts of {} are not copied: {:?}", base.name, refused.code);
                self.note_base(base, None);
            } else {
                let (_, stored) = self.upload(session, Some(part.index)).await?;
                if stored.iter().any(|stored| is_of(stored, part)) {
                    return Ok(Destination::Stored {
                        copied: part.length,
                    });
                }
            }
        }
        let mut to = self
            .destinations(session, std::slice::from_ref(part))
            .await?;
        to.pop().ok_or(StorageError::StagingGone)
    }

    /// The version of a base, if it still is what has the name.
    async fn etag_of(&self, base: &Base) -> Result<Option<String>, StorageError> {
        let known = self.base.lock().clone();
        if let Some(known) = known.filter(|known| known.base == *base) {
            return Ok(known.etag);
        }
        let found = self.calls.head(&self.place.object(&base.name)).await?;
        let found = found.filter(|found| {
            found.length == base.length && (base.session.is_none() || found.session == base.session)
        });
        let etag = found.map(|found| found.etag);
        self.note_base(base, etag.clone());
        Ok(etag)
    }

    fn note_base(&self, base: &Base, etag: Option<String>) {
        let base = base.clone();
        *self.base.lock() = Some(FoundBase { base, etag });
    }
}
