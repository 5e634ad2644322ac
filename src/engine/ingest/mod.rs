//! Taking uploads (upload.md): the sessions of clients, over a store of sessions and a storage.
//!
//! Each change of a session is decided by [`crate::policy::upload`] and stored only if nobody changed the session meanwhile; else
//! it is decided again. So any number of servers may share one store and one storage.

pub mod clock;
mod collect;
mod copies;
mod end;
mod error;
mod events;
mod finalize;
mod growing;
mod lease;
mod notices;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod session_store;
mod sessions;
pub mod sqlite;
mod streams;

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    format::upload::SessionId,
    policy::upload::{Change, Now, Owner, Problem, Session, notices::KeptNotices},
};

use super::storage::{Storage, StorageError};
use clock::{Clock, ServedClock};
use session_store::{OwnerLimits, SessionStore, StoreError, WithParts, Written};

pub use collect::Collected;
pub use copies::Copies;
pub use error::IngestError;
pub use events::IngestEvent;
pub use finalize::{Finalize, FinalizeRun};
pub use growing::Growing;
pub use notices::{DueNotice, NextNotice, NoticeEnd};
pub use sessions::{OpenRequest, Opened, Page, Status, Target};
pub use streams::Position;

/// How often a change is decided again because another request was faster.
const CONFLICTS_MAX: u32 = 100;

/// Receives what happens, in order.
pub type Tell = Arc<dyn Fn(IngestEvent) + Send + Sync>;

/// What may be used, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct IngestLimits {
    /// Of each owner.
    pub owner: OwnerLimits,
    /// A session that no client uses for so long expires, in seconds in which a server runs.
    pub ttl_s: u64,
}

/// What is staged and no session knows.
#[derive(Clone, Copy, Debug)]
struct Orphan {
    bytes: u64,
    /// Since when it has so many, by the monotonic clock.
    since_s: u64,
}

/// Takes uploads.
pub struct Ingest {
    store: Arc<dyn SessionStore>,
    storage: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
    limits: IngestLimits,
    tell: Tell,
    served: ServedClock,
    /// No other server has these sessions.
    is_alone: bool,
    /// What the operator is told of.
    kept_notices: KeptNotices,
    /// What no session knows.
    orphans: Mutex<HashMap<String, Orphan>>,
    /// The version of each session that nobody changed, and since when, by the monotonic clock.
    unchanged: Mutex<HashMap<SessionId, (u64, u64)>>,
    /// Told when this server stored a notice.
    has_notices: Notify,
}

impl Ingest {
    /// Begins with the sessions that are in the store. Call [`Ingest::unfinished`] next, and [`Ingest::collect`] every minute.
    pub async fn start(
        store: Arc<dyn SessionStore>,
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        limits: IngestLimits,
        tell: Tell,
    ) -> Result<Ingest, StoreError> {
        let served_s = store.served_s(0).await?;
        let served = ServedClock::new(served_s, clock.monotonic_s());
        let is_alone = storage.is_exclusive();
        Ok(Ingest {
            is_alone,
            kept_notices: KeptNotices::All,
            store,
            storage,
            clock,
            limits,
            tell,
            served,
            orphans: Mutex::default(),
            unchanged: Mutex::default(),
            has_notices: Notify::new(),
        })
    }

    /// No other server can use the store of sessions while this one does, as if the storage were exclusive: what was being published is not
    /// left to a server that may still be there.
    #[must_use]
    pub fn alone(self) -> Ingest {
        Ingest {
            is_alone: true,
            ..self
        }
    }

    /// The operator is told of no more than this, as the store keeps it.
    #[must_use]
    pub fn telling(self, kept_notices: KeptNotices) -> Ingest {
        Ingest {
            kept_notices,
            ..self
        }
    }

    /// Whether no other server has these sessions.
    pub fn is_alone(&self) -> bool {
        self.is_alone
    }

    /// The limits that it was started with.
    pub fn limits(&self) -> IngestLimits {
        self.limits
    }

    /// The time on both clocks.
    pub fn now(&self) -> Now {
        Now {
            unix_s: self.clock.unix_s(),
            served_s: self.served.at(self.clock.monotonic_s()),
        }
    }

    /// When a session expires unless a client uses it, in Unix seconds; an estimate, because servers may stop and clocks jump.
    pub fn expires_s(&self, session: &Session) -> u64 {
        let now = self.now();
        now.unix_s + self.limits.ttl_s.saturating_sub(session.idle_s(now))
    }

    /// A session of this owner. Those of others do not exist for it.
    async fn session_of(&self, owner: &Owner, id: SessionId) -> Result<Session, IngestError> {
        let found = self.store.load(id).await?;
        let of_owner = found.filter(|session| session.owner == *owner);
        of_owner.ok_or(IngestError::NoSession)
    }

    /// The same, and those of these parts that are finished.
    async fn session_with(
        &self,
        owner: &Owner,
        id: SessionId,
        indices: &[u32],
    ) -> Result<WithParts, IngestError> {
        let found = self.store.load_with(id, indices).await?;
        let of_owner = found.filter(|(session, _)| session.owner == *owner);
        of_owner.ok_or(IngestError::NoSession)
    }

    /// [`Ingest::change`] of a session that was read before: as long as nobody changed it since, it is not read again.
    async fn change_known(
        &self,
        known: &Session,
        decide: impl Fn(&Session) -> Result<Option<Change>, IngestError> + Send,
    ) -> Result<Changed, IngestError> {
        if let Ok(Some(change)) = decide(known)
            && self.write(&change).await? == Written::Stored
        {
            return Ok(Changed::To(change.session));
        }
        self.change(known.id, decide).await
    }

    /// Stores what `decide` makes of the session as it is now, again and again until nobody was faster. `decide` returning `None`
    /// changes nothing. Returns the session as it then is.
    async fn change(
        &self,
        id: SessionId,
        decide: impl Fn(&Session) -> Result<Option<Change>, IngestError> + Send,
    ) -> Result<Changed, IngestError> {
        for _ in 0..CONFLICTS_MAX {
            let session = self.store.load(id).await?.ok_or(IngestError::NoSession)?;
            let Some(change) = decide(&session)? else {
                return Ok(Changed::Not(session));
            };
            if self.write(&change).await? == Written::Stored {
                return Ok(Changed::To(change.session));
            }
        }
        Err(IngestError::Contended)
    }

    fn tell(&self, event: IngestEvent) {
        (self.tell)(event);
    }
}

/// What came of [`Ingest::change`].
enum Changed {
    /// The session was changed to this.
    To(Session),
    /// The session stays like this.
    Not(Session),
}

impl Changed {
    fn session(self) -> Session {
        match self {
            Changed::To(session) | Changed::Not(session) => session,
        }
    }
}

/// Why the storage failed, for the client that looks at the session later. What it says of its insides is for the operator.
fn problem_of(cause: &StorageError) -> Problem {
    Problem {
        code: error::code_of_storage(cause).to_owned(),
        detail: match cause {
            StorageError::Failed(_) => "the storage failed".to_owned(),
            _ => cause.to_string(),
        },
    }
}
