//! The queue of what the operator is told: each notice at least once, by one server at a time.

use tokio::sync::futures::Notified;

use crate::{
    format::notice::Notice,
    policy::upload::{
        Change, Session,
        notices::{NOTICE_LEASE_S, pause_s},
    },
};

use super::{
    Ingest, IngestError, IngestEvent,
    session_store::{Claimed, QueuedNotice, StoreError, Written},
};

/// A notice that this server tells.
#[derive(Clone, Debug)]
pub struct DueNotice {
    queued: QueuedNotice,
    /// Of which session, as it is now.
    pub session: Session,
}

impl DueNotice {
    /// What is told.
    pub fn notice(&self) -> &Notice {
        &self.queued.notice
    }

    /// How often it was tried, this time included.
    pub fn tries(&self) -> u32 {
        self.queued.claims
    }
}

/// What [`Ingest::next_notice`] found.
#[derive(Debug)]
pub enum NextNotice {
    /// To be told now. [`Ingest::hold_notice`] says that it still is, [`Ingest::end_notice`] how it ended.
    Due(Box<DueNotice>),
    /// None is due for so many seconds; `None`: there is none.
    After(Option<u64>),
}

/// How an attempt to tell a notice ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoticeEnd {
    /// It was told.
    Told,
    /// It is told again after a pause, for this reason.
    Again(String),
    /// It is not told again, for this reason.
    GivenUp(String),
}

impl Ingest {
    /// The next notice that is to be told.
    pub async fn next_notice(&self) -> Result<NextNotice, IngestError> {
        loop {
            let now_s = self.now().served_s;
            let claimed = self.store.claim_notice(now_s, now_s + NOTICE_LEASE_S);
            let queued = match claimed.await? {
                Claimed::NotBefore(due_s) => {
                    let after_s = due_s.map(|due_s| due_s.saturating_sub(now_s));
                    return Ok(NextNotice::After(after_s));
                }
                Claimed::Notice(queued) => queued,
            };
            match self.store.load(queued.session).await? {
                Some(session) => {
                    let due = DueNotice { queued, session };
                    return Ok(NextNotice::Due(Box::new(due)));
                }
                // A session is not forgotten before; without it there is nothing to tell.
                None => drop(self.store.remove_notice(&queued).await?),
            }
        }
    }

    /// Waits until this server stores a notice. What was stored since it was called counts.
    pub fn noticed(&self) -> Notified<'_> {
        self.has_notices.notified()
    }

    /// A quarter of the time after which another server tells what this one claimed, in seconds.
    pub const HOLD_EVERY_S: u64 = NOTICE_LEASE_S / 4;

    /// This server still tells it; call it every [`Ingest::HOLD_EVERY_S`]. `false`: another one does.
    pub async fn hold_notice(&self, due: &DueNotice) -> Result<bool, IngestError> {
        let until_s = self.now().served_s + NOTICE_LEASE_S;
        let held = self.store.postpone_notice(&due.queued, until_s).await?;
        Ok(held == Written::Stored)
    }

    /// Notes how an attempt to tell it ended.
    pub async fn end_notice(&self, due: &DueNotice, end: &NoticeEnd) -> Result<(), IngestError> {
        let noted = match end {
            NoticeEnd::Told | NoticeEnd::GivenUp(_) => {
                self.store.remove_notice(&due.queued).await?
            }
            NoticeEnd::Again(_) => {
                let due_s = self.now().served_s + pause_s(due.tries());
                self.store.postpone_notice(&due.queued, due_s).await?
            }
        };
        // Another server tells it as well: both say how it ended.
        tracing::debug!("notice {}: {end:?}, {noted:?}", due.queued.id);
        self.tell(IngestEvent::Noticed {
            session: due.session.clone(),
            notice: due.queued.notice.clone(),
            tries: due.tries(),
            end: end.clone(),
        });
        Ok(())
    }

    /// Tells at once what a server before this one, which is alone, had claimed.
    pub async fn release_notices(&self) -> Result<(), StoreError> {
        self.store.release_notices().await
    }

    /// Stores a change.
    pub(super) async fn write(&self, change: &Change) -> Result<Written, StoreError> {
        let written = self.store.write(change).await?;
        if written == Written::Stored && !change.notices.is_empty() {
            self.has_notices.notify_one();
        }
        Ok(written)
    }
}
