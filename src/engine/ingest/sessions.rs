//! The requests of clients, apart from the last: open, status, list, targets, parts, checkpoint, abort.

use std::collections::HashSet;

use crate::{
    engine::storage::{Adds, Base, Destination, OfferedPart, PartWriter, Staged},
    format::{
        geometry::{BlockSize, ByteRange},
        library::LibraryPath,
        tree::Root,
        upload::{SessionId, Sha256},
    },
    policy::{
        parts::{BadSize, PartPlan},
        upload::{self, Declared, FinishedPart, Owner, Protocol, Session, StagedBytes, Staging},
    },
};

use super::{
    Copies, Ingest, IngestError, IngestEvent,
    session_store::{Cursor, Inserted, ListQuery, Written},
};

/// Parts in one request for targets.
pub const TARGETS_MAX: usize = 100;
/// Sessions on one page of a list.
pub const LIST_MAX: u32 = 1000;

/// What a client opens a session with, not checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRequest {
    /// Where the object is to be published.
    pub name: String,
    /// In bytes; `None`: not known.
    pub length: Option<u64>,
    /// In bytes; `None`: chosen here.
    pub part_size: Option<u64>,
    /// In bytes; `None`: chosen here.
    pub block_size: Option<u64>,
    /// The root that the object must have.
    pub root: Option<Root>,
    /// The SHA-256 that the object must have.
    pub sha256: Option<Sha256>,
    /// Whether the object may take the place of another one.
    pub replace: bool,
    /// Whether it may be read while it is uploaded.
    pub growing: bool,
    /// What the client speaks.
    pub protocol: Protocol,
}

impl OpenRequest {
    /// For an object of which nothing but the name is known.
    pub fn of(name: String, protocol: Protocol) -> OpenRequest {
        OpenRequest {
            name,
            length: None,
            part_size: None,
            block_size: None,
            root: None,
            sha256: None,
            replace: false,
            growing: false,
            protocol,
        }
    }

    fn declared(&self) -> Result<Declared, IngestError> {
        let name = upload::name(&self.name);
        let name = name.ok_or_else(|| IngestError::BadName(self.name.clone()))?;
        let given = |given| BlockSize::new(given).ok_or(BadSize::BlockSize { given });
        let block_size = self.block_size.map(given).transpose();
        let block_size = block_size.map_err(upload::Refusal::from)?;
        let plan = PartPlan::choose(self.length, self.part_size, block_size);
        let plan = plan.map_err(upload::Refusal::from)?;
        Ok(Declared {
            name,
            plan: match self.protocol {
                Protocol::Parts => plan.of_equal_parts(),
                Protocol::Sapwood | Protocol::Stream => plan,
            },
            root: self.root,
            sha256: self.sha256,
            replace: self.replace,
            growing: self.growing,
            protocol: self.protocol,
        })
    }
}

/// A session and its finished parts, by index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The session.
    pub session: Session,
    /// Its parts.
    pub parts: Vec<FinishedPart>,
    /// Of which bytes can be copied.
    pub base: Option<Base>,
}

/// An opened session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// How it is.
    pub status: Status,
    /// Whether this request made it.
    pub is_new: bool,
}

/// A page of a list of sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Newest first.
    pub sessions: Vec<Session>,
    /// Where the next page begins; `None`: this is the last.
    pub next: Option<Cursor>,
}

/// What a client does with a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Nothing: it is finished with this SHA-256.
    Finished {
        /// Zero-based.
        index: u32,
    },
    /// It sends the part there.
    Send {
        /// Zero-based.
        index: u32,
        /// Where.
        to: Destination,
    },
}

impl Ingest {
    /// Opens a session, once: the same request again finds it.
    pub async fn open(
        &self,
        owner: &Owner,
        id: SessionId,
        request: &OpenRequest,
    ) -> Result<Opened, IngestError> {
        let declared = request.declared()?;
        let given = (request.part_size.is_some(), request.block_size.is_some());
        loop {
            if let Some(session) = self.store.load(id).await? {
                if session.owner != *owner {
                    return Err(IngestError::NoSession);
                }
                if !session.is_opened_by(&declared, given.0, given.1) {
                    return Err(upload::Refusal::SessionDiffers.into());
                }
                let session = self.ready(session).await?;
                return Ok(Opened {
                    status: self.with_parts(session).await?,
                    is_new: false,
                });
            }
            if !declared.replace {
                self.check_free(&declared.name).await?;
            }
            let session = Session::open(id, owner.clone(), declared.clone(), self.now());
            match self.store.insert(&session, self.limits.owner).await? {
                Inserted::New => {
                    self.tell(IngestEvent::Opened {
                        session: session.clone(),
                    });
                    let session = self.ready(session).await?;
                    return Ok(Opened {
                        status: self.with_parts(session).await?,
                        is_new: true,
                    });
                }
                // Another request was faster.
                Inserted::Exists(_) => (),
                Inserted::TooMany(usage) => return Err(IngestError::TooManySessions(usage)),
                Inserted::OverQuota(usage) => {
                    let wanted = declared.plan.length().unwrap_or_default();
                    return Err(IngestError::Quota { usage, wanted });
                }
            }
        }
    }

