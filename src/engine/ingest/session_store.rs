//! Where sessions are kept. Every store passes the same suite of tests.

use std::error::Error as StdError;

use futures_util::future::BoxFuture;

use crate::{
    format::{library::LibraryPath, notice::Notice, upload::SessionId},
    policy::upload::{Change, FinishedPart, LastPublished, Owner, Session, StagedBytes},
};

/// The store of sessions failed; whether a change was stored is not known.
#[derive(Debug, thiserror::Error)]
#[error("the store of sessions cannot be used: {0}")]
pub struct StoreError(#[from] pub Box<dyn StdError + Send + Sync>);

/// What one owner may have in sessions that are open or finalizing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerLimits {
    /// Sessions.
    pub sessions: u64,
    /// Bytes; see [`Usage::bytes`].
    pub bytes: u64,
}

/// What one owner has in sessions that are open or finalizing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Sessions.
    pub sessions: u64,
    /// The lengths of the objects; where a length is not known, of the finished parts. And what lies in the storage besides:
    /// [`SessionStore::count_staged`].
    pub bytes: u64,
}

/// What came of [`SessionStore::insert`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It is new.
    New,
    /// There is one with this ID.
    Exists(Box<Session>),
    /// The owner has as many as allowed.
    TooMany(Usage),
    /// The owner would have more bytes than allowed.
    OverQuota(Usage),
}

/// Whether a change was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It was.
    Stored,
    /// The session has another version, or is gone.
    Conflict,
}

/// Which sessions are listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListQuery {
    /// Only of this owner.
    pub owner: Owner,
    /// Only with this name.
    pub name: Option<LibraryPath>,
    /// Only behind this one: what [`Cursor::of`] says of the last of the page before.
    pub after: Option<Cursor>,
    /// At most so many.
    pub limit: u32,
}

/// A place in a list: newest sessions first, by ID among those of one second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// When the session was opened.
    pub created_s: u64,
    /// Its ID.
    pub id: SessionId,
}

impl Cursor {
    /// The place behind this session.
    pub fn of(session: &Session) -> Cursor {
        Cursor {
            created_s: session.created_s,
            id: session.id,
        }
    }
}

/// A notice that is to be told, and was claimed for that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedNotice {
    /// Its place in the queue.
    pub id: u64,
    /// Of which session.
    pub session: SessionId,
    /// What is to be told.
    pub notice: Notice,
    /// How often it was claimed, this time included. A claim ends when another one follows.
    pub claims: u32,
}

/// What came of [`SessionStore::claim_notice`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// It is the caller's until the time that it gave.
    Notice(QueuedNotice),
    /// None is due before this, in served seconds; `None`: there is none.
    NotBefore(Option<u64>),
}

/// A session, and some of its finished parts.
pub type WithParts = (Session, Vec<FinishedPart>);

/// Where sessions are kept. What a call stored is durable when it returns.
pub trait SessionStore: Send + Sync {
    /// Stores a new session, unless its owner has too much. Counting and storing are one step.
    fn insert<'a>(
        &'a self,
        session: &'a Session,
        limits: OwnerLimits,
    ) -> BoxFuture<'a, Result<Inserted, StoreError>>;

    /// A session.
    fn load(&self, id: SessionId) -> BoxFuture<'_, Result<Option<Session>, StoreError>>;

    /// A finished part of a session.
    fn part(
        &self,
        id: SessionId,
        index: u32,
    ) -> BoxFuture<'_, Result<Option<FinishedPart>, StoreError>>;

    /// A session, and those of these parts that are finished, which are of its version or a later one. A store that is far away looks for
    /// all of it at once.
    fn load_with<'a>(
        &'a self,
        id: SessionId,
        indices: &'a [u32],
    ) -> BoxFuture<'a, Result<Option<WithParts>, StoreError>> {
        Box::pin(async move {
            let Some(session) = self.load(id).await? else {
                return Ok(None);
            };
            let mut found = Vec::new();
            for index in indices {
                found.extend(self.part(id, *index).await?);
            }
            Ok(Some((session, found)))
        })
    }

    /// The finished parts of a session, by index.
    fn parts(&self, id: SessionId) -> BoxFuture<'_, Result<Vec<FinishedPart>, StoreError>>;

    /// Stores a change of session, parts and notices in one step, if the session has the version before. A change that makes a session
    /// done is noted for [`SessionStore::last_published`] in the same step.
    fn write<'a>(&'a self, change: &'a Change) -> BoxFuture<'a, Result<Written, StoreError>>;

    /// Counts bytes that come to lie in the storage, in one step with the look at what the owner of the session may have: `Some` is what
    /// the owner has, and nothing was counted. What was counted for the part before is not counted again, and a part that is finished
    /// counts as such.
    fn count_staged(
        &self,
        id: SessionId,
        staged: StagedBytes,
        limits: OwnerLimits,
    ) -> BoxFuture<'_, Result<Option<Usage>, StoreError>>;

    /// What [`SessionStore::count_staged`] counts for a session now.
    fn staged_bytes(&self, id: SessionId) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// Claims the first notice that is due at `now_s`: until `until_s` no other caller gets it. Both are served seconds. A session with
    /// notices is not forgotten.
    fn claim_notice(&self, now_s: u64, until_s: u64) -> BoxFuture<'_, Result<Claimed, StoreError>>;

    /// Has a claimed notice be due at this time, and not before; a conflict: it was claimed again since, or is told.
    fn postpone_notice<'a>(
        &'a self,
        notice: &'a QueuedNotice,
        due_s: u64,
    ) -> BoxFuture<'a, Result<Written, StoreError>>;

    /// Removes a claimed notice; a conflict: it was claimed again since, or removed.
    fn remove_notice<'a>(
        &'a self,
        notice: &'a QueuedNotice,
    ) -> BoxFuture<'a, Result<Written, StoreError>>;

    /// Has all notices be due now, for a server that is alone: who claimed them is gone.
    fn release_notices(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// What was last published under a name. It stays when its session is forgotten.
    fn last_published<'a>(
        &'a self,
        name: &'a LibraryPath,
    ) -> BoxFuture<'a, Result<Option<LastPublished>, StoreError>>;

    /// Sessions of one owner.
    fn list<'a>(&'a self, query: &'a ListQuery) -> BoxFuture<'a, Result<Vec<Session>, StoreError>>;

    /// Sessions of all owners by ID, behind this one.
    fn all(
        &self,
        after: Option<SessionId>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<Session>, StoreError>>;

    /// What an owner has.
    fn usage<'a>(&'a self, owner: &'a Owner) -> BoxFuture<'a, Result<Usage, StoreError>>;

    /// Removes a session that has this version and no notices, with its parts.
    fn forget(&self, id: SessionId, version: u64) -> BoxFuture<'_, Result<Written, StoreError>>;

    /// Raises the clock of served seconds to at least this, and returns it.
    fn served_s(&self, at_least: u64) -> BoxFuture<'_, Result<u64, StoreError>>;
}
