//! The requests of an upload to a storage, without a server: the storage itself is the record of its uploads.

use std::collections::{BTreeMap, HashMap};

use futures_util::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;

use crate::{
    disk::machine,
    engine::{
        context::Context,
        error::Error,
        remote::retry::Attempts,
        storage::{
            Base, Begun, CopyRange, Destination, OfferedPart, StorageError, Verdict,
            copies::{self, PartCopies},
        },
    },
    format::{
        geometry::BlockSize,
        ingest::{
            self, Checkpoint, Finalize, Finished, Offer, Open, Problem, RefusedUpload, State,
            Status, Target,
        },
        library::LibraryPath,
        upload::SessionId,
    },
    net::error::NetError,
    policy::{
        parts::{BadSize, PartPlan},
        recovery::Failure,
        upload::{
            self, Declared, Disproved, FinishedPart, Goal, Now, Owner, Protocol, Published,
            Session, Staging,
        },
    },
};

use super::{
    failed::{Failed, Refusal},
    place::Bucket,
    source::Whole,
};

/// What a run knows of the uploads in a storage.
#[derive(Default)]
pub struct Direct(Mutex<HashMap<SessionId, Known>>);

#[derive(Clone)]
struct Known {
    begun: Begun,
    /// With what the storage calls them.
    parts: BTreeMap<u32, FinishedPart>,
}

/// A storage.
#[derive(Clone, Copy)]
pub struct StorageApi<'a> {
    pub context: &'a Context,
    pub bucket: &'a Bucket,
    pub direct: &'a Direct,
}