    /// Whether nothing has this name.
    pub async fn check_free(&self, name: &LibraryPath) -> Result<(), IngestError> {
        match self.storage.exists(name).await? {
            true => Err(IngestError::NameExists(name.clone())),
            false => Ok(()),
        }
    }

    /// The session once the storage is ready for its parts, if it takes any.
    pub(super) async fn ready(&self, session: Session) -> Result<Session, IngestError> {
        if session.staging != Staging::None || session.takes_parts().is_err() {
            return Ok(session);
        }
        let handle = self.storage.begin(&session).await?;
        let changed = self.change_known(&session, |session| Ok(session.begun(&handle)));
        let session = changed.await?.session();
        // Another server was faster, or the session ended: what was begun here is not needed.
        if session.staging != Staging::Begun(handle.clone()) {
            let staged = Staged {
                session: Some(session.id),
                handle,
                bytes: 0,
            };
            self.storage.remove(&staged).await?;
        }
        Ok(session)
    }

    async fn with_parts(&self, session: Session) -> Result<Status, IngestError> {
        let parts = self.store.parts(session.id).await?;
        let base = self.base_of(&session).await?;
        Ok(Status {
            session,
            parts,
            base,
        })
    }

    /// How a session is.
    pub async fn status(&self, owner: &Owner, id: SessionId) -> Result<Status, IngestError> {
        let session = self.session_of(owner, id).await?;
        let session = self.touched(session).await?;
        self.with_parts(session).await
    }

    /// Sessions of this owner, newest first.
    pub async fn list(
        &self,
        owner: &Owner,
        name: Option<LibraryPath>,
        after: Option<Cursor>,
    ) -> Result<Page, IngestError> {
        let query = ListQuery {
            owner: owner.clone(),
            name,
            after,
            limit: LIST_MAX + 1,
        };
        let mut sessions = self.store.list(&query).await?;
        let has_more = sessions.len() > LIST_MAX as usize;
        sessions.truncate(LIST_MAX as usize);
        let next = sessions.last().filter(|_| has_more).map(Cursor::of);
        Ok(Page { sessions, next })
    }

    /// Where parts go.
    pub async fn targets(
        &self,
        owner: &Owner,
        id: SessionId,
        parts: &[OfferedPart],
    ) -> Result<Vec<Target>, IngestError> {
        self.targets_with(owner, id, parts, None).await
    }

    /// [`Ingest::targets`], of which an earlier object has bytes.
    pub async fn targets_with(
        &self,
        owner: &Owner,
        id: SessionId,
        parts: &[OfferedPart],
        copies: Option<&Copies>,
    ) -> Result<Vec<Target>, IngestError> {
        if parts.len() > TARGETS_MAX {
            let (max, found) = (TARGETS_MAX, parts.len());
            return Err(IngestError::TooManyParts { max, found });
        }
        let indices: Vec<u32> = parts.iter().map(|part| part.index).collect();
        let (session, all) = self.session_with(owner, id, &indices).await?;
        for part in parts {
            session.takes_part(part.index, part.length)?;
        }
        copies.map_or(Ok(()), |copies| copies.check(&session, parts))?;
        let session = self.ready(session).await?;
        let session = self.touched(session).await?;
        session.takes_parts()?;
        let (mut finished, mut wanted) = (Vec::with_capacity(parts.len()), Vec::new());
        let mut new = HashSet::new();
        for part in parts {
            let found = all.iter().find(|found| found.index == part.index);
            new.extend(found.is_none().then_some(part.index));
            let is_finished = found.is_some_and(|found| found.sha256 == part.sha256);
            finished.push(is_finished);
            wanted.extend((!is_finished).then(|| part.clone()));
        }
        self.check_quota(&session, &wanted).await?;
        let copies = copies.map(|copies| (copies, &new));
        let destinations = self.destinations(&session, &wanted, copies).await?;
        let mut destinations = destinations.into_iter();
        let target = |(part, is_finished): (&OfferedPart, bool)| {
            let index = part.index;
            match is_finished {
                true => Some(Target::Finished { index }),
                false => destinations.next().map(|to| Target::Send { index, to }),
            }
        };
        Ok(parts.iter().zip(finished).filter_map(target).collect())
    }

    /// Where the length is known, its bytes were counted when the session was opened.
    async fn check_quota(
        &self,
        session: &Session,
        parts: &[OfferedPart],
    ) -> Result<(), IngestError> {
        if session.declared.plan.length().is_some() || parts.is_empty() {
            return Ok(());
        }
        let usage = self.store.usage(&session.owner).await?;
        let wanted: u64 = parts.iter().map(|part| part.length).sum();
        // Some of them may have been sent before: the request that sends a part counts exactly.
        let more = wanted.saturating_sub(self.store.staged_bytes(session.id).await?);
        match more > 0 && usage.bytes.saturating_add(more) > self.limits.owner.bytes {
            true => Err(IngestError::Quota { usage, wanted }),
            false => Ok(()),
        }
    }

