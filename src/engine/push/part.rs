//! Sending one part: its target, its bytes, its checkpoint.

use std::sync::Arc;

use crate::{
    engine::{
        error::Error,
        remote::retry::Attempts,
        upload::content::{Counters, StoredContent},
    },
    format::{
        ingest::{self, Checkpoint, OFFERED_LEAVES_MAX, Offer, Target},
        upload::SessionId,
    },
    net::{
        client::Reply,
        error::NetError,
        location::Location,
        request::{Body, Method, Request, RequiredFields},
    },
    policy::recovery::Failure,
};

use super::{
    api::Api,
    base::Base,
    failed::{Failed, Refusal},
    source::{SourceFile, SourcePart},
};

/// How long to wait for another request that writes the part.
const IN_FLIGHT_MS: u64 = 1_000;

/// The bytes that arrived were not those of the URL: as a server says it, as S3 does, as Garage does.
const DAMAGED: [&str; 5] = [
    "part_differs_from_url",
    "BadDigest",
    "XAmzContentChecksumMismatch",
    "IncompleteBody",
    "InvalidDigest",
];

/// Why a part was not sent.
#[derive(Debug)]
pub enum PartFailed {
    /// The session is gone, or has another part there that is finished: it is not a session of this source.
    OtherSession,
    /// The object of the session is being published, or is.
    Closed,
    Error(Error),
}

impl From<Error> for PartFailed {
    fn from(error: Error) -> PartFailed {
        PartFailed::Error(error)
    }
}

impl From<Failed> for PartFailed {
    fn from(failed: Failed) -> PartFailed {
        match failed.code() {
            "no_session" | "session_ended" | "part_finished" => PartFailed::OtherSession,
            "finalizing" | "session_done" => PartFailed::Closed,
            _ => PartFailed::Error(failed.into()),
        }
    }
}

/// A part and where it goes.
pub struct Sending<'a> {
    pub api: Api<'a>,
    pub session: SessionId,
    /// See [`super::sessions::Session::is_own`].
    pub is_own: bool,
    pub part: Arc<SourcePart>,
    /// `None`: a stream.
    pub file: Option<Arc<SourceFile>>,
    /// An earlier object of which bytes are copied.
    pub base: Option<Arc<Base>>,
    pub counters: Counters,
}

/// What the storage had of a part before it was sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Had {
    pub bytes: u64,
    /// Of these, copied from an earlier object for this part.
    pub copied: u64,
}

/// What the request for a part came to.
enum Put {
    /// The storage has it.
    Stored { etag: Option<String> },
    /// The URL is not good, or not any more.
    RefusedUrl(Refusal),
    /// It may be sent again.
    Again(NetError),
}

/// Whether leaves can save bytes, and are not too many.
fn offers_leaves(part: &SourcePart) -> bool {
    !part.is_whole && part.leaves.len() <= OFFERED_LEAVES_MAX
}

/// Leaves of the part that [`offer`] has.
pub fn offered_leaves(part: &SourcePart) -> usize {
    match offers_leaves(part) {
        true => part.leaves.len(),
        false => 0,
    }
}

pub fn offer(part: &SourcePart, base: Option<&Base>) -> Offer {
    Offer {
        copy: base.map_or_else(Vec::new, |base| base.copies(part)),
        index: part.index,
        length: part.bytes.length(),
        sha256: part.sha256,
        leaves: offers_leaves(part).then(|| ingest::leaves(&part.leaves)),
    }
}

