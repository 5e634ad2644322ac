//! The lease of a server that publishes: it renews it, and stops when it may have lost it.

use std::pin::pin;

use futures_util::future::{BoxFuture, Either, select};
use parking_lot::Mutex;

use crate::{
    engine::storage::{Fence, StorageError},
    policy::upload::{LEASE_S, Session},
};

use super::{Changed, Ingest, IngestError};

/// The lease of one attempt.
pub(super) struct Lease<'a> {
    ingest: &'a Ingest,
    /// As this server stored it last.
    session: Mutex<Session>,
    attempt: u32,
    /// When the last renewal that was stored began, by the monotonic clock.
    renewed_s: Mutex<u64>,
}

impl<'a> Lease<'a> {
    /// Of an attempt that was noted just now.
    pub(super) fn new(ingest: &'a Ingest, session: Session, attempt: u32) -> Lease<'a> {
        let renewed_s = Mutex::new(ingest.clock.monotonic_s());
        Lease {
            ingest,
            session: Mutex::new(session),
            attempt,
            renewed_s,
        }
    }

    /// The session as this server stored it last.
    pub(super) fn session(&self) -> Session {
        self.session.lock().clone()
    }

    /// How long the lease is not over, whatever the store says; by the clock of this server, which does not jump.
    fn left_s(&self) -> u64 {
        let passed_s = self.ingest.clock.monotonic_s() - *self.renewed_s.lock();
        LEASE_S.saturating_sub(passed_s)
    }

    /// Renews it; `false`: the attempt is not that of the session any more.
    async fn renew(&self) -> Result<bool, IngestError> {
        let began_s = self.ingest.clock.monotonic_s();
        let (attempt, now) = (self.attempt, self.ingest.now());
        let known = self.session();
        let change = self
            .ingest
            .change_known(&known, |session| Ok(session.renewed(attempt, now)));
        match change.await? {
            Changed::To(session) => {
                *self.session.lock() = session;
                *self.renewed_s.lock() = began_s;
                Ok(true)
            }
            Changed::Not(_) => Ok(false),
        }
    }

    /// Renews it in time, and returns when it is lost: another server went on, or it could not be renewed for so long that one may have.
    pub(super) async fn lost(&self) {
        while self.left_s() > 0 {
            self.ingest
                .clock
                .sleep((LEASE_S / 4).min(self.left_s()))
                .await;
            // A machine that was suspended wakes up here: another server may go on already.
            if self.left_s() == 0 {
                break;
            }
            let over = pin!(self.ingest.clock.sleep(self.left_s()));
            let renewed = pin!(self.renew());
            match select(renewed, over).await {
                Either::Left((Ok(true), _)) => (),
                Either::Left((Ok(false) | Err(IngestError::NoSession), _)) | Either::Right(_) => {
                    break;
                }
                Either::Left((Err(cause), _)) => {
                    let id = self.session.lock().id;
                    tracing::debug!("the lease of session {id} was not renewed: {cause}");
                }
            }
        }
        let id = self.session.lock().id;
        tracing::debug!("the lease of session {id} is lost");
    }
}

impl Fence for Lease<'_> {
    fn check(&self) -> BoxFuture<'_, Result<(), StorageError>> {
        Box::pin(async move {
            // Renewed each time: the step that follows then has all of it.
            let is_ours = match self.left_s() > 0 {
                true => self.renew().await,
                false => Ok(false),
            };
            match is_ours {
                Ok(true) => Ok(()),
                Ok(false) | Err(IngestError::NoSession) => Err(StorageError::Superseded),
                Err(cause) => Err(StorageError::Failed(Box::new(cause))),
            }
        })
    }
}
