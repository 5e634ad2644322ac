//! Sessions in an `SQLite` database: the store of a server that is alone.

use std::{path::PathBuf, sync::Arc};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use crate::{
    disk::sessions::{self, Sessions, SessionsError},
    engine::blocking,
    format::{library::LibraryPath, upload::SessionId},
    policy::upload::{
        Change, FinishedPart, LastPublished, Owner, Session, StagedBytes, notices::KeptNotices,
    },
};

use super::session_store::{
    Claimed, Inserted, ListQuery, OwnerLimits, QueuedNotice, SessionStore, StoreError, Usage,
    Written,
};

/// Sessions in an `SQLite` database.
#[derive(Clone, Debug)]
pub struct SqliteSessions(Arc<Mutex<Sessions>>);

impl SqliteSessions {
    /// Opens this database; makes it if it is missing.
    pub async fn open(path: PathBuf) -> Result<SqliteSessions, SessionsError> {
        let opened = blocking::run(move || Sessions::open(&path)).await?;
        Ok(SqliteSessions(Arc::new(Mutex::new(opened))))
    }

    /// See [`Sessions::bind`].
    pub async fn bind(&self, storage: String) -> Result<bool, SessionsError> {
        let shared = self.0.clone();
        blocking::run(move || shared.lock().bind(&storage)).await
    }

    /// See [`Sessions::keep_notices`].
    pub async fn keep_notices(&self, kept: KeptNotices) -> Result<(), SessionsError> {
        let shared = self.0.clone();
        blocking::run(move || shared.lock().keep_notices(kept)).await
    }

    /// Runs this on the database, on a thread that may block.
    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Sessions) -> Result<T, SessionsError> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let shared = self.0.clone();
        Box::pin(async move {
            let done = blocking::run(move || work(&mut shared.lock())).await;
            done.map_err(|cause| StoreError(Box::new(cause)))
        })
    }
}

impl SessionStore for SqliteSessions {
    fn insert<'a>(
        &'a self,
        session: &'a Session,
        limits: OwnerLimits,
    ) -> BoxFuture<'a, Result<Inserted, StoreError>> {
        let session = session.clone();
        let (most_sessions, most_bytes) = (limits.sessions, limits.bytes);
        let inserted = self.run(move |all| all.insert(&session, most_sessions, most_bytes));
        Box::pin(async move {
            Ok(match inserted.await? {
                sessions::Inserted::New => Inserted::New,
                sessions::Inserted::Exists(session) => Inserted::Exists(session),
                sessions::Inserted::TooMany(usage) => Inserted::TooMany(usage_of(usage)),
                sessions::Inserted::OverQuota(usage) => Inserted::OverQuota(usage_of(usage)),
            })
        })
    }

    fn load(&self, id: SessionId) -> BoxFuture<'_, Result<Option<Session>, StoreError>> {
        self.run(move |all| all.load(id))
    }

    fn part(
        &self,
        id: SessionId,
        index: u32,
    ) -> BoxFuture<'_, Result<Option<FinishedPart>, StoreError>> {
        self.run(move |all| all.part(id, index))
    }

    fn parts(&self, id: SessionId) -> BoxFuture<'_, Result<Vec<FinishedPart>, StoreError>> {
        self.run(move |all| all.parts(id))
    }

    fn write<'a>(&'a self, change: &'a Change) -> BoxFuture<'a, Result<Written, StoreError>> {
        let change = change.clone();
        let written = self.run(move |all| all.write(&change));
        Box::pin(async move { written.await.map(written_if) })
    }

    fn count_staged(
        &self,
        id: SessionId,
        staged: StagedBytes,
        limits: OwnerLimits,
    ) -> BoxFuture<'_, Result<Option<Usage>, StoreError>> {
        let counted = self.run(move |all| all.count_staged(id, staged, limits.bytes));
        Box::pin(async move { Ok(counted.await?.map(usage_of)) })
    }

    fn staged_bytes(&self, id: SessionId) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.run(move |all| all.staged_bytes(id))
    }

    fn claim_notice(&self, now_s: u64, until_s: u64) -> BoxFuture<'_, Result<Claimed, StoreError>> {
        let claimed = self.run(move |all| all.claim_notice(now_s, until_s));
        Box::pin(async move {
            Ok(match claimed.await? {
                Ok(claimed) => Claimed::Notice(QueuedNotice {
                    id: claimed.id,
                    session: claimed.session,
                    notice: claimed.notice,
                    claims: claimed.claims,
                }),
                Err(next_s) => Claimed::NotBefore(next_s),
            })
        })
    }

    fn postpone_notice<'a>(
        &'a self,
        notice: &'a QueuedNotice,
        due_s: u64,
    ) -> BoxFuture<'a, Result<Written, StoreError>> {
        let (id, claims) = (notice.id, notice.claims);
        let postponed = self.run(move |all| all.postpone_notice(id, claims, due_s));
        Box::pin(async move { postponed.await.map(written_if) })
    }

    fn remove_notice<'a>(
        &'a self,
        notice: &'a QueuedNotice,
    ) -> BoxFuture<'a, Result<Written, StoreError>> {
        let (id, claims) = (notice.id, notice.claims);
        let removed = self.run(move |all| all.remove_notice(id, claims));
        Box::pin(async move { removed.await.map(written_if) })
    }

    fn release_notices(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.run(|all| all.release_notices())
    }

    fn last_published<'a>(
        &'a self,
        name: &'a LibraryPath,
    ) -> BoxFuture<'a, Result<Option<LastPublished>, StoreError>> {
        let name = name.clone();
        self.run(move |all| all.last_published(&name))
    }

    fn list<'a>(&'a self, query: &'a ListQuery) -> BoxFuture<'a, Result<Vec<Session>, StoreError>> {
        let ListQuery {
            owner,
            name,
            after,
            limit,
        } = query.clone();
        let after = after.map(|after| (after.created_s, after.id));
        self.run(move |all| all.list(&owner, name.as_ref(), after, limit))
    }

    fn all(
        &self,
        after: Option<SessionId>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<Session>, StoreError>> {
        self.run(move |all| all.all(after, limit))
    }

    fn usage<'a>(&'a self, owner: &'a Owner) -> BoxFuture<'a, Result<Usage, StoreError>> {
        let owner = owner.clone();
        let usage = self.run(move |all| all.usage(&owner));
        Box::pin(async move { usage.await.map(usage_of) })
    }

    fn forget(&self, id: SessionId, version: u64) -> BoxFuture<'_, Result<Written, StoreError>> {
        let forgotten = self.run(move |all| all.forget(id, version));
        Box::pin(async move { forgotten.await.map(written_if) })
    }

    fn served_s(&self, at_least: u64) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.run(move |all| all.served_s(at_least))
    }
}

fn written_if(is_stored: bool) -> Written {
    match is_stored {
        true => Written::Stored,
        false => Written::Conflict,
    }
}

fn usage_of((sessions, bytes): (u64, u64)) -> Usage {
    Usage { sessions, bytes }
}