    /// Takes the bytes of a part, for who has a URL that was signed for it. While they arrive, call [`Ingest::touch`] every
    /// minute.
    pub async fn receive(
        &self,
        id: SessionId,
        part: &OfferedPart,
        from: u64,
    ) -> Result<Box<dyn PartWriter>, IngestError> {
        let session = self.receiving(id, part).await?;
        let writer = self.storage.receive(&session, part, from).await?;
        self.counted(&session, part, writer).await
    }

    /// [`Ingest::receive`], of these ranges.
    pub async fn receive_ranges(
        &self,
        id: SessionId,
        part: &OfferedPart,
        send: &[ByteRange],
    ) -> Result<Box<dyn PartWriter>, IngestError> {
        let session = self.receiving(id, part).await?;
        let writer = self.storage.receive_ranges(&session, part, send).await?;
        self.counted(&session, part, writer).await
    }

    /// The session, which takes this part.
    async fn receiving(&self, id: SessionId, part: &OfferedPart) -> Result<Session, IngestError> {
        let session = self.store.load(id).await?.ok_or(IngestError::NoSession)?;
        session.takes_part(part.index, part.length)?;
        let session = self.ready(session).await?;
        // It may have ended since it was read.
        let session = self.touched(session).await?;
        session.takes_parts()?;
        Ok(session)
    }

    async fn counted(
        &self,
        session: &Session,
        part: &OfferedPart,
        writer: Box<dyn PartWriter>,
    ) -> Result<Box<dyn PartWriter>, IngestError> {
        let (index, length) = (part.index, part.length);
        let counting = self.count_arriving(session, index, length, writer.adds());
        counting.await.map(|()| writer)
    }

    pub(super) async fn count_arriving(
        &self,
        session: &Session,
        index: u32,
        length: u64,
        adds: Adds,
    ) -> Result<(), IngestError> {
        let is_counted = match adds {
            Adds::Nothing => false,
            // Where the length is known, its bytes were counted when the session was opened.
            Adds::Part => session.declared.plan.length().is_none(),
            Adds::Second => true,
        };
        if !is_counted {
            return Ok(());
        }
        let staged = StagedBytes {
            index,
            length,
            is_beside: adds == Adds::Second,
        };
        let limits = self.limits.owner;
        match self.store.count_staged(session.id, staged, limits).await? {
            None => Ok(()),
            Some(usage) => Err(IngestError::Quota {
                usage,
                wanted: length,
            }),
        }
    }

    /// Whose session it is.
    pub async fn owner_of(&self, id: SessionId) -> Result<Owner, IngestError> {
        let session = self.store.load(id).await?;
        Ok(session.ok_or(IngestError::NoSession)?.owner)
    }

    /// Notes that a client uses the session.
    pub async fn touch(&self, id: SessionId) -> Result<(), IngestError> {
        let now = self.now();
        self.change(id, |session| Ok(session.touched(now))).await?;
        Ok(())
    }

    pub(super) async fn touched(&self, session: Session) -> Result<Session, IngestError> {
        let now = self.now();
        if session.touched(now).is_none() {
            return Ok(session);
        }
        let changed = self.change_known(&session, |session| Ok(session.touched(now)));
        Ok(changed.await?.session())
    }

    /// Notes that a part is whole, once the storage proves it. Done again it changes nothing.
    pub async fn checkpoint(
        &self,
        owner: &Owner,
        id: SessionId,
        part: FinishedPart,
        replace: bool,
    ) -> Result<FinishedPart, IngestError> {
        let mut proven: Option<FinishedPart> = None;
        for _ in 0..super::CONFLICTS_MAX {
            let (session, finished) = self.session_with(owner, id, &[part.index]).await?;
            let finished = finished.first();
            let offered = match &proven {
                Some(proven) => proven.clone(),
                None => {
                    let put = session.put_part(finished, &part, replace, self.now())?;
                    if put.is_none() {
                        return Ok(part);
                    }
                    let stored = self.prove_part(&session, &part).await?;
                    proven.insert(stored).clone()
                }
            };
            // The storage may have taken long: what is decided on the session of before is stored only if nobody changed it since.
            let now = self.now();
            let Some(mut change) = session.put_part(finished, &offered, replace, now)? else {
                return Ok(offered);
            };
            let notice = self.parts_proven(&session, &offered, now.unix_s).await?;
            change.notices.extend(notice);
            if self.write(&change).await? == Written::Stored {
                self.tell(IngestEvent::PartFinished {
                    session: change.session,
                    part: offered.clone(),
                    replaced: finished.is_some_and(|before| before.sha256 != offered.sha256),
                });
                return Ok(offered);
            }
        }
        Err(IngestError::Contended)
    }

    /// A part as the storage proves it.
    async fn prove_part(
        &self,
        session: &Session,
        part: &FinishedPart,
    ) -> Result<FinishedPart, IngestError> {
        let offered = OfferedPart {
            index: part.index,
            length: part.length,
            sha256: part.sha256,
            leaves: None,
        };
        let etag = part.etag.as_deref();
        let session = self.ready(session.clone()).await?;
        session.takes_parts()?;
        Ok(self.storage.checkpoint(&session, &offered, etag).await?)
    }
}