impl StorageApi<'_> {
    /// See [`super::api::Api::open`].
    pub async fn open(&self, id: SessionId, open: &Open<'_>) -> Result<Status, Failed> {
        let storage = &self.bucket.storage;
        let name = self.name(open.name)?;
        let exists = !open.replace && self.done(self.repeated(|| storage.exists(&name)).await)?;
        if exists {
            return Err(self.exists(&name));
        }
        let plan = plan(open).map_err(|cause| Error::PartSize { cause })?;
        let declared = Declared {
            name,
            plan,
            root: None,
            sha256: None,
            replace: open.replace,
            growing: false,
            protocol: Protocol::default(),
        };
        let now = Now {
            unix_s: machine::unix_time(),
            served_s: 0,
        };
        let mut session = Session::open(id, Owner(String::new()), declared, now);
        let handle = self.done(self.repeated(|| storage.begin(&session)).await)?;
        session.staging = Staging::Begun(handle);
        let known = Known {
            begun: Begun {
                session,
                begun_s: now.unix_s,
                is_complete: false,
            },
            parts: BTreeMap::new(),
        };
        let status = known.status();
        self.direct.0.lock().insert(id, known);
        Ok(status)
    }

    /// See [`super::api::Api::status`].
    pub async fn status(&self, id: SessionId) -> Result<Option<Status>, Failed> {
        if self.known(id).is_none() {
            self.look(None).await?;
        }
        let Some(mut known) = self.known(id) else {
            return Ok(None);
        };
        if !known.begun.is_complete {
            let session = &known.begun.session;
            let storage = &self.bucket.storage;
            let parts = self.repeated(|| storage.finished(session)).await;
            let parts = match parts {
                Ok(parts) => parts,
                Err(StorageError::StagingGone) => {
                    self.forget(id);
                    return Ok(None);
                }
                Err(cause) => return Err(self.failed(cause)),
            };
            known.parts = parts.into_iter().map(|part| (part.index, part)).collect();
        }
        let status = known.status();
        self.direct.0.lock().insert(id, known);
        Ok(Some(status))
    }

    /// See [`super::api::Api::sessions`].
    pub async fn sessions(&self, name: Option<&str>) -> Result<Vec<Status>, Failed> {
        let name = name.map(|name| self.name(name)).transpose()?;
        let ids = self.look(name.as_ref()).await?;
        let known = ids.into_iter().filter_map(|id| self.known(id));
        Ok(known.map(|known| known.status()).collect())
    }

    /// See [`super::api::Api::targets`].
    pub async fn targets(
        &self,
        id: SessionId,
        base: Option<ingest::Base>,
        offers: &[Offer],
    ) -> Result<Vec<Target>, Failed> {
        let session = self.session(id)?;
        let offered = |offer: &Offer| OfferedPart {
            index: offer.index,
            length: offer.length,
            sha256: offer.sha256,
            leaves: None,
        };
        let parts: Vec<OfferedPart> = offers.iter().map(offered).collect();
        let storage = &self.bucket.storage;
        let copies = copies_of(offers);
        let base = base.map(|base| Base {
            name: session.declared.name.clone(),
            root: base.root,
            length: base.length,
            session: None,
        });
        let destinations = self.repeated(|| match &base {
            Some(base) => {
                copies::destinations(&**storage, &session, &parts, (base, &copies)).boxed()
            }
            None => storage.destinations(&session, &parts),
        });
        let destinations = self.done(destinations.await)?;
        let target = |(part, to): (&OfferedPart, Destination)| match to {
            Destination::Storage { url, headers, .. } => Ok(Target {
                index: part.index,
                // A storage takes no part without bytes, and needs none.
                finished: part.length == 0,
                url,
                headers: headers.into_iter().collect(),
                ..Target::default()
            }),
            Destination::Stored { copied } => Ok(Target {
                index: part.index,
                stored: true,
                copied,
                ..Target::default()
            }),
            Destination::Server { .. } | Destination::Rest { .. } => {
                Err(Failed::no_target(&self.bucket.folder))
            }
        };
        parts.iter().zip(destinations).map(target).collect()
    }

    /// See [`super::api::Api::checkpoint`]. What the storage acknowledged is proven when the object is.
    pub async fn checkpoint(
        &self,
        id: SessionId,
        index: u32,
        checkpoint: &Checkpoint<'_>,
    ) -> Result<(), Failed> {
        let (length, sha256) = (checkpoint.length, checkpoint.sha256);
        let part = match checkpoint.etag {
            Some(etag) => FinishedPart {
                index,
                length,
                sha256,
                etag: Some(etag.to_owned()),
            },
            None => {
                let session = self.session(id)?;
                let part = OfferedPart {
                    index,
                    length,
                    sha256,
                    leaves: None,
                };
                let storage = &self.bucket.storage;
                let proven = self.repeated(|| storage.checkpoint(&session, &part, None));
                match proven.await {
                    Err(StorageError::StagingGone) => return Err(self.gone(id).await),
                    proven => self.done(proven)?,
                }
            }
        };
        if let Some(known) = self.direct.0.lock().get_mut(&id) {
            known.parts.insert(index, part);
        }
        Ok(())
    }

    /// See [`super::api::Api::finalize`].
    pub async fn finalize(
        &self,
        id: SessionId,
        finalize: &Finalize,
        whole: &Whole,
    ) -> Result<Status, Failed> {
        let known = self.known(id).ok_or_else(|| self.ended())?;
        let storage = &self.bucket.storage;
        let parts = whole.parts.iter().map(|part| known.part(part));
        let parts: Vec<FinishedPart> = parts.collect();
        let goal = Goal {
            length: finalize.length,
            root: Some(finalize.root),
            sha256: None,
            replace: finalize.replace,
        };
        let session = &known.begun.session;
        if known.begun.is_complete {
            let is_same = self.repeated(|| storage.has_joined(session, &parts));
            if !self.done(is_same.await)? {
                return Err(self.refused(409, problem("session_differs", "")));
            }
        }
        let attested = self.repeated(|| storage.attest(session, goal.length, &whole.leaves));
        self.done(attested.await)?;
        let verdict = self.repeated(|| storage.finalize(session, &parts, &goal));
        match verdict.await {
            Ok(Verdict::Published(published)) => {
                self.clean_up(session).await;
                Ok(known.published(published))
            }
            Ok(Verdict::Disproved(why)) => Err(self.disproved(id, &why)),
            Err(StorageError::StagingGone) => {
                self.remove_unlisted(session).await?;
                Err(self.gone(id).await)
            }
            Err(cause) => Err(self.failed(cause)),
        }
    }

    /// See [`super::api::Api::abort`].
    pub async fn abort(&self, id: SessionId) -> Result<(), Failed> {
        self.forget(id);
        let removed = self.done(self.remove(id, None).await)?;
        match removed.is_empty() {
            true => Err(self.refused(404, problem("no_session", ""))),
            false => Ok(()),
        }
    }

    /// Looks which uploads there are, newest first.
    async fn look(&self, name: Option<&LibraryPath>) -> Result<Vec<SessionId>, Failed> {
        let storage = &self.bucket.storage;
        let found = self.done(self.repeated(|| storage.uploads(name)).await)?;
        let (mut known, mut ids) = (self.direct.0.lock(), Vec::new());
        for begun in found {
            let id = begun.session.id;
            let seen = known.entry(id).or_insert_with(|| Known {
                begun: begun.clone(),
                parts: BTreeMap::new(),
            });
            // A lost response to the first request of an upload makes another of the same name.
            if begun.is_complete {
                seen.begun = begun;
            }
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    fn disproved(&self, id: SessionId, why: &Disproved) -> Failed {
        if let Disproved::NameExists(name) = why {
            return self.exists(name);
        }
        if let Some(known) = self.direct.0.lock().get_mut(&id) {
            // A storage that found wrong parts takes parts again.
            known.begun.is_complete = false;
            for index in why.wrong_parts() {
                known.parts.remove(index);
            }
        }
        let (wrong_parts, found) = match why {
            Disproved::Root { found, .. } => (why.wrong_parts().to_vec(), found.to_string()),
            _ => (why.wrong_parts().to_vec(), String::new()),
        };
        let problem = Problem {
            missing: wrong_parts.clone(),
            wrong_parts,
            found,
            ..problem(why.code(), &why.to_string())
        };
        self.refused(409, problem)
    }

    /// What was staged is gone: another run has put the parts together, or gave the upload up.
    async fn gone(&self, id: SessionId) -> Failed {
        self.forget(id);
        if let Err(failed) = self.look(None).await {
            return failed;
        }
        match self.known(id) {
            Some(known) if known.begun.is_complete => self.refused(409, problem("finalizing", "")),
            _ => self.ended(),
        }
    }

    fn exists(&self, name: &LibraryPath) -> Failed {
        Failed::Error(Error::Upload {
            place: self.bucket.folder.below(name.as_str()).to_string(),
            cause: Box::new(RefusedUpload::NameExists),
        })
    }

    fn ended(&self) -> Failed {
        self.refused(410, problem("session_ended", ""))
    }

    fn known(&self, id: SessionId) -> Option<Known> {
        self.direct.0.lock().get(&id).cloned()
    }

    fn session(&self, id: SessionId) -> Result<Session, Failed> {
        let known = self.known(id);
        known.map_or_else(|| Err(self.ended()), |known| Ok(known.begun.session))
    }

    pub(super) fn forget(&self, id: SessionId) {
        self.direct.0.lock().remove(&id);
    }

    fn name(&self, name: &str) -> Result<LibraryPath, Failed> {
        upload::name(name).ok_or_else(|| self.refused(422, problem("bad_name", name)))
    }

    /// Repeats a call while the storage is busy.
    pub(super) async fn repeated<'f, T>(
        &self,
        call: impl Fn() -> BoxFuture<'f, Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        let mut attempts = Attempts::new(&self.context.limits_now());
        loop {
            match call().await {
                Err(StorageError::Busy { after_s }) => {
                    let wait_ms = after_s.saturating_mul(1000);
                    let failure = Failure::RetryAfter { wait_ms };
                    let busy = NetError::new(&self.bucket.folder, failure);
                    let waited = attempts.wait_after(busy).await;
                    waited.map_err(|cause| StorageError::Failed(Box::new(cause)))?;
                }
                done => return done,
            }
        }
    }

    pub(super) fn done<T>(&self, done: Result<T, StorageError>) -> Result<T, Failed> {
        done.map_err(|cause| self.failed(cause))
    }

    fn failed(&self, cause: StorageError) -> Failed {
        let storage = |cause: String| {
            let cause = Box::new(RefusedUpload::Storage(cause));
            let place = self.bucket.folder.to_string();
            Failed::Error(Error::Upload { place, cause })
        };
        let (status, code) = match cause {
            StorageError::Failed(cause) => match cause.downcast::<Error>() {
                Ok(error) => return Failed::Error(*error),
                Err(cause) => return storage(cause.to_string()),
            },
            StorageError::StagingGone => return self.ended(),
            StorageError::PartNotStored { .. } => (409, "part_not_stored"),
            StorageError::Full => (507, "storage_full"),
            other => return storage(other.to_string()),
        };
        self.refused(status, problem(code, ""))
    }

    fn refused(&self, status: u16, problem: Problem) -> Failed {
        Failed::Refused(Refusal {
            status,
            problem: Box::new(problem),
            place: self.bucket.folder.to_string(),
        })
    }
}