impl Sending<'_> {
    /// Sends the part until the storage has it and the session knows.
    pub async fn run(self, target: Target) -> Result<Had, PartFailed> {
        let mut attempts = Attempts::new(&self.api.limits());
        let (mut target, mut most, mut is_url_fresh) = (target, 0, false);
        let mut copied = 0;
        loop {
            copied += target.copied;
            let had = self.had(&target)?;
            if had > most {
                // What an earlier attempt sent was kept.
                attempts.progress();
                most = had;
            }
            let put = match target.finished || target.stored {
                true => Put::Stored { etag: None },
                false => self.put(&target).await?,
            };
            let error = match put {
                Put::Stored { etag } => match self.checkpoint(etag.as_deref()).await? {
                    None => break,
                    Some(error) => error,
                },
                Put::RefusedUrl(refusal) if is_url_fresh => {
                    return Err(PartFailed::Error(refusal.into()));
                }
                Put::RefusedUrl(refusal) => {
                    is_url_fresh = true;
                    if refusal.status == 404 && self.checkpoint(None).await?.is_none() {
                        break;
                    }
                    target = self.target().await?;
                    continue;
                }
                Put::Again(error) => error,
            };
            if let Some(file) = &self.file {
                // Its bytes may not be those of the target any more.
                file.check_unchanged().await?;
            }
            attempts.wait_after(error).await?;
            target = self.target().await?;
        }
        let had = self.had(&target)?;
        Ok(Had {
            copied: copied.min(had),
            bytes: had,
        })
    }

    /// How many bytes of the part the storage has, by its target.
    fn had(&self, target: &Target) -> Result<u64, PartFailed> {
        let length = self.part.bytes.length();
        let ranges = target.ranges(length);
        let ranges = ranges.ok_or_else(|| Failed::no_target(self.api.place()))?;
        let sent: u64 = ranges.iter().map(|range| range.length()).sum();
        Ok(length - sent)
    }

    /// Another target.
    async fn target(&self) -> Result<Target, PartFailed> {
        let base = self.base.as_deref();
        let offers = [offer(&self.part, base)];
        let of = base.map(Base::object);
        let mut targets = self.api.targets(self.session, of, &offers).await?;
        Ok(targets.pop().expect("as many as were offered"))
    }

    /// Sends the bytes that the storage does not have.
    async fn put(&self, target: &Target) -> Result<Put, PartFailed> {
        let invalid = || Failed::no_target(self.api.place());
        let url = self.api.place().join(&target.url);
        let location = url.and_then(Location::from_url).ok_or_else(invalid)?;
        let required = RequiredFields::parse(&target.headers).ok_or_else(invalid)?;
        let stored = self.part.stored.clone();
        let ranges = target.ranges(stored.bytes.length()).ok_or_else(invalid)?;
        let content = Arc::new(StoredContent::new(stored, &ranges, &self.counters));
        let request = Request {
            named_by: self.api.named_by(),
            required: Some(&required),
            ..Request::new(Method::Put, &location, Body::Content(content.clone()))
        };
        let shared = self.api.context();
        let _admitted = shared.connections.admit(&shared.client, &location).await;
        let sent = shared
            .client
            .call(request, ingest::DOCUMENT_BYTES_MAX)
            .await;
        if let Some(cause) = content.failure() {
            return Err(PartFailed::Error(cause.into()));
        }
        match sent {
            Ok(reply) => Sending::outcome(&reply),
            Err(error) => Ok(Put::Again(error)),
        }
    }

    fn outcome(reply: &Reply) -> Result<Put, PartFailed> {
        if (200..300).contains(&reply.status) {
            let etag = reply.etag.clone();
            return Ok(Put::Stored { etag });
        }
        let refusal = Refusal::new(reply);
        let place = &reply.location;
        match (refusal.problem.code.as_str(), reply.status) {
            ("no_session" | "session_ended" | "finalizing" | "session_done", _) => {
                Err(Failed::Refused(refusal).into())
            }
            ("part_in_flight", _) => {
                let wait_ms = IN_FLIGHT_MS;
                let failure = Failure::RetryAfter { wait_ms };
                let detail = "another request writes this part";
                Ok(Put::Again(NetError::with_detail(place, failure, detail)))
            }
            (code, _) if DAMAGED.contains(&code) => {
                let detail = "other bytes arrived than were sent";
                Ok(Put::Again(NetError::with_detail(
                    place,
                    Failure::Broken,
                    detail,
                )))
            }
            ("too_many_sessions" | "quota", _) => Err(PartFailed::Error(refusal.into())),
            (_, 429) => {
                let failure = Failure::TooMany {
                    status: 429,
                    retry_after_ms: None,
                    serves: true,
                };
                Ok(Put::Again(NetError::new(place, failure)))
            }
            // A storage says 404 if the upload is gone: then the session says what became of it.
            (_, 400 | 401 | 403 | 404) => Ok(Put::RefusedUrl(refusal)),
            _ => Err(PartFailed::Error(refusal.into())),
        }
    }

    /// `Some`: the storage does not have it after all.
    async fn checkpoint(&self, etag: Option<&str>) -> Result<Option<NetError>, PartFailed> {
        let checkpoint = Checkpoint {
            length: self.part.bytes.length(),
            sha256: self.part.sha256,
            etag,
            replace: self.is_own,
        };
        let done = self
            .api
            .checkpoint(self.session, self.part.index, &checkpoint);
        match done.await {
            Ok(()) => Ok(None),
            Err(failed) if failed.code() == "part_not_stored" => {
                let detail = "the storage lost a part that it had taken";
                let place = self.api.place();
                Ok(Some(NetError::with_detail(place, Failure::Broken, detail)))
            }
            Err(failed) => Err(failed.into()),
        }
    }
}
