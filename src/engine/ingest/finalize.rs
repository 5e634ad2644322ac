//! The last request of an upload: the object is proven and published.

use std::pin::pin;

use futures_util::future::{Either, select};

use crate::{
    engine::storage::{StorageError, Verdict},
    format::upload::SessionId,
    policy::upload::{Begin, FinishedPart, Goal, Owner, Session, State},
};

use super::{
    Changed, Ingest, IngestError, IngestEvent, lease::Lease, problem_of, session_store::Written,
    sessions::Status,
};

/// Sessions that are looked at together.
const PAGE: u32 = 500;

/// What a request to finalize leads to.
#[derive(Debug)]
pub enum Finalize {
    /// The object is published.
    Done(Box<Session>),
    /// A server works on it.
    Working(Box<Session>),
    /// The caller works on it: [`Ingest::run`], to its end even if the client goes away.
    Run(FinalizeRun),
}

/// An attempt to publish, which was noted in the store.
#[derive(Debug)]
pub struct FinalizeRun {
    session: Box<Session>,
    parts: Vec<FinishedPart>,
    goal: Goal,
    attempt: u32,
}

impl FinalizeRun {
    fn new(session: Session, parts: Vec<FinishedPart>) -> Option<FinalizeRun> {
        match session.state {
            State::Finalizing { goal, attempt, .. } => Some(FinalizeRun {
                session: Box::new(session),
                parts,
                goal,
                attempt,
            }),
            _ => None,
        }
    }

    /// Of the session.
    pub fn id(&self) -> SessionId {
        self.session.id
    }
}

impl Ingest {
    /// A client says that all parts are there.
    pub async fn finalize(
        &self,
        owner: &Owner,
        id: SessionId,
        goal: Goal,
    ) -> Result<Finalize, IngestError> {
        for _ in 0..super::CONFLICTS_MAX {
            let session = self.session_of(owner, id).await?;
            // Read after the session: if they changed since, so did its version.
            let parts = self.store.parts(id).await?;
            let change = match session.begin_finalize(&parts, goal, self.now())? {
                Begin::Working => return Ok(Finalize::Working(Box::new(session))),
                Begin::Done(_) => {
                    self.unstage(&session).await?;
                    return Ok(Finalize::Done(Box::new(session)));
                }
                Begin::Run(change) => change,
            };
            if self.write(&change).await? == Written::Stored
                && let Some(run) = FinalizeRun::new(change.session, parts)
            {
                return Ok(Finalize::Run(run));
            }
        }
        Err(IngestError::Contended)
    }

    /// What servers before this one began to publish, if it is this one's to go on with. Called once, at the start.
    pub async fn unfinished(&self) -> Result<Vec<FinalizeRun>, IngestError> {
        let mut runs = Vec::new();
        let mut after = None;
        loop {
            let page = self.store.all(after, PAGE).await?;
            for session in &page {
                runs.extend(self.take_over(session, self.is_alone).await?);
            }
            match page.last() {
                Some(last) => after = Some(last.id),
                None => return Ok(runs),
            }
        }
    }

    /// Goes on where another server ended.
    pub(super) async fn take_over(
        &self,
        session: &Session,
        is_alone: bool,
    ) -> Result<Option<FinalizeRun>, IngestError> {
        let Some(change) = session.taken_over(is_alone, self.now()) else {
            return Ok(None);
        };
        let parts = self.store.parts(session.id).await?;
        match self.write(&change).await? {
            Written::Stored => Ok(FinalizeRun::new(change.session, parts)),
            Written::Conflict => Ok(None),
        }
    }

    /// Proves and publishes the object. An error after which nothing is known of the outcome leaves the session to be finalized
    /// again, by a request or by [`Ingest::collect`]. [`StorageError::Superseded`]: another server goes on.
    pub async fn run(&self, run: FinalizeRun) -> Result<Status, IngestError> {
        let FinalizeRun {
            session,
            parts,
            goal,
            attempt,
        } = run;
        let id = session.id;
        self.tell(IngestEvent::Finalizing {
            session: (*session).clone(),
            attempt,
        });
        let lease = Lease::new(self, (*session).clone(), attempt);
        let verdict = {
            let storage = &self.storage;
            let finalizing = pin!(storage.finalize_fenced(&session, &parts, &goal, &lease));
            let lost = pin!(lease.lost());
            match select(finalizing, lost).await {
                Either::Left((verdict, _)) => verdict,
                // What the storage was doing ends here.
                Either::Right(((), _)) => Err(StorageError::Superseded),
            }
        };
        let now = self.now();
        match verdict {
            Ok(Verdict::Published(published)) => {
                let publish = |session: &Session| Ok(session.published(published, now));
                let changed = self.change_known(&lease.session(), publish).await?;
                if let Changed::To(session) = &changed {
                    let session = session.clone();
                    self.tell(IngestEvent::Published { session, published });
                }
                let session = changed.session();
                self.unstage(&session).await?;
                Ok(Status {
                    session,
                    parts,
                    base: None,
                })
            }
            Ok(Verdict::Disproved(why)) => {
                let changed = self.change(id, |session| Ok(session.disproved(attempt, &why, now)));
                if let Changed::To(session) = changed.await? {
                    self.tell(IngestEvent::Disproved {
                        session,
                        code: why.code(),
                        wrong_parts: why.wrong_parts().to_vec(),
                    });
                }
                Err(why.into())
            }
            // Nothing is known of it any more, and nothing of it is noted.
            Err(StorageError::Superseded) => Err(StorageError::Superseded.into()),
            Err(cause) => Err(self.note_failure(id, attempt, cause).await),
        }
    }

    /// Notes that an attempt failed, and returns why. The store may have failed as well: then the lease ends by itself.
    async fn note_failure(&self, id: SessionId, attempt: u32, cause: StorageError) -> IngestError {
        let (now, detail) = (self.now(), cause.to_string());
        let is_gone = matches!(cause, StorageError::StagingGone);
        let changed = self.change(id, |session| {
            let problem = problem_of(&cause);
            Ok(match is_gone {
                true => session.lost(problem, now),
                false => session.interrupted(attempt, problem),
            })
        });
        match changed.await {
            Ok(Changed::To(session)) if is_gone => self.tell(IngestEvent::Failed { session }),
            Ok(Changed::To(session)) => self.tell(IngestEvent::Interrupted { session, detail }),
            Ok(Changed::Not(_)) => (),
            Err(store) => tracing::warn!("the failure of session {id} was not noted: {store}"),
        }
        cause.into()
    }
}