impl Known {
    fn status(&self) -> Status {
        let session = &self.begun.session;
        let plan = &session.declared.plan;
        let finished = |part: &FinishedPart| Finished {
            index: part.index,
            length: part.length,
            sha256: part.sha256,
        };
        Status {
            id: session.id,
            name: session.declared.name.as_str().to_owned(),
            state: match self.begun.is_complete {
                false => State::Open,
                true => State::Finalizing,
            },
            length: plan.length(),
            part_size: plan.part_size(),
            block_size: plan.block_size().bytes(),
            root: None,
            last_alive: Some(ingest::time(self.begun.begun_s)),
            expires: None,
            parts: self.parts.values().map(finished).collect(),
            url: None,
            error: None,
            base: None,
        }
    }

    fn published(&self, published: Published) -> Status {
        Status {
            state: State::Done,
            length: Some(published.length),
            root: Some(published.root),
            ..self.status()
        }
    }

    /// A part of the source, as the storage calls it.
    fn part(&self, part: &Finished) -> FinishedPart {
        let stored = self.parts.get(&part.index);
        let stored = stored.filter(|stored| stored.sha256 == part.sha256);
        FinishedPart {
            index: part.index,
            length: part.length,
            sha256: part.sha256,
            etag: stored.and_then(|stored| stored.etag.clone()),
        }
    }
}

fn copies_of(offers: &[Offer]) -> PartCopies {
    let copy = |copy: &ingest::Copy| CopyRange {
        at: copy.at,
        from: copy.from,
        length: copy.length,
    };
    let of = |offer: &Offer| (offer.index, offer.copy.iter().map(copy).collect());
    let copied = offers.iter().filter(|offer| !offer.copy.is_empty());
    copied.map(of).collect()
}

fn plan(open: &Open<'_>) -> Result<PartPlan, BadSize> {
    let given = open.block_size;
    let block_size = BlockSize::new(given).ok_or(BadSize::BlockSize { given })?;
    PartPlan::new(open.length, open.part_size, block_size)
}

fn problem(code: &str, detail: &str) -> Problem {
    Problem {
        code: code.to_owned(),
        detail: detail.to_owned(),
        ..Problem::default()
    }
}
